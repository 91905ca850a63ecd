import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { PeerNode } from "../../src/node/PeerNode.ts"
import { TensorRef } from "../../src/node/TensorRef.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { isPeerId } from "../../src/protocol/Identity.ts"
import { ticketKeys, type Ticket } from "../../src/protocol/Ticket.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { PeerStore } from "../../src/store/PeerStore.ts"
import { Cryptography, limited } from "../../src/transport/Cryptography.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"
import { addressOf, keptStore, loopback, pair, RawPeer, startNode, until } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const job = new Uint8Array(16).fill(7)
const carol = mallory

/** A peer whose random bytes the test sees: the secrets of the tickets that it makes. */
const startIntroducer = Effect.gen(function* () {
  const drawn: Array<Uint8Array> = []
  const crypto = nodeCrypto()
  const randomBytes = (length: number) => {
    const bytes = crypto.randomBytes(length)
    drawn.push(bytes)
    return bytes
  }
  const services = Layer.mergeAll(
    NetworkTcp.layer,
    Layer.succeed(Cryptography, limited({ ...crypto, randomBytes })),
    Layer.fresh(PeerStore.memory)
  )
  const layer = PeerNode.layer({ identity: carol, listen: loopback }).pipe(Layer.provide(services))
  return { coordinator: Context.get(yield* Layer.build(layer), PeerNode), drawn }
})

/** Carol coordinates, Alice and Bob work; all of them listen. */
const threePeers = Effect.gen(function* () {
  const store = keptStore()
  const { coordinator, drawn } = yield* startIntroducer
  const one = yield* startNode({ identity: alice, listen: loopback }, store.layer)
  const other = yield* startNode({ identity: bob, listen: loopback })
  for (const worker of [one, other]) yield* pair(coordinator, worker)
  return { coordinator, one, other, store, drawn }
})

const introduced = Effect.gen(function* () {
  const peers = yield* threePeers
  const { coordinator, one, other } = peers
  for (const worker of [one, other]) yield* worker.trustIntroducer(carol.peerId, job)
  yield* coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] })
  return peers
})

const Sums = RpcGroup.make(Rpc.make("Twice", { payload: { of: TensorRef }, success: TensorRef }))

const twice = Effect.fnUntraced(function* (worker: PeerNode["Service"], of: TensorRef) {
  const { peer } = yield* RpcPeer.caller
  const array = yield* worker.tensors.take(of, peer)
  if (!(array instanceof Float32Array) || !isPeerId(peer)) return yield* Effect.die("not floats of a peer")
  return (yield* worker.tensors.put(
    array.map(x => x * 2),
    peer
  )).ref
})

/** Lets a worker double the tensors of others. */
const serveSums = (worker: PeerNode["Service"]) =>
  Effect.provide(worker.serve("sums", Sums), Sums.toLayer({ Twice: ({ of }) => Effect.orDie(twice(worker, of)) }))

describe("Two workers that their coordinator has introduced (§2.7)", () => {
  it.live("reach each other without an address of their own, exchange tensors, and no registry knows of it", () =>
    Effect.gen(function* () {
      const { one, other, store } = yield* introduced
      yield* serveSums(other)
      const numbers = Float32Array.from({ length: 700_000 }, (_, index) => index / 7)
      const { ref } = yield* one.tensors.put(numbers, bob.peerId)
      const reply = yield* one.actor(bob.peerId, "sums", Sums).client.Twice({ of: ref })
      assert.deepStrictEqual(
        yield* one.tensors.take(reply, bob.peerId),
        numbers.map(x => x * 2)
      )
      const session = one.session(bob.peerId)
      assert.strictEqual(session?.mode, modes.introduced)
      assert.deepStrictEqual(session?.remote, other.address)
      assert.deepStrictEqual(
        store.state.peers.map(({ peerId }) => peerId),
        [carol.peerId]
      )
    })
  )

  it.live("keep one session when both dial at once, and make a new one when it breaks", () =>
    Effect.gen(function* () {
      const { one, other } = yield* introduced
      yield* Effect.all([one.connect(bob.peerId), other.connect(alice.peerId)], { concurrency: "unbounded" })
      const markOf = (session: ReturnType<typeof one.session>) =>
        session === undefined || session.ended !== undefined
          ? undefined
          : Buffer.from(session.exportKey("test", new Uint8Array(0))).toString("hex")
      yield* until(() => {
        const mark = markOf(one.session(bob.peerId))
        return mark !== undefined && mark === markOf(other.session(alice.peerId)) ? mark : undefined
      })
      yield* one.session(bob.peerId)?.close() ?? Effect.void
      yield* until(() => (other.session(alice.peerId) === undefined ? true : undefined))
      assert.strictEqual((yield* other.connect(alice.peerId)).peer.peerId, alice.peerId)
    })
  )

  it.live("part when the job is over, and then meet silence, while both stay with the coordinator", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* threePeers
      const life = yield* Scope.make()
      yield* Scope.provide(one.trustIntroducer(carol.peerId, job), life)
      yield* other.trustIntroducer(carol.peerId, job)
      yield* coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] })
      const session = yield* other.connect(alice.peerId)
      yield* until(() => one.session(bob.peerId))
      yield* Scope.close(life, Exit.void)
      assert.strictEqual((yield* Deferred.await(session.closed)).code, "NORMAL")
      assert.strictEqual((yield* Effect.flip(other.connect(alice.peerId))).code, "TRUNCATED")
      assert.strictEqual((yield* Effect.flip(one.connect(bob.peerId))).code, "NOT_PAIRED")
      assert.isUndefined(one.session(carol.peerId)?.ended)
      assert.isDefined(one.session(carol.peerId))
    })
  )

  it.live("are who they are: the coordinator knows their ticket and still cannot be one toward the other", () =>
    Effect.gen(function* () {
      const { one, other, drawn } = yield* introduced
      // The last that Carol drew before the handshakes of this test: the id and the secret of the one ticket.
      const [id, secret] = [drawn.at(-2), drawn.at(-1)]
      if (id?.length !== 16 || secret?.length !== 32) return assert.fail("not the bytes of a ticket")
      const ids = [alice.id, bob.id].toSorted(Buffer.compare)
      const [first, second] = [ids[0] ?? alice.id, ids[1] ?? bob.id]
      const ticket: Ticket = { job, id, first, second, secret, notBefore: 0, expiresAt: 1 }
      const target = { mode: modes.introduced, keys: ticketKeys(ticket, alice.id), peer: bob } as const
      // With her own keys, as the ticket says that Alice dials: HELLO passes, the identity does not.
      const asHerself = yield* Effect.promise(() =>
        RawPeer.dial(addressOf(other), carol, target).then(
          () => "let in",
          (error: Error) => error.message
        )
      )
      assert.match(asHerself, /WRONG_PEER/)
      // In Alice's name: she has not Alice's RSA keys.
      const posing = { ...carol, id: alice.id, peerId: alice.peerId, document: alice.document }
      const asAlice = yield* Effect.promise(() =>
        RawPeer.dial(addressOf(other), posing, target).then(
          () => "let in",
          (error: Error) => error.message
        )
      )
      assert.match(asAlice, /BAD_SIG/)
      assert.isUndefined(other.session(alice.peerId))
      // The ticket is the right one: who it is for comes in with it.
      assert.strictEqual((yield* one.connect(bob.peerId)).mode, modes.introduced)
      const genuine = yield* Effect.promise(() => RawPeer.dial(addressOf(other), alice, target))
      genuine.socket.destroy()
    })
  )
})

describe("Introductions", () => {
  it.live("are taken only from the peer that a worker has marked, for the job it has marked it for", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* threePeers
      yield* one.trustIntroducer(carol.peerId, job)
      yield* other.trustIntroducer(carol.peerId, new Uint8Array(16).fill(8))
      const error = yield* Effect.flip(coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] }))
      assert.strictEqual(error._tag, "IntroductionError")
      assert.deepStrictEqual(
        error.refused.map(({ peer }) => peer),
        [bob.peerId]
      )
      assert.match(error.message, /NOT_AUTHORIZED.*takes no introductions by you for this job/)
      assert.strictEqual((yield* Effect.flip(one.connect(bob.peerId))).code, "INTERNAL")
      assert.strictEqual((yield* Effect.flip(other.connect(alice.peerId))).code, "NOT_PAIRED")
    })
  )

  it.live("name the member that is not there, and hold for all others", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* threePeers
      for (const worker of [one, other]) yield* worker.trustIntroducer(carol.peerId, job)
      const absent = "f".repeat(64)
      if (!isPeerId(absent)) return assert.fail("no peer id")
      const error = yield* Effect.flip(coordinator.introduce({ job, peers: [alice.peerId, absent, bob.peerId] }))
      assert.deepStrictEqual(
        error.refused.map(({ peer }) => peer),
        [absent]
      )
      assert.strictEqual((yield* one.connect(bob.peerId)).peer.peerId, bob.peerId)
    })
  )

  it.live("are for peers that are paired with whoever gives them", () =>
    Effect.gen(function* () {
      const lonely = yield* startNode({ identity: alice })
      const error = yield* Effect.flip(Effect.scoped(lonely.trustIntroducer(carol.peerId, job)))
      assert.strictEqual(error.code, "NOT_PAIRED")
    })
  )
})
