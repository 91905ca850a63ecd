import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { maximalSubtrees } from "../../src/compute/LaneTree.ts"
import { segmentOf, sentElements, sentShare } from "../../src/training/Segments.ts"

const sizes = fc.oneof(fc.nat(50), fc.integer({ min: 0, max: 10_000_001 }), fc.integer({ min: 0, max: 2 ** 40 }))

describe("The segments of a gradient", () => {
  it("are [⌊n·o/N⌋, ⌊n·(o+1)/N⌋): they cover it once, in order, and differ by one element at most", () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 512 }), (elements, owners) => {
        let covered = 0
        const lengths = Array.from({ length: owners }, (_, owner) => {
          const { from, to } = segmentOf(elements, owner, owners)
          assert.strictEqual(from, covered)
          assert.strictEqual(BigInt(to), (BigInt(elements) * BigInt(owner + 1)) / BigInt(owners))
          covered = to
          return to - from
        })
        assert.strictEqual(covered, elements)
        assert.isAtMost(Math.max(...lengths) - Math.min(...lengths), 1)
      })
    )
  })

  it("are empty for some where there are fewer elements than owners", () => {
    const lengths = [0, 1, 2].map(owner => {
      const { from, to } = segmentOf(2, owner, 3)
      return to - from
    })
    assert.deepStrictEqual(lengths, [0, 1, 1])
  })
})

describe("What a member sends in a step", () => {
  it("is (P + 1)·(N − 1)/N of the gradient: one round for each of its sums, and one with its own segment to everybody", () => {
    assert.strictEqual(sentShare(1, 4), 1.5)
    assert.strictEqual(sentShare(3, 8), 3.5)
    assert.strictEqual(sentShare(1, 1), 0)
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 8 }), fc.nat(1_000), (n, p, k) => {
        const elements = n * k
        for (let member = 0; member < n; member++)
          assert.closeTo(sentElements(elements, member, n, p), sentShare(p, n) * elements, 1e-6)
      })
    )
  })

  it("is to the element what is counted message by message, for any lanes, size and number of members", () => {
    const scenario = fc.integer({ min: 1, max: 24 }).chain(lanes =>
      fc.record({
        lanes: fc.constant(lanes),
        members: fc.integer({ min: 1, max: 8 }),
        owners: fc.array(fc.nat(7), { minLength: lanes, maxLength: lanes }),
        elements: sizes
      })
    )
    fc.assert(
      fc.property(scenario, ({ lanes, members, owners, elements }) => {
        for (let member = 0; member < members; member++) {
          const own = owners.flatMap((owner, lane) => (owner % members === member ? [lane] : []))
          const nodes = maximalSubtrees(own, lanes)
          let sent = 0
          for (let owner = 0; owner < members; owner++) {
            if (owner === member) continue
            const theirs = segmentOf(elements, owner, members)
            for (const _ of nodes) sent += theirs.to - theirs.from
            const reduced = segmentOf(elements, member, members)
            sent += reduced.to - reduced.from
          }
          assert.strictEqual(sentElements(elements, member, members, nodes.length), sent)
          // Beyond the rounding of each segment by less than one element, that is the formula.
          assert.isAtMost(Math.abs(sent - sentShare(nodes.length, members) * elements), (nodes.length + 1) * members)
        }
      }),
      { numRuns: 300, seed: 1 }
    )
  })
})
