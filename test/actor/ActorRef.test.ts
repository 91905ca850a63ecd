import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scheduler } from "effect"
import { TestClock } from "effect/testing"
import * as Actor from "../../src/actor/Actor.ts"
import { defaultAskDeadlineMs } from "../../src/actor/ActorRef.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import { Counter, counter, makeJournal } from "./protocols.ts"

const spawned = (options: Actor.ActorOptions = {}) =>
  Effect.gen(function* () {
    const journal = makeJournal()
    const root = yield* Supervisor.make("root")
    const ref = yield* root.spawn("counter", counter(journal, "", options))
    return { journal, root, ref }
  })

/** A counter whose handler is busy and whose mailbox of one is full. */
const stuck = (options: Actor.ActorOptions) =>
  Effect.gen(function* () {
    const setup = yield* spawned({ capacity: 1, ...options })
    const busy = yield* Effect.forkChild(setup.ref.ask("Block", undefined, { deadlineMs: Infinity }))
    yield* Deferred.await(setup.journal.blocked)
    yield* setup.ref.tell("Add", { n: 1 })
    return { ...setup, busy }
  })

const failure = <A, E>(effect: Effect.Effect<A, E>) => Effect.flip(effect)

describe("an actor's ref", () => {
  it.effect("tells and asks, and the actor handles both in order", () =>
    Effect.gen(function* () {
      const { ref } = yield* spawned()
      yield* ref.tell("Add", { n: 2 })
      assert.strictEqual(ref.tellUnsafe("Add", { n: 3 }), "accepted")
      assert.strictEqual(yield* ref.ask("Get", undefined), 5)
      assert.strictEqual(ref.path, "/root/counter")
    })
  )

  it.effect("has a typed client of the shape of a remote one", () =>
    Effect.gen(function* () {
      const { ref } = yield* spawned()
      yield* ref.client.Add({ n: 4 })
      yield* ref.client.Add({ n: 5 }, { discard: true })
      assert.strictEqual(yield* ref.client.Get(), 9)
      const refused = yield* failure(ref.client.Refuse({ why: "no" }))
      assert.strictEqual(refused._tag, "Refused")
    })
  )

  it.effect("gives a typed failure of the handler to the asker, and that is no crash", () =>
    Effect.gen(function* () {
      const { ref, journal } = yield* spawned()
      yield* ref.tell("Add", { n: 1 })
      const refused = yield* failure(ref.ask("Refuse", { why: "not today" }))
      assert.strictEqual(refused._tag === "Refused" ? refused.why : refused._tag, "not today")
      yield* ref.tell("Refuse", { why: "nobody listens" })
      assert.strictEqual(yield* ref.ask("Get", undefined), 1)
      assert.deepStrictEqual(journal.lines, ["start"])
    })
  )

  it.effect("handles messages one at a time", () =>
    Effect.gen(function* () {
      const { ref, journal } = yield* spawned()
      const busy = yield* Effect.forkChild(ref.ask("Block", undefined))
      yield* Deferred.await(journal.blocked)
      const get = yield* Effect.forkChild(ref.ask("Get", undefined))
      yield* TestClock.adjust(1_000)
      assert.isUndefined(get.pollUnsafe())
      yield* Deferred.succeed(journal.gate, undefined)
      assert.strictEqual(yield* Fiber.join(get), 0)
      yield* Fiber.join(busy)
    })
  )

  it.effect("keeps messages in the mailbox until the behaviour is ready", () =>
    Effect.gen(function* () {
      const ready = yield* Deferred.make<void>()
      const root = yield* Supervisor.make("root")
      const inner = counter(makeJournal())
      const slow = Actor.make(Counter, context => Effect.andThen(Deferred.await(ready), inner.behaviour(context)))
      const ref = yield* root.spawn("slow", slow)
      yield* ref.tell("Add", { n: 7 })
      const get = yield* Effect.forkChild(ref.ask("Get", undefined))
      yield* TestClock.adjust(100)
      assert.strictEqual(root.snapshot()[0]?.state, "starting")
      assert.strictEqual(root.snapshot()[0]?.waiting, 2)
      yield* Deferred.succeed(ready, undefined)
      assert.strictEqual(yield* Fiber.join(get), 7)
    })
  )
})

describe("an actor whose fiber yields", () => {
  it.effect("between its look into the mailbox and its sleep wakes for what came meanwhile", () =>
    Effect.gen(function* () {
      // To yield after so many operations puts the yield at every place of the actor's loop in turn.
      for (let operations = 4; operations < 28; operations++) {
        const yielding = Effect.provideService(Scheduler.MaxOpsBeforeYield, operations)
        const root = yield* yielding(Supervisor.make("root"))
        const ref = yield* yielding(root.spawn("counter", counter(makeJournal())))
        const waiting = () => root.snapshot()[0]?.waiting
        for (let told = 0; told < 100; told++) {
          yield* ref.tell("Add", { n: 1 })
          for (let turns = told % 7; turns > 0; turns--) yield* Effect.yieldNow
        }
        for (let turns = 0; turns < 5_000 && waiting() !== 0; turns++) yield* Effect.yieldNow
        assert.strictEqual(waiting(), 0, `yielding every ${operations} operations`)
        yield* root.stop("counter")
      }
    })
  )
})

describe("an ask never hangs: it fails", () => {
  it.effect("when the actor crashes on this very message", () =>
    Effect.gen(function* () {
      const { ref } = yield* spawned()
      const error = yield* failure(ref.ask("Crash", { why: "boom" }))
      assert.strictEqual(error._tag, "ActorCrashed")
      assert.include(error.message, "boom")
    })
  )

  it.effect("and does so at once, not when the crashed incarnation has cleaned up", () =>
    Effect.gen(function* () {
      const inner = counter(makeJournal())
      const cleaned = yield* Deferred.make<void>()
      const root = yield* Supervisor.make("root")
      const slow = Actor.make(Counter, context =>
        Effect.andThen(
          Effect.addFinalizer(() => Deferred.await(cleaned)),
          inner.behaviour(context)
        )
      )
      const ref = yield* root.spawn("slow", slow)
      const asked = yield* Effect.forkChild(failure(ref.ask("Crash", { why: "boom" })), { startImmediately: true })
      yield* TestClock.adjust(1)
      assert.isDefined(asked.pollUnsafe())
      yield* Deferred.succeed(cleaned, undefined)
      assert.strictEqual((yield* Fiber.join(asked))._tag, "ActorCrashed")
    })
  )

  it.effect("when the handler throws instead of returning an effect", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root")
      const handlers = { ...(yield* handlersOf()), Get: () => { throw new Error("thrown") } } // prettier-ignore
      const ref = yield* root.spawn(
        "a",
        Actor.make(Counter, () => Effect.succeed(handlers))
      )
      assert.strictEqual((yield* failure(ref.ask("Get", undefined)))._tag, "ActorCrashed")
    })
  )

  it.effect("when the handler interrupts itself", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root")
      const handlers = { ...(yield* handlersOf()), Get: () => Effect.interrupt }
      const ref = yield* root.spawn(
        "a",
        Actor.make(Counter, () => Effect.succeed(handlers))
      )
      assert.strictEqual((yield* failure(ref.ask("Get", undefined)))._tag, "ActorCrashed")
    })
  )

  it.effect("when the actor is stopped before", () =>
    Effect.gen(function* () {
      const { ref, root } = yield* spawned()
      yield* root.stop("counter")
      assert.strictEqual((yield* failure(ref.ask("Get", undefined)))._tag, "ActorStopped")
      assert.strictEqual((yield* failure(ref.tell("Add", { n: 1 })))._tag, "ActorStopped")
      assert.strictEqual(ref.tellUnsafe("Add", { n: 1 }), "closed")
    })
  )

  it.effect(
    "when the actor is stopped while it handles the message, while the message waits, and while the sender waits",
    () =>
      Effect.gen(function* () {
        const { ref, root, busy } = yield* stuck({ overflow: "suspend" })
        const ask = yield* Effect.forkChild(ref.ask("Get", undefined, { deadlineMs: Infinity }), {
          startImmediately: true
        })
        const tell = yield* Effect.forkChild(ref.tell("Add", { n: 1 }), { startImmediately: true })
        yield* root.stop("counter", { mode: "now" })
        for (const ended of [Fiber.join(busy), Effect.asVoid(Fiber.join(ask)), Fiber.join(tell)])
          assert.strictEqual((yield* failure(ended))._tag, "ActorStopped")
      })
  )

  it.effect("when the mailbox is full and its policy is fail", () =>
    Effect.gen(function* () {
      const { ref, journal } = yield* stuck({ overflow: "fail" })
      assert.strictEqual((yield* failure(ref.ask("Get", undefined)))._tag, "MailboxFull")
      assert.strictEqual((yield* failure(ref.tell("Add", { n: 1 })))._tag, "MailboxFull")
      assert.strictEqual(ref.tellUnsafe("Add", { n: 1 }), "full")
      yield* Deferred.succeed(journal.gate, undefined)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* ref.ask("Get", undefined), 1)
    })
  )

  it.effect("when its message is dropped, as the newest or as the oldest", () =>
    Effect.gen(function* () {
      const newest = yield* stuck({ overflow: "dropNewest" })
      assert.strictEqual((yield* failure(newest.ref.ask("Get", undefined)))._tag, "MailboxFull")
      yield* newest.ref.tell("Add", { n: 100 })
      yield* Deferred.succeed(newest.journal.gate, undefined)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* newest.ref.ask("Get", undefined), 1)

      const oldest = yield* stuck({ overflow: "dropOldest" })
      const ask = yield* Effect.forkChild(oldest.ref.ask("Get", undefined), { startImmediately: true })
      yield* oldest.ref.tell("Add", { n: 100 })
      assert.strictEqual((yield* failure(Fiber.join(ask)))._tag, "MailboxFull")
      yield* Deferred.succeed(oldest.journal.gate, undefined)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* oldest.ref.ask("Get", undefined), 100)
    })
  )

  it.effect("at its deadline, in the line of a full mailbox too", () =>
    Effect.gen(function* () {
      const { ref, busy, root } = yield* stuck({ overflow: "suspend" })
      const short = yield* Effect.forkChild(ref.ask("Get", undefined, { deadlineMs: 20 }), { startImmediately: true })
      const usual = yield* Effect.forkChild(ref.client.Get(), { startImmediately: true })
      yield* TestClock.adjust(20)
      assert.strictEqual((yield* failure(Fiber.join(short)))._tag, "AskTimeout")
      yield* TestClock.adjust(defaultAskDeadlineMs - 21)
      assert.isUndefined(usual.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* failure(Fiber.join(usual)))._tag, "AskTimeout")
      assert.isUndefined(busy.pollUnsafe())
      assert.strictEqual(root.snapshot()[0]?.suspended, 0)
    })
  )
})

describe("a full mailbox", () => {
  it.effect("suspends the teller until there is room, and a teller that gives up leaves nothing behind", () =>
    Effect.gen(function* () {
      const { ref, journal } = yield* stuck({ overflow: "suspend" })
      assert.strictEqual(ref.tellUnsafe("Add", { n: 50 }), "full")
      const impatient = yield* Effect.forkChild(ref.tell("Add", { n: 10 }), { startImmediately: true })
      const patient = yield* Effect.forkChild(ref.tell("Add", { n: 100 }), { startImmediately: true })
      yield* TestClock.adjust(60_000)
      assert.isUndefined(patient.pollUnsafe())
      yield* Fiber.interrupt(impatient)
      yield* Deferred.succeed(journal.gate, undefined)
      yield* Fiber.join(patient)
      assert.strictEqual(yield* ref.ask("Get", undefined), 101)
    })
  )
})

describe("an asker that goes away", () => {
  it.effect("takes its message with it if that was not begun, and else only misses the reply", () =>
    Effect.gen(function* () {
      const { ref, journal, busy } = yield* stuck({ capacity: 10 })
      const waiting = yield* Effect.forkChild(ref.ask("Add", { n: 1_000 }), { startImmediately: true })
      yield* Fiber.interrupt(waiting)
      yield* Fiber.interrupt(busy)
      yield* Deferred.succeed(journal.gate, undefined)
      assert.strictEqual(yield* ref.ask("Get", undefined), 1)
      assert.deepStrictEqual(journal.lines, ["start", "handled"])
    })
  )
})

describe("stopping an actor", () => {
  it.effect("drains: what waits is handled, what comes is refused, then its scope closes", () =>
    Effect.gen(function* () {
      const { ref, root, journal } = yield* stuck({ capacity: 10 })
      const get = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      const stop = yield* Effect.forkChild(root.stop("counter"), { startImmediately: true })
      assert.strictEqual((yield* failure(ref.tell("Add", { n: 1 })))._tag, "ActorStopped")
      assert.strictEqual(root.snapshot()[0]?.state, "draining")
      yield* Deferred.succeed(journal.gate, undefined)
      assert.strictEqual(yield* Fiber.join(get), 1)
      yield* Fiber.join(stop)
      assert.deepStrictEqual(journal.lines, ["start", "handled", "end"])
      assert.deepStrictEqual(root.snapshot(), [])
    })
  )

  it.effect("drains no longer than its bound", () =>
    Effect.gen(function* () {
      const { ref, root, journal, busy } = yield* stuck({ capacity: 10 })
      const get = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      const stop = yield* Effect.forkChild(root.stop("counter", { mode: "drain", drainMs: 500 }), {
        startImmediately: true
      })
      yield* TestClock.adjust(499)
      assert.isUndefined(stop.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(stop)
      for (const ended of [Fiber.join(busy), Effect.asVoid(Fiber.join(get))])
        assert.strictEqual((yield* failure(ended))._tag, "ActorStopped")
      assert.deepStrictEqual(journal.lines, ["start", "end"])
    })
  )

  it.effect("may be done by the actor itself, after what already waits", () =>
    Effect.gen(function* () {
      const { ref } = yield* spawned()
      yield* ref.tell("Stop", undefined)
      yield* ref.tell("Add", { n: 1 })
      const get = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      assert.strictEqual(yield* Fiber.join(get), 1)
      assert.deepStrictEqual(yield* ref.watch, { actor: "/root/counter", reason: "stopped" })
    })
  )

  it.effect("happens to all when the scope of the root closes, the youngest first", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const exit = yield* Effect.exit(
        Effect.scoped(
          Effect.gen(function* () {
            const root = yield* Supervisor.make("root")
            yield* root.spawn("a", counter(journal, "A"))
            const b = yield* root.spawn("b", counter(journal, "B"))
            yield* b.ask("Get", undefined)
          })
        )
      )
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(journal.lines, ["startA", "startB", "endB", "endA"])
    })
  )
})

const handlersOf = () =>
  Effect.succeed({
    Add: () => Effect.void,
    Get: () => Effect.succeed(0),
    Refuse: () => Effect.void,
    Crash: () => Effect.void,
    Block: () => Effect.void,
    Stop: () => Effect.void
  })
