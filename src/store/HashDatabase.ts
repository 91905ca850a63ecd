/**
 * An encrypted database in one file: values of a `Schema` under keys that are text, sealed with AES-256-GCM under a passphrase or a key, durable when
 * an effect returns (docs/protocol.md, §5; docs/database.md).
 */
import { Duration, Effect, Redacted, Schema, Semaphore, type Scope } from "effect"
import { dirname } from "node:path"
import { toHex } from "../protocol/Bytes.ts"
import { hashBytes } from "../protocol/constants.ts"
import type { DatabaseHeader } from "../protocol/DatabaseFormat.ts"
import { defaultDerivations, passphraseBytes, type KeyDerivation } from "../protocol/DatabaseKey.ts"
import { decodeMsgpack, encodeMsgpack } from "../protocol/Msgpack.ts"
import { temporaryPath } from "./AtomicFile.ts"
import { binaryCodec } from "./BinaryCodec.ts"
import {
  cutTorn,
  inspectDatabase,
  loadDatabase,
  newLine,
  writeSnapshot,
  type DatabaseSecret,
  type DatabaseState,
  type LoadedDatabase,
  type ValueCodec
} from "./DatabaseFile.ts"
import { lockFile } from "./FileLock.ts"
import { OpenDatabase, rolledBack, type DatabaseChanges } from "./OpenDatabase.ts"
import { StoreError, storeError } from "./StoreError.ts"
import { StoreFiles, type StoreFilesOperations } from "./StoreFiles.ts"

/**
 * What a database is opened with: a passphrase, or 32 random bytes. `kdf` is how a passphrase becomes the key of a database that is made
 * anew: scrypt by default, argon2id on Node 24.7 or later. One that is there says itself.
 */
export type DatabaseKey =
  | { readonly passphrase: Redacted.Redacted<string>; readonly kdf?: "scrypt" | "argon2id" }
  | { readonly key: Redacted.Redacted<Uint8Array> }

/** Finds the key once the lock is held: `found` is how the key of the file that is there comes to be, undefined where none is there. */
export type FindKey = (found: KeyDerivation["kdf"] | undefined) => Effect.Effect<DatabaseKey, StoreError>

export interface HashDatabaseOptions<A> {
  readonly path: string
  /** Of the values. It must need no services and decode without waiting. */
  readonly schema: Schema.Codec<A, unknown>
  readonly key: DatabaseKey | FindKey
  /** `fail`: MISSING where there is no file. Default `create`. */
  readonly ifMissing?: "create" | "fail"
  /** The generation last seen, kept elsewhere: an older file is refused with ROLLED_BACK. */
  readonly minGeneration?: number
  /** How long to wait for another process to close it. Default: not at all. */
  readonly wait?: Duration.Input
}

export type { DatabaseChanges }

export interface DatabaseMetadata {
  readonly path: string
  /** 32 hexadecimal digits; the same for a database and its archives. */
  readonly databaseId: string
  readonly kdf: KeyDerivation["kdf"]
  /** Durable writes so far. It only grows: keep the last one elsewhere to notice an old copy of the file. */
  readonly generation: number
  readonly count: number
  /** Length of the file, and how much of it is changes since the last snapshot. */
  readonly fileBytes: number
  readonly logBytes: number
  /** Bytes that were cut off when it was opened: of a change that a crash had interrupted. */
  readonly tornBytes: number
}

/**
 * An open database. Effects that change it are durable when they return, and leave it as it was when they fail with `StoreError`; once begun they
 * are not interrupted. Its `has` makes it a `PeerList`: a `ConnectionRequest` can be verified against a database whose keys are peer ids.
 */
export interface HashDatabase<A> {
  /** Adds a value or replaces that of the same key. */
  readonly insert: (key: string, value: A) => Effect.Effect<void, StoreError>
  /** False where there was none. */
  readonly remove: (key: string) => Effect.Effect<boolean, StoreError>
  /** All of it in one durable write, or nothing. */
  readonly change: (changes: DatabaseChanges<A>) => Effect.Effect<void, StoreError>
  readonly get: (key: string) => Effect.Effect<A | undefined>
  readonly has: (key: string) => Effect.Effect<boolean>
  /** In the order in which the keys came. */
  readonly entries: Effect.Effect<ReadonlyArray<readonly [key: string, value: A]>>
  readonly metadata: Effect.Effect<DatabaseMetadata>
  /** Reads the file again. */
  readonly reload: Effect.Effect<void, StoreError>
  /** Writes a new snapshot without a log. It happens by itself when the log is longer than the snapshot. */
  readonly compact: Effect.Effect<void, StoreError>
  /** Writes an encrypted copy under the same key; EXISTS where there is a file. Its folder must be there. */
  readonly archive: (path: string) => Effect.Effect<void, StoreError>
  /** Replaces all entries by those of an archive, opened with `key` or else with this database's. Who was removed since then is back. */
  readonly restore: (path: string, key?: DatabaseKey) => Effect.Effect<void, StoreError>
  /** Seals everything under another passphrase or key. Archives keep the old one. */
  readonly rekey: (key: DatabaseKey) => Effect.Effect<void, StoreError>
}

const valueCodec = <A>(path: string, schema: Schema.Codec<A, unknown>): ValueCodec<A> => {
  const codec = binaryCodec(schema)
  const encode = Schema.encodeSync(codec)
  const decode = Schema.decodeUnknownSync(codec)
  const misfit = (operation: "read" | "write", error: unknown) =>
    new StoreError({
      path,
      operation,
      code: "VALUE",
      detail: `a value does not fit the schema: ${error instanceof Error ? error.message : String(error)}`
    })
  return {
    encode: value => {
      try {
        return encodeMsgpack(encode(value))
      } catch (error) {
        throw misfit("write", error)
      }
    },
    decode: bytes => {
      try {
        return decode(decodeMsgpack(bytes))
      } catch (error) {
        throw misfit("read", error)
      }
    }
  }
}

const secretOf = (path: string, key: DatabaseKey): DatabaseSecret => {
  const refuse = (detail: string) => new StoreError({ path, operation: "open", code: "KEY_KIND", detail })
  if ("passphrase" in key) {
    const bytes = passphraseBytes(Redacted.value(key.passphrase))
    if (bytes.length === 0) throw refuse("the passphrase is empty")
    return { kind: "passphrase", bytes }
  }
  const bytes = Redacted.value(key.key)
  if (bytes.length !== hashBytes) throw refuse(`the key has ${bytes.length} bytes, it must have ${hashBytes}`)
  return { kind: "key", bytes }
}

const derivationOf = (key: DatabaseKey): KeyDerivation =>
  "passphrase" in key ? defaultDerivations[key.kdf ?? "scrypt"] : { kdf: "raw" }

const describe = (path: string, { header, ...state }: DatabaseState, count: number): DatabaseMetadata => ({
  path,
  databaseId: toHex(header.databaseId),
  kdf: header.derivation.kdf,
  generation: state.generation,
  count,
  fileBytes: state.wholeBytes,
  logBytes: state.wholeBytes - state.snapshotBytes,
  tornBytes: state.tornBytes
})

/** What a file says of itself without a key; undefined where there is none. */
export const inspect = Effect.fn("HashDatabase.inspect")(function* (path: string) {
  const files = yield* StoreFiles
  const header: DatabaseHeader | undefined = yield* attempt(path, "open", () => inspectDatabase(files, path))
  return header === undefined
    ? undefined
    : { databaseId: toHex(header.databaseId), kdf: header.derivation.kdf, generation: header.generation }
})

/** Reads of a file that another process may be writing to: a read that meets a change half-way is repeated. */
const unlockedReads = 4

/** All entries of a file, read without its lock, while another process may have it open; undefined where there is none. */
export const read = Effect.fn("HashDatabase.read")(function* <A>({
  path,
  schema,
  key,
  minGeneration = 0
}: Pick<HashDatabaseOptions<A>, "path" | "schema" | "key" | "minGeneration">) {
  const files = yield* StoreFiles
  const codec = valueCodec(path, schema)
  const found = yield* keyOf(path, key)
  const load = attempt(path, "open", async () => loadDatabase(files, path, secretOf(path, found), codec))
  const loaded: LoadedDatabase<A> | undefined = yield* Effect.retry(load, {
    times: unlockedReads - 1,
    while: ({ code }) => code === "DAMAGED"
  })
  if (loaded === undefined) return undefined
  const { state } = loaded
  const entries: ReadonlyMap<string, A> = loaded.entries
  if (state.generation < minGeneration) return yield* rolledBack(path, state.generation, minGeneration)
  return { entries, metadata: describe(path, state, entries.size) }
})

/**
 * Opens the database of a file, or makes one, and holds its lock until the scope closes. Values are decoded once, here: reads never wait for the
 * disk, and the memory is that of all values.
 *
 * Fails with `StoreError`: IN_USE where another process has it open, WRONG_KEY, DAMAGED, FOREIGN, and what else its `code` tells.
 *
 * ```ts
 * const peers = yield* HashDatabase.make({
 *   path: "peers.db",
 *   schema: Schema.Struct({ name: Schema.String }),
 *   key: { passphrase: Redacted.make("correct horse battery staple") }
 * })
 * yield* peers.insert("a", { name: "Ada" })
 * ```
 */
export const make = Effect.fn("HashDatabase.make")(function* <A>(
  options: HashDatabaseOptions<A>
): Effect.fn.Return<HashDatabase<A>, StoreError, Scope.Scope> {
  const files = yield* StoreFiles
  const { ifMissing = "create", minGeneration = 0 } = options
  const missing = new StoreError({
    path: options.path,
    operation: "open",
    code: "MISSING",
    detail: "there is no such file"
  })
  // Looked at before there is a lock, so that a file which is not to be made leaves no trace.
  if (ifMissing === "fail" && (yield* inspect(options.path)) === undefined) return yield* missing
  const path = yield* attempt(options.path, "open", async () => {
    if (ifMissing === "create") await files.makeFolder(dirname(options.path))
    return files.resolve(options.path)
  })
  yield* lockFile(path, options.wait)
  const key = yield* keyOf(path, options.key)
  const secret = yield* attempt(path, "open", async () => secretOf(path, key))
  const codec = valueCodec(path, options.schema)
  // What a crash left of a snapshot: nobody else may write here now.
  yield* attempt(path, "write", () => files.remove(temporaryPath(path)))
  let loaded = yield* attempt(path, "open", () => loadDatabase(files, path, secret, codec))
  if (loaded === undefined && ifMissing === "create") {
    // A file that was seen before and is gone is the oldest of all copies.
    if (minGeneration > 0) return yield* rolledBack(path, 0, minGeneration)
    loaded = yield* attempt(path, "write", () => create(files, path, secret, derivationOf(key), codec))
  }
  if (loaded === undefined) return yield* missing
  const { state } = loaded
  if (state.generation < minGeneration) return yield* rolledBack(path, state.generation, minGeneration)
  if (state.tornBytes > 0) {
    yield* attempt(path, "write", () => cutTorn(files, path, state))
    yield* Effect.logWarning(
      `${state.tornBytes} bytes at the end of ${path} were cut off: a change that its process did not live to finish, and that nobody was told to be kept`
    )
  }
  return yield* shell(new OpenDatabase(files, path, codec, loaded))
})

const keyOf = (path: string, key: DatabaseKey | FindKey): Effect.Effect<DatabaseKey, StoreError> =>
  typeof key === "function" ? Effect.flatMap(inspect(path), found => key(found?.kdf)) : Effect.succeed(key)

const attempt = <A>(path: string, operation: StoreError["operation"], run: () => Promise<A>) =>
  Effect.tryPromise({ try: run, catch: storeError(path, operation) })

const create = async <A>(
  files: StoreFilesOperations,
  path: string,
  secret: DatabaseSecret,
  derivation: KeyDerivation,
  codec: ValueCodec<A>
): Promise<LoadedDatabase<A> | undefined> => {
  let loaded: LoadedDatabase<A> | undefined
  const entries = new Map<string, A>()
  const adopt = (state: DatabaseState): void => void (loaded = { state, entries })
  await writeSnapshot(files, path, await newLine(secret, derivation), entries, codec, adopt)
  return loaded
}

/** The effects on an open database: one at a time, and none interrupted. */
const shell = Effect.fnUntraced(function* <A>(
  open: OpenDatabase<A>
): Effect.fn.Return<HashDatabase<A>, never, Scope.Scope> {
  const turns = yield* Semaphore.make(1)
  yield* Effect.addFinalizer(() => turns.withPermit(Effect.sync(() => open.close())))
  const inTurn = <B>(operation: StoreError["operation"], run: () => Promise<B>) =>
    turns.withPermit(Effect.uninterruptible(attempt(open.path, operation, run)))
  const fold = attempt(open.path, "write", () => open.fold()).pipe(
    Effect.catch(error => Effect.logWarning(`the log is not folded into a snapshot: ${error.message}`))
  )
  const change = (changes: DatabaseChanges<A>) =>
    turns.withPermit(
      Effect.uninterruptible(
        Effect.tap(
          attempt(open.path, "write", () => open.commit(changes)),
          fold
        )
      )
    )
  return {
    change: changes => Effect.asVoid(change(changes)),
    insert: (key, value) => Effect.asVoid(change({ put: [[key, value]] })),
    remove: key => Effect.map(change({ remove: [key] }), removed => removed > 0),
    get: key => Effect.sync(() => open.entries.get(key)),
    has: key => Effect.sync(() => open.entries.has(key)),
    entries: Effect.sync(() => [...open.entries]),
    metadata: Effect.sync(() => describe(open.path, open.state, open.entries.size)),
    reload: inTurn("read", () => open.reload()),
    compact: inTurn("write", () => open.compact()),
    archive: path => inTurn("write", () => open.archive(path)),
    restore: (path, key) =>
      inTurn("write", async () => open.restore(path, key === undefined ? undefined : secretOf(path, key))),
    rekey: key => inTurn("write", async () => open.rekey(secretOf(open.path, key), derivationOf(key)))
  }
})
