import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { alice, bob } from "../support/vectors.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { memoryPair } from "./channels.ts"
import { handlers, Jobs, makeWatch } from "./jobs.ts"

/** A server with these rules and one caller for each name. */
const guarded = Effect.fnUntraced(function* (authorize: RpcPeer.Authorize | undefined, ...peers: Array<string>) {
  const watch = yield* makeWatch
  const server = yield* RpcPeer.serve(Jobs, authorize === undefined ? {} : { authorize }).pipe(
    Effect.provide(handlers(watch))
  )
  const clients = []
  for (const peer of peers) {
    const { left, right } = memoryPair()
    yield* server.attach(right, { peer })
    clients.push(yield* RpcPeer.client(Jobs, left))
  }
  return { watch, clients }
})

const refused = (caller: string, rpc: string) => new RpcPeer.CallRefused({ caller, rpc })

describe("who may call", () => {
  it.effect("is every paired peer unless something else is said", () =>
    Effect.gen(function* () {
      const { clients } = yield* guarded(undefined, "ann")
      for (const client of clients) assert.strictEqual(yield* client.Echo({ text: "x" }), "x")
    })
  )

  it.effect("can be a list: all others are refused with a typed error, streams too, and their handlers never run", () =>
    Effect.gen(function* () {
      const { clients, watch } = yield* guarded(["ann"], "ann", "bea")
      const [ann, bea] = clients
      if (ann === undefined || bea === undefined) return yield* Effect.die("no clients")
      assert.strictEqual(yield* ann.WhoAmI(), "ann")
      assert.deepStrictEqual(yield* Effect.flip(bea.Echo({ text: "x" })), refused("bea", "Echo"))
      assert.deepStrictEqual(yield* Effect.flip(Stream.runDrain(bea.Count({ to: 3 }))), refused("bea", "Count"))
      yield* Deferred.succeed(watch.gate, undefined)
      assert.deepStrictEqual(yield* Effect.flip(bea.Wait({ name: "b" })), refused("bea", "Wait"))
      yield* ann.Wait({ name: "a" })
      assert.deepStrictEqual(yield* Effect.all([Queue.take(watch.events), Queue.take(watch.events)]), ["+a", "=a"])
      assert.deepStrictEqual(yield* Stream.runCollect(ann.Count({ to: 2 })), [1, 2])
    })
  )

  it.effect("can be decided for each call, by caller and rpc, and anew each time", () =>
    Effect.gen(function* () {
      let open = true
      const { clients } = yield* guarded(
        ({ peer }, rpc) => Effect.sync(() => peer === "ann" || (open && rpc === "Echo")),
        "ann",
        "bea"
      )
      const [ann, bea] = clients
      if (ann === undefined || bea === undefined) return yield* Effect.die("no clients")
      assert.strictEqual(yield* ann.WhoAmI(), "ann")
      assert.strictEqual(yield* bea.Echo({ text: "x" }), "x")
      assert.deepStrictEqual(yield* Effect.flip(bea.WhoAmI()), refused("bea", "WhoAmI"))
      open = false
      assert.deepStrictEqual(yield* Effect.flip(bea.Echo({ text: "x" })), refused("bea", "Echo"))
    })
  )

  it.effect("is nobody where the decision itself fails", () =>
    Effect.gen(function* () {
      const { clients } = yield* guarded(() => Effect.die(new Error("no such table")), "ann")
      for (const client of clients)
        assert.deepStrictEqual(yield* Effect.flip(client.Echo({ text: "x" })), refused("ann", "Echo"))
    })
  )

  it.live("holds between real peers, by the id that the session proved", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const guest = yield* startNode({ identity: bob })
      const watch = yield* makeWatch
      yield* Effect.provide(host.serve("open", Jobs), handlers(watch))
      yield* Effect.provide(host.serve("mine", Jobs, { authorize: [bob.peerId] }), handlers(watch))
      yield* Effect.provide(host.serve("hers", Jobs, { authorize: [alice.peerId] }), handlers(watch))
      const { token } = yield* host.invite({ name: "test" })
      const session = yield* guest.join(token)
      for (const name of ["open", "mine"]) {
        const client = yield* guest.client(session, name, Jobs)
        assert.strictEqual(yield* client.WhoAmI(), bob.peerId)
      }
      const client = yield* guest.client(session, "hers", Jobs)
      assert.deepStrictEqual(yield* Effect.flip(client.WhoAmI()), refused(bob.peerId, "WhoAmI"))
      const viaRef = yield* Effect.flip(guest.actor(alice.peerId, "hers", Jobs).client.WhoAmI())
      assert.deepStrictEqual(viaRef, refused(bob.peerId, "WhoAmI"))
      assert.isUndefined(session.ended)
    })
  )
})

describe("a service that ends", () => {
  it.live("fails the calls in flight and the later ones, and the session goes on", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const guest = yield* startNode({ identity: bob })
      const watch = yield* makeWatch
      const scope = yield* Scope.make()
      yield* host.serve("jobs", Jobs).pipe(Effect.provide(handlers(watch)), Scope.provide(scope))
      const { token } = yield* host.invite({ name: "test" })
      const session = yield* guest.join(token)
      const remote = guest.actor(alice.peerId, "jobs", Jobs)
      const inFlight = yield* Effect.forkChild(Effect.exit(remote.client.Wait({ name: "w" })))
      assert.strictEqual(yield* Queue.take(watch.events), "+w")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(inFlight))._tag, "Failure")
      const later = yield* Effect.flip(remote.client.Echo({ text: "x" }))
      assert.strictEqual(later._tag, "ActorStopped")
      assert.isUndefined(session.ended)
    })
  )
})
