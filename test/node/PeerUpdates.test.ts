import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { PeerUpdate } from "../../src/node/AdminKinds.ts"
import { maxAddressesPeer } from "../../src/node/PeerRegistry.ts"
import { formatAddress } from "../../src/transport/Network.ts"
import { bareSession } from "../support/barePeer.ts"
import { addressOf, keptStore, loopback, pair, pairedWith, startNode, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const addressesIn = (store: ReturnType<typeof keptStore>): ReadonlyArray<string> =>
  store.state.peers[0]?.addresses ?? []
const known = (store: ReturnType<typeof keptStore>) =>
  until(() => (addressesIn(store).length > 0 ? addressesIn(store) : undefined))

describe("The addresses of a peer (§2.6, PEER_UPDATE)", () => {
  it.live("are learned from a peer that has dialled, so that it can be dialled back", () =>
    Effect.gen(function* () {
      const store = keptStore()
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const guest = yield* startNode({ identity: bob, listen: loopback })
      yield* pair(host, guest)
      assert.deepStrictEqual(yield* known(store), [addressOf(guest)])
      yield* host.session(bob.peerId)?.close() ?? Effect.void
      const back = yield* host.connect(bob.peerId)
      assert.strictEqual(back.role, "initiator")
    })
  )

  it.live("of a listener on all interfaces begin with the host as which the peer is seen", () =>
    Effect.gen(function* () {
      const store = keptStore()
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const guest = yield* startNode({ identity: bob, listen: { host: "0.0.0.0", port: 0 } })
      yield* pair(host, guest)
      const [first, ...others] = yield* known(store)
      const port = guest.address?.port ?? 0
      assert.strictEqual(first, formatAddress({ host: "127.0.0.1", port }))
      for (const other of others) assert.isTrue(other.endsWith(`:${port}`) && !other.startsWith("0.0.0.0"))
    })
  )

  it.live("follow a peer that has moved, once it comes again", () =>
    Effect.gen(function* () {
      const [store, guestStore] = [keptStore(), keptStore()]
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const before = yield* Effect.scoped(
        Effect.gen(function* () {
          const guest = yield* startNode({ identity: bob, listen: loopback }, guestStore.layer)
          yield* pair(host, guest)
          yield* known(store)
          return addressOf(guest)
        })
      )
      const moved = yield* startNode({ identity: bob, listen: loopback }, guestStore.layer)
      yield* moved.connect(alice.peerId)
      yield* until(() => (addressesIn(store).includes(addressOf(moved)) ? true : undefined))
      assert.deepStrictEqual(addressesIn(store), [addressOf(moved), before])
    })
  )

  it.live("that are names stay when all others have changed", () =>
    Effect.gen(function* () {
      const [store, hostStore] = [keptStore(), keptStore()]
      const host = yield* startNode({ identity: alice, listen: loopback }, hostStore.layer)
      const guest = yield* startNode({ identity: bob, listen: loopback }, store.layer)
      const name = `localhost:${host.address?.port}`
      const { token } = yield* host.invite({ name: "named", addresses: ["127.0.0.1:1", name] })
      yield* guest.join(token)
      for (const round of [1, 2, 3]) {
        const addresses = Array.from({ length: 8 }, (_, index) => `192.0.2.${round}:${index + 1}`)
        yield* guest.registry.ask("Announced", { peerId: alice.peerId, addresses })
      }
      assert.deepStrictEqual(
        [addressesIn(store).length, addressesIn(store)[0], addressesIn(store)[5]],
        [8, "192.0.2.3:1", name]
      )
    })
  )

  it.live("are at most eight of a peer, and no nonsense", () =>
    Effect.gen(function* () {
      const [store, guestStore] = [keptStore(), keptStore()]
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* pair(host, yield* startNode({ identity: bob }, guestStore.layer))
        })
      )
      const { admin } = yield* bareSession(addressOf(host), bob, pairedWith(guestStore.state, bob, alice))
      const tell = (addresses: ReadonlyArray<string>) =>
        Effect.exit(admin.request(PeerUpdate, { addresses, seen: "nowhere" }, 5_000))
      const nonsense = ["", "nowhere", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:70000", "[::1", "a b:1"]
      assert.strictEqual((yield* tell([...nonsense, "192.0.2.1:7"]))._tag, "Success")
      assert.deepStrictEqual(addressesIn(store), ["192.0.2.1:7"])
      const many = Array.from({ length: 16 }, (_, index) => `[2001:db8::${index + 1}]:7`)
      assert.strictEqual((yield* tell(many))._tag, "Success")
      assert.deepStrictEqual(addressesIn(store), [...many.slice(0, 5), "192.0.2.1:7"])
      assert.isAtMost(addressesIn(store).length, maxAddressesPeer)
      assert.strictEqual((yield* tell([...many, "192.0.2.2:7"]))._tag, "Failure")
      assert.strictEqual((yield* tell(["x".repeat(301)]))._tag, "Failure")
    })
  )
})
