import { randomBytes } from "node:crypto"
import { dirname } from "node:path"
import { equal } from "../protocol/Bytes.ts"
import {
  databaseBlockBytes,
  databaseFileSaltBytes,
  databaseHeaderBytes,
  databaseIdBytes,
  databaseSaltBytes,
  hashBytes,
  maxDatabaseEntries,
  maxDatabaseFrameBytes,
  minDatabaseLogBytes
} from "../protocol/constants.ts"
import {
  encodeChange,
  encodeDatabaseHeader,
  firstPosition,
  generationKey,
  isDatabase,
  isDatabaseKey,
  parseDatabaseHeader,
  sealFrame,
  type DatabaseChange,
  type DatabaseHeader,
  type FramePosition
} from "../protocol/DatabaseFormat.ts"
import { DatabaseReader } from "../protocol/DatabaseReader.ts"
import { derivePassphraseKey, type KeyDerivation } from "../protocol/DatabaseKey.ts"
import { writeFileWhole } from "./AtomicFile.ts"
import { StoreError } from "./StoreError.ts"
import type { StoreFile, StoreFilesOperations } from "./StoreFiles.ts"

/** Read and written at once: long enough to cost few calls, short enough not to hold the event loop. */
const chunkBytes = 1024 * 1024

/** What opens a database: 32 bytes, the bytes of a passphrase, or what one of them has given for a database of this salt. Secret. */
export type DatabaseSecret =
  | { readonly kind: "key"; readonly bytes: Uint8Array }
  | { readonly kind: "passphrase"; readonly bytes: Uint8Array }
  | { readonly kind: "master"; readonly bytes: Uint8Array; readonly salt: Uint8Array }

/** How values become bytes; both throw for what does not fit. */
export interface ValueCodec<A> {
  readonly encode: (value: A) => Uint8Array
  readonly decode: (bytes: Uint8Array) => A
}

/** A database as it is on the disk, and what it takes to write its next frame. */
export interface DatabaseState {
  readonly header: DatabaseHeader
  readonly masterKey: Uint8Array
  /** From which the keys of the frames descend. */
  readonly key: Uint8Array
  readonly position: FramePosition
  readonly generation: number
  readonly wholeBytes: number
  readonly snapshotBytes: number
  readonly tornBytes: number
  /** Tells this file from another one that has taken its place. */
  readonly fileId: string
}

export interface LoadedDatabase<A> {
  readonly state: DatabaseState
  readonly entries: Map<string, A>
}

/** The master key of a header's database. Rejects with KEY_KIND, or WRONG_KEY. */
const masterKeyOf = async (
  path: string,
  header: DatabaseHeader,
  headerBytes: Uint8Array,
  secret: DatabaseSecret
): Promise<Uint8Array> => {
  const { derivation, salt } = header
  const wrong = (code: "KEY_KIND" | "WRONG_KEY", detail: string) =>
    new StoreError({ path, operation: "open", code, detail })
  const derived = async (): Promise<Uint8Array> => {
    if (secret.kind === "master") {
      if (equal(secret.salt, salt)) return secret.bytes
      throw wrong("KEY_KIND", "it is sealed under another passphrase or key: give that one")
    }
    if (derivation.kdf === "raw") {
      if (secret.kind === "key") return Uint8Array.from(secret.bytes)
      throw wrong("KEY_KIND", "it was made with a key, not with a passphrase")
    }
    if (secret.kind === "passphrase") return derivePassphraseKey(derivation, secret.bytes, salt)
    throw wrong("KEY_KIND", "it was made with a passphrase: give that")
  }
  const masterKey = await derived()
  if (isDatabaseKey(masterKey, headerBytes)) return masterKey
  throw wrong("WRONG_KEY", secret.kind === "passphrase" ? "the passphrase is wrong" : "the key is not this database's")
}

const readHeader = async (path: string, file: StoreFile): Promise<Uint8Array> => {
  const bytes = new Uint8Array(databaseHeaderBytes)
  const read = bytes.subarray(0, await file.read(bytes, 0))
  if (isDatabase(read)) return read
  throw new StoreError({ path, operation: "open", code: "FOREIGN", detail: "it is no database of Artifice" })
}

/** The header of a file, read without a key; undefined where there is no file. */
export const inspectDatabase = async (
  files: StoreFilesOperations,
  path: string
): Promise<DatabaseHeader | undefined> => {
  const file = await files.open(path, "read")
  if (file === undefined) return undefined
  try {
    return parseDatabaseHeader(await readHeader(path, file))
  } finally {
    await file.close()
  }
}

/** Reads a whole file; undefined where there is none. Changes nothing on the disk. */
export const loadDatabase = async <A>(
  files: StoreFilesOperations,
  path: string,
  secret: DatabaseSecret,
  codec: ValueCodec<A>
): Promise<LoadedDatabase<A> | undefined> => {
  const file = await files.open(path, "read")
  if (file === undefined) return undefined
  try {
    const headerBytes = await readHeader(path, file)
    const header = parseDatabaseHeader(headerBytes)
    const masterKey = await masterKeyOf(path, header, headerBytes, secret)
    const reader = new DatabaseReader(header, headerBytes, masterKey)
    const entries = new Map<string, A>()
    const chunk = new Uint8Array(chunkBytes)
    for (let at = databaseHeaderBytes; ;) {
      const read = await file.read(chunk, at)
      for (const change of reader.push(chunk.subarray(0, read))) applyTo(entries, change, codec)
      at += read
      if (read < chunk.length) break
    }
    const end = reader.end()
    const { id } = await file.stat()
    return { entries, state: { header, masterKey, key: generationKey(masterKey, header), ...end, fileId: id } }
  } finally {
    await file.close()
  }
}

const applyTo = <A>(entries: Map<string, A>, change: DatabaseChange, codec: ValueCodec<A>): void => {
  if (change.kind === "put") entries.set(change.key, codec.decode(change.value))
  else entries.delete(change.key)
}

/** What the next snapshot of a database keeps from the one before. */
export type DatabaseLine = Pick<DatabaseHeader, "derivation" | "salt" | "databaseId" | "generation"> & {
  readonly masterKey: Uint8Array
}

/** The beginning of a new database. */
export const newLine = async (secret: DatabaseSecret, derivation: KeyDerivation): Promise<DatabaseLine> => {
  const salt = randomBytes(databaseSaltBytes)
  const masterKey =
    derivation.kdf === "raw" ? Uint8Array.from(secret.bytes) : await derivePassphraseKey(derivation, secret.bytes, salt)
  return { derivation, salt, databaseId: randomBytes(databaseIdBytes), generation: 1, masterKey }
}

/**
 * Writes all entries as a new file in the place of the old one. `adopt` is called when it is in its place, before the folder is synced: if that
 * last step fails the caller knows which file is there. The old file is whole until then.
 */
export const writeSnapshot = async <A>(
  files: StoreFilesOperations,
  path: string,
  line: DatabaseLine,
  entries: ReadonlyMap<string, A>,
  codec: ValueCodec<A>,
  adopt: (state: DatabaseState) => void
): Promise<void> => {
  if (entries.size > maxDatabaseEntries) throw tooMany(path, entries.size)
  adopt(await writeFileWhole(files, path, file => writeFrames(file, line, entries, codec)))
  await files.syncFolder(dirname(path))
}

const tooMany = (path: string, count: number): StoreError =>
  new StoreError({
    path,
    operation: "write",
    code: "LIMIT",
    detail: `${count} entries, at most ${maxDatabaseEntries} are kept in one database`
  })

const writeFrames = async <A>(
  file: StoreFile,
  line: DatabaseLine,
  entries: ReadonlyMap<string, A>,
  codec: ValueCodec<A>
): Promise<DatabaseState> => {
  const { masterKey, ...kept } = line
  const header: DatabaseHeader = { ...kept, fileSalt: randomBytes(databaseFileSaltBytes), count: entries.size }
  const headerBytes = encodeDatabaseHeader(header, masterKey)
  const key = generationKey(masterKey, header)
  let position = firstPosition(headerBytes)
  let at = 0
  let sealed: Array<Uint8Array> = [headerBytes]
  let sealedBytes = headerBytes.length
  let block: Array<Uint8Array> = []
  let blockBytes = 0

  const flush = async (): Promise<void> => {
    await file.write(Buffer.concat(sealed, sealedBytes), at)
    at += sealedBytes
    sealed = []
    sealedBytes = 0
  }
  const seal = (): void => {
    const frame = sealFrame(key, position, block, randomBytes(hashBytes))
    position = frame.next
    sealed.push(frame.bytes)
    sealedBytes += frame.bytes.length
    block = []
    blockBytes = 0
  }
  for (const [name, value] of entries) {
    const change = encodeChange({ kind: "put", key: name, value: codec.encode(value) })
    if (blockBytes > 0 && blockBytes + change.length > databaseBlockBytes) seal()
    block.push(change)
    blockBytes += change.length
    // One piece at a time: each write lets the event loop turn.
    if (sealedBytes >= chunkBytes) await flush()
  }
  if (block.length > 0) seal()
  await flush()
  const { id } = await file.stat()
  return {
    header,
    masterKey,
    key,
    position,
    generation: header.generation,
    wholeBytes: at,
    snapshotBytes: at,
    tornBytes: 0,
    fileId: id
  }
}

/** A change could not be appended. `clean`: the file is as it was before. */
export class AppendFailure extends Error {
  readonly clean: boolean
  constructor(cause: unknown, clean: boolean) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.clean = clean
  }
}

/** Appends changes to the log as one frame; they are on the disk when it resolves. Rejects with AppendFailure. */
export const appendFrame = async (
  files: StoreFilesOperations,
  path: string,
  state: DatabaseState,
  changes: ReadonlyArray<Uint8Array>
): Promise<DatabaseState> => {
  const { bytes, next } = sealFrame(state.key, state.position, changes, randomBytes(hashBytes))
  const file = await files.open(path, "update")
  if (file === undefined) throw replaced(path)
  const at = state.wholeBytes
  try {
    const found = await file.stat()
    if (found.id !== state.fileId || found.bytes !== at) throw replaced(path)
    await append(file, bytes, at)
  } finally {
    await file.close()
  }
  return { ...state, position: next, generation: state.generation + 1, wholeBytes: at + bytes.length }
}

const replaced = (path: string): StoreError =>
  new StoreError({
    path,
    operation: "write",
    code: "DAMAGED",
    detail: "another program has changed it while it was open; open it again"
  })

const append = async (file: StoreFile, bytes: Uint8Array, at: number): Promise<void> => {
  let written = false
  try {
    await file.write(bytes, at)
    written = true
    await file.sync()
  } catch (error) {
    // A sync that failed says nothing about which pages reached the disk, and will not try them again.
    const clean = await cut(file, at).then(
      () => !written,
      () => false
    )
    throw new AppendFailure(error, clean)
  }
}

const cut = async (file: StoreFile, bytes: number): Promise<void> => {
  await file.truncate(bytes)
  await file.sync()
}

/** Cuts the torn end of a log off. */
export const cutTorn = async (files: StoreFilesOperations, path: string, state: DatabaseState): Promise<void> => {
  const file = await files.open(path, "update")
  if (file === undefined) throw replaced(path)
  try {
    await cut(file, state.wholeBytes)
  } finally {
    await file.close()
  }
}

/** Whether the log is due to be folded into a snapshot: then each write has paid for its own share of that. */
export const isLogLong = ({ wholeBytes, snapshotBytes }: DatabaseState): boolean =>
  wholeBytes - snapshotBytes > Math.max(snapshotBytes, minDatabaseLogBytes)

/** Whether encoded changes fit one frame of the log. */
export const fitsFrame = (changes: ReadonlyArray<Uint8Array>): boolean =>
  changes.reduce((bytes, change) => bytes + change.length, 0) <= maxDatabaseFrameBytes
