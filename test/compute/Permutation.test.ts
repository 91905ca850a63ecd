import { assert, describe, it } from "@effect/vitest"
import { laneExamples, permutation, planEpoch } from "../../src/compute/Permutation.ts"

describe("The order of an epoch", () => {
  it("holds every example once", () => {
    assert.deepStrictEqual(
      Array.from(permutation(1_000, 42, 1)).toSorted((a, b) => a - b),
      Array.from({ length: 1_000 }, (_, index) => index)
    )
  })

  it("is decided by seed and epoch alone", () => {
    assert.deepStrictEqual(permutation(500, 42, 1), permutation(500, 42, 1))
    assert.notDeepEqual(permutation(500, 42, 1), permutation(500, 42, 2))
    assert.notDeepEqual(permutation(500, 42, 1), permutation(500, 43, 1))
    assert.notDeepEqual(permutation(500, 42, 1), permutation(500, 42 + 2 ** 32, 1))
  })

  it("never changes between versions: these are the first ten of MNIST's first epoch under seed 42", () => {
    assert.deepStrictEqual(
      Array.from(permutation(60_000, 42, 1).subarray(0, 10)),
      [56994, 30052, 24871, 39933, 16080, 56743, 36720, 50819, 48480, 40508]
    )
  })

  it("visits all orders equally often", () => {
    const counts = new Map<string, number>()
    const draws = 6_000
    for (let epoch = 0; epoch < draws; epoch++) {
      const order = permutation(3, 7, epoch).join()
      counts.set(order, (counts.get(order) ?? 0) + 1)
    }
    assert.strictEqual(counts.size, 6)
    for (const count of counts.values()) assert.closeTo(count / draws, 1 / 6, 0.02)
  })

  it("drops the tail that fills no global batch: MNIST has 234 steps and drops 96 examples", () => {
    assert.deepStrictEqual(planEpoch(60_000, 8, 32), { stepsPerEpoch: 234, droppedExamples: 96 })
    assert.deepStrictEqual(planEpoch(255, 8, 32), { stepsPerEpoch: 0, droppedExamples: 255 })
  })

  it("gives lane l of step s the examples from (s·lanes + l)·microBatch on, each once per epoch", () => {
    const order = permutation(100, 1, 1)
    const lanes = 3
    const microBatch = 7
    const { stepsPerEpoch, droppedExamples } = planEpoch(100, lanes, microBatch)
    const seen: Array<number> = []
    for (let step = 0; step < stepsPerEpoch; step++)
      for (let lane = 0; lane < lanes; lane++) {
        const examples = laneExamples(order, { lanes, microBatch, step, lane })
        assert.deepStrictEqual(
          Array.from(examples),
          Array.from(order).slice((step * lanes + lane) * microBatch, (step * lanes + lane + 1) * microBatch)
        )
        seen.push(...examples)
      }
    assert.deepStrictEqual(seen, Array.from(order).slice(0, 100 - droppedExamples))
  })
})
