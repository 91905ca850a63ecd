import { assert, describe, it } from "@effect/vitest"
import { blockElements, divideInto, firstNonFinite } from "../../src/compute/Blocks.ts"

const lengths = [0, 1, blockElements - 1, blockElements, blockElements + 1, 3 * blockElements + 7]
const valuesOf = (length: number): Float32Array => Float32Array.from({ length }, (_, index) => Math.sin(index) * 1e3)
const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]

describe("Loops over blocks", () => {
  it.each(lengths)("find the first of several values that are not finite among %i", length => {
    assert.strictEqual(firstNonFinite(valuesOf(length)), -1)
    for (let at = 0; at < length; at += 97)
      for (const value of bad) {
        const values = valuesOf(length)
        values[at] = value
        values[length - 1] = Number.NaN
        assert.strictEqual(firstNonFinite(values), at)
      }
  })

  it.each(lengths)(
    "divide %i values, each quotient rounded to float32, and find the first that is not finite",
    length => {
      const values = valuesOf(length)
      const out = new Float32Array(length)
      assert.strictEqual(divideInto(out, values, 3), -1)
      assert.deepStrictEqual(
        out,
        values.map(value => Math.fround(value / 3))
      )
      for (let at = 0; at < length; at += 97) {
        const faulty = valuesOf(length)
        faulty[at] = Number.NaN
        faulty[length - 1] = Number.NaN
        assert.strictEqual(divideInto(out, faulty, 3), at)
      }
    }
  )

  it("take the largest numbers for what they are", () => {
    const largest = 2 ** 128 * (1 - 2 ** -24)
    assert.strictEqual(firstNonFinite(Float32Array.of(largest, -largest, largest)), -1)
    assert.strictEqual(divideInto(new Float32Array(2), Float32Array.of(largest, 1), 0.5), 0)
  })
})
