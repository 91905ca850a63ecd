import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue } from "effect"
import { PairRotate, Roster } from "../../src/node/AdminKinds.ts"
import { parseGoodbye } from "../../src/protocol/Packets.ts"
import { wireCodes } from "../../src/protocol/ProtocolError.ts"
import { RecordOpener, recordTypes } from "../../src/protocol/Records.ts"
import { handlers, Jobs, makeWatch } from "../rpc/jobs.ts"
import { bareSession } from "../support/barePeer.ts"
import { addressOf, keptStore, loopback, pair, pairedWith, RawPeer, startNode, until } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const carol = mallory

const pairOfNodes = Effect.gen(function* () {
  const [store, guestStore] = [keptStore(), keptStore()]
  const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
  const guest = yield* startNode({ identity: bob, listen: loopback }, guestStore.layer)
  yield* pair(host, guest)
  const session = yield* guest.connect(alice.peerId)
  yield* until(() => host.session(bob.peerId))
  return { host, guest, session, store, guestStore }
})

describe("A peer that is removed", () => {
  it.live("loses its session and the call in it at once, and is told: later it says what happened and what to do", () =>
    Effect.gen(function* () {
      const { host, guest, session, store, guestStore } = yield* pairOfNodes
      const watch = yield* makeWatch
      yield* Effect.provide(host.serve("jobs", Jobs), handlers(watch))
      const jobs = yield* guest.client(session, "jobs", Jobs)
      const inFlight = yield* Effect.forkChild(jobs.Wait({ name: "call" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+call")

      assert.isTrue(yield* host.remove(bob.peerId))
      assert.isUndefined(host.session(bob.peerId))
      assert.lengthOf(store.state.peers, 0)
      assert.strictEqual((yield* Deferred.await(session.closed)).code, "NOT_AUTHORIZED")
      assert.isTrue(Exit.isFailure(yield* Fiber.await(inFlight)))
      assert.strictEqual(yield* Queue.take(watch.events), "-call")

      yield* until(() => guestStore.state.peers[0]?.revokedAt)
      const error = yield* Effect.flip(guest.connect(alice.peerId))
      assert.strictEqual(error.code, "REVOKED")
      assert.match(error.detail, /removed this host from its peers at 20\d\d-.*: ask for a token and join again/)
      assert.isFalse(yield* host.remove(bob.peerId))
    })
  )

  it.live("is a stranger from then on, in whatever way it comes, until it is paired again", () =>
    Effect.gen(function* () {
      const { host, guest, guestStore } = yield* pairOfNodes
      const target = pairedWith(guestStore.state, bob, alice)
      yield* host.remove(bob.peerId)
      const raw = yield* Effect.promise(() =>
        RawPeer.dial(addressOf(host), bob, target).then(
          () => "let in",
          (error: Error) => error.message
        )
      )
      assert.match(raw, /hung up/)
      yield* until(() => guestStore.state.peers[0]?.revokedAt)
      const { token } = yield* host.invite({ name: "again" })
      assert.strictEqual((yield* guest.join(token)).peer.peerId, alice.peerId)
      assert.deepStrictEqual(
        guestStore.state.peers.map(({ revokedAt, pairKeys }) => [revokedAt, pairKeys.length]),
        [[undefined, 1]]
      )
    })
  )

  it.live("while it was away finds out by silence, and says that this may be the reason", () =>
    Effect.gen(function* () {
      const { host, guest, session } = yield* pairOfNodes
      yield* session.close()
      yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      yield* host.remove(bob.peerId)
      const error = yield* Effect.flip(guest.connect(alice.peerId))
      assert.strictEqual(error.code, "TRUNCATED")
      assert.match(error.detail, /hung up without a word: it does not know this host \(any more\)/)
    })
  )

  it.live("13 between ACK and verify is refused with NOT_AUTHORIZED, though its handshake was good", () =>
    Effect.gen(function* () {
      const { host, session, guestStore } = yield* pairOfNodes
      const target = pairedWith(guestStore.state, bob, alice)
      yield* session.close()
      yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      const raw = yield* Effect.promise(() => RawPeer.dial(addressOf(host), bob, target))
      const opener = new RecordOpener(raw.secrets.receiveSecret)
      const goodbyes: Array<number> = []
      raw.socket.on("data", chunk =>
        opener.push(chunk, record => {
          if (record.type === recordTypes.goodbye) goodbyes.push(parseGoodbye(record.payload).code)
        })
      )
      yield* host.remove(bob.peerId)
      raw.ready()
      yield* until(() => goodbyes[0])
      raw.socket.destroy()
      assert.deepStrictEqual(goodbyes, [wireCodes.NOT_AUTHORIZED])
      assert.isUndefined(host.session(bob.peerId))
    })
  )

  it.live("while this host dials it is not left with a session", () =>
    Effect.gen(function* () {
      const { host, guest, session, guestStore } = yield* pairOfNodes
      for (let round = 0; round < 5; round++) {
        yield* (round === 0 ? session : yield* guest.connect(alice.peerId)).close()
        yield* until(() => (host.session(bob.peerId) ?? guest.session(alice.peerId)) === undefined || undefined)
        yield* Effect.all([Effect.exit(guest.connect(alice.peerId)), guest.remove(alice.peerId)], {
          concurrency: "unbounded"
        })
        yield* until(() => (host.session(bob.peerId) ?? guest.session(alice.peerId)) === undefined || undefined)
        assert.lengthOf(guestStore.state.peers, 0)
        yield* pair(host, guest)
      }
    })
  )

  it.live("takes with it whom it has introduced", () =>
    Effect.gen(function* () {
      const job = new Uint8Array(16)
      const coordinator = yield* startNode({ identity: carol, listen: loopback })
      const one = yield* startNode({ identity: alice, listen: loopback })
      const other = yield* startNode({ identity: bob, listen: loopback })
      for (const worker of [one, other]) {
        yield* pair(coordinator, worker)
        yield* worker.trustIntroducer(carol.peerId, job)
      }
      yield* coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] })
      const session = yield* other.connect(alice.peerId)
      yield* until(() => one.session(bob.peerId))
      yield* one.remove(carol.peerId)
      assert.strictEqual((yield* Deferred.await(session.closed)).code, "NOT_AUTHORIZED")
      assert.strictEqual((yield* Effect.flip(one.connect(bob.peerId))).code, "NOT_PAIRED")
    })
  )

  it.live("cannot come back by a message in the session that ends: none of its requests is taken", () =>
    Effect.gen(function* () {
      const { host, session, store, guestStore } = yield* pairOfNodes
      const target = pairedWith(guestStore.state, bob, alice)
      yield* session.close()
      const bare = yield* bareSession(addressOf(host), bob, target)
      yield* until(() => host.session(bob.peerId))
      const removing = yield* Effect.forkChild(host.remove(bob.peerId))
      const answers = yield* Effect.all(
        [
          bare.admin.request(PairRotate, { generation: 2 }, 5_000),
          bare.admin.request(Roster, { job: new Uint8Array(16), peers: [] }, 5_000)
        ].map(request => Effect.exit(request)),
        { concurrency: "unbounded" }
      )
      yield* Fiber.join(removing)
      assert.deepStrictEqual(
        answers.map(exit => exit._tag),
        ["Failure", "Failure"]
      )
      assert.lengthOf(store.state.peers, 0)
    })
  )
})
