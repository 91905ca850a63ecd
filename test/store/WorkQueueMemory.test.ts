import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, it } from "@effect/vitest"
import { Clock, Context, Effect, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"
import { describe } from "vitest"
import { StoreFiles } from "../../src/store/StoreFiles.ts"
import { lockMs, maxBackoffMs, WorkQueue } from "../../src/store/WorkQueue.ts"
import { WorkQueueMemory, type MemoryOptions } from "../../src/store/WorkQueueMemory.ts"
import { MemoryDisk } from "../support/MemoryDisk.ts"

const service = (options?: MemoryOptions) =>
  Effect.map(Layer.build(Layer.fresh(WorkQueueMemory.layer(options))), context => Context.get(context, WorkQueue))

const opened = Effect.gen(function* () {
  const queue = yield* (yield* service()).open({ name: "work", schema: Schema.Int })
  yield* queue.add([{ id: "item", data: 1, attempts: 1_000 }])
  return queue
})

/** A clock whose two hands are set apart. */
const twoHands = Effect.gen(function* () {
  const real = yield* Effect.clockWith(Effect.succeed)
  const hands = { monotonicMs: 5_000, dayMs: 1_700_000_000_000 }
  const clock: Clock.Clock = {
    sleep: duration => real.sleep(duration),
    currentTimeMillisUnsafe: () => hands.dayMs,
    currentTimeMillis: Effect.sync(() => hands.dayMs),
    currentTimeNanosUnsafe: () => BigInt(hands.dayMs) * 1_000_000n,
    currentTimeNanos: Effect.sync(() => BigInt(hands.dayMs) * 1_000_000n),
    monotonicTimeNanosUnsafe: () => BigInt(hands.monotonicMs) * 1_000_000n,
    monotonicTimeNanos: Effect.sync(() => BigInt(hands.monotonicMs) * 1_000_000n)
  }
  return { hands, clock }
})

describe("A lease", () => {
  it.effect("is valid for two thirds of its lock, from when it was last renewed", () =>
    Effect.gen(function* () {
      const queue = yield* opened
      const lease = yield* queue.take({ renewal: "manual" })
      const twoThirdsMs = (lockMs * 2) / 3
      for (let round = 0; round < 3; round++) {
        yield* TestClock.adjust(twoThirdsMs - 1)
        assert.isTrue(lease.valid)
        yield* TestClock.adjust(1)
        assert.isFalse(lease.valid)
        yield* lease.renew
        assert.isTrue(lease.valid)
      }
    })
  )

  it.effect("is renewed by itself while its scope is open", () =>
    Effect.gen(function* () {
      const queue = yield* opened
      const lease = yield* queue.take()
      for (let second = 0; second < 30; second++) {
        yield* TestClock.adjust(1_000)
        assert.isTrue(lease.valid)
      }
    })
  )

  it.effect.each([
    { what: "the monotonic clock stood still, as in a machine that slept", monotonicMs: 0, dayMs: 10_000 },
    { what: "the time of day was set back", monotonicMs: 10_000, dayMs: -60_000 },
    { what: "both went on", monotonicMs: 2_000, dayMs: 2_000 }
  ])("is not valid when $what", ({ monotonicMs, dayMs }) =>
    Effect.gen(function* () {
      const { hands, clock } = yield* twoHands
      yield* Effect.gen(function* () {
        const queue = yield* opened
        const lease = yield* queue.take({ renewal: "manual" })
        assert.isTrue(lease.valid)
        hands.monotonicMs += monotonicMs
        hands.dayMs += dayMs
        assert.isFalse(lease.valid)
      }).pipe(Effect.provideService(Clock.Clock, clock))
    })
  )
})

describe("An item that fails", () => {
  it.effect("comes again after a wait that doubles up to the longest", () =>
    Effect.gen(function* () {
      const queue = yield* opened
      for (let failures = 1; failures <= 12; failures++) {
        const lease = yield* queue.take()
        assert.strictEqual(lease.attempt, failures)
        assert.strictEqual(yield* lease.fail("again"), "again")
        const waitMs = Math.min(maxBackoffMs, 1_000 * 2 ** (failures - 1))
        const next = yield* Effect.forkChild(Effect.scoped(Effect.asVoid(queue.take())))
        yield* TestClock.adjust(waitMs - 1)
        assert.isUndefined(next.pollUnsafe())
        yield* TestClock.adjust(1)
        yield* Effect.yieldNow
        assert.isDefined(next.pollUnsafe())
      }
    })
  )
})

describe("Terms in a file", () => {
  const temporaryFile = Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-terms-"))),
      folder => Effect.sync(() => rmSync(folder, { recursive: true }))
    ),
    folder => join(folder, "home", "terms.json")
  )

  it.effect("outlive the process", () =>
    Effect.gen(function* () {
      const termsFile = yield* temporaryFile
      const first = yield* service({ termsFile })
      assert.strictEqual(yield* first.nextTerm("mnist"), 1)
      assert.strictEqual(yield* first.nextTerm("mnist", 7), 8)
      assert.strictEqual(yield* first.nextTerm("other"), 1)
      const second = yield* service({ termsFile })
      assert.strictEqual(yield* second.currentTerm("mnist"), 8)
      assert.strictEqual(yield* second.nextTerm("mnist"), 9)
      assert.deepStrictEqual(JSON.parse(readFileSync(termsFile, "utf8")), { mnist: 9, other: 1 })
    })
  )

  it.effect("are not begun anew where the file is damaged", () =>
    Effect.gen(function* () {
      const termsFile = yield* temporaryFile
      yield* (yield* service({ termsFile })).nextTerm("mnist")
      for (const text of ["", "{", '{"mnist":-1}', '{"mnist":"1"}']) {
        writeFileSync(termsFile, text)
        const error = yield* Effect.flip(service({ termsFile }))
        assert.strictEqual(error.reason, "Store")
        assert.notStrictEqual(error.hint, "")
      }
    })
  )

  it.effect("are never given twice, wherever the machine stops", () =>
    Effect.gen(function* () {
      const on = (disk: MemoryDisk) => Effect.provideService(StoreFiles, disk)
      const next = Effect.flatMap(service({ termsFile: "home/terms.json" }), queue => queue.nextTerm("mnist"))
      const before = new MemoryDisk()
      assert.strictEqual(yield* on(before)(next), 1)
      let stopped = 0
      for (let stopAt = 0; ; stopAt++) {
        const disk = new MemoryDisk(before.files)
        disk.stopAt = stopAt
        const given = yield* Effect.exit(on(disk)(next))
        for (const image of disk.images()) {
          const after = yield* on(new MemoryDisk(image))(next)
          assert.isAtLeast(after, given._tag === "Success" ? given.value + 1 : 2)
        }
        if (given._tag === "Success") break
        stopped++
      }
      assert.isAbove(stopped, 3)
    })
  )
})
