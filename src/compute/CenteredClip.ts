import { AggregationError, checkLengths } from "./Aggregation.ts"
import { blockElements } from "./Blocks.ts"

/** How many products there are of `members` vectors, each with itself and with those after it. */
export const productCount = (members: number): number => (members * (members + 1)) / 2

const productIndex = (left: number, right: number, members: number): number =>
  left * members - (left * (left - 1)) / 2 + right - left

const subtractBlock = (
  differences: Float64Array,
  vector: Float32Array,
  center: Float32Array,
  from: number,
  length: number
): void => {
  for (let index = 0; index < length; index++)
    differences[index] = (vector[from + index] ?? 0) - (center[from + index] ?? 0)
}

const dot = (left: Float64Array, right: Float64Array, length: number): number => {
  let a = 0
  let b = 0
  let index = 0
  for (; index + 1 < length; index += 2) {
    a += (left[index] ?? 0) * (right[index] ?? 0)
    b += (left[index + 1] ?? 0) * (right[index + 1] ?? 0)
  }
  if (index < length) a += (left[index] ?? 0) * (right[index] ?? 0)
  return a + b
}

const stepBlock = (
  sums: Float64Array,
  vector: Float32Array,
  center: Float32Array,
  weight: number,
  from: number,
  length: number
): void => {
  for (let index = 0; index < length; index++)
    sums[index] = (sums[index] ?? 0) + weight * ((vector[from + index] ?? 0) - (center[from + index] ?? 0))
}

const moveBlock = (sums: Float64Array, center: Float32Array, out: Float32Array, from: number, length: number): void => {
  for (let index = 0; index < length; index++) out[from + index] = (center[from + index] ?? 0) + (sums[index] ?? 0)
}

/**
 * Centered clipping: v ← v + (1/N) Σ (xᵢ − v) · min(1, τ / ‖xᵢ − v‖), some times, from the last aggregate on (Karimireddy, He, Jaggi, "Learning
 * from History for Byzantine Robust Optimization", ICML 2021, algorithm 2). A liar moves the result by τ/N a round at most.
 *
 * Every v is the center plus a weighted sum of the differences xⱼ − center, so the norms of all rounds follow from the inner products of these
 * differences. Owners therefore exchange once: their segment's products, then everyone knows the same weights. One object, one thread.
 */
export class CenteredClip {
  readonly #members: number
  readonly #differences: ReadonlyArray<Float64Array>
  readonly #sums = new Float64Array(blockElements)

  constructor(members: number) {
    this.#members = members
    this.#differences = Array.from({ length: members }, () => new Float64Array(blockElements))
  }

  /**
   * The inner products of all xᵢ − center over one segment, to `out` (shape `[productCount(members)]`): what owners give each other.
   * @throws AggregationError Length
   */
  products(center: Float32Array, vectors: ReadonlyArray<Float32Array>, out: Float64Array): void {
    checkLengths(vectors, center)
    this.#checkCount(vectors.length, this.#members, "vectors")
    this.#checkCount(out.length, productCount(this.#members), "products")
    out.fill(0)
    for (let from = 0; from < center.length; from += blockElements) {
      const length = Math.min(blockElements, center.length - from)
      for (const [member, vector] of vectors.entries()) {
        const differences = this.#differences[member]
        if (differences !== undefined) subtractBlock(differences, vector, center, from, length)
      }
      let at = 0
      for (const [left, own] of this.#differences.entries())
        for (let right = left; right < this.#members; right++) {
          const other = this.#differences[right]
          if (other !== undefined) out[at] = (out[at] ?? 0) + dot(own, other, length)
          at++
        }
    }
  }

  /**
   * The weight of each member's difference in the result, from the products summed over all segments. A radius of 0 is in each round the
   * median of the members' distances: while liars are fewer than half, it is no larger than an honest distance. A member whose vector is
   * not finite counts as one that agrees with v: its weight is 0.
   * @throws AggregationError Length
   */
  weights(products: Float64Array, radius: number, iterations: number): Float64Array {
    const members = this.#members
    this.#checkCount(products.length, productCount(members), "products")
    const product = (left: number, right: number): number =>
      products[productIndex(Math.min(left, right), Math.max(left, right), members)] ?? 0
    const finite = Array.from({ length: members }, (_, member) => member).filter(member =>
      Number.isFinite(product(member, member))
    )
    const weights = new Float64Array(members)
    for (let round = 0; round < iterations; round++) {
      // With v − center = Σ wⱼ dⱼ: ‖xᵢ − v‖² = dᵢ·dᵢ − 2 dᵢ·Σ wⱼ dⱼ + ‖Σ wⱼ dⱼ‖².
      const along = finite.map(i => finite.reduce((sum, j) => sum + (weights[j] ?? 0) * product(i, j), 0))
      const square = finite.reduce((sum, i, at) => sum + (weights[i] ?? 0) * (along[at] ?? 0), 0)
      const distances = finite.map((i, at) => Math.sqrt(Math.max(0, product(i, i) - 2 * (along[at] ?? 0) + square)))
      const limit = radius > 0 ? radius : medianOf(distances)
      const factors = distances.map(distance => (distance > limit ? limit / distance : 1))
      const kept = 1 - factors.reduce((sum, factor) => sum + factor, 0) / members
      for (const [at, i] of finite.entries()) weights[i] = (weights[i] ?? 0) * kept + (factors[at] ?? 0) / members
    }
    return weights
  }

  /**
   * `out = center + Σ wⱼ (xⱼ − center)` over one segment, in float64 and in the order of members, rounded once. `out` may be `center`.
   * @throws AggregationError Length
   */
  move(center: Float32Array, vectors: ReadonlyArray<Float32Array>, weights: Float64Array, out: Float32Array): void {
    checkLengths([center, ...vectors], out)
    for (let from = 0; from < out.length; from += blockElements) {
      const length = Math.min(blockElements, out.length - from)
      this.#sums.fill(0)
      for (const [member, vector] of vectors.entries()) {
        const weight = weights[member] ?? 0
        // What has no weight may not be finite.
        if (weight !== 0) stepBlock(this.#sums, vector, center, weight, from, length)
      }
      moveBlock(this.#sums, center, out, from, length)
    }
  }

  #checkCount(given: number, expected: number, what: string): void {
    if (given !== expected)
      throw new AggregationError({
        reason: "Length",
        message: `${this.#members} members have ${expected} ${what}, not ${given}`
      })
  }
}

const medianOf = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(values.length / 2) - 1)] ?? 0
