import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import {
  addPartials,
  AggregationError,
  CoordinateRules,
  membersNeeded,
  readAggregation
} from "../../src/compute/Aggregation.ts"
import { CenteredClip, productCount } from "../../src/compute/CenteredClip.ts"
import { krumSelect, multiKrumCount, pairCount, pairDistances, pairIndex } from "../../src/compute/Krum.ts"
import { segmentOf } from "../../src/training/Segments.ts"
import { normals } from "../support/attacks.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

type Vectors = ReadonlyArray<Float32Array>

const float = fc.oneof(fc.float({ min: -100, max: 100, noNaN: true }), fc.constantFrom(0, 1, -1))
/** Some vectors of one length. */
const vectorsOf = (minimum: number, maximum: number, maxLength = 40) =>
  fc
    .tuple(fc.integer({ min: minimum, max: maximum }), fc.nat(maxLength))
    .chain(([members, length]) =>
      fc.array(fc.array(float, { minLength: length, maxLength: length }), { minLength: members, maxLength: members })
    )
    .map(rows => rows.map(row => Float32Array.from(row)))
const anything = fc.oneof(
  float,
  fc.constantFrom(Number.NaN, Infinity, -Infinity, 3e38, -3e38, 1e30),
  fc.float({ noNaN: false })
)

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof AggregationError) return error.reason
    throw error
  }
  return "none"
}

const columnOf = (vectors: Vectors, index: number): ReadonlyArray<number> => vectors.map(vector => vector[index] ?? 0)
const sumOf = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0)
const meanVector = (vectors: Vectors): Float32Array =>
  Float32Array.from({ length: vectors[0]?.length ?? 0 }, (_, i) => sumOf(columnOf(vectors, i)) / vectors.length)
const squareDistance = (left: Float32Array, right: Float32Array): number =>
  left.reduce((sum, value, index) => sum + (value - (right[index] ?? 0)) ** 2, 0)
const cut = (vectors: Vectors, owner: number, owners: number): Vectors => {
  const { from, to } = segmentOf(vectors[0]?.length ?? 0, owner, owners)
  return vectors.map(vector => vector.subarray(from, to))
}

const rules = new CoordinateRules()

describe("The mean of vectors", () => {
  it("sums in float64 in the order given and rounds once", () => {
    fc.assert(
      fc.property(vectorsOf(1, 12, 1_500), fc.integer({ min: 1, max: 300 }), (vectors, divisor) => {
        const out = new Float32Array(vectors[0]?.length ?? 0)
        rules.mean(vectors, out, divisor)
        assert.deepStrictEqual(
          out,
          out.map((_, index) => sumOf(columnOf(vectors, index)) / divisor + 0)
        )
      }),
      { numRuns: 200, seed: 1 }
    )
  })

  it("refuses vectors of another length", () => {
    assert.strictEqual(
      reasonOf(() => rules.mean([new Float32Array(3), new Float32Array(4)], new Float32Array(3))),
      "Length"
    )
  })
})

describe("The trimmed mean", () => {
  const trimmed = (vectors: Vectors, trim: number): Float32Array => {
    const out = new Float32Array(vectors[0]?.length ?? 0)
    rules.trimmedMean(vectors, trim, out)
    return out
  }

  it("is the mean of what is left when the smallest and largest of each coordinate are taken away (Yin et al., definition 2)", () => {
    fc.assert(
      fc.property(vectorsOf(1, 40), fc.double({ min: 0, max: 0.499, noNaN: true }), (vectors, share) => {
        const trim = Math.floor(share * vectors.length)
        const expected = trimmed(vectors, 0).map((_, index) => {
          const left = columnOf(vectors, index)
            .toSorted((a, b) => a - b)
            .slice(trim, vectors.length - trim)
          return sumOf(left) / left.length
        })
        for (const [index, value] of trimmed(vectors, trim).entries()) assert.isTrue(value === expected[index])
      }),
      { numRuns: 500, seed: 2 }
    )
  })

  it("stays within the honest values of each coordinate, whatever as many liars as it trims send", () => {
    const scenario = fc.tuple(fc.integer({ min: 1, max: 4 }), vectorsOf(5, 40)).chain(([liars, honest]) => {
      const length = honest[0]?.length ?? 0
      const lie = fc.record({
        values: fc.array(anything, { minLength: length, maxLength: length }),
        place: fc.nat()
      })
      return fc.tuple(fc.constant(honest), fc.array(lie, { minLength: liars, maxLength: liars }))
    })
    fc.assert(
      fc.property(scenario, ([honest, lies]) => {
        const vectors = [...honest]
        for (const { values, place } of lies) vectors.splice(place % (vectors.length + 1), 0, Float32Array.from(values))
        for (const [index, value] of trimmed(vectors, lies.length).entries()) {
          const own = columnOf(honest, index)
          assert.isAtLeast(value, Math.min(...own))
          assert.isAtMost(value, Math.max(...own))
        }
      }),
      { numRuns: 500, seed: 3 }
    )
  })

  it("needs more than twice as many vectors as it trims", () => {
    assert.strictEqual(
      reasonOf(() => trimmed([new Float32Array(1), new Float32Array(1)], 1)),
      "TooFew"
    )
  })
})

describe("Krum", () => {
  /** The distances, as owners of segments would exchange them. */
  const distancesOf = (vectors: Vectors, owners = 1): Float64Array => {
    const parts = Array.from({ length: owners }, (_, owner) => {
      const part = new Float64Array(pairCount(vectors.length))
      pairDistances(cut(vectors, owner, owners), part)
      return part
    })
    const out = new Float64Array(pairCount(vectors.length))
    addPartials(parts, out)
    return out
  }

  /** Section 4 of the paper, word by word. */
  const scoresOf = (vectors: Vectors, f: number): ReadonlyArray<number> =>
    vectors.map((own, member) =>
      sumOf(
        vectors
          .flatMap((other, index) => (index === member ? [] : [squareDistance(own, other)]))
          .toSorted((a, b) => a - b)
          .slice(0, vectors.length - f - 2)
      )
    )

  it("numbers pairs without a gap", () => {
    const seen = Array.from({ length: 7 }, (_, left) =>
      Array.from({ length: 6 - left }, (_, step) => pairIndex(left, left + 1 + step, 7))
    ).flat()
    assert.deepStrictEqual(
      seen,
      Array.from({ length: pairCount(7) }, (_, index) => index)
    )
  })

  it("selects the vector whose members − f − 2 nearest are nearest, over any number of segments", () => {
    fc.assert(
      fc.property(vectorsOf(3, 15, 30), fc.nat(6), fc.integer({ min: 1, max: 8 }), (vectors, wanted, owners) => {
        const f = Math.min(wanted, Math.floor((vectors.length - 3) / 2))
        const distances = distancesOf(vectors, owners)
        const [selected] = krumSelect(distances, vectors.length, f)
        const scores = scoresOf(vectors, f)
        // Sums over segments round otherwise than one sum: of almost equal scores either may be taken.
        const least = Math.min(...scores)
        assert.isAtMost(scores[selected ?? -1] ?? NaN, least * (1 + 1e-9) + 1e-9)
      }),
      { numRuns: 500, seed: 4 }
    )
  })

  it("takes the first of equal scores, and for Multi-Krum those with the smallest scores", () => {
    const at = (...values: ReadonlyArray<number>): Vectors => values.map(value => Float32Array.of(value))
    assert.deepStrictEqual(krumSelect(distancesOf(at(5, 5, 5, 5, 5)), 5, 1), [0])
    const spread = at(100, 1, 2, 3, -90, 4, 2.5)
    assert.deepStrictEqual(krumSelect(distancesOf(spread), 7, 2), [2])
    assert.deepStrictEqual(krumSelect(distancesOf(spread), 7, 2, multiKrumCount(7, 2)), [2, 3, 6])
    assert.deepStrictEqual(krumSelect(distancesOf(spread), 7, 2, 5), [1, 2, 3, 5, 6])
  })

  it("selects an honest vector when liars send NaN, infinities or values of any size", () => {
    const lies = fc.array(fc.array(anything, { minLength: 20, maxLength: 20 }), { minLength: 1, maxLength: 3 })
    fc.assert(
      fc.property(lies, fc.nat(1_000), (given, seed) => {
        const random = new SeededRandom(seed)
        const f = given.length
        const honest = Array.from({ length: f + 3 + random.below(4) }, () => normals(random, 20).map(v => 1e3 + v))
        const vectors = [...given.map(lie => Float32Array.from(lie)), ...honest]
        const selected = krumSelect(distancesOf(vectors, 3), vectors.length, f, multiKrumCount(vectors.length, f))
        for (const member of selected) assert.isAtLeast(member, f)
      }),
      { numRuns: 300, seed: 5 }
    )
  })

  it("is (α, f)-Byzantine resilient: the expected choice lies within η√d·σ of the gradient (Blanchard et al., proposition 1)", () => {
    const members = 11
    const f = 3
    const dimensions = 20
    const sigma = 0.1
    const eta = Math.sqrt(
      2 * (members - f + (f * (members - f - 2) + f * f * (members - f - 1)) / (members - 2 * f - 2))
    )
    const gradient = new Float32Array(dimensions).fill(1)
    const random = new SeededRandom(6)
    const trials = 300
    const chosen = Array.from({ length: trials }, () => {
      const honest = Array.from({ length: members - f }, () =>
        normals(random, dimensions).map((noise, index) => (gradient[index] ?? 0) + sigma * noise)
      )
      // As far from the others as it can be without being left out: a shift within the spread.
      const lie = meanVector(honest).map(value => value - 0.3 * sigma * Math.sqrt(dimensions))
      const vectors = [...honest, ...Array.from({ length: f }, () => lie)]
      const [selected = 0] = krumSelect(distancesOf(vectors), members, f)
      return vectors[selected] ?? lie
    })
    const bias = Math.sqrt(squareDistance(meanVector(chosen), gradient))
    assert.isAtMost(bias, eta * Math.sqrt(dimensions) * sigma)
  })

  it.each([
    [4, 1],
    [6, 2],
    [2, 0]
  ])("refuses %i members against %i liars", (members, f) => {
    assert.strictEqual(
      reasonOf(() => krumSelect(new Float64Array(pairCount(members)), members, f)),
      "TooFew"
    )
  })

  it("says so when more vectors are not finite than there may be liars", () => {
    const vectors = [1, NaN, NaN, NaN, 3].map(value => Float32Array.of(value))
    assert.strictEqual(
      reasonOf(() => krumSelect(distancesOf(vectors), 5, 1)),
      "NonFinite"
    )
  })

  it("refuses vectors and partial distances that do not fit each other", () => {
    const three = [new Float32Array(2), new Float32Array(2), new Float32Array(2)]
    for (const run of [
      () => pairDistances(three, new Float64Array(2)),
      () => pairDistances([...three, new Float32Array(1)], new Float64Array(6)),
      () => addPartials([new Float64Array(3), new Float64Array(2)], new Float64Array(3)),
      () => krumSelect(new Float64Array(2), 3, 0)
    ])
      assert.strictEqual(reasonOf(run), "Length")
  })
})

describe("Centered clipping", () => {
  const clipped = (center: Float32Array, vectors: Vectors, radius: number, iterations: number, owners = 1) => {
    const clip = new CenteredClip(vectors.length)
    const out = center.slice()
    const parts = Array.from({ length: owners }, (_, owner) => {
      const part = new Float64Array(productCount(vectors.length))
      clip.products(cut([center], owner, owners)[0] ?? center, cut(vectors, owner, owners), part)
      return part
    })
    const products = new Float64Array(productCount(vectors.length))
    addPartials(parts, products)
    const weights = clip.weights(products, radius, iterations)
    for (let owner = 0; owner < owners; owner++) {
      const [own = out] = cut([out], owner, owners)
      clip.move(own, cut(vectors, owner, owners), weights, own)
    }
    return out
  }

  /** Algorithm 2 of the paper, word by word, on whole vectors in float64. */
  const reference = (center: Float32Array, vectors: Vectors, tau: number, iterations: number): Float64Array => {
    let v = Float64Array.from(center)
    for (let round = 0; round < iterations; round++) {
      const next = v.slice()
      for (const x of vectors) {
        const norm = Math.sqrt(x.reduce((sum, value, i) => sum + (value - (v[i] ?? 0)) ** 2, 0))
        const factor = norm > tau ? tau / norm : 1
        x.forEach((value, i) => (next[i] = (next[i] ?? 0) + (factor * (value - (v[i] ?? 0))) / vectors.length))
      }
      v = next
    }
    return v
  }

  it("gives what the algorithm gives that clips whole vectors round by round, over any number of segments", () => {
    const scenario = fc.tuple(
      vectorsOf(2, 9, 30),
      fc.double({ min: 0.01, max: 500, noNaN: true }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 5 })
    )
    fc.assert(
      fc.property(scenario, ([[first, ...vectors], tau, iterations, owners]) => {
        const center = first ?? new Float32Array(0)
        const expected = reference(center, vectors, tau, iterations)
        const scale =
          1 +
          Math.max(
            ...[center, ...vectors].map(vector =>
              Math.sqrt(
                squareDistance(
                  vector,
                  vector.map(() => 0)
                )
              )
            )
          )
        for (const [index, value] of clipped(center, vectors, tau, iterations, owners).entries())
          assert.closeTo(value, expected[index] ?? NaN, 1e-6 * scale)
      }),
      { numRuns: 500, seed: 7 }
    )
  })

  it("lets f liars move the result by no more than f·τ/N a round, whatever they send", () => {
    const lies = fc.array(fc.array(anything, { minLength: 20, maxLength: 20 }), { minLength: 1, maxLength: 3 })
    fc.assert(
      fc.property(lies, fc.nat(1_000), fc.double({ min: 0.1, max: 10, noNaN: true }), (given, seed, tau) => {
        const random = new SeededRandom(seed)
        const honest = Array.from({ length: 6 }, () => normals(random, 20))
        const center = normals(random, 20)
        const hostile = given.map(lie => Float32Array.from(lie))
        // A vector that equals v pulls nowhere: what the liars add to that is theirs.
        const without = clipped(center, [...honest, ...hostile.map(() => center)], tau, 1)
        const moved = Math.sqrt(squareDistance(clipped(center, [...honest, ...hostile], tau, 1), without))
        assert.isAtMost(moved, ((hostile.length * tau) / (honest.length + hostile.length)) * (1 + 1e-5) + 1e-5)
      }),
      { numRuns: 300, seed: 8 }
    )
  })

  it("ends near the honest mean, from a center far away, with the median distance as radius", () => {
    const random = new SeededRandom(9)
    const honest = Array.from({ length: 6 }, () => normals(random, 50).map(noise => 3 + 0.1 * noise))
    const center = new Float32Array(50)
    const spread = Math.max(...honest.map(vector => Math.sqrt(squareDistance(vector, meanVector(honest)))))
    for (const lie of [1e30, -1e30, 4, NaN, 0]) {
      const hostile = [0, 1].map(() => new Float32Array(50).fill(lie))
      const out = clipped(center, [...hostile, ...honest], 0, 10, 3)
      assert.isAtMost(Math.sqrt(squareDistance(out, meanVector(honest))), 2 * spread, `lie ${lie}`)
    }
  })

  it("is the mean where nothing is beyond the radius", () => {
    const vectors = [1, 2, 6].map(value => Float32Array.of(value, -value))
    assert.deepStrictEqual(clipped(new Float32Array(2), vectors, 100, 1), Float32Array.of(3, -3))
  })

  it("refuses arrays that do not fit each other", () => {
    const clip = new CenteredClip(2)
    const [a, b] = [new Float32Array(4), new Float32Array(4)]
    for (const run of [
      () => clip.products(a, [a], new Float64Array(3)),
      () => clip.products(a, [a, b], new Float64Array(4)),
      () => clip.products(a, [a, new Float32Array(3)], new Float64Array(3)),
      () => clip.weights(new Float64Array(1), 1, 1),
      () => clip.move(a, [a, b], new Float64Array(2), new Float32Array(3))
    ])
      assert.strictEqual(reasonOf(run), "Length")
  })
})

describe("The options of aggregation", () => {
  it("say how many members each rule needs against how many liars", () => {
    const needed = (aggregation: string, hostile: number) => membersNeeded(readAggregation({ aggregation, hostile }))
    assert.deepStrictEqual(
      ["mean", "trimmedMean", "krum", "multiKrum", "centeredClip"].map(rule => needed(rule, 2)),
      [1, 5, 7, 7, 5]
    )
    assert.deepStrictEqual(readAggregation({}), { aggregation: "mean", hostile: 1, radius: 0, iterations: 3 })
  })
})
