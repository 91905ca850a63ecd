import { maximalSubtrees, type LaneNode } from "../compute/LaneTree.ts"
import { bytesOf, Placement } from "../node/GradientExchanger.ts"
import { tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { AllGather, type StepGradient } from "./AllGather.ts"
import type { ViewPlan } from "./DirectProtocol.ts"
import { Gifts } from "./Gifts.ts"
import type { GradientCompression } from "./GradientCompression.ts"
import { MemberSum, type NodeSum } from "./MemberSum.ts"
import type { MemberVector } from "./MemberVector.ts"
import { Reduction } from "./Reduction.ts"
import { RobustReduction, type SegmentReduction } from "./RobustReduction.ts"
import type { Segment } from "./Segments.ts"

/** Vectors that were left out and are still to be reported. */
const maxLeftOut = 1_024

export interface ExchangeOptions {
  readonly self: PeerId
  readonly plan: ViewPlan
  readonly jobId: Uint8Array
  /** Lanes of the job and elements of its gradient. */
  readonly lanes: number
  readonly elements: number
  readonly steps: number
  /** Bytes of a whole state. */
  readonly stateBytes: number
  /** Where what travels is compressed. */
  readonly compression: GradientCompression | undefined
  /** Where a robust rule takes the place of the mean: what this member sends to it. */
  readonly vector: MemberVector | undefined
  /** Gradients that may be used again; they are given back. */
  readonly free: Array<Float32Array>
  /** Queues a tensor for a member; what it holds must not change until it is sent. */
  readonly send: (to: PeerId, header: TensorHeader, data: Uint8Array) => void
  /** Something has come whole. */
  readonly changed: () => void
}

/**
 * The direct exchange of one view at one member: reduce-scatter and all-gather, step after step. It says what to send and where what arrives
 * belongs, and holds every header against the plan before a byte is placed. Pure: it neither sends by itself nor waits.
 *
 * Members are in lockstep: nobody can apply a step without a part from each, so what comes is of the step that this member is at, or, from an
 * owner, of the one that it has contributed to. Observers lag as far as their backlog lets them.
 */
export class ViewExchange {
  readonly plan: ViewPlan
  readonly gifts: Gifts
  /** The nodes of the lane tree that this member computes, from left to right; none where it only observes. */
  readonly nodes: ReadonlyArray<LaneNode> = []
  readonly #options: ExchangeOptions
  /**
   * What each member owes of a step: the values of its nodes of the lane tree; or, compressed or for a robust rule, one value for all of them,
   * as a node of its place among the members.
   */
  readonly #nodesOf = new Map<PeerId, ReadonlyArray<LaneNode>>()
  readonly #sum: MemberSum | undefined
  readonly #segments = new Map<PeerId, Segment>()
  readonly #segment: Segment
  readonly #reduction: SegmentReduction
  readonly #robust: RobustReduction | undefined
  readonly #claimed = new Set<number>()
  readonly #gather: AllGather
  /** The step whose segment each owner sends next. */
  readonly #next = new Map<PeerId, number>()
  readonly #placements = new Set<Placement>()
  /** The step that this member's segment is being reduced of. */
  #reducing: number
  #contributed: number
  #closed = false
  /** Members whose vectors were not finite, by step: for whoever reports them, and takes them out. */
  readonly leftOut: Array<{ readonly step: number; readonly peer: PeerId }> = []

  constructor(options: ExchangeOptions) {
    const { plan, self, lanes } = options
    this.#options = options
    this.gifts = new Gifts(options)
    this.plan = plan
    const whole = options.compression !== undefined || options.vector !== undefined
    for (const [index, { peer, lanes: own, segment }] of plan.members.entries()) {
      const nodes = maximalSubtrees(own, lanes)
      if (peer === self) this.nodes = nodes
      this.#nodesOf.set(peer, whole ? [{ from: index, to: index + 1 }] : nodes)
      this.#segments.set(peer, { from: segment[0], to: segment[1] })
      this.#next.set(peer, plan.base + 1)
    }
    this.#segment = this.#segments.get(self) ?? { from: 0, to: 0 }
    const robust = options.vector !== undefined
    this.#gather = new AllGather({ ...options, segments: this.#segments, robust })
    if (whole) this.#sum = new MemberSum(this.nodes)
    if (options.vector !== undefined && this.owns) this.#robust = this.#robustReduction(options.vector)
    this.#reduction = this.#robust ?? this.#plainReduction(whole)
    this.#reducing = plan.base + 1
    this.#contributed = plan.base
  }

  /** Along the lane tree, or along one over the members. */
  #plainReduction(whole: boolean): Reduction {
    const { lanes, plan } = this.#options
    const parts = whole ? Math.max(1, plan.members.length) : lanes
    const reduction = new Reduction(parts, this.#segment.to - this.#segment.from, lanes)
    if (this.owns) reduction.begin([...this.#nodesOf.values()].flat())
    return reduction
  }

  #robustReduction({ rule }: MemberVector): RobustReduction {
    const { members } = this.plan
    const owners = members.flatMap(({ segment: [from, to] }, index) => (to > from ? [index] : []))
    const own = members.findIndex(({ peer }) => peer === this.self)
    return new RobustReduction(rule, members.length, this.#segment.to - this.#segment.from, { owners, own })
  }

  get self(): PeerId {
    return this.#options.self
  }

  get closed(): boolean {
    return this.#closed
  }

  /** An observer has fallen too far behind: what comes passes unread. */
  get overrun(): boolean {
    return this.#gather.overrun
  }

  /** The part of the gradient that this member reduces. */
  get segment(): Segment {
    return this.#segment
  }

  /** Whether this member reduces a part of the gradient. */
  get owns(): boolean {
    return this.#segment.to > this.#segment.from
  }

  /** Those that send to this member, beside itself. */
  get senders(): ReadonlyArray<PeerId> {
    const { gifts, members } = this.plan
    const { self } = this.#options
    const donors = gifts.filter(({ to }) => to === self).map(({ from }) => from)
    return [...new Set([...members.map(({ peer }) => peer), ...donors])].filter(peer => peer !== self)
  }

  /** Those that this member sends to. */
  get receivers(): ReadonlyArray<PeerId> {
    const { gifts, members, observers } = this.plan
    const { self } = this.#options
    const given = gifts.filter(({ from }) => from === self).map(({ to }) => to)
    const all = this.nodes.length > 0 ? [...members.map(({ peer }) => peer), ...observers] : []
    return [...new Set([...all, ...given])].filter(peer => peer !== self)
  }

  #header(kind: TensorHeader["kind"], step: number, lanes: LaneNode, segment: Segment, loss: number): TensorHeader {
    const { term, view } = this.plan
    return { kind, job: this.#options.jobId, term, view, step, lanes, segment, loss }
  }

  /** Where an arriving tensor belongs; throws for one that this sender does not owe now. */
  place(header: TensorHeader, from: PeerId): Placement | undefined {
    if (this.#closed) return undefined
    const { term, view } = this.plan
    if (header.term !== term || header.view !== view)
      throw new ProtocolError("UNEXPECTED", `a tensor of view ${header.term}.${header.view} in view ${term}.${view}`)
    switch (header.kind) {
      case tensorKinds.partial:
        return this.#placePartial(header, from)
      case tensorKinds.products:
        return this.#placeProducts(header, from)
      case tensorKinds.reduced:
      case tensorKinds.state: {
        const gift = this.gifts.place(header, from)
        return gift === undefined ? this.#placeReduced(header, from) : this.#placement(gift.target, gift.arrived)
      }
      default:
        throw new ProtocolError("UNEXPECTED", `a member takes no tensor of kind ${header.kind}`)
    }
  }

  #placement(target: Uint8Array, arrived: () => void): Placement {
    const placement = new Placement(target, () => {
      this.#placements.delete(placement)
      arrived()
      this.#options.changed()
    })
    this.#placements.add(placement)
    return placement
  }

  /** Where values of a gradient come to, which are read from their compressed form where they have one. */
  #valuePlacement(from: PeerId, values: Float32Array, loss: number, arrived: () => void): Placement {
    const { compression } = this.#options
    if (compression === undefined) return this.#placement(bytesOf(values), arrived)
    const bytes = compression.incoming(from, values.length)
    return this.#placement(bytes, () => {
      // What could not be written says so by its loss.
      if (Number.isFinite(loss)) compression.decode(bytes, values)
      else values.fill(0)
      arrived()
    })
  }

  #placePartial({ step, lanes, segment, loss }: TensorHeader, from: PeerId): Placement {
    const owed = this.#nodesOf.get(from)?.some(node => node.from === lanes.from && node.to === lanes.to)
    if (owed !== true || step !== this.#reducing || this.#claimed.has(lanes.from))
      throw new ProtocolError(
        "UNEXPECTED",
        `lanes ${lanes.from} to ${lanes.to} of step ${step} are not this member's now`
      )
    if (!this.owns || segment.from !== this.#segment.from || segment.to !== this.#segment.to)
      throw new ProtocolError("UNEXPECTED", "a segment that this member does not reduce")
    this.#claimed.add(lanes.from)
    return this.#valuePlacement(from, this.#reduction.slot(lanes), loss, () => {
      this.#reduction.place(lanes, loss)
      this.#finishIfComplete()
    })
  }

  /** What another owner knows of its segment, where a rule looks at whole vectors. */
  #placeProducts({ step, lanes, segment }: TensorHeader, from: PeerId): Placement {
    const owned = this.#segments.get(from)
    const target = step === this.#reducing ? this.#robust?.claim(lanes.from) : undefined
    const [node] = this.#nodesOf.get(from) ?? []
    const fits = node?.from === lanes.from && node.to === lanes.to
    if (target === undefined || !fits || segment.from !== owned?.from || segment.to !== owned.to)
      throw new ProtocolError("UNEXPECTED", `products of step ${step} that this member does not owe now`)
    return this.#placement(target, () => {
      this.#robust?.heard(lanes.from)
      this.#finishIfComplete()
    })
  }

  #placeReduced({ step, segment, loss }: TensorHeader, from: PeerId): Placement | undefined {
    const owned = this.#segments.get(from)
    if (owned === undefined || owned.from === owned.to || segment.from !== owned.from || segment.to !== owned.to)
      throw new ProtocolError("UNEXPECTED", "a segment that its sender does not reduce")
    const lacksOurs = this.nodes.length > 0 && step > this.#contributed
    if (step !== this.#next.get(from) || step > this.#options.steps || lacksOurs)
      throw new ProtocolError("UNEXPECTED", `the mean gradient of step ${step} is not due`)
    this.#next.set(from, step + 1)
    const gathering = this.#gather.at(step)
    if (gathering === undefined) {
      this.#options.changed()
      return undefined
    }
    return this.#valuePlacement(from, gathering.values.subarray(owned.from, owned.to), loss, () => {
      this.#gather.gathered(gathering, from, loss)
    })
  }

  /**
   * Takes the value of one of this member's nodes, in step order: sends each owner its segment of it. The value must not change until the
   * step's gradient is complete.
   */
  contribute(step: number, node: LaneNode, value: Float32Array, loss: number): void {
    if (this.#closed) return
    if (this.#sum !== undefined) {
      const sum = this.#sum.add(value, loss)
      return sum === undefined ? undefined : this.#contributeSum(step, sum)
    }
    this.#contributed = step
    const { self } = this.#options
    for (const [peer, segment] of this.#segments) {
      const part = value.subarray(segment.from, segment.to)
      if (part.length === 0) continue
      if (peer === self) {
        this.#claimed.add(node.from)
        this.#reduction.slot(node).set(part)
        this.#reduction.place(node, loss)
      } else this.#options.send(peer, this.#header(tensorKinds.partial, step, node, segment, loss), bytesOf(part))
    }
    this.#finishIfComplete()
  }

  /** One value for all that this member has computed of a step. */
  #contributeSum(step: number, sum: NodeSum): void {
    this.#contributed = step
    const { self, send, compression, vector } = this.#options
    const value = vector === undefined ? sum.value : vector.of(sum.value, sum.lanes, sum.loss)
    compression?.begin(step)
    const [node] = this.#nodesOf.get(self) ?? []
    if (node === undefined) return
    const others = [...this.#segments].filter(([peer, { from, to }]) => peer !== self && to > from)
    const written = others.map(([peer, segment]) => {
      const part = value.subarray(segment.from, segment.to)
      if (compression === undefined) return { peer, segment, bytes: bytesOf(part), fits: true }
      const bytes = compression.outgoing(peer, part.length)
      return { peer, segment, bytes, fits: compression.encodeSum(part, segment.from, bytes) }
    })
    const told = written.every(({ fits }) => fits) ? sum.loss : NaN
    for (const { peer, segment, bytes } of written)
      send(peer, this.#header(tensorKinds.partial, step, node, segment, told), bytes)
    if (!this.owns) return
    const own = value.subarray(this.#segment.from, this.#segment.to)
    compression?.includeSum(own, this.#segment.from)
    this.#claimed.add(node.from)
    this.#reduction.slot(node).set(own)
    this.#reduction.place(node, told)
    this.#finishIfComplete()
  }

  /** Tells the other owners what this one knows of its segment, as soon as all vectors are here. */
  #tellProducts(): void {
    const { self, send } = this.#options
    const products = this.#robust?.tell()
    const [node] = this.#nodesOf.get(self) ?? []
    if (products === undefined || node === undefined) return
    const header = this.#header(tensorKinds.products, this.#reducing, node, this.#segment, 0)
    for (const [peer, { from, to }] of this.#segments) if (peer !== self && to > from) send(peer, header, products)
  }

  /** All-gather: the segment that this member has reduced goes to everybody. */
  #finishIfComplete(): void {
    if (!this.owns) return
    this.#tellProducts()
    if (!this.#reduction.complete) return
    const step = this.#reducing
    for (const member of this.#robust?.leftOut ?? []) {
      const peer = this.plan.members[member]?.peer
      if (peer !== undefined && this.leftOut.length < maxLeftOut) this.leftOut.push({ step, peer })
    }
    const gathering = this.#gather.at(step)
    if (gathering === undefined) return
    const part = gathering.values.subarray(this.#segment.from, this.#segment.to)
    const sum = this.#reduction.finish(part)
    let loss = sum.firstNonFinite >= 0 ? NaN : sum.loss
    let bytes = bytesOf(part)
    const { compression } = this.#options
    if (compression !== undefined) {
      bytes = compression.outgoing(this.self, part.length)
      if (!Number.isFinite(loss) || !compression.encodeMean(part, this.#segment.from, bytes)) loss = NaN
      // All go on with what all others read.
      else compression.decode(bytes, part)
    }
    // From here on parts of the next step may come: the fastest member needs nothing but this segment.
    this.#reducing = step + 1
    this.#claimed.clear()
    this.#reduction.restart()
    const { self } = this.#options
    const { lanes, send } = this.#options
    const header = this.#header(tensorKinds.reduced, step, { from: 0, to: lanes }, this.#segment, loss)
    for (const { peer } of this.plan.members) if (peer !== self) send(peer, header, bytes)
    // Members have taken a step's segment before this array is used again; observers may not have.
    for (const peer of this.plan.observers) send(peer, header, bytes.slice())
    this.#gather.gathered(gathering, self, loss)
    this.#options.changed()
  }

  /** The gradient of the base: where centered clipping begins. */
  beginAfter({ values, loss }: StepGradient): void {
    if (Number.isFinite(loss)) this.#robust?.beginAfter(values.subarray(this.#segment.from, this.#segment.to))
  }

  /** Queues what this member gives to those that are not at the base. */
  give(state: () => Uint8Array, gradient: StepGradient | undefined): void {
    const all = { from: 0, to: this.#options.lanes }
    this.gifts.give((kind, to, loss) => this.#header(kind, this.plan.base, all, { from: 0, to }, loss), state, gradient)
  }

  /** The mean gradient of a step, once all of it is here. It is the caller's from then on. */
  take(step: number): StepGradient | undefined {
    return this.#gather.take(step)
  }

  /**
   * Whom this member waits for in a step that it has done its own part of: members whose parts of its segment are missing, else owners whose
   * products are, else those whose reduced segment is.
   */
  waitingFor(step: number): {
    readonly what: "parts" | "products" | "gradient"
    readonly peers: ReadonlyArray<PeerId>
  } {
    const { self } = this.#options
    if (this.nodes.length > 0 && this.#contributed < step) return { what: "parts", peers: [] }
    const others = (fits: (peer: PeerId) => boolean) =>
      this.plan.members.map(({ peer }) => peer).filter(peer => peer !== self && fits(peer))
    if (this.owns && this.#reducing === step) {
      const missing = new Set(this.#reduction.missing().map(({ from }) => from))
      const owners = this.#robust?.missingOwners
      const what = missing.size === 0 && owners !== undefined ? "products" : "parts"
      const awaited = what === "products" ? owners : missing
      const owes = (peer: PeerId) => this.#nodesOf.get(peer)?.some(({ from }) => awaited?.has(from)) === true
      return { what, peers: others(owes) }
    }
    return { what: "gradient", peers: others(peer => this.#gather.awaits(step, peer)) }
  }

  /** Nothing is placed or sent any more. Gradients that were not complete are given back. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const placement of this.#placements) placement.revoke()
    this.#placements.clear()
    this.#gather.close()
  }
}
