import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Schema } from "effect"
import { exportIdentity } from "../../src/protocol/Identity.ts"
import { openHome, readHome, type HomeOptions } from "../../src/store/Home.ts"
import { StoredPeers, type InviteRecord, type PeerRecord } from "../../src/store/PeerStore.ts"
import { StoreFiles, systemFiles } from "../../src/store/StoreFiles.ts"
import { temporaryFolder } from "../support/databases.ts"
import { alice, bob } from "../support/vectors.ts"

const permissions = (path: string): string => (statSync(path).mode & 0o777).toString(8)
const passphrase = Redacted.make("correct horse")

const bobRecord: PeerRecord = {
  peerId: bob.peerId,
  document: bob.document,
  pairKeys: [{ generation: 1, key: new Uint8Array(32).fill(1), state: "active" }],
  addresses: ["192.0.2.1:7000"],
  minimumVersion: 1,
  lastSeen: 1_790_000_000
}
const key = new Uint8Array(32).fill(2)
const invite: InviteRecord = {
  id: "ab".repeat(16),
  keys: { tag: key, mac1: key, retry: key, abort: key, psk: key },
  expiresAt: 1_790_000_600
}

/** Opens a home, and closes it. */
const visit = (folder: string, options: HomeOptions = {}) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { identity, created, isProtected, peers } = yield* openHome(folder, options)
      return { peerId: identity.peerId, created, isProtected, stored: yield* peers.load }
    })
  )

/** A home as it was before it was encrypted. */
const plainHome = (folder: string): void => {
  writeFileSync(join(folder, "identity.json"), JSON.stringify({ format: 1, ...exportIdentity(alice) }))
  const codec = Schema.toCodecJson(StoredPeers)
  const peers = Schema.encodeSync(codec)({ format: 1, peers: [bobRecord], invites: [invite] })
  writeFileSync(join(folder, "peers.json"), JSON.stringify(peers))
}

describe("A home", () => {
  it.live("is made at its first use, and knows its identity and its peers afterwards", () =>
    Effect.gen(function* () {
      const folder = join(yield* temporaryFolder, "home")
      const first = yield* Effect.scoped(
        Effect.gen(function* () {
          const home = yield* openHome(folder)
          yield* home.peers.apply({ putPeers: [bobRecord], putInvites: [invite] })
          yield* home.peers.apply({ removeInvites: [invite.id] })
          return home
        })
      )
      assert.isTrue(first.created)
      assert.isFalse(first.isProtected)
      assert.deepStrictEqual(yield* visit(folder), {
        peerId: first.identity.peerId,
        created: false,
        isProtected: false,
        stored: { format: 1, peers: [bobRecord], invites: [] }
      })
      assert.strictEqual(permissions(folder), "700")
      for (const name of ["home.db", "home.key", "home.db.lock"])
        assert.strictEqual(permissions(join(folder, name)), "600")
      assert.lengthOf(readdirSync(folder), 3)
    })
  )

  it.live("can be read while another process has it open, but not opened a second time", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      assert.isUndefined(yield* readHome(folder))
      const home = yield* openHome(folder)
      yield* home.peers.apply({ putPeers: [bobRecord] })
      const read = yield* readHome(folder)
      assert.strictEqual(read?.identity.peerId, home.identity.peerId)
      assert.deepStrictEqual(read?.peers.peers, [bobRecord])
      const error = yield* Effect.flip(openHome(folder))
      assert.deepStrictEqual([error.code, error.pid], ["IN_USE", process.pid])
    })
  )

  it.live("with a passphrase has no key file, opens by it alone, and asks for it only then", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const { peerId, isProtected } = yield* visit(folder, { passphrase })
      assert.isTrue(isProtected)
      assert.isFalse(existsSync(join(folder, "home.key")))
      const without = yield* Effect.flip(visit(folder))
      assert.strictEqual(without.code, "KEY_KIND")
      assert.match(without.message, /sealed under a passphrase, and none was given/)
      assert.strictEqual((yield* Effect.flip(visit(folder, { passphrase: Redacted.make("wrong") }))).code, "WRONG_KEY")
      let asked = 0
      const ask = Effect.sync(() => {
        asked++
        return passphrase
      })
      assert.strictEqual((yield* visit(folder, { passphrase: ask })).peerId, peerId)
      assert.strictEqual((yield* readHome(folder, { passphrase }))?.identity.peerId, peerId)
      assert.strictEqual(asked, 1)
      yield* visit(join(folder, "other"), { passphrase: ask })
      assert.strictEqual(asked, 1)
    })
  )

  it.live(
    "without a passphrase refuses one, so that nobody believes it protected, and takes it where that is asked for",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const { peerId } = yield* visit(folder)
        const error = yield* Effect.flip(visit(folder, { passphrase }))
        assert.strictEqual(error.code, "KEY_KIND")
        assert.match(error.message, /has no passphrase, but one was given/)
        const taken = yield* visit(folder, { passphrase, protect: true })
        assert.deepStrictEqual([taken.peerId, taken.isProtected], [peerId, true])
        assert.isFalse(existsSync(join(folder, "home.key")))
        assert.strictEqual((yield* visit(folder, { passphrase, protect: true })).peerId, peerId)
      })
  )

  it.live("whose key file is gone or damaged says so, and is not made anew", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      yield* visit(folder)
      const before = readFileSync(join(folder, "home.db"))
      const keyPath = join(folder, "home.key")
      for (const damaged of ["", "abcd\n", "z".repeat(64)]) {
        writeFileSync(keyPath, damaged)
        const error = yield* Effect.flip(visit(folder))
        assert.deepStrictEqual([error.code, error.path], ["DAMAGED", keyPath], damaged)
      }
      writeFileSync(keyPath, "00".repeat(32))
      assert.strictEqual((yield* Effect.flip(visit(folder))).code, "WRONG_KEY")
      rmSync(keyPath)
      const error = yield* Effect.flip(visit(folder))
      assert.deepStrictEqual([error.code, error.path], ["MISSING", keyPath])
      assert.deepStrictEqual(readFileSync(join(folder, "home.db")), before)
    })
  )

  it.live("whose key file was written and no database, after a crash, is made with that key", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      writeFileSync(join(folder, "home.key"), `${"11".repeat(32)}\n`)
      yield* visit(folder)
      assert.strictEqual(readFileSync(join(folder, "home.key"), "utf8"), `${"11".repeat(32)}\n`)
      yield* visit(folder)
    })
  )
})

describe("A home in clear, of an earlier version", () => {
  it.live("is taken over once: same identity, same peers, and nothing in clear is left", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      plainHome(folder)
      assert.strictEqual((yield* readHome(folder))?.identity.peerId, alice.peerId)
      assert.lengthOf(readdirSync(folder), 2)
      const stored: StoredPeers = { format: 1, peers: [bobRecord], invites: [invite] }
      assert.deepStrictEqual(yield* visit(folder), { peerId: alice.peerId, created: false, isProtected: false, stored })
      assert.sameMembers(readdirSync(folder), ["home.db", "home.db.lock", "home.key"])
      assert.deepStrictEqual((yield* visit(folder)).stored, stored)
    })
  )

  it.live("is still there, or has been taken over, wherever that was cut off", () =>
    Effect.gen(function* () {
      let ended = false
      let steps = 0
      for (; !ended; steps++) {
        const folder = yield* temporaryFolder
        plainHome(folder)
        const result = yield* Effect.result(
          Effect.provideService(visit(folder), StoreFiles, stoppingAt(steps, systemFiles))
        )
        ended = result._tag === "Success"
        const again = yield* visit(folder)
        assert.strictEqual(again.peerId, alice.peerId)
        assert.deepStrictEqual(again.stored.peers, [bobRecord])
        assert.isFalse(existsSync(join(folder, "identity.json")))
      }
      assert.isAbove(steps, 10)
    })
  )

  it.live("that is damaged is told, and stays as it is", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      plainHome(folder)
      writeFileSync(join(folder, "peers.json"), '{"format":1,"peers":[')
      const error = yield* Effect.flip(visit(folder))
      assert.deepStrictEqual([error.code, error.path], ["DAMAGED", join(folder, "peers.json")])
      assert.isTrue(existsSync(join(folder, "identity.json")))
    })
  )

  it.live("of another identity than the home's is neither used nor removed", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const { peerId } = yield* visit(folder)
      plainHome(folder)
      const again = yield* visit(folder)
      assert.strictEqual(again.peerId, peerId)
      assert.deepStrictEqual(again.stored.peers, [])
      assert.isTrue(existsSync(join(folder, "identity.json")))
    })
  )
})

/** The real file system until the given call; that one fails and all after it. */
const stoppingAt = (steps: number, files: typeof systemFiles): typeof systemFiles => {
  let left = steps
  const step = <Args extends ReadonlyArray<unknown>, A>(call: (...args: Args) => Promise<A>) => {
    return (...args: Args): Promise<A> =>
      left-- > 0 ? call(...args) : Promise.reject(new Error("the machine has stopped"))
  }
  return {
    ...files,
    open: step(async (path, use) => {
      const file = await files.open(path, use)
      return file === undefined
        ? undefined
        : { ...file, write: step(file.write), sync: step(file.sync), truncate: step(file.truncate) }
    }),
    makeFolder: step(files.makeFolder),
    rename: step(files.rename),
    remove: step(files.remove),
    syncFolder: step(files.syncFolder)
  }
}
