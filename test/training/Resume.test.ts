import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { Checkpoints } from "../../src/training/Checkpoint.ts"
import { directCluster, type Overrides } from "../support/directCluster.ts"
import { trainedAlone } from "../support/systemReference.ts"

const path = "test/fixtures/jobs/clouds.ts"
const set: Overrides = [
  ["epochs", "1"],
  ["checkpoint.everySteps", "4"]
]
const folderFor = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-test-"))),
  folder => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

describe("A direct exchange with checkpoints", () => {
  it.live(
    "goes on from the newest one when all that held the state are dead and another worker comes",
    () =>
      Effect.gen(function* () {
        const folder = yield* folderFor
        const saved = yield* Deferred.make<number>()
        const cluster = yield* directCluster(path, {
          workers: 2,
          set,
          folder,
          onEvent: event => {
            if (event.event === "checkpoint") Deferred.doneUnsafe(saved, Effect.succeed(event.step))
          }
        })
        const victims = [yield* cluster.startWorker(0), yield* cluster.startWorker(1)]
        const step = yield* Deferred.await(saved)
        for (const { kill } of victims) yield* kill
        const lostAt = cluster.events.length
        yield* cluster.startWorker(2)
        const finished = yield* cluster.finished
        const alone = yield* Effect.promise(() => trainedAlone(path, [["epochs", "1"]]))
        assert.strictEqual(finished.weightsSha256, alone.weightsSha256)
        assert.strictEqual(finished.trainLoss, alone.trainLoss)
        assert.deepStrictEqual(finished.shards, { expected: 320, counted: 320 })
        const steps = cluster.events.slice(lostAt).flatMap(event => (event.event === "step" ? [event.step] : []))
        assert.isAtLeast(steps[0] ?? 0, step + 1)
      }),
    120_000
  )

  it.live(
    "saves what its members have applied when it is interrupted, under its term",
    () =>
      Effect.gen(function* () {
        const folder = yield* folderFor
        const begun = yield* Deferred.make<void>()
        const cluster = yield* directCluster(path, {
          workers: 2,
          set: [["checkpoint.everySteps", "1000"]],
          folder,
          onEvent: event => {
            if (event.event === "step") Deferred.doneUnsafe(begun, Effect.void)
          }
        })
        yield* cluster.startWorker(0)
        yield* cluster.startWorker(1)
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(cluster.coordinating)
        const list = yield* Effect.flatMap(Checkpoints.make({ folder, keep: 3 }), checkpoints => checkpoints.list)
        assert.deepStrictEqual(
          list.map(({ term }) => term),
          [1]
        )
        assert.isAtLeast(list[0]?.step ?? 0, 1)
      }),
    120_000
  )
})
