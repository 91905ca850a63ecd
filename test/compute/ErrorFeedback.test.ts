import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { CompressionError, type Codec } from "../../src/compute/Codec.ts"
import { makeCodec } from "../../src/compute/Compression.ts"
import { ErrorFeedback } from "../../src/compute/ErrorFeedback.ts"
import { segmentOf } from "../../src/training/Segments.ts"
import { normals } from "../support/attacks.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const topK = (density: number): Codec => makeCodec({ compression: "topK", density })
const int8 = makeCodec({ compression: "int8", density: 1 })
const plain = makeCodec({ compression: "none", density: 1 })

/** Sends `values` in as many segments as given; yields what arrives. */
const send = (feedback: ErrorFeedback, codec: Codec, values: Float32Array, segments = 1): Float32Array => {
  const arrived = new Float32Array(values.length)
  for (let owner = 0; owner < segments; owner++) {
    const { from, to } = segmentOf(values.length, owner, segments)
    const bytes = new Uint8Array(codec.encodedBytes(to - from))
    feedback.encode(codec, values.subarray(from, to), from, bytes)
    codec.decode(bytes, arrived.subarray(from, to))
  }
  return arrived
}

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof CompressionError) return error.reason
    throw error
  }
  return "none"
}

const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))

const steps = fc.array(
  fc.record({
    values: fc.array(fc.float({ min: -1e3, max: 1e3, noNaN: true }), { minLength: 40, maxLength: 40 }),
    segments: fc.integer({ min: 1, max: 9 }),
    codec: fc.constantFrom(int8, topK(0.1), topK(0.5), plain),
    applied: fc.boolean()
  }),
  { maxLength: 12 }
)

describe("Error feedback", () => {
  it("sends p = g + e and keeps p − C(p), exactly, over any segmentation, codec and schedule of abandoned steps", () => {
    fc.assert(
      fc.property(steps, schedule => {
        const feedback = new ErrorFeedback(40)
        for (const { values, segments, codec, applied } of schedule) {
          const gradient = Float32Array.from(values)
          const before = feedback.residual.slice()
          const corrected = gradient.map((value, index) => value + (before[index] ?? NaN))
          const arrived = send(feedback, codec, gradient, segments)
          assert.deepStrictEqual(feedback.residual, before)
          if (!applied) {
            feedback.abandon()
            assert.deepStrictEqual(feedback.residual, before)
            continue
          }
          feedback.commit()
          for (const [index, value] of corrected.entries())
            assert.isTrue((arrived[index] ?? NaN) + (feedback.residual[index] ?? NaN) === value)
        }
      }),
      { numRuns: 300, seed: 1 }
    )
  })

  it("sends the same bytes again when a step is computed again", () => {
    const random = new SeededRandom(2)
    const feedback = new ErrorFeedback(1_000)
    const first = normals(random, 1_000)
    send(feedback, int8, first)
    feedback.commit()
    const second = normals(random, 1_000)
    const attempt = send(feedback, int8, second, 3)
    feedback.abandon()
    assert.deepStrictEqual(send(feedback, int8, second, 3), attempt)
  })

  it("keeps what is owed to parameters that an attempt does not touch", () => {
    const feedback = new ErrorFeedback(10)
    const bytes = new Uint8Array(8)
    feedback.encode(topK(0.1), Float32Array.of(5, 1, 1, 1, 1, 1, 1, 1, 1, 1), 0, bytes)
    feedback.commit()
    feedback.encode(topK(0.2), Float32Array.of(0, 0, 0, 0, 9), 5, bytes)
    feedback.commit()
    assert.deepStrictEqual(feedback.residual, Float32Array.of(0, 1, 1, 1, 1, 1, 1, 1, 1, 0))
  })

  it("is settled in full by what stays at home or travels uncompressed", () => {
    const feedback = new ErrorFeedback(6)
    for (const gradient of [Float32Array.of(9, 1, 1, 1, 1, 1), Float32Array.of(-4, 0, 1, 2, 3, -1.5)]) {
      send(feedback, topK(0.1), gradient)
      feedback.commit()
    }
    assert.deepStrictEqual(feedback.residual, Float32Array.of(0, 1, 2, 3, 4, -0.5))
    const own = Float32Array.of(10, 10, 10)
    feedback.include(own, 0)
    const bytes = new Uint8Array(12)
    feedback.encode(plain, new Float32Array(3), 3, bytes)
    feedback.commit()
    assert.deepStrictEqual(own, Float32Array.of(10, 11, 12))
    assert.deepStrictEqual(new Float32Array(bytes.buffer), Float32Array.of(3, 4, -0.5))
    assert.isTrue(feedback.residual.every(value => value === 0))
  })

  it("refuses to send a parameter twice in one attempt, and one that does not exist", () => {
    const feedback = new ErrorFeedback(10)
    const values = new Float32Array(4)
    feedback.include(values, 3)
    for (const from of [0, 1, 3, 6, 7, -1])
      assert.strictEqual(
        reasonOf(() => feedback.include(values, from)),
        "State"
      )
    const free = new Float32Array(3)
    for (const from of [0, 7])
      assert.strictEqual(
        reasonOf(() => feedback.include(free, from)),
        "none"
      )
    feedback.abandon()
    assert.strictEqual(
      reasonOf(() => feedback.include(values, 1)),
      "none"
    )
  })

  it("knows every parameter of an attempt, in whatever order and pieces they were sent", () => {
    const ranges = fc.array(fc.tuple(fc.nat(30), fc.nat(8)), { maxLength: 12 })
    fc.assert(
      fc.property(ranges, given => {
        const feedback = new ErrorFeedback(30)
        const sent = new Set<number>()
        for (const [from, length] of given) {
          const own = Array.from({ length }, (_, index) => from + index)
          const isAllowed = from + length <= 30 && !own.some(parameter => sent.has(parameter))
          assert.strictEqual(
            reasonOf(() => feedback.include(new Float32Array(length), from)),
            isAllowed ? "none" : "State"
          )
          if (isAllowed) for (const parameter of own) sent.add(parameter)
        }
      }),
      { numRuns: 500, seed: 4 }
    )
  })

  it("survives a checkpoint and another member's restart to the bit, and refuses a torn one", () => {
    const feedback = new ErrorFeedback(100)
    const gradient = normals(new SeededRandom(3), 100)
    send(feedback, topK(0.05), gradient)
    feedback.commit()
    const state = new Uint8Array(feedback.stateByteLength)
    feedback.readState(state)
    const other = new ErrorFeedback(100)
    other.writeState(state)
    assert.deepStrictEqual(other.residual, feedback.residual)
    assert.deepStrictEqual(send(other, int8, gradient, 7), send(feedback, int8, gradient, 7))
    other.abandon()
    const before = other.residual.slice()
    assert.strictEqual(
      reasonOf(() => other.writeState(state.subarray(4))),
      "Length"
    )
    new DataView(state.buffer).setFloat32(40, Number.NaN, true)
    assert.strictEqual(
      reasonOf(() => other.writeState(state)),
      "NonFinite"
    )
    assert.deepStrictEqual(other.residual, before)
  })

  it("changes hands with a segment: the old owner owes the rest of the mean as its own, times the lanes", () => {
    const owner = new ErrorFeedback(4)
    const member = new ErrorFeedback(4)
    send(owner, topK(0.25), Float32Array.of(1, 2, 3, 4))
    owner.commit()
    send(member, topK(0.25), Float32Array.of(8, 1, 1, 1))
    member.commit()
    member.absorb(owner, 8, 1, 3)
    assert.deepStrictEqual(member.residual, Float32Array.of(0, 1 + 16, 1 + 24, 1))
    assert.deepStrictEqual(owner.residual, Float32Array.of(1, 0, 0, 0))
    owner.include(new Float32Array(1), 0)
    assert.strictEqual(
      reasonOf(() => member.absorb(owner, 8, 0, 1)),
      "State"
    )
  })
})

describe("Training with error feedback", () => {
  it("owes no more than the bound of the paper: ‖e‖² ≤ 4(1−δ)/δ² · G² (Karimireddy et al. 2019, lemma 3)", () => {
    const random = new SeededRandom(5)
    const n = 200
    for (const density of [0.02, 0.1, 0.5]) {
      const feedback = new ErrorFeedback(n)
      let largestSquare = 0
      let bound = 0
      for (let step = 0; step < 400; step++) {
        const gradient = normals(random, n)
        bound = Math.max(bound, ((4 * (1 - density)) / density ** 2) * norm(gradient) ** 2)
        send(feedback, topK(density), gradient)
        feedback.commit()
        largestSquare = Math.max(largestSquare, norm(feedback.residual) ** 2)
      }
      assert.isAtMost(largestSquare, bound)
      assert.isAbove(largestSquare, 0)
    }
  })

  /**
   * Four workers minimise the mean of ½‖A(x − cᵢ)‖², A diagonal with a condition number of 20. Their gradients are large and opposed where the
   * optimum, the mean of the cᵢ, needs them to cancel: what is dropped for good there is missed for good.
   */
  const distanceFromOptimum = (codec: Codec, withFeedback: boolean): number => {
    const n = 50
    const workers = 4
    const random = new SeededRandom(9)
    const curvature = Float32Array.from({ length: n }, (_, index) => 1 / (1 + (19 * index) / (n - 1)))
    const centres = Array.from({ length: workers }, () => normals(random, n).map(value => value * 3))
    const optimum = Float32Array.from(
      { length: n },
      (_, index) => centres.reduce((sum, centre) => sum + (centre[index] ?? 0), 0) / workers
    )
    const feedbacks = centres.map(() => new ErrorFeedback(n))
    const x = new Float32Array(n)
    for (let step = 0; step < 6_000; step++) {
      const rate = 0.2 / (1 + step / 300)
      const mean = new Float32Array(n)
      centres.forEach((centre, worker) => {
        const gradient = x.map((value, index) => (curvature[index] ?? 0) * (value - (centre[index] ?? 0)) * rate)
        const feedback = feedbacks[worker] ?? new ErrorFeedback(n)
        const arrived = send(feedback, codec, gradient)
        if (withFeedback) feedback.commit()
        else feedback.abandon()
        arrived.forEach((value, index) => (mean[index] = (mean[index] ?? 0) + value / workers))
      })
      mean.forEach((value, index) => (x[index] = (x[index] ?? 0) - value))
    }
    return norm(x.map((value, index) => value - (optimum[index] ?? 0))) / norm(optimum)
  }

  it("reaches the optimum with top-k where top-k alone stays away from it", () => {
    assert.isBelow(distanceFromOptimum(topK(0.04), true), 0.01)
    assert.isAbove(distanceFromOptimum(topK(0.04), false), 0.2)
  })

  it("reaches the optimum with int8 as it does uncompressed", () => {
    const exact = distanceFromOptimum(plain, true)
    assert.isBelow(exact, 1e-3)
    assert.isBelow(distanceFromOptimum(int8, true), 2e-3)
  })
})
