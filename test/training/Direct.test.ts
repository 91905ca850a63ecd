import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { ComputeThread } from "../../src/compute/ComputeThread.ts"
import { tensorKinds, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { directCluster, type Fate, type Overrides } from "../support/directCluster.ts"
import { trainedAlone } from "../support/systemReference.ts"

const path = "test/fixtures/jobs/clouds.ts"
const oneEpoch: Overrides = [["epochs", "1"]]
const alone = Effect.promise(() => trainedAlone(path, oneEpoch))
const shards = { expected: 320, counted: 320 }

describe("Members that exchange directly", () => {
  it.live.each([1, 2, 3, 5, 8])(
    "end with the weights of one machine alone, %i of them",
    workers =>
      Effect.gen(function* () {
        const { startWorker, finished } = yield* directCluster(path, { workers, set: oneEpoch })
        for (let index = 0; index < workers; index++) yield* startWorker(index)
        const { weightsSha256, ...result } = yield* finished
        assert.strictEqual(weightsSha256, (yield* alone).weightsSha256)
        assert.deepStrictEqual(result.shards, shards)
        assert.strictEqual(result.members, workers)
      }),
    120_000
  )
})

describe("A lane that is not finite", () => {
  it.live(
    "is skipped with its step by all, where the strategy says so, and named with step and peer",
    () =>
      Effect.gen(function* () {
        const skips = "test/fixtures/jobs/skips.ts"
        const { startWorker, finished, events } = yield* directCluster(skips, { workers: 2 })
        for (const index of [0, 1]) yield* startWorker(index)
        const result = yield* finished
        assert.deepStrictEqual(result.shards, shards)
        // Nothing was applied: these are the weights that the seed gives.
        const initial = yield* Effect.scoped(
          Effect.flatMap(ComputeThread.make({ jobUrl: TrainingJob.url(skips), set: [] }), compute => compute.initialise)
        )
        assert.strictEqual(result.weightsSha256, initial)
        const skipped = events.flatMap(event => (event.event === "skipped" ? [event] : []))
        const [view] = events.flatMap(event => (event.event === "view" ? [event] : []))
        assert.sameMembers(
          [...new Set(skipped.map(({ step }) => step))],
          Array.from({ length: 40 }, (_, index) => index + 1)
        )
        for (const { lane, peer } of skipped) {
          if (lane === undefined) continue
          assert.include(view?.members.find(member => member.peer === peer)?.lanes ?? [], lane)
        }
        assert.isTrue(skipped.some(({ lane }) => lane !== undefined))
      }),
    120_000
  )
})

/** Dies instead of sending the n-th tensor that fits. */
const diesAt = (fits: (header: TensorHeader) => boolean, count: number): Fate => {
  let seen = 0
  return header => !(fits(header) && ++seen === count)
}
const of = (kind: TensorHeader["kind"], step: number) => (header: TensorHeader) =>
  header.kind === kind && header.step === step

describe("A member that dies", () => {
  it.live.each([
    { when: "before it sends anything of a step", fate: diesAt(of(tensorKinds.partial, 7), 1) },
    { when: "in reduce-scatter, when some have its part and others not", fate: diesAt(of(tensorKinds.partial, 7), 3) },
    { when: "in all-gather, when some have its segment and others not", fate: diesAt(of(tensorKinds.reduced, 7), 2) },
    { when: "in the last all-gather", fate: diesAt(of(tensorKinds.reduced, 40), 2) }
  ])(
    "$when changes nothing of the result",
    ({ fate }) =>
      Effect.gen(function* () {
        const { startWorker, finished, events } = yield* directCluster(path, { workers: 4, set: oneEpoch })
        for (const index of [0, 2, 3]) yield* startWorker(index)
        const victim = yield* startWorker(1, fate)
        yield* Deferred.await(victim.died)
        const result = yield* finished
        assert.strictEqual(result.weightsSha256, (yield* alone).weightsSha256)
        assert.deepStrictEqual(result.shards, shards)
        assert.strictEqual(result.members, 3)
        const lost = events.flatMap(event => (event.event === "member-lost" ? [event.peer] : []))
        assert.deepStrictEqual(lost, [victim.identity.peerId])
        const steps = events.flatMap(event => (event.event === "step" ? [event.step] : []))
        assert.deepStrictEqual(
          steps,
          Array.from({ length: 40 }, (_, index) => index + 1)
        )
      }),
    120_000
  )

  it.live(
    "together with another, in different phases of one step, changes nothing of the result",
    () =>
      Effect.gen(function* () {
        const { startWorker, finished } = yield* directCluster(path, { workers: 4, set: oneEpoch })
        for (const index of [0, 2]) yield* startWorker(index)
        yield* startWorker(1, diesAt(of(tensorKinds.reduced, 5), 2))
        yield* startWorker(3, diesAt(of(tensorKinds.partial, 5), 2))
        const result = yield* finished
        assert.strictEqual(result.weightsSha256, (yield* alone).weightsSha256)
        assert.deepStrictEqual(result.shards, shards)
        assert.strictEqual(result.members, 2)
      }),
    120_000
  )

  it.live(
    "leaves the work to the last one, when all others die one after the other",
    () =>
      Effect.gen(function* () {
        const { startWorker, finished } = yield* directCluster(path, { workers: 4, set: oneEpoch })
        yield* startWorker(2)
        for (const [order, index] of [0, 1, 3].entries())
          yield* startWorker(index, diesAt(of(tensorKinds.reduced, 4 + 6 * order), 1))
        const result = yield* finished
        assert.strictEqual(result.weightsSha256, (yield* alone).weightsSha256)
        assert.deepStrictEqual(result.shards, shards)
        assert.strictEqual(result.members, 1)
      }),
    120_000
  )
})

/** Lets the compute threads that are started from here on wait in the middle of their work until it is released. */
const held = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = mkdtempSync(join(tmpdir(), "artifice-direct-"))
    const file = join(folder, "hold")
    writeFileSync(file, "")
    process.env["CLOUDS_HOLD"] = file
    return { folder, release: () => rmSync(file) }
  }),
  ({ folder }) =>
    Effect.sync(() => {
      delete process.env["CLOUDS_HOLD"]
      rmSync(folder, { recursive: true })
    })
)

describe("A worker that comes in the middle", () => {
  /** Training stands still in its middle until the third worker has come. */
  const joins = (fates: { readonly donor?: Fate; readonly joiner?: Fate }, members: number) =>
    Effect.gen(function* () {
      const hold = yield* held
      const joined = yield* Deferred.make<void>()
      const middle = yield* Deferred.make<void>()
      const { startWorker, finished, events } = yield* directCluster(path, {
        workers: 2,
        onEvent: event => {
          if (event.event === "step" && event.step === 3) Deferred.doneUnsafe(middle, Effect.void)
          if (event.event === "member-joined" && event.members === 3) Deferred.doneUnsafe(joined, Effect.void)
        }
      })
      // The first that holds the state gives it.
      const donor = yield* startWorker(1, fates.donor)
      yield* startWorker(2)
      yield* Deferred.await(middle)
      const joiner = yield* startWorker(0, fates.joiner)
      yield* Deferred.await(joined)
      hold.release()
      const result = yield* finished
      const { weightsSha256 } = yield* Effect.promise(() => trainedAlone(path))
      assert.strictEqual(result.weightsSha256, weightsSha256)
      assert.deepStrictEqual(result.shards, { expected: 640, counted: 640 })
      assert.strictEqual(result.members, members)
      const views = events.flatMap(event => (event.event === "view" ? [event] : []))
      return { donor, joiner, views }
    })

  it.live(
    "observes first, then computes, and changes nothing of the result",
    () =>
      Effect.gen(function* () {
        const { joiner, views } = yield* joins({}, 3)
        const shares = views.flatMap(({ members }) =>
          members.flatMap(({ peer, lanes }) => (peer === joiner.identity.peerId ? [lanes.length > 0] : []))
        )
        assert.isFalse(shares[0])
        assert.isTrue(shares.at(-1))
      }),
    120_000
  )

  it.live(
    "is given the state by another member when its donor dies while giving",
    () =>
      Effect.gen(function* () {
        const gives: Fate = diesAt(({ kind }) => kind === tensorKinds.state, 1)
        const { donor } = yield* joins({ donor: gives }, 2)
        assert.isTrue(yield* Deferred.isDone(donor.died))
      }),
    120_000
  )

  it.live(
    "may die as soon as it computes",
    () =>
      Effect.gen(function* () {
        const { joiner } = yield* joins({ joiner: diesAt(({ kind }) => kind === tensorKinds.partial, 1) }, 2)
        assert.isTrue(yield* Deferred.isDone(joiner.died))
      }),
    120_000
  )
})
