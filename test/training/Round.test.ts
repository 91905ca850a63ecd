import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { addInto, maximalSubtrees, splitPoint, type LaneNode } from "../../src/compute/LaneTree.ts"
import { assignLanes, firstNonFinite, Round } from "../../src/training/Round.ts"

const elements = 3

/** What a member that computes this node sends: sums along the tree of values that depend on the order of addition. */
const valueOf = ({ from, to }: LaneNode): Float32Array => {
  if (to - from === 1) return Float32Array.of(1 / (from + 3), (-1) ** from * 1e7, from * 0.1)
  const middle = splitPoint(from, to)
  const left = valueOf({ from, to: middle })
  addInto(left, valueOf({ from: middle, to }))
  return left
}
const lossOf = ({ from, to }: LaneNode): number => valueOf({ from, to })[0] ?? 0

const meanOf = (lanes: number): Float32Array => valueOf({ from: 0, to: lanes }).map(value => value / lanes)

const deliver = (round: Round, peer: string, node: LaneNode): void => {
  const slot = round.claim(peer, node)
  if (slot === undefined) return assert.fail(`${peer} could not claim ${node.from} to ${node.to}`)
  slot.set(valueOf(node))
  round.place(node, lossOf(node))
}

describe("Lanes", () => {
  it("are given in order as contiguous ranges that differ by one lane at most and leave none out", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 256 }), fc.integer({ min: 1, max: 300 }), (lanes, members) => {
        const peers = Array.from({ length: members }, (_, index) => `peer-${index}`)
        const assigned = assignLanes(peers, lanes)
        assert.deepStrictEqual(
          assigned.map(({ peer }) => peer),
          peers
        )
        assert.deepStrictEqual(
          assigned.flatMap(member => member.lanes),
          Array.from({ length: lanes }, (_, lane) => lane)
        )
        const counts = assigned.map(member => member.lanes.length)
        assert.isAtMost(Math.max(...counts) - Math.min(...counts), 1)
      })
    )
  })

  it("are not enough for more members than lanes: the others are spares", () => {
    const counts = assignLanes(["a", "b", "c", "d", "e"], 3).map(({ lanes }) => lanes.length)
    assert.deepStrictEqual(counts.toSorted(), [0, 0, 1, 1, 1])
  })
})

describe("A round", () => {
  it("has the sum of the whole tree, whoever sends which parts and in whatever order", () => {
    const scenario = fc.integer({ min: 1, max: 33 }).chain(lanes =>
      fc.record({
        lanes: fc.constant(lanes),
        owners: fc.array(fc.nat({ max: 4 }), { minLength: lanes, maxLength: lanes }),
        seed: fc.infiniteStream(fc.nat())
      })
    )
    fc.assert(
      fc.property(scenario, ({ lanes, owners, seed }) => {
        const members = [0, 1, 2, 3, 4].map(owner => ({
          peer: `peer-${owner}`,
          lanes: owners.flatMap((each, lane) => (each === owner ? [lane] : []))
        }))
        const round = new Round(lanes, elements)
        round.begin(members)
        const parts = members
          .flatMap(({ peer, lanes: own }) => maximalSubtrees(own, lanes).map(node => ({ peer, node })))
          .map(part => ({ ...part, order: seed.next().value }))
          .toSorted((a, b) => a.order - b.order)
        for (const { peer, node } of parts) {
          assert.isFalse(round.complete)
          assert.include(round.missing(), peer)
          deliver(round, peer, node)
        }
        assert.isTrue(round.complete)
        assert.deepStrictEqual(round.missing(), [])
        const out = new Float32Array(elements)
        const { loss } = round.finish(out)
        assert.deepStrictEqual(out, meanOf(lanes))
        assert.strictEqual(loss, lossOf({ from: 0, to: lanes }))
      })
    )
  })

  const two = [
    { peer: "one", lanes: [0, 1, 2, 3] },
    { peer: "two", lanes: [4, 5, 6, 7] }
  ]
  const begun = () => {
    const round = new Round(8, elements)
    round.begin(two)
    return round
  }

  it("takes a part from no one but the member that owes it, as one piece, once", () => {
    const round = begun()
    assert.isUndefined(round.claim("two", { from: 0, to: 4 }))
    assert.isUndefined(round.claim("three", { from: 0, to: 4 }))
    assert.isUndefined(round.claim("one", { from: 0, to: 2 }))
    assert.isUndefined(round.claim("one", { from: 0, to: 8 }))
    assert.isDefined(round.claim("one", { from: 0, to: 4 }))
    assert.isUndefined(round.claim("one", { from: 0, to: 4 }))
    round.place({ from: 0, to: 4 }, 1)
    assert.isUndefined(round.claim("one", { from: 0, to: 4 }))
    assert.deepStrictEqual(round.missing(), ["two"])
  })

  it("counts a part as missing until it has come whole, and never one that nobody claimed", () => {
    const round = begun()
    round.claim("one", { from: 0, to: 4 })
    assert.deepStrictEqual(round.missing(), ["one", "two"])
    round.place({ from: 4, to: 8 }, 1)
    round.place({ from: 0, to: 1 }, 1)
    assert.deepStrictEqual(round.missing(), ["one", "two"])
    assert.isFalse(round.complete)
  })

  it("forgets what had come when it begins anew, with other members or with the same", () => {
    const round = begun()
    deliver(round, "one", { from: 0, to: 4 })
    const late = round.claim("two", { from: 4, to: 8 })
    round.begin([{ peer: "two", lanes: [0, 1, 2, 3, 4, 5, 6, 7] }])
    assert.deepStrictEqual(round.missing(), ["two"])
    assert.isUndefined(round.claim("one", { from: 0, to: 4 }))
    // What was on its way then belongs to no part of this step.
    late?.fill(99)
    round.place({ from: 4, to: 8 }, 99)
    assert.isFalse(round.complete)
    const out = new Float32Array(elements)
    for (let step = 0; step < 3; step++) {
      deliver(round, "two", { from: 0, to: 8 })
      round.finish(out)
      assert.deepStrictEqual(out, meanOf(8))
      round.next()
      assert.deepStrictEqual(round.missing(), ["two"])
    }
  })

  it("owes nothing to spares", () => {
    const round = new Round(2, elements)
    round.begin(assignLanes(["a", "b", "c"], 2))
    assert.lengthOf(round.missing(), 2)
  })
})

describe("A gradient", () => {
  it.each([
    [[1, 2, 3], -1],
    [[], -1],
    [[1e38, 3e38, -3e38], -1],
    [[1, Number.NaN, 3], 1],
    [[Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY], 0],
    [[0, -0, Number.NEGATIVE_INFINITY], 2]
  ])("%j has its first element that is not finite at %i", (values, index) => {
    assert.strictEqual(firstNonFinite(Float32Array.from(values)), index)
  })
})
