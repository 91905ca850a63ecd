import { Clock, Duration, Effect, type Scope } from "effect"
import { accessSync, closeSync, constants, openSync } from "node:fs"
import type { DatabaseSync } from "node:sqlite"
import { readFile, rm, writeFile } from "node:fs/promises"
import { StoreError, storeError } from "./StoreError.ts"

/** How often a lock that is waited for is tried. */
const retryMs = 50
/** SQLITE_BUSY, as `errcode` of what `node:sqlite` throws. */
const busy = 5
/** A holder writes its id within moments of having the lock. */
const pidReads = 10
const pidReadPauseMs = 10

/**
 * Takes the lock of a file until the scope closes: `PATH.lock`, which stays, and `PATH.pid`, which names the holder.
 *
 * The lock is one of the kernel's, so it ends with its process however that ends, and nothing has to be guessed about process ids. Node
 * offers such locks only through SQLite: an exclusive transaction on an empty database, which writes nothing.
 *
 * Fails with IN_USE where another process has it still after `wait`, at once by default.
 */
export const lockFile = Effect.fn("FileLock.lock")(function* (
  path: string,
  wait: Duration.Input = 0
): Effect.fn.Return<void, StoreError, Scope.Scope> {
  const { DatabaseSync } = yield* Effect.promise(() => import("node:sqlite"))
  const until = (yield* Clock.currentTimeMillis) + Duration.toMillis(wait)
  const attempt = Effect.try({
    try: () => {
      makePrivate(lockPath(path))
      return tryLock(() => new DatabaseSync(lockPath(path)))
    },
    catch: storeError(path, "open")
  })
  const acquire = Effect.gen(function* () {
    for (;;) {
      const release = yield* attempt
      if (release !== undefined) return release
      if ((yield* Clock.currentTimeMillis) >= until) return yield* inUse(path)
      yield* Effect.interruptible(Effect.sleep(retryMs))
    }
  })
  yield* Effect.acquireRelease(acquire, release => Effect.sync(release))
  // Only for others to read: a disk without room for it is no reason to keep the file closed.
  yield* Effect.acquireRelease(
    quietly(() => writeFile(pidPath(path), `${process.pid}\n`, { mode: 0o600 })),
    () => quietly(() => rm(pidPath(path), { force: true }))
  )
})

const quietly = (run: () => Promise<void>): Effect.Effect<void> => Effect.promise(() => run().catch(() => undefined))

const lockPath = (path: string): string => `${path}.lock`
const pidPath = (path: string): string => `${path}.pid`

/** SQLite would make the file readable for all, and whoever can read it can hold its lock. */
const makePrivate = (path: string): void => {
  try {
    closeSync(openSync(path, "wx", 0o600))
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error
    // SQLite would open it for reading, and say that it is busy.
    accessSync(path, constants.W_OK)
  }
}

/** The function that gives the lock back; undefined where another holds it. */
const tryLock = (open: () => DatabaseSync): (() => void) | undefined => {
  const database = open()
  try {
    // Without a journal of its own, nothing but the empty file is ever on the disk.
    database.exec("PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE")
    return () => database.close()
  } catch (error) {
    database.close()
    if (error instanceof Error && "errcode" in error && error.errcode === busy) return undefined
    throw error
  }
}

const inUse = (path: string): Effect.Effect<never, StoreError> =>
  Effect.flatMap(holder(path), pid =>
    Effect.fail(
      new StoreError({
        path,
        operation: "open",
        code: "IN_USE",
        detail: `${pid === undefined ? "another process" : `the process ${pid}`} has it open; stop that one, or wait for it`,
        ...(pid === undefined ? {} : { pid })
      })
    )
  )

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM"
  }
}

/** Who holds a lock; an id that a dead holder left is not told. */
const holder = Effect.fnUntraced(function* (path: string) {
  for (let read = 0; read < pidReads; read++) {
    const text = yield* Effect.promise(() => readFile(pidPath(path), "utf8").catch(() => ""))
    const pid = /^\d{1,10}\n$/.test(text) ? Number(text) : undefined
    if (pid !== undefined && isAlive(pid)) return pid
    yield* Effect.promise(() => new Promise(resolve => setTimeout(resolve, pidReadPauseMs)))
  }
  return undefined
})
