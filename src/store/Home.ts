import { Duration, Effect, Redacted, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import { join } from "node:path"
import { fromHex, fromUtf8, toHex, utf8 } from "../protocol/Bytes.ts"
import { hashBytes } from "../protocol/constants.ts"
import { exportIdentity, generateIdentity, importIdentity, type LocalIdentity } from "../protocol/Identity.ts"
import { readFileWhole, replaceFile } from "./AtomicFile.ts"
import * as HashDatabase from "./HashDatabase.ts"
import { homeChanges, HomeEntry, peersOf, PeerStore } from "./PeerStore.ts"
import { readPlainHome, removePlainHome } from "./PlainHome.ts"
import { StoreError, storeError } from "./StoreError.ts"
import { StoreFiles, type StoreFilesOperations } from "./StoreFiles.ts"

/** How the passphrase of a home is come by: it is known, or somebody is asked, who is only asked where one is needed. */
export type HomePassphrase = Redacted.Redacted<string> | Effect.Effect<Redacted.Redacted<string>, StoreError>

export interface HomeOptions {
  /** Absent: the key of a new home is a file beside its database, and a home that has a passphrase is refused with KEY_KIND. */
  readonly passphrase?: HomePassphrase | undefined
  /** A home without a passphrase gets the one that is given, and its key file is removed. Default: it is refused with KEY_KIND. */
  readonly protect?: boolean
  /** How long to wait for another process to leave the home. Default: not at all. */
  readonly wait?: Duration.Input
  /** The generation last seen of its database, kept elsewhere. */
  readonly minGeneration?: number
}

/** A home that is open: nobody else has it until the scope closes. */
export interface Home {
  readonly folder: string
  readonly identity: LocalIdentity
  /** The identity was made just now. */
  readonly created: boolean
  readonly peers: PeerStore["Service"]
  readonly database: HashDatabase.HashDatabase<HomeEntry>
  /** Whether a passphrase protects it. */
  readonly isProtected: boolean
}

const selfKey = "self"
const databasePath = (folder: string): string => join(folder, "home.db")
const keyPath = (folder: string): string => join(folder, "home.key")
const maxKeyFileBytes = 1024

const readKeyFile = async (files: StoreFilesOperations, path: string): Promise<Uint8Array | undefined> => {
  const bytes = await readFileWhole(files, path, maxKeyFileBytes)
  if (bytes === undefined) return undefined
  const key = fromHex(fromUtf8(bytes, "the key").trim(), "the key")
  if (key.length === hashBytes) return key
  const detail = `it does not hold ${2 * hashBytes} hexadecimal digits; restore a copy of it`
  throw new StoreError({ path, operation: "read", code: "DAMAGED", detail })
}

/** Makes the key of a new database, durably before the database is: a database whose key is lost would be of no use. */
const makeKeyFile = async (files: StoreFilesOperations, path: string): Promise<Uint8Array> => {
  const key = randomBytes(hashBytes)
  await replaceFile(files, path, utf8(`${toHex(key)}\n`))
  return key
}

const passphraseOf = (passphrase: HomePassphrase): Effect.Effect<HashDatabase.DatabaseKey, StoreError> =>
  Effect.map(Redacted.isRedacted(passphrase) ? Effect.succeed(passphrase) : passphrase, known => ({
    passphrase: known
  }))

const findKey =
  (files: StoreFilesOperations, folder: string, { passphrase, protect = false }: HomeOptions): HashDatabase.FindKey =>
  found => {
    const path = keyPath(folder)
    const refuse = (code: "KEY_KIND" | "MISSING", detail: string) =>
      new StoreError({ path: code === "MISSING" ? path : databasePath(folder), operation: "open", code, detail })
    const keyFile = (make: boolean) =>
      Effect.tryPromise({
        try: async () => {
          const key = (await readKeyFile(files, path)) ?? (make ? await makeKeyFile(files, path) : undefined)
          if (key !== undefined) return { key: Redacted.make(key) }
          throw refuse("MISSING", "the key of this home is gone: without it nothing of the home can be read")
        },
        catch: storeError(path, "open")
      })
    if (found === "raw") {
      return Redacted.isRedacted(passphrase) && !protect
        ? Effect.fail(refuse("KEY_KIND", "this home has no passphrase, but one was given"))
        : keyFile(false)
    }
    // Who would be asked is not asked for a home that does not exist yet: a passphrase is chosen knowingly.
    if (found === undefined) return Redacted.isRedacted(passphrase) ? passphraseOf(passphrase) : keyFile(true)
    return passphrase === undefined
      ? Effect.fail(refuse("KEY_KIND", "it is sealed under a passphrase, and none was given"))
      : passphraseOf(passphrase)
  }

const identityIn = (
  path: string,
  entry: HomeEntry | undefined
): Effect.Effect<LocalIdentity | undefined, StoreError> => {
  if (entry?.kind !== "self") return Effect.succeed(undefined)
  return Effect.try({ try: () => importIdentity(entry), catch: storeError(path, "read") })
}

/** What a database that knows no identity yet begins with: that of the plain files, if there are any, or a new one. */
const firstEntries = Effect.fnUntraced(function* (folder: string) {
  const plain = yield* readPlainHome(folder)
  const identity = plain?.identity ?? (yield* Effect.promise(generateIdentity))
  const { put = [] } =
    plain === undefined ? {} : homeChanges({ putPeers: plain.peers.peers, putInvites: plain.peers.invites })
  const self: HomeEntry = { kind: "self", ...exportIdentity(identity) }
  return { identity, created: plain === undefined, put: [[selfKey, self] as const, ...put] }
})

/**
 * Opens the home of this machine, and makes one the first time: `home.db` holds its identity, the peers that it is paired with, and the open
 * invitations; `home.key` its key where no passphrase protects it. Two processes cannot have one home open: IN_USE names the other.
 *
 * Fails with `StoreError`: KEY_KIND where a passphrase is needed or there is none to give one for, WRONG_KEY, MISSING where the key file is gone.
 */
export const openHome = Effect.fn("Home.open")(function* (
  folder: string,
  options: HomeOptions = {}
): Effect.fn.Return<Home, StoreError, Scope.Scope> {
  const files = yield* StoreFiles
  const { wait, minGeneration } = options
  const path = databasePath(folder)
  const database = yield* HashDatabase.make({
    path,
    schema: HomeEntry,
    key: findKey(files, folder, options),
    ...(wait === undefined ? {} : { wait }),
    ...(minGeneration === undefined ? {} : { minGeneration })
  })
  const known = yield* identityIn(path, yield* database.get(selfKey))
  const first = known === undefined ? yield* firstEntries(folder) : undefined
  if (first !== undefined) yield* database.change({ put: first.put })
  const identity = known ?? first?.identity
  if (identity === undefined) return yield* Effect.die(new Error("a home has an identity by now"))
  yield* forgetPlainHome(folder, identity)
  const { passphrase, protect = false } = options
  if (protect && Redacted.isRedacted(passphrase) && (yield* database.metadata).kdf === "raw")
    yield* protectBy(folder, database, passphrase)
  const { kdf } = yield* database.metadata
  return {
    folder,
    identity,
    created: first?.created ?? false,
    peers: PeerStore.over(database),
    database,
    isProtected: kdf !== "raw"
  }
})

/** The plain files are removed only where all that they say is in the database: those of another identity are somebody's. */
const forgetPlainHome = Effect.fnUntraced(function* (folder: string, identity: LocalIdentity) {
  const plain = yield* readPlainHome(folder)
  if (plain === undefined) return
  if (plain.identity.peerId === identity.peerId) return yield* removePlainHome(folder)
  yield* Effect.logWarning(
    `${folder} has an identity.json of another identity, ${plain.identity.peerId}; it is not used`
  )
})

/** Puts a home under a passphrase and removes its key file. */
const protectBy = Effect.fnUntraced(function* (
  folder: string,
  database: HashDatabase.HashDatabase<HomeEntry>,
  passphrase: Redacted.Redacted<string>
) {
  const files = yield* StoreFiles
  yield* database.rekey({ passphrase })
  yield* Effect.tryPromise({
    try: async () => {
      await files.remove(keyPath(folder))
      await files.syncFolder(folder)
    },
    catch: storeError(keyPath(folder), "write")
  })
})

/** The identity and the peers of a home, read while another process may have it open; undefined where no identity has been made. */
export const readHome = Effect.fn("Home.read")(function* (
  folder: string,
  options: Pick<HomeOptions, "passphrase" | "minGeneration"> = {}
) {
  const files = yield* StoreFiles
  const { minGeneration = 0 } = options
  const path = databasePath(folder)
  if ((yield* HashDatabase.inspect(path)) === undefined) return yield* readPlainHome(folder)
  const key = findKey(files, folder, options)
  const read = yield* HashDatabase.read({ path, schema: HomeEntry, key, minGeneration })
  const identity = yield* identityIn(path, read?.entries.get(selfKey))
  return identity === undefined ? undefined : { identity, peers: peersOf(read?.entries ?? []) }
})
