import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Queue } from "effect"
import { utf8 } from "../../src/protocol/Bytes.ts"
import { encodeOpen, streamClasses } from "../../src/protocol/Packets.ts"
import { recordFlags, recordTypes } from "../../src/protocol/Records.ts"
import { handlers, Jobs, makeWatch } from "../rpc/jobs.ts"
import { addressOf, keptStore, loopback, pair, pairedWith, RawPeer, startNode, until } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

interface Attack {
  readonly what: string
  readonly code: string
  readonly attack: (peer: RawPeer) => void
}

const attacks: ReadonlyArray<Attack> = [
  {
    what: "bytes that are no record",
    code: "BAD_MAC",
    attack: ({ socket }) => socket.write(Uint8Array.from({ length: 104 }, (_, index) => (index === 3 ? 100 : 0)))
  },
  {
    what: "the header of a record that is too long",
    code: "TOO_LARGE",
    attack: ({ socket }) => socket.write(Uint8Array.of(0, 0xff, 0xff, 0xff))
  },
  {
    what: "a record of another epoch",
    code: "BAD_MAC",
    attack: ({ socket }) => socket.write(new Uint8Array(104).fill(1))
  },
  {
    what: "data on a stream that was never opened",
    code: "UNEXPECTED",
    attack: peer => peer.record(recordTypes.rawData, 7, utf8("data"), recordFlags.first)
  },
  {
    what: "a stream out of sequence",
    code: "UNEXPECTED",
    attack: peer => peer.record(recordTypes.open, 5, encodeOpen({ streamClass: streamClasses.rpc, name: "jobs" }))
  },
  {
    what: "a stream with a number of the other side",
    code: "UNEXPECTED",
    attack: peer => peer.record(recordTypes.open, 2, encodeOpen({ streamClass: streamClasses.rpc, name: "jobs" }))
  },
  { what: "a type that nobody knows", code: "UNEXPECTED", attack: peer => peer.record(99) },
  { what: "READY again", code: "UNEXPECTED", attack: peer => peer.ready() },
  {
    what: "an OPEN that is none",
    code: "MALFORMED",
    attack: peer => peer.record(recordTypes.open, 1, Uint8Array.of(9))
  }
]

describe("A paired peer that turns hostile", () => {
  it.live("loses its own session, whatever it writes, while another peer's call goes on and is answered", () =>
    Effect.gen(function* () {
      const watch = yield* makeWatch
      const store = keptStore()
      const host = yield* startNode({ identity: alice, listen: loopback })
      yield* Effect.provide(host.serve("jobs", Jobs), handlers(watch))
      const honest = yield* startNode({ identity: mallory })
      yield* pair(host, honest)
      const session = yield* honest.connect(alice.peerId)
      const jobs = yield* honest.client(session, "jobs", Jobs)
      const inFlight = yield* Effect.forkChild(jobs.Wait({ name: "honest" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+honest")

      yield* Effect.scoped(Effect.flatMap(startNode({ identity: bob }, store.layer), guest => pair(host, guest)))
      const target = pairedWith(store.state, bob, alice)
      yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      for (const { what, code, attack } of attacks) {
        const peer = yield* Effect.promise(() => RawPeer.dial(addressOf(host), bob, target))
        peer.ready()
        const attacked = yield* until(() => host.session(bob.peerId))
        attack(peer)
        yield* Effect.promise(() => peer.closed)
        assert.strictEqual((yield* Deferred.await(attacked.closed)).code, code, what)
        yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      }
      assert.isUndefined(session.ended)
      yield* Deferred.succeed(watch.gate, undefined)
      assert.strictEqual(yield* Fiber.join(inFlight), "honest")
      assert.strictEqual(yield* jobs.Echo({ text: "and on" }), "and on")
    })
  )

  it.live("gets a stream reset, and keeps its session, for a name that nobody serves", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const guest = yield* startNode({ identity: bob })
      yield* pair(host, guest)
      const session = yield* guest.connect(alice.peerId)
      const jobs = yield* guest.client(session, "nobody", Jobs)
      const refused = yield* Effect.flip(jobs.Echo({ text: "?" }))
      assert.match(refused.message, /NOT_AUTHORIZED|nobody serves/)
      assert.isUndefined(session.ended)
      assert.strictEqual(yield* guest.connect(alice.peerId), session)
    })
  )
})
