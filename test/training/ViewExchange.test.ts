import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { addInto, splitPoint, type LaneNode } from "../../src/compute/LaneTree.ts"
import type { Placement } from "../../src/node/GradientExchanger.ts"
import { encodeTensorHeader, tensorHeaderBytes, tensorKinds, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { isPeerId, type PeerId } from "../../src/protocol/Identity.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import type { CompressionOptions } from "../../src/compute/Compression.ts"
import { GradientCompression } from "../../src/training/GradientCompression.ts"
import type { ViewPlan } from "../../src/training/DirectProtocol.ts"
import { segmentOf, sentElements } from "../../src/training/Segments.ts"
import { maxBacklogBytes } from "../../src/training/AllGather.ts"
import { ViewExchange } from "../../src/training/ViewExchange.ts"

const jobId = new Uint8Array(16).fill(7)
const peer = (index: number): PeerId => {
  const id = index.toString(16).padStart(64, "0")
  return isPeerId(id) ? id : assert.fail(id)
}

/** The gradient of a lane at a step: floats whose sums depend on the order in which they are added. */
const laneGradient = (step: number, lane: number, elements: number): Float32Array =>
  Float32Array.from({ length: elements }, (_, index) => {
    const mixed = Math.imul(step * 7919 + lane * 104_729 + index * 15_485_863 + 1, 0x9e3779b1) >>> 0
    return (mixed / 2 ** 32 - 0.5) * 10 ** (mixed % 7)
  })

const nodeGradient = (step: number, { from, to }: LaneNode, elements: number): Float32Array => {
  if (to - from === 1) return laneGradient(step, from, elements)
  const middle = splitPoint(from, to)
  const left = nodeGradient(step, { from, to: middle }, elements)
  addInto(left, nodeGradient(step, { from: middle, to }, elements))
  return left
}

const meanGradient = (step: number, lanes: number, elements: number): Float32Array =>
  nodeGradient(step, { from: 0, to: lanes }, elements).map(value => value / lanes)

interface Cluster {
  readonly lanes: number
  readonly elements: number
  /** The member that computes each lane. */
  readonly owners: ReadonlyArray<number>
  readonly observers: number
}

const planOf = ({ lanes, elements, owners, observers }: Cluster, base = 0): ViewPlan => {
  const computing = [...new Set(owners)].toSorted((a, b) => a - b)
  return {
    term: 1,
    view: 2,
    base,
    stateSha256: "0".repeat(64),
    lossSums: [0, 0],
    members: computing.map((member, owner) => {
      const { from, to } = segmentOf(elements, owner, computing.length)
      const own = Array.from({ length: lanes }, (_, lane) => lane).filter(lane => owners[lane] === member)
      return { peer: peer(member), lanes: own, segment: [from, to] as const }
    }),
    observers: Array.from({ length: observers }, (_, index) => peer(1_000 + index)),
    gifts: []
  }
}

interface Message {
  readonly header: TensorHeader
  readonly data: Uint8Array
}

/** Members in one process, between whom messages wait in a queue for each pair until somebody delivers them. */
class Wire {
  readonly members = new Map<PeerId, ViewExchange>()
  readonly queues = new Map<string, { readonly from: PeerId; readonly to: PeerId; readonly messages: Array<Message> }>()
  readonly sentBytes = new Map<PeerId, number>()
  readonly compressions: Array<GradientCompression> = []

  constructor(cluster: Cluster, steps: number, compression?: CompressionOptions["compression"]) {
    const plan = planOf(cluster)
    for (const self of [...plan.members.map(member => member.peer), ...plan.observers])
      this.members.set(
        self,
        new ViewExchange({
          self,
          plan,
          jobId,
          lanes: cluster.lanes,
          elements: cluster.elements,
          steps,
          stateBytes: 12,
          compression: compression === undefined ? undefined : this.#compression(cluster, compression),
          vector: undefined,
          free: [],
          send: (to, header, data) => this.#queue(self, to, header, data),
          changed: () => undefined
        })
      )
  }

  #compression({ elements, lanes }: Cluster, compression: CompressionOptions["compression"]): GradientCompression {
    const made = new GradientCompression({ compression, density: 0.25 }, elements, lanes)
    this.compressions.push(made)
    return made
  }

  #queue(from: PeerId, to: PeerId, header: TensorHeader, data: Uint8Array): void {
    const key = `${from} ${to}`
    const queue = this.queues.get(key) ?? { from, to, messages: [] }
    this.queues.set(key, queue)
    // As on a socket: what is sent later must not show in what was sent before, so the bytes stay where they are until delivery.
    queue.messages.push({ header, data })
    this.sentBytes.set(from, (this.sentBytes.get(from) ?? 0) + data.length + encodeTensorHeader(header).length)
  }

  /** Delivers the first message of the pair that `choose` picks; false where none waits. */
  deliver(choose: number): boolean {
    const waiting = [...this.queues.values()].filter(({ messages }) => messages.length > 0)
    const queue = waiting[choose % Math.max(1, waiting.length)]
    const message = queue?.messages.shift()
    if (queue === undefined || message === undefined) return false
    const placement = this.member(queue.to).place(message.header, queue.from)
    arrive(placement, message.data)
    return true
  }

  member(of: PeerId): ViewExchange {
    return this.members.get(of) ?? assert.fail("no such member")
  }
}

const arrive = (placement: Placement | undefined, data: Uint8Array): void => {
  if (placement === undefined) return
  assert.strictEqual(placement.target.length, data.length)
  placement.target.set(data)
  placement.complete()
}

const clusters: fc.Arbitrary<Cluster> = fc
  .record({
    lanes: fc.integer({ min: 1, max: 12 }),
    members: fc.integer({ min: 1, max: 8 }),
    elements: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(64, 1_001)),
    observers: fc.nat(2)
  })
  .chain(({ lanes, members, elements, observers }) =>
    fc.record({
      lanes: fc.constant(lanes),
      elements: fc.constant(elements),
      observers: fc.constant(observers),
      owners: fc.array(fc.nat(members - 1), { minLength: lanes, maxLength: lanes })
    })
  )

describe("The direct exchange", () => {
  it("gives every member the bits of the one-machine tree, for any assignment of lanes and any order of arrival", () => {
    fc.assert(
      fc.property(clusters, fc.infiniteStream(fc.nat(1_000)), (cluster, order) => {
        const steps = 3
        const wire = new Wire(cluster, steps)
        const next = (): number => Number(order.next().value)
        const at = new Map<PeerId, { step: number; nodes: number }>()
        for (const self of wire.members.keys()) at.set(self, { step: 1, nodes: 0 })
        const results = new Map<PeerId, Array<Float32Array>>()
        for (;;) {
          // Whoever can compute does so, or a message arrives, or a step is applied: in an order that is up to chance.
          const moves: Array<() => void> = []
          for (const [self, exchange] of wire.members) {
            const place = at.get(self) ?? assert.fail()
            const node = exchange.nodes[place.nodes]
            if (place.step <= steps && node !== undefined)
              moves.push(() => {
                place.nodes++
                exchange.contribute(place.step, node, nodeGradient(place.step, node, cluster.elements), 0.5)
              })
            moves.push(() => {
              const gradient = exchange.take(place.step)
              if (gradient === undefined) return
              results.set(self, [...(results.get(self) ?? []), gradient.values.slice()])
              place.step++
              place.nodes = 0
            })
          }
          const waiting = [...wire.queues.values()].some(({ messages }) => messages.length > 0)
          if (waiting) moves.push(() => void wire.deliver(next()))
          moves[next() % moves.length]?.()
          if ([...at.values()].every(({ step }) => step > steps)) break
          if (
            !waiting &&
            [...at].every(([self, { step, nodes }]) => step > steps || nodes === wire.member(self).nodes.length)
          )
            for (const [self, place] of at) {
              const gradient = wire.member(self).take(place.step)
              if (gradient === undefined) continue
              results.set(self, [...(results.get(self) ?? []), gradient.values.slice()])
              place.step++
              place.nodes = 0
            }
        }
        for (const [self, gradients] of results)
          for (const [index, values] of gradients.entries())
            assert.deepStrictEqual(values, meanGradient(index + 1, cluster.lanes, cluster.elements), `${self} ${index}`)
        assert.strictEqual(results.size, wire.members.size)
      }),
      { numRuns: 200 }
    )
  })

  it("sends exactly the bytes that the formula tells, with one header for each segment that is not empty", () => {
    const cluster: Cluster = { lanes: 8, elements: 1_001, owners: [0, 0, 0, 1, 1, 1, 2, 2], observers: 0 }
    const wire = new Wire(cluster, 1)
    for (const exchange of wire.members.values())
      for (const node of exchange.nodes) exchange.contribute(1, node, nodeGradient(1, node, cluster.elements), 0)
    while (wire.deliver(0));
    for (const [index, [self, exchange]] of [...wire.members].entries()) {
      const partials = exchange.nodes.length
      const floats = sentElements(cluster.elements, index, 3, partials) * 4
      assert.strictEqual(wire.sentBytes.get(self), floats + tensorHeaderBytes * (partials * 2 + 2))
    }
  })
})

describe("The compressed exchange", () => {
  const cluster: Cluster = { lanes: 6, elements: 1_001, owners: [0, 0, 0, 1, 1, 2], observers: 1 }

  /** Small enough for halves. */
  const smaller = (values: Float32Array): Float32Array => values.map(value => value / 2 ** 10)
  const mean = (): Float32Array => smaller(meanGradient(1, cluster.lanes, cluster.elements))

  /** One step, of the same gradients each time; what each member then has. */
  const step = (wire: Wire, number: number, compressions: ReadonlyArray<GradientCompression | undefined>) => {
    for (const exchange of wire.members.values())
      for (const node of exchange.nodes)
        exchange.contribute(number, node, smaller(nodeGradient(1, node, cluster.elements)), 0.5)
    while (wire.deliver(number));
    for (const compression of compressions) compression?.applied(number, false)
    return [...wire.members.values()].map(exchange => exchange.take(number)?.values.slice())
  }

  it.each(["fp16", "int8", "topK"] as const)("%s gives all the same values, of fewer bytes", compression => {
    const [exact, short] = [new Wire(cluster, 1), new Wire(cluster, 1, compression)]
    step(exact, 1, [])
    const [first, ...others] = step(short, 1, [])
    assert.isDefined(first)
    for (const values of others) assert.deepStrictEqual(values, first)
    const bytes = (wire: Wire): number => [...wire.sentBytes.values()].reduce((sum, each) => sum + each, 0)
    assert.isBelow(bytes(short), bytes(exact) * 0.6)
  })

  it("of halves is as near to the exact mean as halves are", () => {
    const [values] = step(new Wire(cluster, 1, "fp16"), 1, [])
    const exact = mean()
    const largest = exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    for (const [index, value] of exact.entries())
      assert.approximately(values?.[index] ?? NaN, value, largest * cluster.lanes * 2 ** -10)
  })

  it("owes what it leaves out: over many steps the mean of what is applied is the mean of the gradients", () => {
    const wire = new Wire(cluster, 400, "topK")
    const sums = new Float64Array(cluster.elements)
    for (let number = 1; number <= 400; number++)
      for (const [index, value] of step(wire, number, wire.compressions)[0]?.entries() ?? [])
        sums[index] = (sums[index] ?? 0) + value
    const exact = mean()
    const largest = exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    for (const [index, value] of exact.entries())
      assert.approximately((sums[index] ?? NaN) / 400, value, largest * 0.05, `element ${index}`)
  })

  it("tells all by its loss where a sum cannot be written", () => {
    const wire = new Wire(cluster, 1, "int8")
    for (const exchange of wire.members.values())
      for (const node of exchange.nodes)
        exchange.contribute(1, node, new Float32Array(cluster.elements).fill(node.from === 3 ? Infinity : 1), 0.5)
    while (wire.deliver(1));
    for (const exchange of wire.members.values()) assert.isNaN(exchange.take(1)?.loss)
  })
})

describe("A member of a view", () => {
  const cluster: Cluster = { lanes: 4, elements: 8, owners: [0, 0, 1, 1], observers: 1 }
  const [self, other, stranger] = [peer(0), peer(1), peer(9)]
  const make = () => new Wire(cluster, 10).member(self)
  const partial: TensorHeader = {
    kind: tensorKinds.partial,
    job: jobId,
    term: 1,
    view: 2,
    step: 1,
    lanes: { from: 2, to: 4 },
    segment: { from: 0, to: 4 },
    loss: 0
  }
  const reduced: TensorHeader = {
    ...partial,
    kind: tensorKinds.reduced,
    lanes: { from: 0, to: 4 },
    segment: { from: 4, to: 8 }
  }

  it("takes what is owed to it", () => {
    assert.isDefined(make().place(partial, other))
  })

  it.each([
    { what: "of an older view", header: { ...partial, view: 1 } },
    { what: "of a newer view", header: { ...partial, view: 3 } },
    { what: "of another term", header: { ...partial, term: 2 } },
    { what: "of a step that is over", header: { ...partial, step: 0 } },
    { what: "of a step that is still to come", header: { ...partial, step: 2 } },
    { what: "of lanes of another member", header: { ...partial, lanes: { from: 0, to: 2 } } },
    { what: "of lanes that are no node of the tree", header: { ...partial, lanes: { from: 1, to: 3 } } },
    { what: "of a part of its lanes", header: { ...partial, lanes: { from: 2, to: 3 } } },
    { what: "of a segment of another member", header: { ...partial, segment: { from: 4, to: 8 } } },
    { what: "of a part of its segment", header: { ...partial, segment: { from: 0, to: 3 } } },
    { what: "from one that has no part in the view", header: partial, from: stranger },
    { what: "that holds a state that nobody announced", header: { ...partial, kind: tensorKinds.state } },
    { what: "that holds parameters to evaluate", header: { ...partial, kind: tensorKinds.evaluation } },
    { what: "that claims to be reduced, of a sum that lacks its own part", header: reduced },
    { what: "that claims to be reduced, of its own segment", header: { ...reduced, segment: { from: 0, to: 4 } } }
  ])("refuses a tensor $what, before a byte of it is placed", ({ header, from = other }) => {
    assert.throws(() => make().place(header, from), ProtocolError)
  })

  it("refuses the same part twice, and the same reduced segment twice", () => {
    const member = make()
    member.place(partial, other)
    assert.throws(() => member.place(partial, other), /are not this member's now/)
    const [node] = member.nodes
    if (node === undefined) return assert.fail("no lanes")
    member.contribute(1, node, new Float32Array(8), 0)
    member.place(reduced, other)
    assert.throws(() => member.place(reduced, other), /is not due/)
  })

  it("lets nothing in once its view is over, and what was arriving changes nothing", () => {
    const member = make()
    const placement = member.place(partial, other)
    member.close()
    assert.isTrue(placement?.revoked)
    assert.isUndefined(member.place(partial, other))
  })

  it("says for whom it waits: for parts of its own segment first, then for the segments of others", () => {
    const member = make()
    assert.deepStrictEqual(member.waitingFor(1), { what: "parts", peers: [] })
    const [node] = member.nodes
    if (node === undefined) return assert.fail("no lanes")
    member.contribute(1, node, new Float32Array(8), 0)
    assert.deepStrictEqual(member.waitingFor(1), { what: "parts", peers: [other] })
    arrive(member.place(partial, other), new Uint8Array(16))
    assert.deepStrictEqual(member.waitingFor(1), { what: "gradient", peers: [other] })
  })

  it("as an observer drops what is beyond its backlog, and says that it has", () => {
    const elements = maxBacklogBytes / 4
    const wire = new Wire({ lanes: 1, elements, owners: [0], observers: 1 }, 10)
    const observer = wire.member(peer(1_000))
    const header: TensorHeader = { ...reduced, lanes: { from: 0, to: 1 }, segment: { from: 0, to: elements } }
    assert.isDefined(observer.place({ ...header, step: 1 }, self))
    assert.isDefined(observer.place({ ...header, step: 2 }, self))
    assert.isFalse(observer.overrun)
    assert.isUndefined(observer.place({ ...header, step: 3 }, self))
    assert.isTrue(observer.overrun)
  })
})
