import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { PairRotate } from "../../src/node/AdminKinds.ts"
import type { PeerNode } from "../../src/node/PeerNode.ts"
import type { LocalIdentity } from "../../src/protocol/Identity.ts"
import type { PeerChange, StoredPeers } from "../../src/store/PeerStore.ts"
import { bareSession } from "../support/barePeer.ts"
import { mortalPeer, type Crash } from "../support/crashes.ts"
import { addressOf, keptStore, loopback, pair, pairedWith, RawPeer, startNode, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const [small, large] = Buffer.compare(alice.id, bob.id) < 0 ? [alice, bob] : [bob, alice]

const keysIn = (state: StoredPeers, of: LocalIdentity) =>
  (state.peers.find(({ peerId }) => peerId === of.peerId)?.pairKeys ?? []).map(
    ({ generation, state, key }) => `${generation} ${state} ${Buffer.from(key).toString("hex").slice(0, 8)}`
  )
const generationsIn = (state: StoredPeers, of: LocalIdentity) =>
  keysIn(state, of).map(text => text.split(" ", 2).join(" "))

type Node = PeerNode["Service"]
type Kept = { readonly state: StoredPeers }

/** Each has said to the other where it can be dialled. */
const bothKnow = (one: Kept, other: Kept) =>
  until(() =>
    [one, other].every(({ state }) => state.peers.some(peer => peer.addresses.length > 0)) ? true : undefined
  )

const sameKeys = (ofSmall: Kept, ofLarge: Kept) =>
  until(() => {
    const keys = keysIn(ofSmall.state, large)
    return keys.join() === keysIn(ofLarge.state, small).join() ? keys : undefined
  })

/** A new session, dialled by `from`. */
const meetAgain = (from: Node, to: Node) =>
  Effect.gen(function* () {
    yield* from.session(to.identity.peerId)?.close() ?? Effect.void
    yield* until(() => (to.session(from.identity.peerId) === undefined ? true : undefined))
    const session = yield* from.connect(to.identity.peerId)
    yield* until(() => to.session(from.identity.peerId))
    return session
  })

const pairOfNodes = (options: { readonly pairKeyAgeMs?: number } = {}) =>
  Effect.gen(function* () {
    const [smallStore, largeStore] = [keptStore(), keptStore()]
    const one = yield* startNode({ identity: small, listen: loopback, ...options }, smallStore.layer)
    const other = yield* startNode({ identity: large, listen: loopback, ...options }, largeStore.layer)
    yield* pair(one, other)
    yield* bothKnow(smallStore, largeStore)
    return { one, other, smallStore, largeStore }
  })

describe("Rotation of the pair key (§2.6)", () => {
  it.live.each(["smaller", "larger"])(
    "asked for at the peer with the %s id gives both the next generation, and the old one goes with the first session under the new",
    asked =>
      Effect.gen(function* () {
        const { one, other, smallStore, largeStore } = yield* pairOfNodes()
        const session = one.session(large.peerId)
        const old = pairedWith(smallStore.state, small, large)
        const rotated = asked === "smaller" ? one.rotate(large.peerId) : other.rotate(small.peerId)
        assert.strictEqual(yield* rotated, 2)
        for (const [store, of] of [
          [smallStore, large],
          [largeStore, small]
        ] as const)
          assert.deepStrictEqual(generationsIn(store.state, of), ["1 active", "2 pending"])
        assert.deepStrictEqual(keysIn(smallStore.state, large), keysIn(largeStore.state, small))
        // The session in which it happened goes on.
        assert.strictEqual(one.session(large.peerId), session)
        assert.isUndefined(session?.ended)

        yield* meetAgain(one, other)
        yield* sameKeys(smallStore, largeStore)
        assert.deepStrictEqual(generationsIn(smallStore.state, large), ["2 active"])
        const withOld = yield* Effect.promise(() =>
          RawPeer.dial(addressOf(other), small, old).then(
            () => "let in",
            () => "silence"
          )
        )
        assert.strictEqual(withOld, "silence")
        assert.strictEqual(yield* one.rotate(large.peerId), 3)
      })
  )

  it.live("uses the old key as long as the other side has not taken the new one", () =>
    Effect.gen(function* () {
      const { one, other, smallStore, largeStore } = yield* pairOfNodes()
      yield* one.registry.ask("PutNextKey", { peerId: large.peerId, generation: 2, key: new Uint8Array(32) })
      assert.deepStrictEqual(generationsIn(smallStore.state, large), ["1 active", "2 pending"])
      yield* meetAgain(one, other)
      yield* meetAgain(other, one)
      assert.deepStrictEqual(generationsIn(smallStore.state, large), ["1 active", "2 pending"])
      assert.deepStrictEqual(generationsIn(largeStore.state, small), ["1 active"])
      // The next rotation is of the same generation, with a key of its own session.
      assert.strictEqual(yield* one.rotate(large.peerId), 2)
      assert.deepStrictEqual(keysIn(smallStore.state, large), keysIn(largeStore.state, small))
    })
  )

  it.live("is refused for another generation than the next, and from the peer with the larger id", () =>
    Effect.gen(function* () {
      const { one, other, smallStore, largeStore } = yield* pairOfNodes()
      const asSmall = yield* bareSession(addressOf(other), small, pairedWith(smallStore.state, small, large))
      for (const generation of [1, 3, 1_000_000]) {
        const refused = yield* Effect.flip(asSmall.admin.request(PairRotate, { generation }, 5_000))
        assert.match(refused.message, new RegExp(`generation ${generation} where 2 is next`))
      }
      const begun = yield* Effect.flip(asSmall.admin.request(PairRotate, { generation: 0 }, 5_000))
      assert.match(begun.message, /the peer with the smaller id begins/)
      const asLarge = yield* bareSession(addressOf(one), large, pairedWith(largeStore.state, large, small))
      const proposed = yield* Effect.flip(asLarge.admin.request(PairRotate, { generation: 2 }, 5_000))
      assert.match(proposed.message, /the peer with the smaller id begins/)
      for (const [store, of] of [
        [smallStore, large],
        [largeStore, small]
      ] as const)
        assert.deepStrictEqual(generationsIn(store.state, of), ["1 active"])
    })
  )

  it.live("that the other side refuses leaves no pending key behind", () =>
    Effect.gen(function* () {
      const { one, other, smallStore, largeStore } = yield* pairOfNodes()
      // The other side is a generation ahead, as after a restored backup of this one.
      yield* other.registry.ask("PutNextKey", { peerId: small.peerId, generation: 7, key: new Uint8Array(32) })
      const [, ahead] = largeStore.state.peers[0]?.pairKeys ?? []
      assert.strictEqual(ahead?.generation, 7)
      yield* other.registry.ask("PutPairKey", {
        document: small.document,
        generation: 7,
        key: new Uint8Array(32),
        state: "active",
        addresses: []
      })
      const error = yield* Effect.flip(one.rotate(large.peerId))
      assert.match(error.message, /REFUSED.*generation 2 where 8 is next/)
      assert.deepStrictEqual(generationsIn(smallStore.state, large), ["1 active"])
    })
  )

  it.live("happens by itself when the key is of age", () =>
    Effect.gen(function* () {
      const { smallStore, largeStore } = yield* pairOfNodes({ pairKeyAgeMs: 0 })
      yield* until(() => (generationsIn(largeStore.state, small).includes("2 pending") ? true : undefined))
      assert.include(generationsIn(smallStore.state, large), "2 pending")
    })
  )

  it.live("is for paired peers only", () =>
    Effect.gen(function* () {
      const { one } = yield* pairOfNodes()
      assert.strictEqual((yield* Effect.flip(one.rotate(small.peerId))).code, "NOT_PAIRED")
    })
  )
})

const newest = (state: "active" | "pending") => (change: PeerChange) =>
  (change.putPeers ?? []).some(({ pairKeys }) => pairKeys.some(key => key.generation === 2 && key.state === state))

/** The durable steps of a rotation and of the session after it. */
const cases = (["small", "large"] as const).flatMap(who =>
  (["pending", "active"] as const).flatMap(state =>
    (["before", "after"] as const).map(when => ({ who, state, when, at: newest(state) }))
  )
)

describe("A process that ends while it rotates", () => {
  it.live.each(cases)(
    "$when the $state key of the peer with the $who id is durable, leaves a key that both have",
    ({ who, at, when }) =>
      Effect.gen(function* () {
        const peers = {
          small: mortalPeer({ identity: small, listen: loopback }),
          large: mortalPeer({ identity: large, listen: loopback })
        }
        const one = yield* peers.small.start
        const other = yield* peers.large.start
        yield* pair(one, other)
        yield* bothKnow(peers.small, peers.large)
        const plan: Crash = { at, when }
        const ended = yield* Effect.forkChild(peers[who].crashAt(plan))
        const attempt = Effect.andThen(Effect.exit(one.rotate(large.peerId)), Effect.exit(meetAgain(one, other)))
        const trying = yield* Effect.forkChild(attempt)
        yield* Fiber.join(ended)
        yield* Fiber.interrupt(trying)
        const nodes = {
          small: who === "small" ? yield* peers.small.start : one,
          large: who === "large" ? yield* peers.large.start : other
        }
        // Whoever dials, there is a key that works; and the next rotation goes through.
        yield* nodes.large.connect(small.peerId)
        yield* until(() => nodes.small.session(large.peerId))
        yield* meetAgain(nodes.small, nodes.large)
        yield* nodes.small.rotate(large.peerId)
        yield* meetAgain(nodes.large, nodes.small)
        yield* meetAgain(nodes.small, nodes.large)
        assert.lengthOf(keysIn(peers.small.state, large), 1)
        assert.deepStrictEqual(keysIn(peers.small.state, large), keysIn(peers.large.state, small))
      })
  )
})
