/**
 * The database at rest (§5) as bytes: a header, a snapshot, and a log of the changes since. Snapshot and log are frames of one form, each
 * sealed under a key of its own that descends from everything before it in the file.
 */
import { createCipheriv, createDecipheriv } from "node:crypto"
import { ByteReader, concat, equal, fromUtf8, u16, u32, u64, u8, utf8 } from "./Bytes.ts"
import {
  databaseCheckBytes,
  databaseFileSaltBytes,
  databaseFrameHeadBytes,
  databaseHeaderBytes,
  databaseIdBytes,
  databaseSaltBytes,
  databaseVersion,
  gcmNonceBytes,
  gcmTagBytes,
  hashBytes,
  maxDatabaseEntries,
  maxDatabaseFrameBytes,
  maxDatabaseKeyBytes,
  maxDatabaseValueBytes
} from "./constants.ts"
import { checkDerivation, type KeyDerivation } from "./DatabaseKey.ts"
import { expand, hmac, sha256 } from "./KeySchedule.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** What the file says of itself in clear. */
export interface DatabaseHeader {
  readonly derivation: KeyDerivation
  /** Of the passphrase's derivation. */
  readonly salt: Uint8Array
  /** Stays the same through all snapshots of one database. */
  readonly databaseId: Uint8Array
  /** Durable writes up to this snapshot; each frame of the log is one more. */
  readonly generation: number
  /** New in each snapshot, so no key is ever used for two. */
  readonly fileSalt: Uint8Array
  /** Entries of the snapshot: the frame that completes it is its last, those behind are the log. */
  readonly count: number
}

const magic = utf8("ARTD")
const kdfCodes = { raw: 0, scrypt: 1, argon2id: 2 } as const
/** What the check of the key covers, and what the digest covers, which needs no key: so a wrong key is told from damage. */
const checkedBytes = databaseHeaderBytes - 2 * databaseCheckBytes
const digestedBytes = databaseHeaderBytes - databaseCheckBytes

const derivationBytes = (derivation: KeyDerivation): Uint8Array => {
  switch (derivation.kdf) {
    case "raw":
      return new Uint8Array(6)
    case "scrypt":
      return concat(u32(derivation.cost), u8(derivation.blockSize), u8(derivation.parallelism))
    case "argon2id":
      return concat(u32(derivation.memoryKiB), u8(derivation.passes), u8(derivation.parallelism))
  }
}

const keyCheck = (masterKey: Uint8Array, bytes: Uint8Array): Uint8Array =>
  hmac(expand(masterKey, "db check"), bytes.subarray(0, checkedBytes)).subarray(0, databaseCheckBytes)

export const encodeDatabaseHeader = (header: DatabaseHeader, masterKey: Uint8Array): Uint8Array => {
  const fields = concat(
    magic,
    u8(databaseVersion),
    u8(kdfCodes[header.derivation.kdf]),
    derivationBytes(header.derivation),
    header.salt,
    header.databaseId,
    u64(header.generation),
    header.fileSalt,
    u32(header.count)
  )
  const checked = concat(fields, keyCheck(masterKey, fields))
  return concat(checked, digestOf(checked))
}

/** Whether bytes begin as a database does. */
export const isDatabase = (bytes: Uint8Array): boolean => equal(bytes.subarray(0, magic.length), magic)

/**
 * Reads the 120 bytes of a header; no key is needed. MALFORMED where they are none or damaged, VERSION for one of another version,
 * TOO_LARGE for a derivation or a count beyond the limits. Whether the key is the right one only `isDatabaseKey` can say.
 */
export const parseDatabaseHeader = (bytes: Uint8Array): DatabaseHeader => {
  if (!isDatabase(bytes)) throw new ProtocolError("MALFORMED", "the file is no database")
  if (bytes.length < databaseHeaderBytes)
    throw new ProtocolError("MALFORMED", `the header ends after ${bytes.length} of ${databaseHeaderBytes} bytes`)
  const reader = new ByteReader(bytes.subarray(magic.length, databaseHeaderBytes))
  const version = reader.u8("version")
  if (version !== databaseVersion) throw new ProtocolError("VERSION", `the database is of version ${version}`)
  if (!equal(digestOf(bytes), bytes.subarray(digestedBytes, databaseHeaderBytes)))
    throw new ProtocolError("MALFORMED", "the header is damaged")
  const derivation = readDerivation(reader)
  checkDerivation(derivation)
  const salt = Uint8Array.from(reader.bytes(databaseSaltBytes, "salt"))
  const databaseId = Uint8Array.from(reader.bytes(databaseIdBytes, "database id"))
  const generation = Number(reader.u64("generation"))
  if (!Number.isSafeInteger(generation)) throw new ProtocolError("TOO_LARGE", "the generation is beyond 2^53")
  const fileSalt = Uint8Array.from(reader.bytes(databaseFileSaltBytes, "file salt"))
  const count = reader.u32("count")
  if (count > maxDatabaseEntries)
    throw new ProtocolError("TOO_LARGE", `${count} entries, at most ${maxDatabaseEntries} are taken`)
  return { derivation, salt, databaseId, generation, fileSalt, count }
}

const digestOf = (bytes: Uint8Array): Uint8Array =>
  sha256(bytes.subarray(0, digestedBytes)).subarray(0, databaseCheckBytes)

const readDerivation = (reader: ByteReader): KeyDerivation => {
  const kdf = reader.u8("kdf")
  const first = reader.u32("derivation")
  const second = reader.u8("derivation")
  const parallelism = reader.u8("derivation")
  switch (kdf) {
    case kdfCodes.raw:
      return { kdf: "raw" }
    case kdfCodes.scrypt:
      return { kdf: "scrypt", cost: first, blockSize: second, parallelism }
    case kdfCodes.argon2id:
      return { kdf: "argon2id", memoryKiB: first, passes: second, parallelism }
    default:
      throw new ProtocolError("VERSION", `key derivation ${kdf} is not known here`)
  }
}

/** Whether this is the master key that the header was written with. */
export const isDatabaseKey = (masterKey: Uint8Array, header: Uint8Array): boolean =>
  equal(keyCheck(masterKey, header), header.subarray(checkedBytes, digestedBytes))

/** The key from which those of one snapshot and its log descend. */
export const generationKey = (masterKey: Uint8Array, header: DatabaseHeader): Uint8Array =>
  expand(masterKey, "db", concat(header.databaseId, u64(header.generation), header.fileSalt))

/** A place in the file: what the next frame's key depends on. */
export interface FramePosition {
  /** Number of the next frame, from 0. */
  readonly sequence: number
  /** A hash over the header and all frames before. */
  readonly chain: Uint8Array
}

export const firstPosition = (header: Uint8Array): FramePosition => ({ sequence: 0, chain: sha256(header) })

/** One change. A frame is a list of them: all or none. Values are opaque here. */
export type DatabaseChange =
  | { readonly kind: "put"; readonly key: string; readonly value: Uint8Array }
  | { readonly kind: "remove"; readonly key: string }

const changeKinds = { put: 1, remove: 2 } as const

/** Bytes of a change inside a frame. Throws TOO_LARGE beyond a limit, MALFORMED for an empty key. */
export const encodeChange = (change: DatabaseChange): Uint8Array => {
  const key = utf8(change.key)
  // A lone surrogate would come back as another key than it went.
  if (key.length === 0 || !change.key.isWellFormed())
    throw new ProtocolError("MALFORMED", "a key must be text of at least one character")
  if (key.length > maxDatabaseKeyBytes)
    throw new ProtocolError("TOO_LARGE", `a key of ${key.length} bytes, at most ${maxDatabaseKeyBytes} are taken`)
  if (change.kind === "remove") return concat(u8(changeKinds.remove), u16(key.length), key)
  const { value } = change
  if (value.length > maxDatabaseValueBytes)
    throw new ProtocolError("TOO_LARGE", `a value of ${value.length} bytes, at most ${maxDatabaseValueBytes} are taken`)
  return concat(u8(changeKinds.put), u16(key.length), key, u32(value.length), value)
}

/** Reads the changes of a frame; values share memory with the input. Throws MALFORMED or TOO_LARGE. */
export const decodeChanges = (bytes: Uint8Array): ReadonlyArray<DatabaseChange> => {
  const reader = new ByteReader(bytes)
  const changes: Array<DatabaseChange> = []
  while (reader.remaining > 0) {
    const kind = reader.u8("kind of change")
    const keyBytes = reader.u16("key length")
    if (keyBytes === 0) throw new ProtocolError("MALFORMED", "a change without a key")
    if (keyBytes > maxDatabaseKeyBytes) throw new ProtocolError("TOO_LARGE", `a key of ${keyBytes} bytes`)
    const key = fromUtf8(reader.bytes(keyBytes, "key"), "key")
    if (kind === changeKinds.remove) changes.push({ kind: "remove", key })
    else if (kind === changeKinds.put) {
      const valueBytes = reader.u32("value length")
      if (valueBytes > maxDatabaseValueBytes) throw new ProtocolError("TOO_LARGE", `a value of ${valueBytes} bytes`)
      changes.push({ kind: "put", key, value: reader.bytes(valueBytes, "value") })
    } else throw new ProtocolError("MALFORMED", `a change of kind ${kind}`)
  }
  return changes
}

const aes = "aes-256-gcm"
const gcm = { authTagLength: gcmTagBytes }
const nonceOf = (sequence: number): Uint8Array => concat(new Uint8Array(gcmNonceBytes - 8), u64(sequence))

/** The frame's AES key, and the check by which its length is known to be meant before its body is there. */
const frameKeys = (
  key: Uint8Array,
  { sequence, chain }: FramePosition,
  sealedBytes: number,
  salt: Uint8Array
): { readonly cipherKey: Uint8Array; readonly check: Uint8Array } => {
  const context = concat(chain, u64(sequence), u32(sealedBytes), salt)
  const derived = expand(key, "db frame", context, hashBytes + databaseCheckBytes)
  return { cipherKey: derived.subarray(0, hashBytes), check: derived.subarray(hashBytes) }
}

const after = (position: FramePosition, head: Uint8Array, tag: Uint8Array): FramePosition => ({
  sequence: position.sequence + 1,
  chain: sha256(position.chain, head, tag)
})

/**
 * Seals encoded changes as the frame of a position: `len u32 | salt 32 | check 16 | AES-256-GCM`. The salt must be fresh random bytes: a
 * frame that was written and cut off again may be followed by another one of the same position. TOO_LARGE beyond 4 MiB.
 */
export const sealFrame = (
  key: Uint8Array,
  position: FramePosition,
  changes: ReadonlyArray<Uint8Array>,
  salt: Uint8Array
): { readonly bytes: Uint8Array; readonly next: FramePosition } => {
  const plain = concat(...changes)
  if (plain.length > maxDatabaseFrameBytes)
    throw new ProtocolError("TOO_LARGE", `changes of ${plain.length} bytes, at most ${maxDatabaseFrameBytes} at once`)
  const sealedBytes = plain.length + gcmTagBytes
  const { cipherKey, check } = frameKeys(key, position, sealedBytes, salt)
  const head = concat(u32(sealedBytes), salt, check)
  const cipher = createCipheriv(aes, cipherKey, nonceOf(position.sequence), gcm)
  cipher.setAAD(position.chain)
  const sealed = cipher.update(plain)
  cipher.final()
  const tag = cipher.getAuthTag()
  return { bytes: concat(head, sealed, tag), next: after(position, head, tag) }
}

/** What stands at a position: a frame, or so far too little of one. */
export type OpenedFrame =
  | {
      readonly _tag: "Frame"
      readonly changes: ReadonlyArray<DatabaseChange>
      readonly bytes: number
      readonly next: FramePosition
    }
  | { readonly _tag: "Incomplete"; readonly neededBytes: number }

/** Opens the frame that begins `bytes`; more may follow it. BAD_MAC where it is not the one that was written there. */
export const openFrame = (key: Uint8Array, position: FramePosition, bytes: Uint8Array): OpenedFrame => {
  if (bytes.length < databaseFrameHeadBytes) return { _tag: "Incomplete", neededBytes: databaseFrameHeadBytes }
  const head = bytes.subarray(0, databaseFrameHeadBytes)
  const reader = new ByteReader(head)
  const sealedBytes = reader.u32("frame length")
  const salt = reader.bytes(databaseFileSaltBytes, "frame salt")
  const { cipherKey, check } = frameKeys(key, position, sealedBytes, salt)
  if (!equal(check, reader.bytes(databaseCheckBytes, "frame check")))
    throw new ProtocolError("BAD_MAC", `frame ${position.sequence} does not belong here or is damaged`)
  if (sealedBytes < gcmTagBytes || sealedBytes > maxDatabaseFrameBytes + gcmTagBytes)
    throw new ProtocolError("TOO_LARGE", `frame ${position.sequence} has ${sealedBytes} bytes`)
  const total = databaseFrameHeadBytes + sealedBytes
  if (bytes.length < total) return { _tag: "Incomplete", neededBytes: total }
  const tag = bytes.subarray(total - gcmTagBytes, total)
  const decipher = createDecipheriv(aes, cipherKey, nonceOf(position.sequence), gcm)
  decipher.setAAD(position.chain)
  decipher.setAuthTag(tag)
  const plain = decipher.update(bytes.subarray(databaseFrameHeadBytes, total - gcmTagBytes))
  try {
    decipher.final()
  } catch {
    throw new ProtocolError("BAD_MAC", `frame ${position.sequence} is damaged`)
  }
  return { _tag: "Frame", changes: decodeChanges(plain), bytes: total, next: after(position, head, tag) }
}
