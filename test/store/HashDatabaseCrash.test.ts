import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type * as HashDatabase from "../../src/store/HashDatabase.ts"
import type { StoreError } from "../../src/store/StoreError.ts"
import { note, onDisk, quietly, rawKey, temporaryFolder, textsOf, withNotes, type Note } from "../support/databases.ts"
import { MemoryDisk, type DiskImage } from "../support/MemoryDisk.ts"

type Texts = Readonly<Record<string, string>>
type Use = (database: HashDatabase.HashDatabase<Note>) => Effect.Effect<unknown, StoreError>

const many = Array.from({ length: 70 }, (_, index) => [`many ${index}`, note("x", 100_000)] as const)

/** A log of over 256 KiB, so that the next change folds it. */
const longLog: Use = database =>
  Effect.forEach(["1", "2", "3"], text => database.insert("long", note(text, 100_000)), { discard: true })

const operations: ReadonlyArray<{
  readonly name: string
  readonly before?: Use
  readonly run: Use
  readonly after: Texts
}> = [
  { name: "an insert", run: database => database.insert("c", note("C")), after: { a: "A", b: "B", c: "C" } },
  { name: "a replacement", run: database => database.insert("a", note("A2")), after: { a: "A2", b: "B" } },
  { name: "a removal", run: database => database.remove("a"), after: { b: "B" } },
  {
    name: "a batch",
    run: database =>
      database.change({
        put: [
          ["c", note("C")],
          ["d", note("D")]
        ],
        remove: ["a"]
      }),
    after: { b: "B", c: "C", d: "D" }
  },
  {
    name: "a batch longer than a frame",
    run: database => database.change({ put: many, remove: ["a"] }),
    after: { b: "B", ...Object.fromEntries(many.map(([key]) => [key, "x"])) }
  },
  { name: "a new snapshot", run: database => database.compact, after: { a: "A", b: "B" } },
  {
    name: "an insert that folds the log",
    before: longLog,
    run: database => database.insert("long", note("4", 100_000)),
    after: { a: "A", b: "B", long: "4" }
  },
  { name: "another key", run: database => database.rekey(rawKey(9)), after: { a: "A", b: "B" } },
  {
    name: "a restored archive",
    before: database => Effect.andThen(database.archive(join("/", "notes.archive")), database.insert("c", note("C"))),
    run: database => database.restore(join("/", "notes.archive")),
    after: { a: "A", b: "B" }
  }
]

/** What the file says when the machine has started again; the key may be the old or the new one. */
const reopened = (path: string, image: DiskImage): Effect.Effect<Texts, StoreError> =>
  Effect.suspend(() => {
    const disk = new MemoryDisk(image)
    const read = (fill: number) => withNotes({ path, key: rawKey(fill), ifMissing: "fail" }, textsOf)
    return Effect.catchIf(
      read(5),
      ({ code }) => code === "WRONG_KEY",
      () => read(9)
    ).pipe(onDisk(disk), quietly)
  })

describe("A machine that stops", () => {
  it.live.each(operations)(
    "at any step of $name finds the old state or the new one, and the new one once the effect has returned",
    ({ before = () => Effect.void, run, after }) =>
      Effect.gen(function* () {
        const path = join(yield* temporaryFolder, "notes.db")
        const first = new MemoryDisk()
        const old = yield* onDisk(first)(
          withNotes({ path }, database =>
            Effect.gen(function* () {
              yield* database.change({ put: [["a", note("A")]] })
              yield* database.compact
              yield* database.insert("b", note("B"))
              yield* before(database)
              return yield* textsOf(database)
            })
          )
        )
        const opening = yield* Effect.sync(() => new MemoryDisk(first.files))
        yield* onDisk(opening)(withNotes({ path }, () => Effect.void))

        let stoppedAt = 0
        let ended = false
        for (; !ended; stoppedAt++) {
          const disk = new MemoryDisk(first.files)
          const result = yield* onDisk(disk)(
            withNotes({ path }, database => {
              disk.stopAt = disk.steps + stoppedAt
              return Effect.result(run(database))
            })
          )
          ended = disk.steps < Infinity
          if (ended) assert.strictEqual(result._tag, "Success")
          const images = [...disk.images()]
          for (const image of images) {
            const found = yield* reopened(path, image)
            if (result._tag === "Success" || JSON.stringify(found) !== JSON.stringify(old))
              assert.deepStrictEqual(found, after, `stopped before step ${stoppedAt}`)
          }
          assert.isNotEmpty(images)
        }
        // An append is a write and a sync at the least.
        assert.isAbove(stoppedAt, 2)
      })
  )

  it.live("while a database is made leaves none, or an empty one", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      let ended = false
      let missing = 0
      for (let stopAt = 0; !ended; stopAt++) {
        const disk = new MemoryDisk()
        disk.stopAt = stopAt
        ended = (yield* Effect.result(onDisk(disk)(withNotes({ path }, () => Effect.void))))._tag === "Success"
        for (const image of disk.images()) {
          const found = yield* Effect.result(reopened(path, image))
          if (found._tag === "Success") assert.deepStrictEqual(found.success, {})
          else {
            assert.strictEqual(found.failure.code, "MISSING")
            assert.isFalse(ended)
            missing++
          }
        }
      }
      assert.isAbove(missing, 0)
    })
  )

  it.live("while an archive is written leaves none, or a whole one", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const archive = join(path, "..", "notes.archive")
      let ended = false
      for (let stopAt = 0; !ended; stopAt++) {
        const disk = new MemoryDisk()
        const result = yield* onDisk(disk)(
          withNotes({ path }, database =>
            Effect.gen(function* () {
              yield* database.insert("a", note("A"))
              disk.stopAt = disk.steps + stopAt
              return yield* Effect.result(database.archive(archive))
            })
          )
        )
        ended = result._tag === "Success"
        for (const image of disk.images()) {
          assert.deepStrictEqual(yield* reopened(path, image), { a: "A" })
          if (image.has("notes.archive")) assert.deepStrictEqual(yield* reopened(archive, image), { a: "A" })
          else assert.isFalse(ended)
        }
      }
    })
  )
})

describe("A disk that fails", () => {
  const noSpace = new Error("ENOSPC: no space left on device, write")
  const inputOutput = new Error("EIO: i/o error, fsync")
  const failures = [
    { name: "has no room for a change", failing: { call: "write", error: noSpace, writtenBytes: 30 } },
    { name: "cannot sync a change", failing: { call: "sync", error: inputOutput } }
  ] as const

  it.live.each(failures)(
    "and $name: the error says so, what was there is there, and the next change works",
    ({ failing }) =>
      Effect.gen(function* () {
        const path = join(yield* temporaryFolder, "notes.db")
        const disk = new MemoryDisk()
        yield* onDisk(disk)(
          withNotes({ path }, database =>
            Effect.gen(function* () {
              yield* database.insert("a", note("A"))
              disk.failing = failing
              const error = yield* Effect.flip(database.insert("b", note("B")))
              assert.deepStrictEqual([error.code, error.detail], ["IO", failing.error.message])
              assert.deepStrictEqual(yield* textsOf(database), { a: "A" })
              disk.failing = undefined
              yield* database.insert("c", note("C"))
            })
          )
        )
        for (const image of disk.images()) assert.deepStrictEqual(yield* reopened(path, image), { a: "A", c: "C" })
      })
  )

  it.live("and cannot even be cut back to what it was: the next change is a new file", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const disk = new MemoryDisk()
      yield* onDisk(disk)(
        withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* database.insert("a", note("A"))
            disk.failing = { call: "sync", error: inputOutput }
            yield* Effect.flip(database.insert("b", note("B")))
            disk.failing = undefined
            assert.isAbove((yield* database.metadata).logBytes, 0)
            yield* database.insert("c", note("C"))
            assert.strictEqual((yield* database.metadata).logBytes, 0)
          })
        )
      )
      for (const image of disk.images()) assert.deepStrictEqual(yield* reopened(path, image), { a: "A", c: "C" })
    })
  )

  it.live("and has no room to fold a long log: the change is kept all the same, and said to be", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const disk = new MemoryDisk()
      yield* onDisk(disk)(
        withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* longLog(database)
            disk.failing = { call: "rename", error: noSpace }
            yield* database.insert("long", note("4", 100_000))
            assert.deepStrictEqual(yield* textsOf(database), { long: "4" })
            assert.isFalse(disk.files.has("notes.db.tmp"))
            const { steps } = disk
            yield* database.insert("a", note("A"))
            // It is not tried again at once: a write and a sync.
            assert.strictEqual(disk.steps, steps + 2)
          })
        )
      )
      for (const image of disk.images()) assert.deepStrictEqual(yield* reopened(path, image), { long: "4", a: "A" })
    })
  )
})
