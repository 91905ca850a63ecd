import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Actor from "../../src/actor/Actor.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import { maxTimers, type Timers } from "../../src/actor/Timers.ts"

class NotNow extends Schema.TaggedError<NotNow>()("NotNow", {}) {}

const Clockwork = RpcGroup.make(
  Rpc.make("Tick", { payload: { text: Schema.String } }),
  /** Handled only with a permit. */
  Rpc.make("SlowTick", { payload: { text: Schema.String } }),
  Rpc.make("Fail", { error: NotNow }),
  Rpc.make("Block"),
  Rpc.make("Cancel", { payload: { name: Schema.String } }),
  Rpc.make("Replace", { payload: { name: Schema.String, text: Schema.String } }),
  Rpc.make("StartMany", { payload: { count: Schema.Number } }),
  Rpc.make("Crash")
)
type ClockworkTimers = Timers<RpcGroup.Rpcs<typeof Clockwork>>

const spawned = (start: (timers: ClockworkTimers) => Effect.Effect<void>, options?: Actor.ActorOptions) =>
  Effect.gen(function* () {
    const ticks: Array<string> = []
    const permits = yield* Queue.unbounded<void>()
    const root = yield* Supervisor.make("root", { backoffMs: 100 })
    const block = () => Queue.take(permits)
    const clockwork = Actor.make(
      Clockwork,
      ({ timers }) =>
        Effect.as(start(timers), {
          Tick: ({ text }) => Effect.sync(() => void ticks.push(text)),
          SlowTick: ({ text }) => Effect.map(block(), () => void ticks.push(text)),
          Fail: () => Effect.fail(new NotNow()),
          Block: block,
          Cancel: ({ name }) => timers.cancel(name),
          Replace: ({ name, text }) => timers.single(name, 50, "Tick", { text }),
          StartMany: ({ count }) =>
            Effect.forEach(
              Array.from({ length: count }, (_, index) => `timer ${index}`),
              name => timers.single(name, 1_000, "Tick", { text: name }),
              { discard: true }
            ),
          Crash: () => Effect.die(new Error("boom"))
        }),
      options
    )
    const ref = yield* root.spawn("clockwork", clockwork)
    /** Lets one blocked message be handled, now or when it comes. */
    const open = Effect.andThen(Queue.offer(permits, undefined), TestClock.adjust(0))
    yield* TestClock.adjust(0)
    return { ticks, ref, root, open }
  })

const count = (ticks: ReadonlyArray<string>, text: string) => ticks.filter(tick => tick === text).length

describe("a timer of an actor", () => {
  it.effect("that is single sends its message once", () =>
    Effect.gen(function* () {
      const { ticks } = yield* spawned(timers => timers.single("once", 100, "Tick", { text: "a" }))
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(ticks, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(ticks, ["a"])
      yield* TestClock.adjust(10_000)
      assert.deepStrictEqual(ticks, ["a"])
    })
  )

  it.effect("with a fixed delay counts from the handling of its last message", () =>
    Effect.gen(function* () {
      const { ticks, open } = yield* spawned(timers => timers.fixedDelay("beat", 100, "SlowTick", { text: "a" }))
      yield* TestClock.adjust(100 + 70)
      yield* open
      assert.deepStrictEqual(ticks, ["a"])
      yield* open
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(ticks, ["a"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(ticks, ["a", "a"])
    })
  )

  it.effect("that is periodic keeps to the multiples of its period, and skips those that it was too busy for", () =>
    Effect.gen(function* () {
      const { ticks, open } = yield* spawned(timers => timers.periodic("beat", 100, "SlowTick", { text: "a" }))
      yield* TestClock.adjust(100 + 30)
      yield* open
      assert.deepStrictEqual(ticks, ["a"])
      // The second begins at 200 and is handled at 450, so those of 300 and 400 are skipped and the third begins at 500.
      yield* TestClock.adjust(320)
      yield* open
      assert.deepStrictEqual(ticks, ["a", "a"])
      yield* open
      yield* TestClock.adjust(49)
      assert.deepStrictEqual(ticks, ["a", "a"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(ticks, ["a", "a", "a"])
    })
  )

  it.effect.each(["suspend", "fail", "dropNewest", "dropOldest"] as const)(
    "never has more than one message in a mailbox, full or not (%s)",
    overflow =>
      Effect.gen(function* () {
        const { ticks, ref, root, open } = yield* spawned(
          timers => timers.periodic("beat", 10, "Tick", { text: "beat" }),
          { capacity: 4, overflow }
        )
        const waiting = () => root.snapshot().map(({ waiting, suspended }) => waiting + suspended)
        yield* ref.tell("Block", undefined)
        yield* TestClock.adjust(1_000)
        assert.deepStrictEqual(waiting(), [1])
        yield* open
        assert.deepStrictEqual(ticks, ["beat"])

        yield* ref.tell("Block", undefined)
        for (let filling = 0; filling < 4; filling++) {
          yield* TestClock.adjust(1)
          yield* ref.tell("Tick", { text: "other" })
        }
        yield* TestClock.adjust(1_000)
        assert.isAtMost(waiting()[0] ?? NaN, 5)
        yield* open
        assert.isAtMost(count(ticks, "beat"), 2)
        yield* TestClock.adjust(10)
        assert.isAtLeast(count(ticks, "beat"), 2)
      })
  )

  it.effect("is replaced by one of the same name, also when its message waits already", () =>
    Effect.gen(function* () {
      const { ticks, ref, open } = yield* spawned(timers => timers.single("one", 100, "Tick", { text: "old" }))
      yield* ref.tell("Replace", { name: "one", text: "new" })
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual(ticks, ["new"])

      yield* ref.ask("Replace", { name: "one", text: "waits" })
      yield* ref.tell("Block", undefined)
      yield* ref.tell("Replace", { name: "one", text: "newer" })
      yield* TestClock.adjust(50)
      yield* open
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual(ticks, ["new", "newer"])
    })
  )

  it.effect("ends when it is cancelled, with the message that waits; others go on", () =>
    Effect.gen(function* () {
      const { ticks, ref, open } = yield* spawned(timers =>
        Effect.andThen(
          timers.periodic("a", 100, "Tick", { text: "a" }),
          timers.periodic("b", 100, "Tick", { text: "b" })
        )
      )
      yield* TestClock.adjust(50)
      yield* ref.tell("Block", undefined)
      yield* ref.tell("Cancel", { name: "a" })
      yield* ref.tell("Cancel", { name: "nobody" })
      yield* TestClock.adjust(50)
      yield* open
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(ticks, ["b", "b"])
    })
  )

  it.effect("ends with its incarnation, with the message that waits, and is started by the next one", () =>
    Effect.gen(function* () {
      let incarnations = 0
      const { ticks, ref, open } = yield* spawned(timers => {
        incarnations++
        return timers.periodic("beat", 100, "Tick", { text: `of ${incarnations}` })
      })
      yield* TestClock.adjust(50)
      yield* ref.tell("Block", undefined)
      yield* ref.tell("Crash", undefined)
      yield* TestClock.adjust(50)
      yield* open
      yield* TestClock.adjust(100)
      assert.strictEqual(incarnations, 2)
      assert.deepStrictEqual(ticks, [])
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(ticks, ["of 2"])
    })
  )

  it.effect("ends when the actor is stopped, also while that drains", () =>
    Effect.gen(function* () {
      const { ticks, ref, root, open } = yield* spawned(timers => timers.periodic("beat", 10, "Tick", { text: "a" }))
      yield* ref.tell("Block", undefined)
      const stopping = yield* Effect.forkChild(root.stop("clockwork"), { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* open
      yield* TestClock.adjust(1_000)
      assert.isDefined(stopping.pollUnsafe())
      assert.deepStrictEqual(ticks, [])
    })
  )

  it.effect("goes on after a typed failure of its handler", () =>
    Effect.gen(function* () {
      const { ticks, root } = yield* spawned(timers =>
        Effect.andThen(
          timers.periodic("failing", 100, "Fail", undefined),
          timers.periodic("beat", 100, "Tick", { text: "a" })
        )
      )
      yield* TestClock.adjust(300)
      assert.deepStrictEqual(ticks, ["a", "a", "a"])
      assert.deepStrictEqual(
        root.snapshot().map(({ crashes }) => crashes),
        [0]
      )
    })
  )

  it.effect("is one of a bounded number: an actor that makes ever new ones crashes", () =>
    Effect.gen(function* () {
      const { ref } = yield* spawned(() => Effect.void)
      yield* ref.ask("StartMany", { count: maxTimers })
      yield* ref.ask("StartMany", { count: maxTimers })
      const error = yield* Effect.flip(ref.ask("StartMany", { count: maxTimers + 1 }))
      assert.strictEqual(error._tag, "ActorCrashed")
      assert.include(error.message, `has ${maxTimers} timers`)
    })
  )

  it.effect("of no time at all is a crash", () =>
    Effect.gen(function* () {
      const { root } = yield* spawned(timers => timers.periodic("beat", 0, "Tick", { text: "a" }))
      assert.deepStrictEqual(
        root.snapshot().map(({ crashes }) => crashes),
        [1]
      )
    })
  )
})
