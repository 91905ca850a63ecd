import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { tensorKinds } from "../../src/node/TensorHeader.ts"
import { littleDeviations, normals } from "../support/attacks.ts"
import { directCluster, identities, type Fate, type Lie } from "../support/directCluster.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const path = "test/fixtures/jobs/digits.ts"
const workers = 8
/** What a robust rule may lose: two points of accuracy. */
const maxLoss = 0.02

const floatsOf = (data: Uint8Array): Float32Array => new Float32Array(data.slice().buffer)
const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer)

/** Lies in place of every vector that a member sends. */
const inPlace =
  (lie: (honest: Float32Array, segment: number) => Float32Array): Lie =>
  (header, data) =>
    header.kind === tensorKinds.partial ? bytesOf(lie(floatsOf(data), header.segment.from)) : data

/** A Little Is Enough, from what the liar knows: how its own gradients spread from step to step. */
const littleIsEnough = (): Lie => {
  const known = new Map<number, { readonly mean: Float32Array; readonly square: Float32Array }>()
  return inPlace((honest, segment) => {
    const before = known.get(segment) ?? { mean: honest.slice(), square: new Float32Array(honest.length) }
    const mean = honest.map((value, index) => 0.9 * (before.mean[index] ?? 0) + 0.1 * value)
    const square = honest.map(
      (value, index) => 0.9 * (before.square[index] ?? 0) + 0.1 * (value - (before.mean[index] ?? 0)) ** 2
    )
    known.set(segment, { mean, square })
    return mean.map((value, index) => value - littleDeviations * Math.sqrt(square[index] ?? 0))
  })
}

const signFlip = (): Lie => inPlace(honest => honest.map(value => -10 * value))
const scaling = (): Lie => inPlace(honest => honest.map(value => 1e6 * value))
const nan = (): Lie => inPlace(honest => honest.fill(NaN))
const noise = (): Lie => {
  const random = new SeededRandom(1)
  return inPlace(honest => normals(random, honest.length).map(value => 10 * value))
}

const train = (aggregation: string, lies: Readonly<Record<number, Lie>> = {}) =>
  Effect.gen(function* () {
    const { startWorker, finished, events } = yield* directCluster(path, {
      workers,
      set: [
        ["strategy.aggregation", aggregation],
        ["epochs", "2"]
      ]
    })
    yield* Effect.forEach(
      Array.from({ length: workers }, (_, index) => index),
      index => startWorker(index, undefined, lies[index]),
      { concurrency: "unbounded" }
    )
    const { testAccuracy = 0, shards } = yield* finished
    const leftOut = events.flatMap(event => (event.event === "left-out" ? [event] : []))
    return { testAccuracy, shards, leftOut }
  })

/** What one honest machine reaches. */
const alone = Effect.runSync(
  Effect.cached(
    Effect.scoped(
      Effect.gen(function* () {
        const { startWorker, finished } = yield* directCluster(path, { workers: 1, set: [["epochs", "2"]] })
        yield* startWorker(0)
        return (yield* finished).testAccuracy ?? 0
      })
    )
  )
)
const steps = 64

describe("Eight members on MNIST, two of which lie", () => {
  it.live(
    "undo a mean",
    () =>
      Effect.gen(function* () {
        const { testAccuracy } = yield* train("mean", { 2: signFlip(), 5: signFlip() })
        const expected = yield* alone
        assert.isAbove(expected, 0.75)
        assert.isBelow(testAccuracy, expected - 0.5)
      }),
    300_000
  )

  it.live.each([
    { rule: "trimmedMean", lies: { 2: signFlip(), 5: noise() }, what: "sign flip and noise" },
    { rule: "centeredClip", lies: { 2: littleIsEnough(), 5: scaling() }, what: "a little that is enough, and scaling" }
  ])(
    "cost $rule two points of accuracy at most by $what",
    ({ rule, lies }) =>
      Effect.gen(function* () {
        const { testAccuracy, shards, leftOut } = yield* train(rule, lies)
        assert.isAtLeast(testAccuracy, (yield* alone) - maxLoss)
        assert.deepStrictEqual(shards, { expected: steps * 8, counted: steps * 8 })
        assert.deepStrictEqual(leftOut, [])
      }),
    300_000
  )

  it.live(
    "are left out by krum and named with each step, where they send NaN",
    () =>
      Effect.gen(function* () {
        const { testAccuracy, leftOut } = yield* train("krum", { 2: nan(), 5: nan() })
        assert.isAtLeast(testAccuracy, (yield* alone) - maxLoss)
        const known = yield* Effect.promise(() => identities)
        for (const liar of [2, 5])
          assert.deepStrictEqual(
            leftOut.filter(({ peer }) => peer === known[liar]?.peerId).map(({ step }) => step),
            Array.from({ length: steps }, (_, index) => index + 1)
          )
        assert.lengthOf(leftOut, 2 * steps)
      }),
    300_000
  )
})

describe("A view that falls below what its rule needs", () => {
  it.live(
    "stands still until another worker comes, which computes at once, and counts every shard",
    () =>
      Effect.gen(function* () {
        const lost = yield* Deferred.make<void>()
        const { startWorker, finished, events } = yield* directCluster("test/fixtures/jobs/clouds.ts", {
          workers: 4,
          set: [
            ["epochs", "1"],
            ["strategy.aggregation", "trimmedMean"]
          ],
          onEvent: event => {
            if (event.event === "member-lost") Deferred.doneUnsafe(lost, Effect.void)
          }
        })
        const dies: Fate = ({ kind, step }) => !(kind === tensorKinds.partial && step === 7)
        yield* startWorker(0, dies)
        for (const index of [1, 2, 3]) yield* startWorker(index)
        // Three workers make two with equally many of the eight lanes, and one liar needs three.
        yield* Deferred.await(lost)
        yield* startWorker(4)
        const { shards } = yield* finished
        assert.deepStrictEqual(shards, { expected: 320, counted: 320 })
        const views = events.flatMap(event => (event.event === "view" ? [event] : []))
        assert.isAtLeast(views.length, 2)
        for (const { members } of views)
          assert.deepStrictEqual(
            members.map(({ lanes }) => lanes.length),
            [2, 2, 2, 2]
          )
      }),
    300_000
  )

  it.live("does not begin with too few workers", () =>
    Effect.gen(function* () {
      const { finished } = yield* directCluster(path, { workers: 7, set: [["strategy.aggregation", "krum"]] })
      const error = yield* Effect.flip(finished)
      assert.include(error.message, "krum against 2 hostile members needs 7")
    })
  )
})
