import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted } from "effect"
import { PeerStore } from "../../src/store/PeerStore.ts"
import { addressOf, keptStore, loopback, pair, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-test-"))),
  path => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)
const key = { key: Redacted.make(new Uint8Array(32).fill(5)) }
const permissions = (path: string): string => (statSync(path).mode & 0o777).toString(8)

describe("The registry", () => {
  it.live("loses no peer when its actor crashes: it reads them again and goes on", () =>
    Effect.gen(function* () {
      let dies = false
      const store = keptStore(() =>
        Effect.suspend(() => {
          if (!dies) return Effect.void
          dies = false
          return Effect.die(new Error("the disk is gone for a moment"))
        })
      )
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const guest = yield* startNode({ identity: bob })
      yield* pair(host, guest)
      const session = yield* guest.connect(alice.peerId)
      dies = true
      const crash = yield* Effect.flip(host.invite({ name: "lost" }))
      assert.match(crash.message, /crashed/)
      assert.deepStrictEqual(
        (yield* host.registry.ask("List", undefined)).map(({ peerId }) => peerId),
        [bob.peerId]
      )
      assert.lengthOf(
        store.state.invites.filter(({ usedAt }) => usedAt === undefined),
        0
      )
      // Sessions do not hang on the registry; a new one finds the keys.
      assert.isUndefined(session.ended)
      yield* session.close()
      assert.strictEqual((yield* guest.connect(alice.peerId)).peer.peerId, alice.peerId)
      assert.isNotEmpty((yield* host.invite({ name: "next" })).token)
    })
  )

  it.live("refuses to start from a damaged file, names it, says what to do, and leaves it as it is", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "peers.db")
      const database = PeerStore.database({ path, key })
      yield* Effect.scoped(Effect.asVoid(startNode({ identity: alice }, database)))
      const damaged = readFileSync(path).fill(7, 20, 30)
      writeFileSync(path, damaged)
      const error = yield* Effect.flip(startNode({ identity: alice, listen: loopback }, database))
      assert.include(error.message, path)
      assert.match(error.message, /damaged; restore an archive of it, or move it away/)
      assert.deepStrictEqual(readFileSync(path), damaged)
    })
  )

  it.live(
    "starts with thousands of peers, of which it reads nothing before they come, and finds the one that comes",
    () =>
      Effect.gen(function* () {
        const path = join(yield* folder, "peers.db")
        const database = PeerStore.database({ path, key })
        const guest = yield* startNode({ identity: bob })
        yield* Effect.scoped(
          Effect.flatMap(startNode({ identity: alice, listen: loopback }, database), host => pair(host, guest))
        )
        const store = Effect.map(Layer.build(database), Context.get(PeerStore))
        const putPeers = Array.from({ length: 3_000 }, (_, index) => ({
          peerId: index.toString(16).padStart(64, "0"),
          document: new Uint8Array(849).fill(index),
          pairKeys: [{ generation: 1, key: new Uint8Array(32).fill(index), state: "active" as const }],
          addresses: [],
          minimumVersion: 1,
          lastSeen: 0
        }))
        yield* Effect.scoped(Effect.flatMap(store, ({ apply }) => apply({ putPeers })))
        const host = yield* startNode({ identity: alice, listen: loopback }, database)
        assert.lengthOf(yield* host.registry.ask("List", undefined), 3_001)
        assert.strictEqual((yield* guest.connect(alice.peerId, [addressOf(host)])).peer.peerId, alice.peerId)
      })
  )

  it.live("keeps what it was told in a file of its owner, from which another start knows the peers", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "home", "peers.db")
      const database = PeerStore.database({ path, key })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const host = yield* startNode({ identity: alice, listen: loopback })
          yield* pair(host, yield* startNode({ identity: bob }, database))
        })
      )
      assert.strictEqual(permissions(path), "600")
      assert.strictEqual(permissions(join(path, "..")), "700")
      const again = yield* startNode({ identity: bob }, database)
      const peers = yield* again.registry.ask("List", undefined)
      assert.deepStrictEqual(
        peers.map(({ peerId, pairKeys }) => [peerId, pairKeys.map(({ state }) => state)]),
        [[alice.peerId, ["active"]]]
      )
    })
  )
})
