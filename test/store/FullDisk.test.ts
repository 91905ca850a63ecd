import { execFileSync } from "node:child_process"
import { mkdirSync, readFileSync, statfsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { note, openNotes, temporaryFolder, textsOf, withNotes } from "../support/databases.ts"

const mount = (...args: ReadonlyArray<string>): void => void execFileSync("mount", args, { stdio: "pipe" })

/** A file system of its own of so many KiB, gone with the scope. */
const smallDisk = Effect.fnUntraced(function* (kib: number) {
  const folder = join(yield* temporaryFolder, "disk")
  mkdirSync(folder)
  yield* Effect.acquireRelease(
    Effect.sync(() => mount("-t", "tmpfs", "-o", `size=${kib}k`, "tmpfs", folder)),
    () => Effect.sync(() => execFileSync("umount", [folder]))
  )
  return folder
})

const canMount = ((): boolean => {
  try {
    Effect.runSync(Effect.scoped(smallDisk(16)))
    return true
  } catch {
    return false
  }
})()

/** Fills what is left of a disk. */
const fill = (folder: string): void => {
  const { bavail, bsize } = statfsSync(folder)
  writeFileSync(join(folder, "ballast"), new Uint8Array(Number(bavail) * Number(bsize)))
}

// Without the right to mount, that is: not as root, there is no disk to fill.
describe.skipIf(!canMount)("A full disk", () => {
  it.live("is an error that says so; what was there is there, and what comes later too", () =>
    Effect.gen(function* () {
      const folder = yield* smallDisk(256)
      const path = join(folder, "notes.db")
      const database = yield* openNotes({ path })
      yield* database.insert("a", note("A", 1_000))
      fill(folder)
      for (const full of [
        database.insert("b", note("B", 100_000)),
        database.compact,
        database.archive(join(folder, "archive")),
        database.change({ put: Array.from({ length: 6 }, (_, index) => [String(index), note("", 900_000)] as const) })
      ]) {
        const error = yield* Effect.flip(full)
        assert.strictEqual(error.code, "IO")
        assert.match(error.message, /ENOSPC: no space left on device/)
        assert.include(error.message, folder)
      }
      assert.deepStrictEqual(yield* textsOf(database), { a: "A" })
      execFileSync("rm", [join(folder, "ballast")])
      yield* database.insert("c", note("C", 1_000))
      const archive = join(folder, "archive")
      yield* database.archive(archive)
      assert.deepStrictEqual(yield* withNotes({ path: archive }, textsOf), { a: "A", c: "C" })
    })
  )

  it.live("does not keep a database from being opened and read", () =>
    Effect.gen(function* () {
      const folder = yield* smallDisk(64)
      const path = join(folder, "notes.db")
      yield* withNotes({ path }, database => database.insert("a", note("A")))
      fill(folder)
      assert.deepStrictEqual(yield* withNotes({ path }, textsOf), { a: "A" })
    })
  )

  it.live("on which a database is to be made, is an error too, and leaves no part of one", () =>
    Effect.gen(function* () {
      const folder = yield* smallDisk(16)
      const path = join(folder, "notes.db")
      fill(folder)
      const error = yield* Effect.flip(openNotes({ path }))
      assert.match(error.message, /ENOSPC|disk/)
      assert.throws(() => readFileSync(path))
    })
  )
})

describe.skipIf(!canMount)("A disk that may only be read", () => {
  it.live("is an error that says so, whether there is a database or not, and one that is open keeps its entries", () =>
    Effect.gen(function* () {
      const folder = yield* smallDisk(256)
      const path = join(folder, "notes.db")
      yield* withNotes({ path }, database => database.insert("a", note("A")))
      const before = readFileSync(path)
      mount("-o", "remount,ro", folder)
      for (const name of ["notes.db", "other.db"]) {
        const error = yield* Effect.flip(openNotes({ path: join(folder, name) }))
        assert.strictEqual(error.code, "IO")
        assert.include(error.message, join(folder, name))
        assert.match(error.message, /read-only file system/)
      }
      assert.deepStrictEqual(readFileSync(path), before)
      mount("-o", "remount,rw", folder)
      assert.deepStrictEqual(yield* withNotes({ path }, textsOf), { a: "A" })
    })
  )
})

describe("A path that cannot be", () => {
  it.live("is an error with that path: below a file, or a folder itself", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      writeFileSync(join(folder, "file"), "not a folder")
      mkdirSync(join(folder, "folder"))
      for (const name of ["file/notes.db", "file/deep/notes.db", "folder"]) {
        const path = join(folder, name)
        const error = yield* Effect.flip(openNotes({ path }))
        assert.strictEqual(error.code, "IO")
        assert.include(error.message, path)
        assert.match(error.message, /ENOTDIR|EISDIR|EEXIST/)
      }
      assert.strictEqual(readFileSync(join(folder, "file"), "utf8"), "not a folder")
    })
  )
})
