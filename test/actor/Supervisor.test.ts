import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Actor from "../../src/actor/Actor.ts"
import type { ActorRef } from "../../src/actor/ActorRef.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import { Counter, counter, makeJournal, type CounterRpcs } from "./protocols.ts"

const crash = (ref: ActorRef<CounterRpcs>, why = "boom") => Effect.flip(ref.ask("Crash", { why }))

/** Three counters a, b, c under one strategy; b has crashed, and its backoff is over. */
const afterCrashOfB = (strategy: "one-for-one" | "one-for-all" | "rest-for-one") =>
  Effect.gen(function* () {
    const journal = makeJournal()
    const root = yield* Supervisor.make("root", { strategy, backoffMs: 100 })
    const refs = [] as Array<ActorRef<CounterRpcs>>
    for (const name of ["a", "b", "c"]) refs.push(yield* root.spawn(name, counter(journal, name)))
    for (const ref of refs) yield* ref.ask("Add", { n: 1 })
    journal.lines.length = 0
    const [a, b, c] = refs
    assert.isDefined(a)
    assert.isDefined(b)
    assert.isDefined(c)
    yield* crash(b)
    yield* TestClock.adjust(100)
    const sums = [] as Array<number>
    for (const ref of refs) sums.push(yield* ref.ask("Get", undefined))
    return { lines: journal.lines, sums }
  })

describe("a supervisor restarts", () => {
  it.effect("only the crashed child under one-for-one", () =>
    Effect.gen(function* () {
      const { lines, sums } = yield* afterCrashOfB("one-for-one")
      assert.deepStrictEqual(sums, [1, 0, 1])
      assert.deepStrictEqual(lines, ["endb", "startb"])
    })
  )

  it.effect("all children under one-for-all, ended in reverse, started in order", () =>
    Effect.gen(function* () {
      const { lines, sums } = yield* afterCrashOfB("one-for-all")
      assert.deepStrictEqual(sums, [0, 0, 0])
      assert.deepStrictEqual(lines, ["endb", "endc", "enda", "starta", "startb", "startc"])
    })
  )

  it.effect("the crashed child and the younger ones under rest-for-one", () =>
    Effect.gen(function* () {
      const { lines, sums } = yield* afterCrashOfB("rest-for-one")
      assert.deepStrictEqual(sums, [1, 0, 0])
      assert.deepStrictEqual(lines, ["endb", "endc", "startb", "startc"])
    })
  )

  it.effect("a group once when two of it crash together, and fails the message that a sibling's crash cut off", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const bomb = Deferred.makeUnsafe<void>()
      const exploding = (name: string) =>
        Actor.make(Counter, context =>
          Effect.map(counter(journal, name).behaviour(context), handlers => ({
            ...handlers,
            Block: () => Effect.andThen(Deferred.await(bomb), Effect.die(new Error("bomb")))
          }))
        )
      const root = yield* Supervisor.make("root", { strategy: "one-for-all", backoffMs: 100 })
      const a = yield* root.spawn("a", exploding("a"))
      const b = yield* root.spawn("b", exploding("b"))
      const c = yield* root.spawn("c", counter(journal, "c"))
      const cut = yield* Effect.forkChild(c.ask("Block", undefined, { deadlineMs: Infinity }))
      yield* a.tell("Block", undefined)
      yield* b.tell("Block", undefined)
      yield* Deferred.await(journal.blocked)
      yield* Deferred.succeed(bomb, undefined)
      const error = yield* Effect.flip(Fiber.join(cut))
      assert.strictEqual(error._tag, "ActorCrashed")
      assert.include(error.message, "restarted together with /root/a")
      yield* TestClock.adjust(10_000)
      assert.deepStrictEqual(
        journal.lines.filter(line => line.startsWith("start")),
        ["starta", "startb", "startc", "starta", "startb", "startc"]
      )
      assert.deepStrictEqual(
        root.snapshot().map(tree => `${tree.name} ${tree.state} ${tree.crashes}`),
        ["a running 1", "b running 1", "c running 0"]
      )
    })
  )

  it.effect("in a new scope, after the old one is closed, and loses no message but the crashing one", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { backoffMs: 100 })
      const ref = yield* root.spawn("a", counter(journal))
      yield* ref.tell("Add", { n: 1 })
      const asks = yield* Effect.forEach(["Crash", "Get", "Get"] as const, tag =>
        Effect.forkChild(tag === "Crash" ? crash(ref) : ref.ask(tag, undefined), { startImmediately: true })
      )
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(journal.lines, ["start", "end"])
      assert.deepStrictEqual(
        root.snapshot().map(({ state, waiting, crashes }) => ({ state, waiting, crashes })),
        [{ state: "restarting", waiting: 2, crashes: 1 }]
      )
      yield* ref.tell("Add", { n: 5 })
      yield* TestClock.adjust(1)
      const [, first, second] = yield* Effect.forEach(asks, ask => Fiber.join(ask))
      assert.deepStrictEqual([first, second], [0, 0])
      assert.strictEqual(yield* ref.ask("Get", undefined), 5)
      assert.deepStrictEqual(journal.lines, ["start", "end", "start"])
    })
  )

  it.effect("with a backoff that doubles up to its bound", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { backoffMs: 100, maxBackoffMs: 300, maxRestarts: 10 })
      const ref = yield* root.spawn("a", counter(journal))
      const starts = () => journal.lines.filter(line => line === "start").length
      for (const [crashes, delayMs] of [
        [1, 100],
        [2, 200],
        [3, 300],
        [4, 300]
      ] as const) {
        yield* crash(ref)
        yield* TestClock.adjust(delayMs - 1)
        assert.strictEqual(starts(), crashes)
        yield* TestClock.adjust(1)
        assert.strictEqual(starts(), crashes + 1)
      }
    })
  )

  it.effect("a behaviour that cannot even start", () =>
    Effect.gen(function* () {
      let attempts = 0
      const root = yield* Supervisor.make("root", { backoffMs: 100 })
      const inner = counter(makeJournal())
      const flaky = Actor.make(Counter, context => (++attempts < 3 ? Effect.fail("not yet") : inner.behaviour(context)))
      const ref = yield* root.spawn("flaky", flaky)
      const get = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      yield* TestClock.adjust(300)
      assert.strictEqual(yield* Fiber.join(get), 0)
      assert.strictEqual(attempts, 3)
    })
  )
})

describe("a supervisor gives up", () => {
  it.effect(
    "when a child crashes more often than the limit within the window, and the root fails with that cause",
    () =>
      Effect.gen(function* () {
        const journal = makeJournal()
        const root = yield* Supervisor.make("root", { maxRestarts: 2, windowMs: 10_000, backoffMs: 1 })
        const ref = yield* root.spawn("a", counter(journal))
        const other = yield* root.spawn("b", counter(journal, "b"))
        const ended = yield* Effect.forkChild(Effect.flip(root.failure))
        for (const why of ["first", "second", "third"]) {
          yield* crash(ref, why)
          yield* TestClock.adjust(10)
        }
        const failed = yield* Fiber.join(ended)
        assert.deepInclude(failed, { supervisor: "/root", actor: "/root/a", crashes: 3, withinMs: 10_000 })
        assert.include(failed.message, "third")
        const termination = yield* ref.watch
        assert.strictEqual(termination.reason, "crashed")
        assert.include(String(termination.cause), "third")
        assert.deepStrictEqual(yield* other.watch, { actor: "/root/b", reason: "stopped" })
        assert.strictEqual((yield* Effect.flip(root.spawn("c", counter(journal))))._tag, "ActorStopped")
      })
  )

  it.effect("not when the crashes are spread over more than the window", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root", { maxRestarts: 2, windowMs: 10_000, backoffMs: 1 })
      const ref = yield* root.spawn("a", counter(makeJournal()))
      for (let i = 0; i < 10; i++) {
        yield* crash(ref)
        yield* TestClock.adjust(5_001)
      }
      assert.strictEqual(yield* ref.ask("Get", undefined), 0)
    })
  )

  it.effect("and its parent actor crashes, is restarted with fresh children, and climbs to the root at last", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { maxRestarts: 1, backoffMs: 10 })
      const parent = yield* root.spawn("parent", parentOf(journal, { maxRestarts: 0, backoffMs: 10 }))
      yield* parent.ask("CrashChild", undefined)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(journal.lines, ["startchild", "endchild", "startchild"])
      yield* parent.ask("CrashChild", undefined)
      const failed = yield* Effect.flip(root.failure)
      assert.deepInclude(failed, { supervisor: "/root", actor: "/root/parent", crashes: 2 })
      assert.instanceOf(failed.cause, Error)
      assert.include(failed.message, "/root/parent gave up: /root/parent/child crashed")
      yield* TestClock.adjust(60_000)
      assert.deepStrictEqual(journal.lines, ["startchild", "endchild", "startchild", "endchild"])
    })
  )

  it.effect("and who waits for an answer of the parent actor is told that it crashed", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root", { maxRestarts: 1, backoffMs: 10 })
      const parent = yield* root.spawn("parent", parentOf(makeJournal(), { maxRestarts: 0 }))
      const error = yield* Effect.flip(parent.ask("CrashChildAndWait", undefined, { deadlineMs: Infinity }))
      assert.strictEqual(error._tag, "ActorCrashed")
      assert.include(error.message, "/root/parent/child crashed")
    })
  )

  it.effect("even if the child crashes before its parent's behaviour is built", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root", { maxRestarts: 0 })
      const broken = Actor.make(Counter, () => Effect.die(new Error("cannot start")))
      const parent = Actor.make(
        Counter,
        ({ children }) => Effect.andThen(Effect.orDie(children.spawn("broken", broken)), Effect.never),
        { supervision: { maxRestarts: 0 } }
      )
      yield* root.spawn("parent", parent)
      assert.include((yield* Effect.flip(root.failure)).message, "cannot start")
    })
  )
})

describe("a child", () => {
  it.effect("with restart never ends by its crash, and its watchers are told why", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { maxRestarts: 0 })
      const ref = yield* root.spawn("a", counter(journal, "", { restart: "never" }))
      const watcher = yield* Effect.forkChild(ref.watch, { startImmediately: true })
      yield* crash(ref, "once")
      const { actor, reason, cause } = yield* Fiber.join(watcher)
      assert.deepStrictEqual([actor, reason, String(cause)], ["/root/a", "crashed", "Error: once"])
      assert.strictEqual((yield* Effect.flip(ref.tell("Add", { n: 1 })))._tag, "ActorStopped")
      assert.deepStrictEqual(root.snapshot(), [])
    })
  )

  it.effect("is found by name and protocol, and its name is free again once it is gone", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root")
      const journal = makeJournal()
      yield* root.spawn("a", counter(journal))
      assert.strictEqual(yield* root.child("a", Counter)?.ask("Get", undefined) ?? Effect.succeed(-1), 0)
      assert.isUndefined(root.child("b", Counter))
      assert.isUndefined(root.child("a", RpcGroup.make(Rpc.make("Get"))))
      assert.strictEqual((yield* Effect.flip(root.spawn("a", counter(journal))))._tag, "ActorNameTaken")
      yield* root.stop("a")
      yield* root.stop("a")
      assert.isUndefined(root.child("a", Counter))
      yield* root.spawn("a", counter(journal))
      assert.deepStrictEqual(journal.lines, ["start", "end", "start"])
    })
  )

  it.effect("stopped during its backoff is not started again", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { backoffMs: 100 })
      const ref = yield* root.spawn("a", counter(journal))
      yield* crash(ref)
      const waiting = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      yield* root.stop("a", { mode: "now" })
      yield* TestClock.adjust(1_000)
      assert.strictEqual((yield* Effect.flip(Fiber.join(waiting)))._tag, "ActorStopped")
      assert.deepStrictEqual(journal.lines, ["start", "end"])
    })
  )

  it.effect("that drains during its backoff is restarted, handles what waits, and ends", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { backoffMs: 100 })
      const ref = yield* root.spawn("a", counter(journal))
      yield* crash(ref)
      const waiting = yield* Effect.forkChild(ref.ask("Get", undefined), { startImmediately: true })
      const stop = yield* Effect.forkChild(root.stop("a"), { startImmediately: true })
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* Fiber.join(waiting), 0)
      yield* Fiber.join(stop)
      assert.deepStrictEqual(journal.lines, ["start", "end", "start", "end"])
    })
  )

  it.effect("whose finalizer hangs is left behind, so that a stop always ends", () =>
    Effect.gen(function* () {
      const root = yield* Supervisor.make("root")
      const inner = counter(makeJournal())
      const stuck = Actor.make(Counter, context =>
        Effect.andThen(
          Effect.addFinalizer(() => Effect.never),
          inner.behaviour(context)
        )
      )
      const ref = yield* root.spawn("stuck", stuck)
      const stop = yield* Effect.forkChild(root.stop("stuck", { mode: "now" }), { startImmediately: true })
      yield* TestClock.adjust(Supervisor.maxFinalizeMs)
      yield* Fiber.join(stop)
      assert.strictEqual((yield* ref.watch).reason, "stopped")
    })
  )

  it.effect("gets the services of the place where it was spawned", () =>
    Effect.gen(function* () {
      class Greeting extends Context.Service<Greeting, { readonly text: string }>()("test/Greeting") {}
      const Greeter = RpcGroup.make(Rpc.make("Greet", { success: Schema.String }))
      const greeter = Actor.make(Greeter, () =>
        Effect.map(Greeting, ({ text }) => ({ Greet: () => Effect.succeed(text) }))
      )
      const root = yield* Supervisor.make("root")
      const ref = yield* root.spawn("greeter", greeter).pipe(Effect.provideService(Greeting, { text: "hello" }))
      assert.strictEqual(yield* ref.client.Greet(), "hello")
    })
  )
})

describe("the tree", () => {
  it.effect("shows every actor with its state, its mailbox and its crashes", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root", { backoffMs: 10 })
      const parent = yield* root.spawn("parent", parentOf(journal, { maxRestarts: 3, backoffMs: 10 }))
      const other = yield* root.spawn("other", counter(journal, "", { capacity: 5 }))
      yield* parent.ask("CrashChild", undefined)
      yield* TestClock.adjust(10)
      yield* Effect.forkChild(other.ask("Block", undefined), { startImmediately: true })
      yield* Deferred.await(journal.blocked)
      yield* other.tell("Add", { n: 1 })
      assert.strictEqual(
        Supervisor.renderTree(root.snapshot()),
        "parent  running  0/1024  0 crashes\n  child  running  0/1024  1 crashes\nother  running  1/5  0 crashes\n"
      )
    })
  )

  it.effect("drains from the top: a stopping parent handles its messages, then its children theirs", () =>
    Effect.gen(function* () {
      const journal = makeJournal()
      const root = yield* Supervisor.make("root")
      const parent = yield* root.spawn("parent", parentOf(journal, {}))
      yield* parent.tell("BlockChild", undefined)
      yield* Deferred.await(journal.blocked)
      const stop = yield* Effect.forkChild(root.stop("parent"), { startImmediately: true })
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(journal.lines, ["startchild"])
      yield* Deferred.succeed(journal.gate, undefined)
      yield* Fiber.join(stop)
      assert.deepStrictEqual(journal.lines, ["startchild", "handled", "endchild"])
      assert.strictEqual((yield* parent.watch).reason, "stopped")
    })
  )
})

const Parent = RpcGroup.make(Rpc.make("CrashChild"), Rpc.make("CrashChildAndWait"), Rpc.make("BlockChild"))

/** An actor with one child `child`, a counter. */
const parentOf = (journal: ReturnType<typeof makeJournal>, supervision: Supervisor.SupervisionOptions) =>
  Actor.make(
    Parent,
    ({ children }) =>
      Effect.gen(function* () {
        const child = yield* children.spawn("child", counter(journal, "child"))
        return {
          CrashChild: () => Effect.orDie(child.tell("Crash", { why: "told to" })),
          CrashChildAndWait: () => Effect.andThen(Effect.orDie(child.tell("Crash", { why: "told to" })), Effect.never),
          BlockChild: () => Effect.orDie(child.tell("Block", undefined))
        }
      }),
    { supervision }
  )
