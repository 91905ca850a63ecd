import { readdirSync, readFileSync, statSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Schema } from "effect"
import { hasArgon2 } from "../../src/protocol/DatabaseKey.ts"
import { isPeerId } from "../../src/protocol/Identity.ts"
import * as HashDatabase from "../../src/store/HashDatabase.ts"
import type { PeerList } from "../../src/transport/Handshakes.ts"
import { Note, note, openNotes, rawKey, temporaryFolder, textsOf, withNotes } from "../support/databases.ts"
import { alice, bob } from "../support/vectors.ts"

const permissions = (path: string): string => (statSync(path).mode & 0o777).toString(8)
const passphrase = (text: string): HashDatabase.DatabaseKey => ({ passphrase: Redacted.make(text) })

describe("A HashDatabase", () => {
  it.live("gives back what was put in, in its order, and another opening does too", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      yield* withNotes({ path }, database =>
        Effect.gen(function* () {
          yield* database.insert("a", note("one"))
          yield* database.insert("b", note("two"))
          yield* database.insert("a", note("three"))
          assert.isTrue(yield* database.remove("b"))
          assert.isFalse(yield* database.remove("b"))
          yield* database.change({ put: [["c", note("four")]], remove: ["nobody"] })
          assert.deepStrictEqual(yield* database.get("a"), note("three"))
          assert.isUndefined(yield* database.get("b"))
        })
      )
      const database = yield* openNotes({ path })
      assert.deepStrictEqual(yield* database.entries, [
        ["a", note("three")],
        ["c", note("four")]
      ])
      assert.isTrue(yield* database.has("c"))
      assert.isFalse(yield* database.has("b"))
    })
  )

  it.live(
    "writes nothing readable, for its owner alone, and leaves no other file than the lock's when it is closed",
    () =>
      Effect.gen(function* () {
        const folder = join(yield* temporaryFolder, "home")
        const path = join(folder, "notes.db")
        yield* withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* database.insert("a key", note("a secret"))
            assert.sameMembers(readdirSync(folder), ["notes.db", "notes.db.lock", "notes.db.pid"])
          })
        )
        const bytes = readFileSync(path, "latin1")
        assert.notInclude(bytes, "secret")
        assert.notInclude(bytes, "a key")
        assert.strictEqual(permissions(path), "600")
        assert.strictEqual(permissions(folder), "700")
        assert.sameMembers(readdirSync(folder), ["notes.db", "notes.db.lock"])
      })
  )

  it.live("counts its durable writes, whatever they were, over all openings", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      yield* withNotes({ path }, database =>
        Effect.gen(function* () {
          assert.strictEqual((yield* database.metadata).generation, 1)
          yield* database.change({ put: [1, 2, 3].map(number => [`${number}`, note("")] as const) })
          assert.strictEqual((yield* database.metadata).generation, 2)
          yield* database.compact
          yield* database.change({})
        })
      )
      const { generation, count, kdf, databaseId, tornBytes, fileBytes, logBytes } = yield* (yield* openNotes({ path }))
        .metadata
      assert.deepStrictEqual(
        { generation, count, kdf, tornBytes, logBytes },
        {
          generation: 3,
          count: 3,
          kdf: "raw",
          tornBytes: 0,
          logBytes: 0
        }
      )
      assert.match(databaseId, /^[0-9a-f]{32}$/)
      assert.strictEqual(fileBytes, statSync(path).size)
      assert.deepStrictEqual(yield* HashDatabase.inspect(path), { databaseId, kdf: "raw", generation: 3 })
    })
  )

  it.live(
    "folds a log that is longer than the snapshot, so the file stays within a small multiple of its entries",
    () =>
      Effect.gen(function* () {
        const path = join(yield* temporaryFolder, "notes.db")
        const database = yield* openNotes({ path })
        let longest = 0
        for (let round = 0; round < 40; round++) {
          yield* database.insert("same", note(`${round}`, 60_000))
          longest = Math.max(longest, statSync(path).size)
        }
        assert.isBelow(longest, 500_000)
        assert.isAbove(longest, 256 * 1024)
        assert.deepStrictEqual(yield* textsOf(database), { same: "39" })
        assert.strictEqual((yield* database.metadata).count, 1)
      })
  )

  it.live("takes a batch that is longer than a frame, as one write", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const put = Array.from({ length: 60 }, (_, index) => [String(index), note(`${index}`, 100_000)] as const)
      yield* withNotes({ path }, database => database.change({ put }))
      const { entries, metadata } = (yield* HashDatabase.read({ path, schema: Note, key: rawKey() })) ?? assert.fail()
      assert.strictEqual(metadata.generation, 2)
      assert.deepStrictEqual([...entries], put)
    })
  )

  it.live("refuses what does not fit, and keeps all that it had", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const database = yield* openNotes({ path })
      yield* database.insert("kept", note("kept"))
      const before = readFileSync(path)
      const misfit = { text: "no bytes" } as Note
      const refused = [
        ["VALUE", database.insert("a", misfit)],
        ["LIMIT", database.insert("a", note("", 1024 * 1024))],
        ["LIMIT", database.insert("a".repeat(513), note(""))],
        ["VALUE", database.insert("", note(""))],
        [
          "VALUE",
          database.change({
            put: [
              ["a", note("fits")],
              ["b", misfit]
            ],
            remove: ["kept"]
          })
        ]
      ] as const
      for (const [code, effect] of refused) assert.strictEqual((yield* Effect.flip(effect)).code, code)
      assert.deepStrictEqual(yield* textsOf(database), { kept: "kept" })
      assert.deepStrictEqual(readFileSync(path), before)
    })
  )

  it.live("does not change with a value that its owner changes afterwards", () =>
    Effect.gen(function* () {
      const database = yield* openNotes({ path: join(yield* temporaryFolder, "notes.db") })
      const mine = note("mine")
      yield* database.insert("a", mine)
      mine.bytes.fill(99)
      assert.deepStrictEqual(yield* database.get("a"), note("mine"))
    })
  )

  it.live("does many changes that are asked for at once, one after the other", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const keys = Array.from({ length: 50 }, (_, index) => `${index}`)
      yield* withNotes({ path }, database =>
        Effect.forEach(keys, key => database.insert(key, note(key)), { concurrency: "unbounded" })
      )
      const texts = yield* Effect.flatMap(openNotes({ path }), textsOf)
      assert.deepStrictEqual(texts, Object.fromEntries(keys.map(key => [key, key])))
    })
  )

  it.live("fails every later change once its scope is closed", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const closed = yield* Effect.scoped(openNotes({ path }))
      for (const effect of [closed.insert("a", note("")), closed.compact, closed.reload])
        assert.match((yield* Effect.flip(effect)).message, /it has been closed/)
    })
  )

  it.live("is not made where that is not wished, or where it was seen before and is gone", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      for (const path of [join(folder, "notes.db"), join(folder, "none", "notes.db")])
        assert.strictEqual((yield* Effect.flip(openNotes({ path, ifMissing: "fail" }))).code, "MISSING")
      assert.isEmpty(readdirSync(folder))
      const gone = yield* Effect.flip(openNotes({ path: join(folder, "notes.db"), minGeneration: 3 }))
      assert.strictEqual(gone.code, "ROLLED_BACK")
      assert.notInclude(readdirSync(folder), "notes.db")
    })
  )

  it.live("can be read without its lock while changes are made: what is read is a whole state", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const database = yield* openNotes({ path })
      let writing = true
      const write = Effect.forEach(
        Array.from({ length: 60 }, (_, index) => index),
        // Long enough to be folded several times on the way.
        round => database.change({ put: ["a", "b"].map(key => [key, note(`${round}`, 10_000)] as const) }),
        { discard: true }
      ).pipe(Effect.ensuring(Effect.sync(() => (writing = false))))
      const read = Effect.gen(function* () {
        const seen: Array<number> = []
        while (writing) {
          const found = yield* HashDatabase.read({ path, schema: Note, key: rawKey() })
          const { a, b } = Object.fromEntries(found?.entries ?? [])
          assert.strictEqual(a?.text, b?.text)
          seen.push(Number(a?.text ?? -1))
        }
        return seen
      })
      const [, seen] = yield* Effect.all([write, read], { concurrency: "unbounded" })
      assert.isAbove(new Set(seen).size, 2)
      assert.deepStrictEqual(
        seen,
        seen.toSorted((a, b) => a - b)
      )
    })
  )

  it.live("is a PeerList: whom it has may come in, and nobody else", () =>
    Effect.gen(function* () {
      const database = yield* openNotes({ path: join(yield* temporaryFolder, "peers.db") })
      const list: PeerList = database
      yield* database.insert(alice.peerId, note("Alice"))
      assert.isTrue(isPeerId(alice.peerId) && (yield* list.has(alice.peerId)))
      assert.isFalse(yield* list.has(bob.peerId))
      yield* database.remove(alice.peerId)
      assert.isFalse(yield* list.has(alice.peerId))
    })
  )

  it.live("finds the same file through a link, so its lock cannot be passed by", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const path = join(folder, "notes.db")
      yield* openNotes({ path })
      symlinkSync(path, join(folder, "link.db"))
      assert.strictEqual((yield* Effect.flip(openNotes({ path: join(folder, "link.db") }))).code, "IN_USE")
    })
  )
})

describe("The key of a HashDatabase", () => {
  const kdfs = ["scrypt" as const, ...(hasArgon2() ? ["argon2id" as const] : [])]
  it.live.each(kdfs)("comes from a passphrase by %s: the right one opens, a wrong one is told from damage", kdf =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const made = { passphrase: Redacted.make("Grüße aus Ulm"), kdf }
      yield* withNotes({ path, key: made }, database => database.insert("a", note("A")))
      assert.strictEqual((yield* HashDatabase.inspect(path))?.kdf, kdf)
      // The same text from another keyboard: u and a combining diaeresis.
      const texts = yield* withNotes({ path, key: passphrase("Gru\u0308ße aus Ulm") }, textsOf)
      assert.deepStrictEqual(texts, { a: "A" })
      const wrong = yield* Effect.flip(Effect.scoped(openNotes({ path, key: passphrase("Grüße aus Bonn") })))
      assert.strictEqual(wrong.code, "WRONG_KEY")
      assert.match(wrong.message, /the passphrase is wrong/)
    })
  )

  it.live("of the wrong kind, length or content is refused with a sentence that says which", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const path = join(folder, "raw.db")
      yield* withNotes({ path }, database => database.insert("a", note("A")))
      const before = readFileSync(path)
      const refusal = (key: HashDatabase.DatabaseKey) => Effect.flip(Effect.scoped(openNotes({ path, key })))
      const cases = [
        [rawKey(6), "WRONG_KEY", /the key is not this database's/],
        [passphrase("a"), "KEY_KIND", /made with a key, not with a passphrase/],
        [passphrase(""), "KEY_KIND", /the passphrase is empty/],
        [{ key: Redacted.make(new Uint8Array(31)) }, "KEY_KIND", /31 bytes, it must have 32/]
      ] as const
      for (const [key, code, says] of cases) {
        const error = yield* refusal(key)
        assert.strictEqual(error.code, code)
        assert.match(error.message, says)
      }
      assert.deepStrictEqual(readFileSync(path), before)
    })
  )

  it.live("can be changed: then the old one opens it no more", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      yield* withNotes({ path }, database =>
        Effect.gen(function* () {
          yield* database.insert("a", note("A"))
          yield* database.rekey(rawKey(7))
          yield* database.insert("b", note("B"))
        })
      )
      assert.strictEqual((yield* Effect.flip(Effect.scoped(openNotes({ path })))).code, "WRONG_KEY")
      assert.deepStrictEqual(yield* withNotes({ path, key: rawKey(7) }, textsOf), { a: "A", b: "B" })
    })
  )
})

describe("An archive", () => {
  it.live("is an encrypted copy that never overwrites, and brings its entries back as a newer generation", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const path = join(folder, "notes.db")
      const archive = join(folder, "notes.archive")
      const database = yield* openNotes({ path })
      yield* database.insert("a", note("A"))
      yield* database.archive(archive)
      assert.strictEqual(permissions(archive), "600")
      assert.notInclude(readFileSync(archive, "latin1"), "text")
      yield* database.remove("a")
      yield* database.insert("b", note("B"))
      const { generation } = yield* database.metadata

      assert.strictEqual((yield* Effect.flip(database.archive(archive))).code, "EXISTS")
      yield* database.restore(archive)
      assert.deepStrictEqual(yield* textsOf(database), { a: "A" })
      assert.strictEqual((yield* database.metadata).generation, generation + 1)
      // A database of its own, of the generation that it was written at.
      assert.deepStrictEqual(yield* withNotes({ path: archive }, textsOf), { a: "A" })
      assert.strictEqual((yield* HashDatabase.inspect(archive))?.generation, 2)
    })
  )

  it.live("of another passphrase needs that one, and a restore that fails changes nothing", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const path = join(folder, "notes.db")
      const archive = join(folder, "notes.archive")
      const database = yield* openNotes({ path })
      yield* database.insert("a", note("A"))
      yield* database.archive(archive)
      yield* database.rekey(rawKey(7))
      yield* database.insert("b", note("B"))
      const before = readFileSync(path)
      const refused = [
        ["KEY_KIND", database.restore(archive)],
        ["WRONG_KEY", database.restore(archive, rawKey(8))],
        ["MISSING", database.restore(join(folder, "none"))],
        ["IO", database.archive(join(folder, "none", "archive"))]
      ] as const
      for (const [code, effect] of refused) {
        const error = yield* Effect.flip(effect)
        assert.strictEqual(error.code, code, error.message)
        assert.notInclude(error.message, `${path}:`)
      }
      assert.deepStrictEqual(readFileSync(path), before)
      yield* database.restore(archive, rawKey())
      assert.deepStrictEqual(yield* textsOf(database), { a: "A" })
      assert.deepStrictEqual(yield* withNotes({ path: archive }, textsOf), { a: "A" })
    })
  )
})

describe("A schema", () => {
  it.live("that the values do not have is told, and the file stays as it is", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      yield* withNotes({ path }, database => database.insert("a", note("A")))
      const before = readFileSync(path)
      const other = HashDatabase.make({ path, key: rawKey(), schema: Schema.Struct({ number: Schema.Finite }) })
      assert.strictEqual((yield* Effect.flip(Effect.scoped(other))).code, "VALUE")
      assert.deepStrictEqual(readFileSync(path), before)
    })
  )

  it.live("may hold what JSON cannot: dates, maps and big integers come back as they went", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "values.db")
      const schema = Schema.Struct({ at: Schema.Date, big: Schema.BigInt, bytes: Schema.Uint8Array })
      const value = { at: new Date(0), big: 2n ** 70n, bytes: Uint8Array.of(1, 2) }
      const open = HashDatabase.make({ path, key: rawKey(), schema })
      yield* Effect.scoped(Effect.flatMap(open, database => database.insert("a", value)))
      assert.deepStrictEqual(yield* (yield* open).get("a"), value)
    })
  )
})
