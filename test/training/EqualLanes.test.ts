import { assert, describe, it } from "vitest"
import { JobOptionError } from "../../src/compute/Options.ts"
import {
  checkLanes,
  computingMembers,
  equalMembers,
  leastMembers,
  tooFewWorkers
} from "../../src/training/EqualLanes.ts"
import { Strategy } from "../../src/training/Strategy.ts"

const krum = Strategy.allReduce({ aggregation: "krum", hostile: 2 })
const mean = Strategy.allReduce()

describe("Members under a robust rule", () => {
  it("compute equally many lanes: as many members as divide them", () => {
    const computing = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(available => equalMembers(8, available))
    assert.deepStrictEqual(computing, [0, 1, 2, 2, 4, 4, 4, 4, 8, 8])
    assert.strictEqual(computingMembers({ strategy: krum, lanes: 8 }, 7), 4)
    assert.strictEqual(computingMembers({ strategy: mean, lanes: 8 }, 7), 7)
    assert.strictEqual(computingMembers({ strategy: mean, lanes: 8 }, 9), 8)
  })

  it("are as many as the rule needs at least", () => {
    assert.strictEqual(leastMembers({ strategy: krum, lanes: 8 }), 8)
    assert.strictEqual(leastMembers({ strategy: krum, lanes: 21 }), 7)
    assert.strictEqual(leastMembers({ strategy: mean, lanes: 8 }), 1)
  })

  it("are refused as too few before anything is computed, with how many would do", () => {
    const error = tooFewWorkers({ strategy: krum, lanes: 8 }, 7)
    assert.strictEqual(error?.code, "TOO_FEW_WORKERS")
    assert.strictEqual(
      error?.message,
      "krum against 2 hostile members needs 7 with equally many of the 8 lanes, and of 7 workers 4 can have that"
    )
    assert.include(error?.hint, "8 workers")
    assert.isUndefined(tooFewWorkers({ strategy: krum, lanes: 8 }, 8))
    assert.isUndefined(tooFewWorkers({ strategy: mean, lanes: 8 }, 1))
  })

  it("have lanes, or the job is none", () => {
    const of = (aggregation: "krum" | "trimmedMean", hostile: number, lanes: number) => () =>
      checkLanes({ strategy: Strategy.allReduce({ aggregation, hostile }), lanes })
    assert.throws(
      of("krum", 3, 8),
      JobOptionError,
      "strategy.hostile is 3, but must be at most 2 with krum and 8 lanes"
    )
    assert.throws(of("krum", 1, 2), JobOptionError, "lanes is 2, but must be 3 or more with krum")
    assert.doesNotThrow(of("krum", 2, 8))
    assert.doesNotThrow(of("trimmedMean", 3, 8))
  })
})
