import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { noPeers, PeerStore, type StoredPeers } from "../../src/store/PeerStore.ts"
import { keptStore, loopback, pair, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-test-"))),
  path => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)
const fileStore = (path: string) => Effect.map(Layer.build(PeerStore.file(path)), Context.get(PeerStore))
const permissions = (path: string): string => (statSync(path).mode & 0o777).toString(8)

const manyPeers = (count: number): StoredPeers => ({
  ...noPeers,
  peers: Array.from({ length: count }, (_, index) => ({
    peerId: index.toString(16).padStart(64, "0"),
    document: new Uint8Array(849).fill(index),
    pairKeys: [{ generation: 1, key: new Uint8Array(32).fill(index), state: "active" as const }],
    addresses: ["127.0.0.1:7000"],
    minimumVersion: 1,
    lastSeen: index
  }))
})

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
      assert.lengthOf(store.state.invites, 0)
      // Sessions do not hang on the registry; a new one finds the keys.
      assert.isUndefined(session.ended)
      yield* session.close()
      assert.strictEqual((yield* guest.connect(alice.peerId)).peer.peerId, alice.peerId)
      assert.isNotEmpty((yield* host.invite({ name: "next" })).token)
    })
  )

  it.live("refuses to start from a damaged file, names it, says what to do, and leaves it as it is", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "peers.json")
      const damaged = '{"format":1,"peers":[{"peerId":"'
      writeFileSync(path, damaged)
      const error = yield* Effect.flip(startNode({ identity: alice, listen: loopback }, PeerStore.file(path)))
      assert.include(error.message, path)
      assert.match(error.message, /damaged.*restore a copy or move it away/)
      assert.strictEqual(readFileSync(path, "utf8"), damaged)
    })
  )

  it.live("keeps what it was told in a file of its owner, from which another start knows the peers", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "home", "peers.json")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const host = yield* startNode({ identity: alice, listen: loopback })
          yield* pair(host, yield* startNode({ identity: bob }, PeerStore.file(path)))
        })
      )
      assert.strictEqual(permissions(path), "600")
      assert.strictEqual(permissions(join(path, "..")), "700")
      const again = yield* startNode({ identity: bob }, PeerStore.file(path))
      const peers = yield* again.registry.ask("List", undefined)
      assert.deepStrictEqual(
        peers.map(({ peerId, pairKeys }) => [peerId, pairKeys.map(({ state }) => state)]),
        [[alice.peerId, ["active"]]]
      )
    })
  )
})

describe("The file of peers", () => {
  it.live("is replaced as a whole: who reads while it is written finds one state or the next", () =>
    Effect.gen(function* () {
      const home = yield* folder
      const path = join(home, "peers.json")
      const store = yield* fileStore(path)
      const reader = yield* fileStore(path)
      let writing = true
      const write = Effect.forEach(
        Array.from({ length: 40 }, (_, index) => index),
        count => store.save(manyPeers(count)),
        {
          discard: true
        }
      ).pipe(Effect.ensuring(Effect.sync(() => (writing = false))))
      const read = Effect.gen(function* () {
        const seen: Array<number> = []
        while (writing) seen.push((yield* reader.load).peers.length)
        return seen
      })
      const [, seen] = yield* Effect.all([write, read], { concurrency: "unbounded" })
      assert.isAbove(new Set(seen).size, 2)
      assert.deepStrictEqual(
        seen,
        seen.toSorted((a, b) => a - b)
      )
      assert.deepStrictEqual(yield* reader.load, manyPeers(39))
      assert.deepStrictEqual(readdirSync(home), ["peers.json"])
      assert.strictEqual(permissions(path), "600")
    })
  )

  it.live("stays as it was where it cannot be written, and no other file is left", () =>
    Effect.gen(function* () {
      const home = yield* folder
      const path = join(home, "file", "peers.json")
      writeFileSync(join(home, "file"), "not a folder")
      const error = yield* Effect.flip((yield* fileStore(path)).save(noPeers))
      assert.strictEqual(error.operation, "write")
      assert.include(error.message, path)
      assert.deepStrictEqual(readdirSync(home), ["file"])
    })
  )
})
