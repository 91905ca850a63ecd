import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import { databaseFrameHeadBytes, databaseHeaderBytes } from "../../src/protocol/constants.ts"
import type { StoreErrorCode } from "../../src/store/StoreError.ts"
import { note, onDisk, quietly, temporaryFolder, textsOf, withNotes } from "../support/databases.ts"
import { MemoryDisk } from "../support/MemoryDisk.ts"

const name = "notes.db"

/** A place for the lock; the files are in memory. */
const place = Effect.map(temporaryFolder, folder => join(folder, name))

const bytesOn = (disk: MemoryDisk): Uint8Array => disk.files.get(name) ?? assert.fail("there is no file")

/** The header and the frames of a file. */
const partsOf = (file: Uint8Array): ReadonlyArray<Uint8Array> => {
  const parts = [file.subarray(0, databaseHeaderBytes)]
  for (let at = databaseHeaderBytes; at < file.length;) {
    const length = databaseFrameHeadBytes + Buffer.from(file).readUInt32BE(at)
    parts.push(file.subarray(at, at + length))
    at += length
  }
  return parts
}

type Opened = Readonly<Record<string, string>> | StoreErrorCode

/** What a file of these bytes opens as. Whatever that is, it must not change a file that does not open. */
const opened = (path: string, file: Uint8Array): Effect.Effect<Opened> =>
  Effect.gen(function* () {
    const disk = new MemoryDisk(new Map([[name, file]]))
    const result = yield* Effect.result(withNotes({ path }, textsOf).pipe(onDisk(disk), quietly))
    if (result._tag === "Success") return result.success
    assert.deepStrictEqual(bytesOn(disk), file, "a file that does not open stays as it is")
    return result.failure.code
  })

/** A snapshot of two entries, each in a frame of its own, and a log of three frames. */
const sample = Effect.fnUntraced(function* (path: string, large = 50_000) {
  const disk = new MemoryDisk()
  const after: Array<Uint8Array> = []
  yield* onDisk(disk)(
    withNotes({ path }, database =>
      Effect.gen(function* () {
        yield* database.change({
          put: [
            ["a", note("A", large)],
            ["b", note("B", large)]
          ]
        })
        yield* database.compact
        after.push(bytesOn(disk))
        for (const key of ["c", "d"]) {
          yield* database.insert(key, note(key))
          after.push(bytesOn(disk))
        }
        yield* database.remove("a")
        after.push(bytesOn(disk))
      })
    )
  )
  const file = bytesOn(disk)
  return { disk, file, after, parts: partsOf(file) }
})

describe("A damaged database", () => {
  it.live("does not open, whichever of its bytes was changed, and says that it is damaged", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file } = yield* sample(path, 4)
      assert.deepStrictEqual(yield* opened(path, file), { b: "B", c: "c", d: "d" })
      for (let at = 0; at < file.length; at++) {
        const changed = file.slice()
        changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8))
        const expected = at < 4 ? "FOREIGN" : at === 4 ? "VERSION" : "DAMAGED"
        assert.strictEqual(yield* opened(path, changed), expected, `byte ${at} of ${file.length}`)
      }
    })
  )

  it.live("cut off at any length, opens as it was after one of its changes, or does not open", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, after } = yield* sample(path, 4)
      const states = yield* Effect.forEach(after, state => opened(path, state))
      for (let length = 0; length < file.length; length++) {
        const whole = after.findLastIndex(state => state.length <= length)
        const expected: Opened | undefined = whole < 0 ? (length < 4 ? "FOREIGN" : "DAMAGED") : states[whole]
        assert.deepStrictEqual(yield* opened(path, file.subarray(0, length)), expected, `length ${length}`)
      }
    })
  )

  it.live("with frames swapped, dropped or doubled does not open", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, parts } = yield* sample(path)
      assert.lengthOf(parts, 6)
      const [header, a, b, c, d, e] = parts.map(part => [part])
      if (!header || !a || !b || !c || !d || !e) return assert.fail()
      const files = {
        "entries swapped": [header, b, a, c, d, e],
        "an entry dropped": [header, b, c, d, e],
        "the last entry dropped": [header, a, c, d, e],
        "an entry doubled": [header, a, a, b, c, d, e],
        "changes swapped": [header, a, b, d, c, e],
        "a change dropped": [header, a, b, c, e],
        "a change doubled": [header, a, b, c, c, d, e],
        "the last change doubled": [header, a, b, c, d, e, e],
        "an entry as a change": [header, a, b, c, d, e, a],
        "a change as an entry": [header, a, c, b, d, e]
      }
      assert.deepStrictEqual(Buffer.concat([header, a, b, c, d, e].flat()), Buffer.from(file))
      for (const [what, order] of Object.entries(files))
        assert.strictEqual(yield* opened(path, Buffer.concat(order.flat())), "DAMAGED", what)
    })
  )

  it.live("with parts of an older file of its own does not open: entries, log or header", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { disk, parts: old } = yield* sample(path)
      yield* onDisk(disk)(
        withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* database.change({
              put: [
                ["a", note("A", 50_000)],
                ["b", note("B", 50_000)]
              ],
              remove: ["c", "d"]
            })
            yield* database.compact
            yield* database.insert("c", note("c"))
          })
        )
      )
      const parts = partsOf(bytesOn(disk))
      assert.lengthOf(parts, 4)
      for (let index = 0; index < 4; index++) {
        const mixed = parts.with(index, old[index] ?? assert.fail())
        assert.strictEqual(yield* opened(path, Buffer.concat(mixed)), "DAMAGED", `part ${index}`)
      }
      for (const change of old.slice(3))
        assert.strictEqual(yield* opened(path, Buffer.concat([...parts, change])), "DAMAGED")
    })
  )

  it.live("with a change that was made to a copy of it does not open", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file } = yield* sample(path)
      const continued = Effect.fnUntraced(function* (...keys: ReadonlyArray<string>) {
        const disk = new MemoryDisk(new Map([[name, file]]))
        const insertAll = withNotes({ path }, database =>
          Effect.forEach(keys, key => database.insert(key, note(key)), { discard: true })
        )
        yield* onDisk(disk)(insertAll)
        return partsOf(bytesOn(disk)).slice(6)
      })
      const [x, y] = yield* continued("x", "y")
      const [other] = yield* continued("z")
      if (!x || !y || !other) return assert.fail()
      assert.deepStrictEqual(yield* opened(path, Buffer.concat([file, x, y])), {
        b: "B",
        c: "c",
        d: "d",
        x: "x",
        y: "y"
      })
      assert.strictEqual(yield* opened(path, Buffer.concat([file, other, y])), "DAMAGED")
      // The same change at the same place of two copies: were it under one key and nonce, both could be read.
      const [again] = yield* continued("x")
      if (!again) return assert.fail()
      assert.strictEqual(again.length, x.length)
      for (const [at, byte] of [...x.subarray(4, 12)].entries()) if (again[4 + at] !== byte) return
      assert.fail("the salt of a frame comes back")
    })
  )

  it.live("of another program, or an empty one, is foreign and stays as it is", () =>
    Effect.gen(function* () {
      const path = yield* place
      for (const text of ["", "A", "SQLite format 3\0".padEnd(4096, "x")])
        assert.strictEqual(yield* opened(path, Buffer.from(text)), "FOREIGN")
    })
  )
})

describe("The end of a log", () => {
  it.live("that its process did not live to write is cut off, with a statement of how much", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, after } = yield* sample(path, 4)
      const before = after.at(-2) ?? assert.fail()
      const frame = file.subarray(before.length)
      const said: Array<string> = []
      const logger = Logger.make(({ message }) => void said.push(String(message)))
      // What the file system leaves: less than the frame, or its length with zeros where bytes never came.
      const ends = [frame.subarray(0, 3), frame.subarray(0, 60), frame.subarray(0, frame.length - 1)]
      const zeroed = [0, 30, frame.length - 8].map(from => frame.slice().fill(0, from))
      for (const end of [...ends, ...zeroed]) {
        const disk = new MemoryDisk(new Map([[name, Buffer.concat([before, end])]]))
        const [texts, metadata] = yield* withNotes({ path }, database =>
          Effect.all([textsOf(database), database.metadata])
        ).pipe(onDisk(disk), Effect.provide(Logger.layer([logger])))
        assert.deepStrictEqual(texts, { a: "A", b: "B", c: "c", d: "d" })
        assert.strictEqual(metadata.tornBytes, end.length)
        assert.include(said.pop(), `${end.length} bytes at the end of ${path} were cut off`)
        assert.deepStrictEqual(Buffer.from(bytesOn(disk)), Buffer.from(before))
      }
    })
  )

  it.live("is not cut off for anything else: not for a changed byte, nor for bytes that somebody added", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, after } = yield* sample(path, 4)
      const before = after.at(-2) ?? assert.fail()
      const frame = file.subarray(before.length)
      const ends = {
        "a zero in its middle": frame.slice().fill(0, 60, 61),
        "a longer length": frame.with(2, 1),
        "a whole frame of random bytes": Buffer.alloc(200, 7),
        "zeros for this frame, and another one behind it": Buffer.concat([frame.slice().fill(0), frame])
      }
      for (const [what, end] of Object.entries(ends))
        assert.strictEqual(yield* opened(path, Buffer.concat([before, end])), "DAMAGED", what)
    })
  )
})

describe("An old copy", () => {
  it.live("of the file is refused by whoever remembers its generation", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, after } = yield* sample(path)
      const generation = yield* onDisk(new MemoryDisk(new Map([[name, file]])))(
        withNotes({ path }, database => Effect.map(database.metadata, metadata => metadata.generation))
      )
      const open = (bytes: Uint8Array, minGeneration: number) =>
        withNotes({ path, minGeneration }, textsOf).pipe(onDisk(new MemoryDisk(new Map([[name, bytes]]))))
      yield* open(file, generation)
      const error = yield* Effect.flip(open(after.at(-2) ?? assert.fail(), generation))
      assert.strictEqual(error.code, "ROLLED_BACK")
      assert.include(error.message, `generation ${generation - 1}, but ${generation} was seen before`)
      // By itself nothing in the file can tell.
      yield* open(after.at(-2) ?? assert.fail(), 0)
    })
  )

  it.live("of the same length that is put in its place while it is open is not written to", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file } = yield* sample(path)
      const disk = new MemoryDisk(new Map([[name, file]]))
      const error = yield* onDisk(disk)(
        withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* Effect.promise(async () => {
              await disk.remove(path)
              await (await disk.open(path, "create"))?.write(file, 0)
            })
            return yield* Effect.flip(database.insert("x", note("X")))
          })
        )
      )
      assert.match(error.message, /another program has changed it while it was open/)
      assert.deepStrictEqual(bytesOn(disk), file)
    })
  )

  it.live("that is put in its place while it is open is neither read nor written to", () =>
    Effect.gen(function* () {
      const path = yield* place
      const { file, after } = yield* sample(path)
      const old = after.at(-2) ?? assert.fail()
      const disk = new MemoryDisk(new Map([[name, file]]))
      const error = yield* onDisk(disk)(
        withNotes({ path }, database =>
          Effect.gen(function* () {
            yield* Effect.promise(async () => {
              await disk.remove(path)
              await (await disk.open(path, "create"))?.write(old, 0)
            })
            assert.strictEqual((yield* Effect.flip(database.reload)).code, "ROLLED_BACK")
            return yield* Effect.flip(database.insert("x", note("X")))
          })
        )
      )
      assert.match(error.message, /another program has changed it while it was open/)
      assert.deepStrictEqual(bytesOn(disk), old)
    })
  )
})
