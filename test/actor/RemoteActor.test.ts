import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Queue, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../../src/actor/Actor.ts"
import { PeerNode, type PeerNodeOptions } from "../../src/node/PeerNode.ts"
import type { AnyActorRef } from "../../src/node/RemoteActor.ts"
import { maxDialBackoffMs } from "../../src/protocol/constants.ts"
import { PeerStore } from "../../src/store/PeerStore.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import { Network } from "../../src/transport/Network.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"
import { loopback, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

class Overdrawn extends Schema.TaggedError<Overdrawn>()("Overdrawn", { balance: Schema.Number }) {}

const Account = RpcGroup.make(
  Rpc.make("Deposit", { payload: { amount: Schema.Number }, success: Schema.Number }),
  Rpc.make("Withdraw", { payload: { amount: Schema.Number }, success: Schema.Number, error: Overdrawn }),
  Rpc.make("History", { success: Schema.Number, stream: true }),
  Rpc.make("Follow", { success: Schema.String, stream: true }),
  Rpc.make("Wait", { success: Schema.String }),
  Rpc.make("Crash")
)
type AccountRpcs = RpcGroup.Rpcs<typeof Account>

interface Seen {
  readonly events: Queue.Queue<string>
  readonly gate: Deferred.Deferred<void>
}

const account = ({ events, gate }: Seen) =>
  Actor.make(Account, () =>
    Effect.sync(() => {
      let balance = 0
      const history: Array<number> = []
      const change = (amount: number) => Effect.sync(() => (history.push(amount), (balance += amount)))
      return {
        Deposit: ({ amount }) => change(amount),
        Withdraw: ({ amount }) => (amount > balance ? Effect.fail(new Overdrawn({ balance })) : change(-amount)),
        History: () => Stream.fromIterable(history.slice()),
        Follow: () => Stream.concat(Stream.make("first"), Stream.never),
        Wait: () => Queue.offer(events, "waiting").pipe(Effect.andThen(Deferred.await(gate)), Effect.as("done")),
        Crash: () => Effect.die(new Error("boom"))
      }
    })
  )

/** A peer whose dials are counted. */
const startCounted = Effect.fnUntraced(function* (
  options: PeerNodeOptions,
  dialling: <A, E>(dial: Effect.Effect<A, E>) => Effect.Effect<A, E> = dial => dial
) {
  let dials = 0
  const counted = Layer.effect(
    Network,
    Effect.map(Network, network => ({
      ...network,
      dial: (address, timeoutMs) =>
        Effect.suspend(() => {
          dials++
          return dialling(network.dial(address, timeoutMs))
        })
    }))
  ).pipe(Layer.provide(NetworkTcp.layer))
  const services = Layer.mergeAll(counted, Cryptography.layer, Layer.fresh(PeerStore.memory))
  const node = Context.get(yield* Layer.build(PeerNode.layer(options).pipe(Layer.provide(services))), PeerNode)
  return { node, dials: () => dials }
})

/** Alice exposes an account; bob, who does not listen, is paired with her. */
const meet = Effect.gen(function* () {
  const { node: host } = yield* startCounted({ identity: alice, listen: loopback })
  const { node: guest, dials } = yield* startCounted({ identity: bob })
  const seen: Seen = { events: yield* Queue.unbounded<string>(), gate: yield* Deferred.make<void>() }
  const local = yield* host.supervisor.spawn("account", account(seen))
  yield* host.expose("account", local)
  const { token } = yield* host.invite({ name: "test" })
  const session = yield* guest.join(token)
  const remote = guest.actor(alice.peerId, "account", Account)
  return { host, guest, dials, seen, local, session, remote }
})

describe("a remote ref", () => {
  it.live("serves the same code as a local one, its protocol's errors and streams included", () =>
    Effect.gen(function* () {
      const { local, remote } = yield* meet
      const use = Effect.fnUntraced(function* (ref: AnyActorRef<AccountRpcs>) {
        const before = yield* ref.client.Deposit({ amount: 5 })
        const refused = yield* Effect.flip(ref.client.Withdraw({ amount: 1_000 }))
        assert.deepStrictEqual(refused, new Overdrawn({ balance: before }))
        return yield* ref.ask("Withdraw", { amount: 1 })
      })
      assert.strictEqual(yield* use(local), 4)
      assert.strictEqual(yield* use(remote), 8)
      assert.deepStrictEqual(yield* Stream.runCollect(remote.client.History()), [5, -1, 5, -1])
    })
  )

  it.live("reaches a peer that only ever dialled us", () =>
    Effect.gen(function* () {
      const { host, guest, seen } = yield* meet
      yield* guest.expose("account", yield* guest.supervisor.spawn("account", account(seen)))
      assert.strictEqual(yield* host.actor(bob.peerId, "account", Account).client.Deposit({ amount: 3 }), 3)
    })
  )

  it.live("tells an actor's crash, its stop, and a name that nobody exposes", () =>
    Effect.gen(function* () {
      const { host, guest, remote } = yield* meet
      assert.strictEqual((yield* Effect.flip(remote.client.Crash()))._tag, "ActorCrashed")
      yield* host.supervisor.stop("account")
      assert.strictEqual((yield* Effect.flip(remote.client.Deposit({ amount: 1 })))._tag, "ActorStopped")
      const nobody = guest.actor(alice.peerId, "nobody", Account)
      for (let i = 0; i < 3; i++)
        assert.strictEqual((yield* Effect.flip(nobody.client.Deposit({ amount: 1 })))._tag, "ActorStopped")
    })
  )

  it.live("fails at its deadline when the actor is busy", () =>
    Effect.gen(function* () {
      const { remote, seen } = yield* meet
      const late = yield* Effect.flip(remote.ask("Wait", undefined, { deadlineMs: 50 }))
      assert.strictEqual(late._tag, "AskTimeout")
      assert.strictEqual(yield* Queue.take(seen.events), "waiting")
    })
  )

  it.live("fails its calls at once when the session is lost, and goes on with the next session", () =>
    Effect.gen(function* () {
      const { remote, seen, session, dials, guest } = yield* meet
      const followed = yield* Deferred.make<void>()
      const following = yield* Effect.forkChild(
        Effect.flip(Stream.runForEach(remote.client.Follow(), () => Deferred.succeed(followed, undefined)))
      )
      yield* Deferred.await(followed)
      const inFlight = yield* Effect.forkChild(Effect.flip(remote.client.Wait()))
      assert.strictEqual(yield* Queue.take(seen.events), "waiting")
      const before = dials()
      session.fail("INTERNAL", "the line is cut")
      assert.strictEqual((yield* Fiber.join(inFlight))._tag, "PeerLost")
      assert.strictEqual((yield* Fiber.join(following))._tag, "PeerLost")
      yield* Deferred.succeed(seen.gate, undefined)
      const replies = yield* Effect.all(
        Array.from({ length: 10 }, () => remote.client.Deposit({ amount: 1 })),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        replies.toSorted((a, b) => a - b),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
      )
      assert.strictEqual(dials(), before + 1)
      assert.notStrictEqual(guest.session(alice.peerId), session)
    })
  )

  it.live("takes one stream of the session, however many calls it makes", () =>
    Effect.gen(function* () {
      const { guest, remote } = yield* meet
      yield* remote.client.Deposit({ amount: 1 })
      const open = guest.session(alice.peerId)?.openStreams
      const calls = Array.from({ length: 100 }, () =>
        guest.actor(alice.peerId, "account", Account).client.Deposit({ amount: 1 })
      )
      yield* Effect.all(calls, { concurrency: 16 })
      assert.strictEqual(guest.session(alice.peerId)?.openStreams, open)
    })
  )
})

describe("a peer that is away", () => {
  it.effect("is dialled by the first call, then not before its backoff is over", () =>
    Effect.gen(function* () {
      const { node: guest, dials } = yield* startCounted({ identity: bob })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { node: host } = yield* startCounted({ identity: alice, listen: loopback })
          const { token } = yield* host.invite({ name: "test" })
          yield* guest.join(token)
        })
      )
      const gone = guest.session(alice.peerId)
      if (gone !== undefined) yield* Deferred.await(gone.closed)
      const remote = guest.actor(alice.peerId, "account", Account)
      const call = Effect.flip(remote.client.Deposit({ amount: 1 }))
      const before = dials()
      for (let failures = 1; failures <= 9; failures++) {
        const first = yield* call
        assert.strictEqual(first._tag === "SessionError" ? first.code : first._tag, "UNREACHABLE")
        assert.strictEqual(dials(), before + failures)
        for (let i = 0; i < 3; i++) yield* call
        assert.isAtMost(dials(), before + failures)
        yield* TestClock.adjust(maxDialBackoffMs)
      }
      // Whoever asks for a connection himself is not held back.
      yield* call
      const refused = yield* Effect.flip(guest.connect(alice.peerId))
      assert.strictEqual(refused.code, "UNREACHABLE")
      assert.strictEqual(dials(), before + 11)
    })
  )

  it.effect("and lets a dial go unanswered fails the call at its deadline, not when the dial has ended", () =>
    Effect.gen(function* () {
      let answers = true
      const { node: guest, dials } = yield* startCounted({ identity: bob }, dial =>
        Effect.suspend(() => (answers ? dial : Effect.never))
      )
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { node: host } = yield* startCounted({ identity: alice, listen: loopback })
          const { token } = yield* host.invite({ name: "test" })
          yield* guest.join(token)
        })
      )
      const gone = guest.session(alice.peerId)
      if (gone !== undefined) yield* Deferred.await(gone.closed)
      answers = false
      const before = dials()
      const remote = guest.actor(alice.peerId, "account", Account)
      const late = yield* Effect.forkChild(Effect.flip(remote.ask("Deposit", { amount: 1 }, { deadlineMs: 1_000 })), {
        startImmediately: true
      })
      const told = yield* Effect.forkChild(remote.tell("Deposit", { amount: 1 }), { startImmediately: true })
      yield* until(() => (dials() > before ? true : undefined))
      yield* TestClock.adjust(1_000)
      assert.strictEqual((yield* Fiber.join(late))._tag, "AskTimeout")
      yield* Fiber.interrupt(told)
    })
  )

  it.live("that was never paired is named as such, with or without a ref", () =>
    Effect.gen(function* () {
      const { node } = yield* startCounted({ identity: bob })
      const error = yield* Effect.flip(node.actor(alice.peerId, "account", Account).client.Deposit({ amount: 1 }))
      assert.strictEqual(error._tag === "SessionError" ? error.code : error._tag, "NOT_PAIRED")
    })
  )
})
