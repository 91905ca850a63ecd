import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { addPartials, CoordinateRules, membersNeeded } from "../../src/compute/Aggregation.ts"
import { CenteredClip, productCount } from "../../src/compute/CenteredClip.ts"
import { krumSelect, multiKrumCount, pairCount, pairDistances } from "../../src/compute/Krum.ts"
import { maximalSubtrees } from "../../src/compute/LaneTree.ts"
import { tensorKinds, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { isPeerId, type PeerId } from "../../src/protocol/Identity.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import type { ViewPlan } from "../../src/training/DirectProtocol.ts"
import { GradientCompression } from "../../src/training/GradientCompression.ts"
import { MemberVector, type RobustRule } from "../../src/training/MemberVector.ts"
import { segmentOf, sentElements } from "../../src/training/Segments.ts"
import { ViewExchange } from "../../src/training/ViewExchange.ts"

const rules = ["trimmedMean", "krum", "multiKrum", "centeredClip"] as const
const peer = (index: number): PeerId => {
  const id = index.toString(16).padStart(64, "0")
  return isPeerId(id) ? id : assert.fail(id)
}

interface Cluster {
  readonly rule: RobustRule
  readonly members: number
  /** Lanes that each computes. */
  readonly each: number
  readonly elements: number
  readonly observers: number
  /** Members whose values, or only whose losses, are not finite in step 2. */
  readonly broken: ReadonlyMap<number, "values" | "loss">
}

const steps = 3

const planOf = ({ members, each, elements, observers }: Cluster): ViewPlan => ({
  term: 1,
  view: 2,
  base: 0,
  stateSha256: "0".repeat(64),
  lossSums: [0, 0],
  members: Array.from({ length: members }, (_, index) => {
    const { from, to } = segmentOf(elements, index, members)
    const lanes = Array.from({ length: each }, (_, lane) => index * each + lane)
    return { peer: peer(index), lanes, segment: [from, to] as const }
  }),
  observers: Array.from({ length: observers }, (_, index) => peer(1_000 + index)),
  gifts: []
})

/** What a node of the tree is worth at a step. */
const valueOf = (cluster: Cluster, step: number, from: number, to: number): Float32Array => {
  const member = Math.floor(from / cluster.each)
  const isBroken = step === 2 && cluster.broken.get(member) === "values"
  return Float32Array.from({ length: cluster.elements }, (_, index) => {
    const mixed = Math.imul(step * 7919 + from * 104_729 + to * 31 + index * 15_485_863 + 1, 0x9e3779b1) >>> 0
    return isBroken && index === cluster.elements >> 1 ? NaN : (mixed / 2 ** 32 - 0.5) * 10 ** (mixed % 3)
  })
}

const lossOf = (cluster: Cluster, step: number, member: number): number =>
  step === 2 && cluster.broken.has(member) ? NaN : member + step

/** What each member sends at a step, and whose vector is none: the mean over its lanes, in float32, or the momentum of that. */
class Reference {
  readonly #cluster: Cluster
  readonly #momenta: Array<Float32Array | undefined>
  readonly #rules = new CoordinateRules()
  #center: Float32Array

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#momenta = Array.from({ length: cluster.members }, () => undefined)
    this.#center = new Float32Array(cluster.elements)
  }

  vectors(step: number): ReadonlyArray<Float32Array> {
    const { members, each, elements, rule } = this.#cluster
    const kept = Math.fround(rule.memberMomentum)
    const rest = Math.fround(1 - kept)
    return Array.from({ length: members }, (_, member) => {
      const lanes = Array.from({ length: each }, (_, lane) => member * each + lane)
      const [first, ...others] = maximalSubtrees(lanes, members * each).map(({ from, to }) =>
        valueOf(this.#cluster, step, from, to)
      )
      const sum = first ?? assert.fail("a member without lanes")
      for (const other of others) for (const [index, value] of other.entries()) sum[index] = (sum[index] ?? 0) + value
      const mean = sum.map(value => value / each)
      const how = step === 2 ? this.#cluster.broken.get(member) : undefined
      if (how === "loss") return mean.fill(NaN)
      // A trimmed mean looks at one element at a time: the vector is left out where its owner sees that it is not finite.
      if (how === "values" && rule.aggregation !== "trimmedMean") return mean.fill(NaN)
      if (how === "values") return this.#brokenWhereSeen(mean)
      if (rule.memberMomentum === 0) return mean
      const before = this.#momenta[member]
      const momentum =
        before === undefined
          ? mean
          : mean.map((value, index) => Math.fround(kept * (before[index] ?? 0)) + Math.fround(rest * value))
      this.#momenta[member] = momentum
      assert.lengthOf(momentum, elements)
      return momentum
    })
  }

  #brokenWhereSeen(mean: Float32Array): Float32Array {
    const { members, elements } = this.#cluster
    const segments = Array.from({ length: members }, (_, owner) => segmentOf(elements, owner, members))
    for (const { from, to } of segments) {
      const part = mean.subarray(from, to)
      if (part.some(value => Number.isNaN(value))) part.fill(NaN)
    }
    return mean
  }

  /** The rule on whole vectors, cut only where float64 sums are rounded. */
  result(vectors: ReadonlyArray<Float32Array>): Float32Array {
    const { members, elements, rule } = this.#cluster
    const { hostile, radius, iterations } = rule
    const out = new Float32Array(elements)
    const segments = vectors.map((_, owner) => segmentOf(elements, owner, members)).filter(({ from, to }) => to > from)
    const summed = (count: number, fill: (from: number, to: number, part: Float64Array) => void): Float64Array => {
      const sums = new Float64Array(count)
      const parts = segments.map(({ from, to }) => {
        const part = new Float64Array(count)
        fill(from, to, part)
        return part
      })
      addPartials(parts, sums)
      return sums
    }
    const cut = (from: number, to: number) => vectors.map(vector => vector.subarray(from, to))
    if (rule.aggregation === "trimmedMean") {
      this.#rules.trimmedMean(vectors, hostile, out)
    } else if (rule.aggregation === "centeredClip") {
      const clip = new CenteredClip(members)
      const products = summed(productCount(members), (from, to, part) =>
        clip.products(this.#center.subarray(from, to), cut(from, to), part)
      )
      clip.move(this.#center, vectors, clip.weights(products, radius, iterations), out)
      this.#center = out
    } else {
      const distances = summed(pairCount(members), (from, to, part) => pairDistances(cut(from, to), part))
      const count = rule.aggregation === "krum" ? 1 : multiKrumCount(members, hostile)
      const selected = krumSelect(distances, members, hostile, count)
      this.#rules.mean(
        selected.map(member => vectors[member] ?? assert.fail()),
        out
      )
    }
    return out
  }
}

interface Message {
  readonly from: PeerId
  readonly to: PeerId
  readonly header: TensorHeader
  readonly data: Uint8Array
}

/** The exchanges of a view, between which messages of each pair arrive in order, and pairs in any order. */
class Wire {
  readonly exchanges = new Map<PeerId, ViewExchange>()
  readonly vectors = new Map<PeerId, MemberVector>()
  readonly waiting: Array<Message> = []
  readonly sent: Array<Message> = []

  constructor(cluster: Cluster, compression?: "fp16") {
    const plan = planOf(cluster)
    const { elements } = cluster
    const lanes = cluster.members * cluster.each
    for (const self of [...plan.members.map(member => member.peer), ...plan.observers]) {
      const vector = new MemberVector(cluster.rule, elements)
      this.vectors.set(self, vector)
      this.exchanges.set(
        self,
        new ViewExchange({
          self,
          plan,
          jobId: new Uint8Array(16),
          lanes,
          elements,
          steps,
          stateBytes: 1,
          compression: compression && new GradientCompression({ compression, density: 0.1 }, elements, lanes),
          vector,
          free: [],
          send: (to, header, data) => {
            const message = { from: self, to, header, data }
            this.waiting.push(message)
            this.sent.push(message)
          },
          changed: () => undefined
        })
      )
    }
  }

  exchange(of: PeerId): ViewExchange {
    return this.exchanges.get(of) ?? assert.fail("no such member")
  }

  deliver(choose: number): void {
    const at = choose % this.waiting.length
    const chosen = this.waiting[at]
    const first = this.waiting.findIndex(({ from, to }) => from === chosen?.from && to === chosen.to)
    const [message] = this.waiting.splice(first, 1)
    if (message === undefined) return
    const placement = this.exchange(message.to).place(message.header, message.from)
    if (placement === undefined) return
    assert.strictEqual(placement.target.length, message.data.length)
    placement.target.set(message.data)
    placement.complete()
  }
}

/** Trains all steps in an order that `next` decides; what each has applied. */
const run = (cluster: Cluster, wire: Wire, next: () => number) => {
  const at = new Map([...wire.exchanges.keys()].map(self => [self, { step: 1, nodes: 0 }]))
  const applied = new Map<PeerId, Array<{ readonly values: Float32Array; readonly loss: number }>>()
  while ([...at.values()].some(({ step }) => step <= steps)) {
    const moves: Array<() => void> = wire.waiting.length > 0 ? [() => wire.deliver(next())] : []
    for (const [self, place] of at) {
      if (place.step > steps) continue
      const exchange = wire.exchange(self)
      const node = exchange.nodes[place.nodes]
      if (node !== undefined)
        moves.push(() => {
          place.nodes++
          const member = Math.floor(node.from / cluster.each)
          // A member tells the loss of all its lanes with the first of its nodes.
          const loss = place.nodes === 1 ? lossOf(cluster, place.step, member) : 0
          const isHidden = cluster.broken.get(member) === "values" && Number.isNaN(loss)
          const value = valueOf(cluster, place.step, node.from, node.to)
          exchange.contribute(place.step, node, value, isHidden ? member + place.step : loss)
        })
      const gradient = node === undefined ? exchange.take(place.step) : undefined
      if (gradient !== undefined)
        moves.splice(0, moves.length, () => {
          applied.set(self, [...(applied.get(self) ?? []), { values: gradient.values, loss: gradient.loss }])
          wire.vectors.get(self)?.applied(!Number.isFinite(gradient.loss))
          place.step++
          place.nodes = 0
        })
      if (gradient !== undefined) break
    }
    const move = moves[next() % Math.max(1, moves.length)]
    if (move === undefined) assert.fail("nobody can go on")
    else move()
  }
  return applied
}

const clusters: fc.Arbitrary<Cluster> = fc
  .record({
    aggregation: fc.constantFrom(...rules),
    hostile: fc.nat(2),
    more: fc.nat(2),
    each: fc.integer({ min: 1, max: 3 }),
    elements: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(64, 1_001)),
    observers: fc.nat(1),
    memberMomentum: fc.constantFrom(0, 0.5),
    radius: fc.constantFrom(0, 3),
    how: fc.constantFrom("values" as const, "loss" as const)
  })
  .map(({ aggregation, hostile, more, each, elements, observers, memberMomentum, radius, how }) => {
    const rule = { aggregation, hostile, radius, iterations: 2, memberMomentum }
    const members = membersNeeded(rule) + more
    const broken = new Map(Array.from({ length: hostile }, (_, index) => [members - 1 - index, how]))
    return { rule, members, each, elements, observers, broken }
  })

describe("The exchange under a robust rule", () => {
  it("gives every member what the rule makes of whole vectors, to the bit, for any sizes and any order of arrival", () => {
    fc.assert(
      fc.property(clusters, fc.infiniteStream(fc.nat(1_000)), (cluster, order) => {
        const reference = new Reference(cluster)
        const expected = Array.from({ length: steps }, (_, index) => reference.result(reference.vectors(index + 1)))
        const applied = run(cluster, new Wire(cluster), () => Number(order.next().value))
        assert.strictEqual(applied.size, cluster.members + cluster.observers)
        for (const gradients of applied.values())
          assert.deepStrictEqual(
            gradients.map(({ values }) => values),
            expected
          )
      }),
      { numRuns: 200 }
    )
  })

  const cluster: Cluster = {
    rule: { aggregation: "krum", hostile: 1, radius: 0, iterations: 3, memberMomentum: 0 },
    members: 5,
    each: 2,
    elements: 1_001,
    observers: 0,
    broken: new Map()
  }
  const runInOrder = (of: Cluster, wire = new Wire(of)) => ({ wire, applied: run(of, wire, () => 0) })

  it("sends each gradient once, and for krum a float64 for each pair of members to each other owner", () => {
    const { wire } = runInOrder(cluster)
    for (let member = 0; member < 5; member++) {
      const sent = wire.sent.filter(({ from }) => from === peer(member))
      const floats = sentElements(cluster.elements, member, 5, 1) * 4
      const bytes = sent.reduce((sum, { data }) => sum + data.length, 0)
      assert.strictEqual(bytes, steps * (floats + 4 * pairCount(5) * 8))
      assert.lengthOf(sent, steps * 3 * 4)
    }
  })

  it("tells nothing beside gradients for a trimmed mean", () => {
    const { wire } = runInOrder({ ...cluster, rule: { ...cluster.rule, aggregation: "trimmedMean" } })
    assert.isFalse(wire.sent.some(({ header }) => header.kind === tensorKinds.products))
  })

  it.each(rules)("%s gives all the same values of halves", aggregation => {
    const halves = { ...cluster, rule: { ...cluster.rule, aggregation } }
    const { applied } = runInOrder(halves, new Wire(halves, "fp16"))
    const [first, ...others] = [...applied.values()].map(gradients => gradients.map(({ values }) => values))
    for (const gradients of others) assert.deepStrictEqual(gradients, first)
  })

  it.each(rules)("%s names a member that is not finite at its owners, and goes on without it", aggregation => {
    const broken: Cluster = { ...cluster, rule: { ...cluster.rule, aggregation }, broken: new Map([[3, "values"]]) }
    const { wire, applied } = runInOrder(broken)
    const named = [...wire.exchanges.values()].flatMap(({ leftOut }) => leftOut)
    // One element of 1,001 is not a number: it lies in the segment of one owner.
    assert.deepStrictEqual(named, [{ step: 2, peer: peer(3) }])
    for (const gradients of applied.values()) for (const { loss } of gradients) assert.isTrue(Number.isFinite(loss))
  })

  it.each(rules)("%s says by its loss that more are not finite than may lie", aggregation => {
    const broken = new Map([1, 2, 3].map(member => [member, "loss" as const]))
    const { applied } = runInOrder({ ...cluster, rule: { ...cluster.rule, aggregation }, broken })
    for (const [first, second, third] of applied.values()) {
      assert.isTrue(Number.isFinite(first?.loss))
      assert.isFalse(Number.isFinite(second?.loss))
      assert.isTrue(Number.isFinite(third?.loss))
    }
  })

  it("tells the trimmed mean of the losses, times the members: no liar makes it what it likes", () => {
    const { applied } = runInOrder({ ...cluster, broken: new Map([[0, "loss"]]) })
    // Members tell 1 to 5 in step 1, and 3 to 6 and nothing in step 2.
    for (const [first, second] of applied.values()) {
      assert.strictEqual(first?.loss, ((2 + 3 + 4) / 3) * 5)
      assert.strictEqual(second?.loss, Math.fround(((4 + 5 + 6) / 3) * 5))
    }
  })

  const products: TensorHeader = {
    kind: tensorKinds.products,
    job: new Uint8Array(16),
    term: 1,
    view: 2,
    step: 1,
    lanes: { from: 1, to: 2 },
    segment: { from: 200, to: 400 },
    loss: 0
  }

  it("takes the products that an owner owes, once", () => {
    const exchange = new Wire(cluster).exchange(peer(0))
    const placement = exchange.place(products, peer(1))
    assert.lengthOf(placement?.target ?? [], pairCount(5) * 8)
    placement?.complete()
    assert.throws(() => exchange.place(products, peer(1)), ProtocolError)
  })

  it.each([
    { what: "of another step", header: { ...products, step: 2 } },
    { what: "in the name of another", header: { ...products, lanes: { from: 2, to: 3 } } },
    { what: "in the name of this member", header: { ...products, lanes: { from: 0, to: 1 } } },
    { what: "of another segment", header: { ...products, segment: { from: 0, to: 200 } } },
    { what: "where the rule needs none", header: products, aggregation: "trimmedMean" as const }
  ])("refuses products $what", ({ header, aggregation = "krum" as const }) => {
    const wire = new Wire({ ...cluster, rule: { ...cluster.rule, aggregation } })
    assert.throws(() => wire.exchange(peer(0)).place(header, peer(1)), ProtocolError)
  })

  it("says for which owners' products it waits", () => {
    const wire = new Wire(cluster)
    for (const exchange of wire.exchanges.values())
      for (const node of exchange.nodes) exchange.contribute(1, node, valueOf(cluster, 1, node.from, node.to), 0)
    const isPartial = ({ header, to }: Message) => header.kind === tensorKinds.partial && to === peer(0)
    for (let at = wire.waiting.findIndex(isPartial); at >= 0; at = wire.waiting.findIndex(isPartial)) wire.deliver(at)
    const others = [1, 2, 3, 4].map(peer)
    assert.deepStrictEqual(wire.exchange(peer(0)).waitingFor(1), { what: "products", peers: others })
  })
})
