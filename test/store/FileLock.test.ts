import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process"
import { once } from "node:events"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { note, openNotes, temporaryFolder, textsOf, withNotes } from "../support/databases.ts"

const holder = fileURLToPath(new URL("fixtures/Holder.ts", import.meta.url))

/** A process of its own; it is gone with the scope. */
const start = (...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, [holder, ...args])),
    child => Effect.promise(() => killed(child))
  )

const killed = async (child: ChildProcessWithoutNullStreams): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, "exit")
  child.kill("SIGKILL")
  await exit
}

/** A process that has the database open. */
const holding = Effect.fnUntraced(function* (path: string) {
  const child = yield* start(path, "hold")
  yield* Effect.promise(() => once(child.stdout, "data"))
  return child
})

describe("The lock of a database", () => {
  it.live("keeps a second process out: an error says which process has it, and what to do", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const child = yield* holding(path)
      const error = yield* Effect.flip(openNotes({ path }))
      assert.strictEqual(error.code, "IN_USE")
      assert.strictEqual(error.pid, child.pid)
      assert.strictEqual(
        error.message,
        `cannot open ${path}: the process ${child.pid} has it open; stop that one, or wait for it`
      )
    })
  )

  it.live("ends with a process that is killed: the next one has it at once", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const child = yield* holding(path)
      yield* Effect.promise(() => killed(child))
      yield* withNotes({ path }, database => database.insert("a", note("A")))
      const second = yield* openNotes({ path })
      assert.deepStrictEqual(yield* textsOf(second), { a: "A" })
    })
  )

  it.live("is waited for where that is wished", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const child = yield* holding(path)
      const waiting = yield* Effect.forkChild(withNotes({ path, wait: "1 minute" }, textsOf))
      const refused = yield* Effect.flip(openNotes({ path, wait: "150 millis" }))
      assert.strictEqual(refused.code, "IN_USE")
      child.stdin.end()
      assert.deepStrictEqual(yield* Fiber.join(waiting), {})
    })
  )

  it.live("keeps this very process out too, and names it", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      yield* openNotes({ path })
      assert.strictEqual((yield* Effect.flip(openNotes({ path }))).pid, process.pid)
    })
  )

  it.live("names nobody where the name that is there is that of a process which is gone", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const gone = yield* start(path, "insert", "a", "0")
      yield* Effect.promise(() => once(gone, "exit"))
      yield* openNotes({ path })
      writeFileSync(`${path}.pid`, `${gone.pid}\n`)
      const error = yield* Effect.flip(openNotes({ path }))
      assert.isUndefined(error.pid)
      assert.match(error.message, /another process has it open/)
    })
  )

  it.live("lets many processes write one file in turn: nothing of anybody is lost", () =>
    Effect.gen(function* () {
      const path = join(yield* temporaryFolder, "notes.db")
      const prefixes = ["a", "b", "c"]
      const each = 12
      const children = yield* Effect.forEach(prefixes, prefix => start(path, "insert", prefix, String(each)))
      yield* Effect.forEach(children, child =>
        Effect.promise(async () => {
          if (child.exitCode === null) await once(child, "exit")
          assert.strictEqual(child.exitCode, 0)
        })
      )
      const keys = prefixes.flatMap(prefix => Array.from({ length: each }, (_, index) => `${prefix}${index}`))
      const texts = yield* withNotes({ path }, textsOf)
      assert.sameMembers(Object.keys(texts), keys)
    })
  )
})
