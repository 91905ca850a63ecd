import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Stream, type Scope } from "effect"
import type { RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Actor from "../../src/actor/Actor.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import { maxConcurrentCalls } from "../../src/rpc/RpcLimits.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { memoryPair, pairs, type ChannelPair } from "./channels.ts"
import { handlers, Jobs, makeWatch } from "./jobs.ts"

/** A server of `Jobs`, and a client that calls it over one pair of channels as the peer "alice". */
const setup = (open: Effect.Effect<ChannelPair, never, Scope.Scope>) =>
  Effect.gen(function* () {
    const watch = yield* makeWatch
    const server = yield* RpcPeer.serve(Jobs).pipe(Effect.provide(handlers(watch)))
    const pair = yield* open
    yield* server.attach(pair.right, { peer: "alice" })
    const jobs = yield* RpcPeer.client(Jobs, pair.left)
    return { watch, server, pair, jobs }
  })

const memory = Effect.sync(memoryPair)

/** Channels in memory deliver in microtasks, so after one turn of the event loop everything sent before has arrived. */
const delivered = Effect.promise(() => new Promise<void>(resolve => setImmediate(resolve)))

describe.each(pairs)("a call %s", (_, open) => {
  it.live("returns the handler's result, decoded", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      assert.strictEqual(yield* jobs.Echo({ text: "grüße ☃" }), "grüße ☃")
      assert.strictEqual(yield* jobs.Divide({ a: 1, b: 4 }), 0.25)
    })
  )

  it.live("fails with the handler's typed error, an instance of its class", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const error = yield* Effect.flip(jobs.Divide({ a: 7, b: 0 }))
      assert.strictEqual(error._tag === "DivisionByZero" ? error.dividend : error._tag, 7)
    })
  )

  it.live("carries 4 MiB of bytes there and back as bytes", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const bytes = new Uint8Array(4 * 1024 * 1024).map((_, i) => i * 31)
      const back = (yield* jobs.Bytes({ bytes })).bytes
      assert.instanceOf(back, Uint8Array)
      assert.strictEqual(Buffer.compare(back, bytes), 0)
    })
  )

  it.live.each(["die", "throw"])("whose handler has a defect (%s) dies alone: other calls of the channel go on", how =>
    Effect.gen(function* () {
      const { jobs, watch } = yield* setup(open)
      const other = yield* Effect.forkChild(jobs.Wait({ name: "other" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+other")
      const error = yield* Effect.flip(jobs.Explode({ how }))
      assert.strictEqual(error._tag, "RemoteDefect")
      assert.include(error.message, how === "throw" ? "thrown" : "die")
      yield* Deferred.succeed(watch.gate, undefined)
      assert.strictEqual(yield* Fiber.join(other), "other")
      assert.strictEqual(yield* jobs.Echo({ text: "after" }), "after")
    })
  )

  it.live("whose result cannot be sent fails with a typed error, and the channel lives", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      assert.strictEqual((yield* Effect.flip(jobs.Unsayable()))._tag, "RemoteDefect")
      assert.strictEqual(yield* jobs.Echo({ text: "after" }), "after")
    })
  )

  it.live("streams its replies, also many more than fit a buffer, and a slow reader slows the writer", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const sum = yield* Stream.runFold(
        jobs.Count({ to: 20_000 }),
        () => 0,
        (total, n) => total + n
      )
      assert.strictEqual(sum, (20_000 * 20_001) / 2)
    })
  )

  it.live("ends its stream with a typed error after the values before it", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const sizes: Array<number> = []
      const error = yield* jobs.BreakAfter({ chunks: 3 }).pipe(
        Stream.runForEach(bytes => Effect.sync(() => sizes.push(bytes.length))),
        Effect.flip
      )
      assert.deepStrictEqual(sizes, [1, 2, 3])
      assert.strictEqual(error._tag === "Broken" ? error.after : error._tag, 3)
    })
  )

  it.live("whose handler is interrupted over there, or whose stream dies there, fails with a typed error", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const interrupted = yield* Effect.flip(jobs.Explode({ how: "interrupt" }))
      assert.strictEqual(interrupted._tag === "RemoteDefect" ? interrupted.detail : interrupted._tag, "interrupted")
      const seen: Array<number> = []
      const died = yield* Effect.flip(
        Stream.runForEach(jobs.DieAfter({ values: 3 }), n => Effect.sync(() => seen.push(n)))
      )
      assert.deepStrictEqual(seen, [1, 2, 3])
      assert.strictEqual(died._tag, "RemoteDefect")
      const queue = yield* jobs.DieAfter({ values: 1 }, { asQueue: true })
      assert.strictEqual(yield* Queue.take(queue), 1)
      const ended = yield* Effect.flip(Queue.take(queue))
      assert.strictEqual(ended._tag, "RemoteDefect")
    })
  )

  it.live("that is interrupted interrupts its handler", () =>
    Effect.gen(function* () {
      const { jobs, watch } = yield* setup(open)
      const call = yield* Effect.forkChild(jobs.Wait({ name: "a" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+a")
      yield* Fiber.interrupt(call)
      assert.strictEqual(yield* Queue.take(watch.events), "-a")
    })
  )

  it.live("fails at once with a typed error when the channel dies, and its handler is interrupted", () =>
    Effect.gen(function* () {
      const { jobs, watch, pair } = yield* setup(open)
      const calls = yield* Effect.forEach(["a", "b", "c"], name => Effect.forkChild(jobs.Wait({ name })))
      for (let i = 0; i < 3; i++) yield* Queue.take(watch.events)
      const stream = yield* Effect.forkChild(Stream.runDrain(jobs.Count({ to: 10_000_000 })))
      pair.kill("the cable was cut")
      for (const call of calls) {
        const error = yield* Effect.flip(Fiber.join(call))
        assert.strictEqual(error._tag, "RpcClientError")
        assert.isDefined(RpcPeer.closedReason(error))
      }
      assert.strictEqual((yield* Effect.flip(Fiber.join(stream)))._tag, "RpcClientError")
      const interrupted = yield* Effect.all([1, 2, 3].map(() => Queue.take(watch.events)))
      assert.deepStrictEqual(interrupted.sort(), ["-a", "-b", "-c"])
      const later = yield* Effect.flip(jobs.Echo({ text: "too late" }))
      assert.isDefined(RpcPeer.closedReason(later))
    })
  )

  it.live("knows its caller from the session", () =>
    Effect.gen(function* () {
      const { jobs, server } = yield* setup(open)
      const second = yield* open
      yield* server.attach(second.right, { peer: "bob" })
      const bobs = yield* RpcPeer.client(Jobs, second.left)
      const both = yield* Effect.all([jobs.WhoAmI(), bobs.WhoAmI()], { concurrency: 2 })
      assert.deepStrictEqual(both, ["alice", "bob"])
    })
  )

  it.live("goes both ways on one pair of channels per direction", () =>
    Effect.gen(function* () {
      const [toRight, toLeft] = [yield* setup(open), yield* setup(open)]
      const names = Array.from({ length: 50 }, (_, i) => `call ${i}`)
      const echo = (jobs: RpcPeer.Client<RpcGroup.Rpcs<typeof Jobs>>) =>
        Effect.forEach(names, text => jobs.Echo({ text }), { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* Effect.all([echo(toRight.jobs), echo(toLeft.jobs)], { concurrency: 2 }), [
        names,
        names
      ])
    })
  )

  it.live("of many at once: each gets its own reply, however many run at a time", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(open)
      const texts = Array.from({ length: 3_000 }, (_, i) => String(i))
      const replies = yield* Effect.forEach(texts, text => jobs.Echo({ text }), { concurrency: "unbounded" })
      assert.deepStrictEqual(replies, texts)
    })
  )
})

describe("a call", () => {
  it.live(
    "waits when the channel already runs its limit of handlers, and one that gives up while it waits is never run",
    () =>
      Effect.gen(function* () {
        const { jobs, watch } = yield* setup(memory)
        const count = maxConcurrentCalls + 10
        const calls = yield* Effect.forEach(
          Array.from({ length: count }, (_, i) => `${i}`),
          name => Effect.forkChild(jobs.Wait({ name }), { startImmediately: true })
        )
        for (let i = 0; i < maxConcurrentCalls; i++) assert.strictEqual(yield* Queue.take(watch.events), `+${i}`)
        const [given] = calls.slice(-1)
        assert.isDefined(given)
        yield* Fiber.interrupt(given)
        yield* delivered
        assert.strictEqual(yield* Queue.size(watch.events), 0)
        yield* Deferred.succeed(watch.gate, undefined)
        const names = yield* Effect.forEach(calls.slice(0, -1), call => Fiber.join(call))
        assert.strictEqual(names.length, count - 1)
        const events = yield* Queue.takeAll(watch.events)
        assert.isFalse(events.includes(`+${count - 1}`))
        assert.strictEqual(events.filter(event => event.startsWith("+")).length, 9)
      })
  )

  it.live("that waited behind others is begun in a loop, not by one call inside the next", () =>
    Effect.gen(function* () {
      const { jobs, watch } = yield* setup(memory)
      const depths: Array<number> = []
      for (let i = 0; i < maxConcurrentCalls; i++)
        yield* Effect.forkChild(jobs.Wait({ name: "first" }), { startImmediately: true })
      const others = yield* Effect.forEach(Array.from({ length: 400 }), () =>
        Effect.forkChild(jobs.StackDepth(), { startImmediately: true })
      )
      yield* delivered
      yield* Deferred.succeed(watch.gate, undefined)
      for (const other of others) depths.push(yield* Fiber.join(other))
      assert.isBelow(Math.max(...depths) - Math.min(...depths), 100)
    })
  )

  it.live("waits at the client while others have the budget, and takes its turn when they end", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(memory)
      const bytes = new Uint8Array(3 * 1024 * 1024)
      const sizes = yield* Effect.forEach(
        Array.from({ length: 40 }, () => bytes),
        bytes => Effect.map(jobs.Bytes({ bytes }), back => back.bytes.length),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(new Set(sizes), new Set([bytes.length]))
    })
  )

  it.live("with more than the largest message fails at its caller, and the channel lives", () =>
    Effect.gen(function* () {
      const { jobs, pair } = yield* setup(memory)
      const error = yield* Effect.flip(jobs.Bytes({ bytes: new Uint8Array(16 * 1024 * 1024) }))
      assert.include(error.message, "bulk stream")
      assert.isUndefined(RpcPeer.closedReason(error))
      assert.strictEqual(yield* jobs.Echo({ text: "after" }), "after")
      assert.isUndefined(pair.ended())
    })
  )

  it.live("with discard tells only whether it was done", () =>
    Effect.gen(function* () {
      const { jobs } = yield* setup(memory)
      assert.isUndefined(yield* jobs.Echo({ text: "x" }, { discard: true }))
    })
  )

  it.effect("under a deadline fails when that has passed, and its handler is interrupted", () =>
    Effect.gen(function* () {
      const { jobs, watch } = yield* setup(memory)
      const call = yield* Effect.forkChild(jobs.Wait({ name: "slow" }).pipe(RpcPeer.withDeadline(500)))
      assert.strictEqual(yield* Queue.take(watch.events), "+slow")
      yield* TestClock.adjust(500)
      assert.strictEqual((yield* Effect.flip(Fiber.join(call)))._tag, "RpcDeadlineExceeded")
      assert.strictEqual(yield* Queue.take(watch.events), "-slow")
    })
  )

  it.live("fails on a channel that was dead from the start", () =>
    Effect.gen(function* () {
      const pair = memoryPair()
      pair.kill("before it began")
      const jobs = yield* RpcPeer.client(Jobs, pair.left)
      const error = yield* Effect.flip(jobs.Echo({ text: "x" }))
      assert.strictEqual(RpcPeer.closedReason(error)?.reason, "before it began")
    })
  )

  it.live("looks the same to a local actor and to a remote one", () =>
    Effect.gen(function* () {
      const Echoing = Jobs.omit(
        "Bytes",
        "Divide",
        "Explode",
        "Unsayable",
        "Count",
        "BreakAfter",
        "DieAfter",
        "Wait",
        "StackDepth",
        "WhoAmI"
      )
      type Any = RpcPeer.AnyClient<RpcGroup.Rpcs<typeof Echoing>>
      const shout = (anywhere: Any) => Effect.map(anywhere.Echo({ text: "hey" }), text => text.toUpperCase())

      const root = yield* Supervisor.make("root")
      const actor = Actor.make(Echoing, () => Effect.succeed({ Echo: ({ text }) => Effect.succeed(text) }))
      const ref = yield* root.spawn("echo", actor)
      const server = yield* RpcPeer.serve(Echoing).pipe(
        Effect.provide(Echoing.toLayer({ Echo: payload => Effect.orDie(ref.client.Echo(payload)) }))
      )
      const pair = memoryPair()
      yield* server.attach(pair.right, { peer: "alice" })
      const remote = yield* RpcPeer.client(Echoing, pair.left)
      assert.deepStrictEqual([yield* shout(ref.client), yield* shout(remote)], ["HEY", "HEY"])
    })
  )

  it.live("ends as interrupted, and as no error of the other side, when the client's scope closes", () =>
    Effect.gen(function* () {
      const { server, watch } = yield* setup(memory)
      const pair = memoryPair()
      yield* server.attach(pair.right, { peer: "alice" })
      const call = yield* Effect.scoped(
        Effect.gen(function* () {
          const jobs = yield* RpcPeer.client(Jobs, pair.left)
          const call = yield* Effect.forkDetach(jobs.Wait({ name: "a" }), { startImmediately: true })
          assert.strictEqual(yield* Queue.take(watch.events), "+a")
          return call
        })
      )
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(call)))
    })
  )

  it.live("has no caller outside of a remote call", () =>
    Effect.gen(function* () {
      assert.isTrue(Exit.hasDies(yield* Effect.exit(RpcPeer.caller)))
    })
  )
})
