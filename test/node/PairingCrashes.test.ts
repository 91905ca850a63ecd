import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { PeerChange, StoredPeers } from "../../src/store/PeerStore.ts"
import { mortalPeer, type Crash } from "../support/crashes.ts"
import { loopback, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const keysIn = (state: StoredPeers, of: string) =>
  (state.peers.find(({ peerId }) => peerId === of)?.pairKeys ?? []).map(
    ({ state, key }) => `${state} ${Buffer.from(key).toString("hex")}`
  )

const hasKey = (state: "active" | "pending") => (change: PeerChange) =>
  (change.putPeers ?? []).some(({ pairKeys }) => pairKeys.some(key => key.state === state))

/** The durable steps of pairing, in their order. */
const steps: ReadonlyArray<{ readonly name: string; readonly who: "host" | "guest"; readonly at: Crash["at"] }> = [
  {
    name: "the host's note that the token is claimed",
    who: "host",
    at: change =>
      (change.putInvites ?? []).some(({ claimedBy, usedAt }) => claimedBy !== undefined && usedAt === undefined)
  },
  { name: "the guest's pending key", who: "guest", at: hasKey("pending") },
  { name: "the host's active key", who: "host", at: hasKey("active") },
  { name: "the guest's active key", who: "guest", at: hasKey("active") }
]

const cases = steps.flatMap(step => (["before", "after"] as const).map(when => ({ ...step, when })))

describe("14 a process that ends while it pairs", () => {
  it.live.each(cases)(
    "$when $name is durable leaves both sides able to finish with the same token",
    ({ who, at, when }) =>
      Effect.gen(function* () {
        const peers = { host: mortalPeer({ identity: alice, listen: loopback }), guest: mortalPeer({ identity: bob }) }
        const host = yield* peers.host.start
        const guest = yield* peers.guest.start
        const { token } = yield* host.invite({ name: "cut off" })
        const ended = yield* Effect.forkChild(peers[who].crashAt({ at, when }))
        const attempt = yield* Effect.forkChild(Effect.exit(guest.join(token)))
        yield* Fiber.join(ended)
        // The side that lives on is not left waiting.
        if (who === "host") assert.strictEqual((yield* Fiber.join(attempt))._tag, "Failure")
        else yield* Fiber.interrupt(attempt)

        const [hostNow, guestNow] = [
          who === "host" ? yield* peers.host.start : host,
          who === "guest" ? yield* peers.guest.start : guest
        ]
        const session = yield* guestNow.join(token)
        assert.strictEqual(session.peer.peerId, alice.peerId)
        const [key, ...others] = keysIn(peers.host.state, bob.peerId)
        assert.match(key ?? "", /^active /)
        assert.deepStrictEqual(others, [])
        assert.deepStrictEqual(keysIn(peers.guest.state, alice.peerId), [key])
        assert.isDefined(peers.host.state.invites[0]?.usedAt)
        yield* session.close()
        assert.strictEqual((yield* guestNow.connect(alice.peerId)).peer.peerId, alice.peerId)
        yield* until(() => hostNow.session(bob.peerId))
      })
  )

  it.live("after the host has the key finishes without the token too: by its pending key", () =>
    Effect.gen(function* () {
      const peers = { host: mortalPeer({ identity: alice, listen: loopback }), guest: mortalPeer({ identity: bob }) }
      const host = yield* peers.host.start
      const guest = yield* peers.guest.start
      const { token } = yield* host.invite({ name: "cut off" })
      const ended = yield* Effect.forkChild(peers.host.crashAt({ at: hasKey("active"), when: "after" }))
      assert.strictEqual((yield* Effect.exit(guest.join(token)))._tag, "Failure")
      yield* Fiber.join(ended)
      assert.match(keysIn(peers.guest.state, alice.peerId).join(), /^pending /)
      yield* peers.host.start
      assert.strictEqual((yield* guest.connect(alice.peerId)).peer.peerId, alice.peerId)
      assert.deepStrictEqual(keysIn(peers.guest.state, alice.peerId), keysIn(peers.host.state, bob.peerId))
    })
  )

  it.live("while it pairs again keeps the old key until the new one works", () =>
    Effect.gen(function* () {
      const peers = { host: mortalPeer({ identity: alice, listen: loopback }), guest: mortalPeer({ identity: bob }) }
      const host = yield* peers.host.start
      const guest = yield* peers.guest.start
      yield* guest.join((yield* host.invite({ name: "first" })).token)
      const before = keysIn(peers.guest.state, alice.peerId)
      // The host forgets the guest, as after a restored backup, and invites again; the guest ends before the host has its new key.
      yield* host.registry.ask("Remove", { peerId: bob.peerId })
      yield* guest.session(alice.peerId)?.close() ?? Effect.void
      const { token } = yield* host.invite({ name: "again" })
      const ended = yield* Effect.forkChild(peers.guest.crashAt({ at: hasKey("pending"), when: "after" }))
      yield* Effect.forkChild(Effect.exit(guest.join(token)))
      yield* Fiber.join(ended)
      const between = keysIn(peers.guest.state, alice.peerId)
      assert.deepStrictEqual([between.length, between[0]], [2, before[0]])
      const guestNow = yield* peers.guest.start
      yield* guestNow.join(token)
      assert.deepStrictEqual(keysIn(peers.guest.state, alice.peerId), keysIn(peers.host.state, bob.peerId))
      assert.notDeepEqual(keysIn(peers.guest.state, alice.peerId), before)
    })
  )
})
