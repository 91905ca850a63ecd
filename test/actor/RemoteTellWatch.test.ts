import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Schema, Scope, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../../src/actor/Actor.ts"
import type { AnyActorRef } from "../../src/node/RemoteActor.ts"
import { callBudgetBytes, minCallCostBytes } from "../../src/rpc/RpcLimits.ts"
import { loopback, pair, startNode, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {}

const Diary = RpcGroup.make(
  Rpc.make("Write", { payload: { line: Schema.String }, success: Schema.Number, error: Refused }),
  Rpc.make("Tear", { payload: { line: Schema.String }, success: Schema.String, stream: true }),
  /** Handled when the gate opens. */
  Rpc.make("Wait", { payload: { line: Schema.String } }),
  Rpc.make("Read", { success: Schema.Array(Schema.String) }),
  Rpc.make("Crash")
)
type DiaryRpcs = RpcGroup.Rpcs<typeof Diary>

const diary = (gate: Deferred.Deferred<void>, options?: Actor.ActorOptions) =>
  Actor.make(
    Diary,
    () =>
      Effect.sync(() => {
        const lines: Array<string> = []
        const write = (line: string) => Effect.sync(() => lines.push(line))
        return {
          Write: ({ line }) => (line === "" ? Effect.fail(new Refused()) : write(line)),
          Tear: ({ line }) => {
            lines.push(line)
            return Stream.fromEffect(Effect.as(write("read"), line))
          },
          Wait: ({ line }) => Effect.andThen(Deferred.await(gate), Effect.asVoid(write(line))),
          Read: () => Effect.succeed(lines.slice()),
          Crash: () => Effect.die(new Error("boom"))
        }
      }),
    options
  )

/** Alice exposes a diary; bob is paired with her. */
const meet = (options?: Actor.ActorOptions & { readonly sessionAgeMs?: number }) =>
  Effect.gen(function* () {
    const age = options?.sessionAgeMs === undefined ? {} : { sessionAgeMs: options.sessionAgeMs }
    const host = yield* startNode({ identity: alice, listen: loopback, ...age })
    const guest = yield* startNode({ identity: bob, ...age })
    const gate = yield* Deferred.make<void>()
    const local = yield* host.supervisor.spawn("diary", diary(gate, options))
    const exposed = yield* Scope.fork(yield* Effect.scope)
    yield* Scope.provide(host.expose("diary", local), exposed)
    yield* pair(host, guest)
    const session = yield* guest.connect(alice.peerId)
    return { host, guest, gate, local, exposed, session, remote: guest.actor(alice.peerId, "diary", Diary) }
  })

/** One turn of the event loop: what can be sent has then been sent. */
const turned = Effect.promise(() => new Promise<void>(resolve => setImmediate(resolve)))

describe("a tell to a remote actor", () => {
  it.live("is handled in the order of the tells, and does not wait for that", () =>
    Effect.gen(function* () {
      const { remote, gate, local } = yield* meet()
      const use = Effect.fnUntraced(function* (ref: AnyActorRef<DiaryRpcs>) {
        yield* ref.tell("Wait", { line: "first" })
        for (const line of ["a", "", "b", "c"]) yield* ref.tell("Write", { line })
        yield* ref.tell("Tear", { line: "torn" })
      })
      yield* use(remote)
      assert.isFalse(Deferred.isDoneUnsafe(gate))
      yield* Deferred.succeed(gate, undefined)
      const expected = ["first", "a", "b", "c", "torn"]
      assert.deepStrictEqual(yield* remote.client.Read(), expected)
      yield* use(local)
      assert.deepStrictEqual(yield* local.client.Read(), [...expected, ...expected])
    })
  )

  it.live("suspends while so many are not handled that their cost fills the budget of calls", () =>
    Effect.gen(function* () {
      const { remote, gate } = yield* meet()
      const most = callBudgetBytes / minCallCostBytes
      for (let told = 0; told < most; told++) yield* remote.tell("Wait", { line: "x" })
      const one = yield* Effect.forkChild(remote.tell("Wait", { line: "last" }), { startImmediately: true })
      const other = yield* Effect.forkChild(remote.tell("Wait", { line: "never" }), { startImmediately: true })
      for (let turn = 0; turn < 100; turn++) yield* turned
      assert.isUndefined(one.pollUnsafe())
      yield* Fiber.interrupt(other)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(one)
      const lines = yield* remote.client.Read()
      assert.deepStrictEqual([lines.length, lines.at(-1)], [most + 1, "last"])
    })
  )

  it.live("fails at once where the peer cannot be reached, and where its session is lost while it suspends", () =>
    Effect.gen(function* () {
      const { remote, guest, session } = yield* meet()
      const stranger = guest.actor(guest.identity.peerId, "diary", Diary)
      const error = yield* Effect.flip(stranger.tell("Write", { line: "x" }))
      assert.strictEqual(error._tag === "SessionError" ? error.code : error._tag, "NOT_PAIRED")

      const most = callBudgetBytes / minCallCostBytes
      for (let told = 0; told < most; told++) yield* remote.tell("Wait", { line: "x" })
      const suspended = yield* Effect.forkChild(Effect.flip(remote.tell("Wait", { line: "x" })), {
        startImmediately: true
      })
      session.fail("INTERNAL", "the line is cut")
      assert.strictEqual((yield* Fiber.join(suspended))._tag, "PeerLost")
      // The ref goes on with the next session.
      yield* remote.tell("Write", { line: "after" })
    })
  )
})

describe("watching a remote actor", () => {
  it.live("tells its stop, at once where it is gone already, and not its restart", () =>
    Effect.gen(function* () {
      const { remote, host, local } = yield* meet()
      const watching = yield* Effect.forkChild(remote.watch)
      assert.strictEqual((yield* Effect.flip(remote.client.Crash()))._tag, "ActorCrashed")
      assert.deepStrictEqual(yield* remote.client.Read(), [])
      assert.isUndefined(watching.pollUnsafe())
      yield* host.supervisor.stop("diary")
      const stopped = { actor: remote.path, reason: "stopped" as const }
      assert.deepStrictEqual(yield* Fiber.join(watching), stopped)
      assert.strictEqual((yield* local.watch).reason, "stopped")
      assert.deepStrictEqual(yield* remote.watch, stopped)
      assert.strictEqual((yield* Effect.flip(remote.tell("Write", { line: "x" }).pipe(Effect.andThen(remote.client.Read()))))._tag, "ActorStopped") // prettier-ignore
    })
  )

  it.live("tells its crash where nobody restarts it, and the call that it crashed on still gets its reply", () =>
    Effect.gen(function* () {
      const { remote } = yield* meet({ restart: "never" })
      const watching = yield* Effect.forkChild(remote.watch)
      yield* remote.client.Read()
      assert.strictEqual((yield* Effect.flip(remote.client.Crash()))._tag, "ActorCrashed")
      assert.strictEqual((yield* Fiber.join(watching)).reason, "crashed")
    })
  )

  it.live("tells when its peer does not show it any more, or never did", () =>
    Effect.gen(function* () {
      const { remote, guest, exposed, local } = yield* meet()
      const watching = yield* Effect.forkChild(remote.watch)
      yield* remote.client.Read()
      yield* Scope.close(exposed, Exit.void)
      assert.strictEqual((yield* Fiber.join(watching)).reason, "stopped")
      assert.deepStrictEqual(yield* local.client.Read(), [])
      assert.strictEqual((yield* guest.actor(alice.peerId, "nobody", Diary).watch).reason, "stopped")
    })
  )

  it.live("tells apart that the way to it is gone; who watches again sees the actor again", () =>
    Effect.gen(function* () {
      const { remote, guest, host, session } = yield* meet()
      const watching = yield* Effect.forkChild(remote.watch)
      yield* remote.client.Read()
      session.fail("INTERNAL", "the line is cut")
      const lost = yield* Fiber.join(watching)
      assert.deepStrictEqual([lost.actor, lost.reason], [remote.path, "lost"])
      assert.strictEqual(lost.reason === "lost" ? lost.cause._tag : "", "PeerLost")

      const again = yield* Effect.forkChild(remote.watch)
      yield* remote.client.Read()
      yield* host.supervisor.stop("diary")
      assert.strictEqual((yield* Fiber.join(again)).reason, "stopped")

      const stranger = yield* guest.actor(guest.identity.peerId, "diary", Diary).watch
      assert.strictEqual(stranger.reason === "lost" && stranger.cause._tag === "SessionError" ? stranger.cause.code : "", "NOT_PAIRED") // prettier-ignore
    })
  )

  it.live("goes on when the session is replaced by a newer one", () =>
    Effect.gen(function* () {
      const { remote, guest, host, session } = yield* meet({ sessionAgeMs: 300 })
      const watching = yield* Effect.forkChild(remote.watch)
      yield* remote.client.Read()
      const newer = yield* until(() => {
        const current = guest.session(alice.peerId)
        return current !== session ? current : undefined
      })
      // What the side that replaced it does when its streams have ended, or an hour later.
      yield* session.close("NORMAL", "a newer session with this peer has taken its place")
      yield* until(() => (newer.openStreams > 1 ? true : undefined))
      assert.isUndefined(watching.pollUnsafe())
      yield* host.supervisor.stop("diary")
      assert.strictEqual((yield* Fiber.join(watching)).reason, "stopped")
    })
  )
})

describe("an actor that ends while peers use it", () => {
  it.live("answers the calls under way, and frees its name", () =>
    Effect.gen(function* () {
      const { remote, host, guest, gate, session } = yield* meet()
      const errors = yield* Queue.unbounded<string>()
      const calls = yield* Effect.forEach(Array.from({ length: 100 }), () =>
        Effect.forkChild(
          Effect.flatMap(Effect.flip(remote.client.Wait({ line: "x" })), ({ _tag }) => Queue.offer(errors, _tag))
        )
      )
      yield* until(() =>
        (host.supervisor.snapshot().find(({ name }) => name === "diary")?.waiting ?? 0) > 10 ? true : undefined
      )
      yield* host.supervisor.stop("diary", { mode: "now" })
      for (const call of calls) yield* Fiber.await(call)
      assert.deepStrictEqual(new Set(yield* Queue.takeAll(errors)), new Set(["ActorStopped"]))

      yield* host.expose("diary", yield* host.supervisor.spawn("diary", diary(gate)))
      assert.strictEqual(yield* guest.actor(alice.peerId, "diary", Diary).client.Write({ line: "new" }), 1)
      assert.isUndefined(session.ended)
    })
  )
})
