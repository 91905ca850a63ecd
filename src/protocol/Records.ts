import { createSecretKey, type KeyObject } from "node:crypto"
import { concat, wipe } from "./Bytes.ts"
import {
  gcmNonceBytes,
  gcmTagBytes,
  innerHeaderBytes,
  maxBytesPerKey,
  maxCiphertextBytes,
  maxRecordPayloadBytes,
  maxRecordsPerKey,
  minCiphertextBytes,
  minRecordsPerKeyUpdate,
  recordHeaderBytes
} from "./constants.ts"
import { nodeCipherEngine, type CipherEngine } from "./CipherEngine.ts"
import { nextTrafficSecret, trafficIv, trafficKey } from "./KeySchedule.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** Record types of §3.2. */
export const recordTypes = {
  rawData: 0,
  rawAck: 1,
  admin: 2,
  adminAck: 3,
  keyUpdate: 16,
  ready: 17,
  goodbye: 18,
  ping: 19,
  pong: 20,
  open: 21,
  fin: 22,
  reset: 23,
  credit: 24
} as const

/** Records that carry messages: the only ones with flags. */
export const messageTypes: ReadonlySet<number> = new Set([recordTypes.rawData, recordTypes.admin, recordTypes.adminAck])
const { rawAck, fin, reset, credit } = recordTypes
/** Records that belong to a stream which has been opened. */
export const streamTypes: ReadonlySet<number> = new Set([...messageTypes, rawAck, fin, reset, credit])

/** Record flags of §3.1. */
export const recordFlags = { first: 1, last: 2, ackRequested: 4 } as const
export const knownFlags = 7

/** One opened record. `payload` is memory of its own that belongs to the receiver. */
export interface Record {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Uint8Array
}

/** Arrays below this cost less to copy or to leave behind than to treat one by one. */
const smallBytes = 4_096

/**
 * Gives the memory of sealed or opened bytes back at once, if they are many; the array is then empty. Without this the next record takes
 * other memory until the garbage collector has been: sealing then costs twice as much, and collecting more than both.
 */
export const release = (bytes: Uint8Array): void => {
  if (bytes.length >= smallBytes && bytes.buffer instanceof ArrayBuffer) bytes.buffer.transfer(0)
}

/** The same bytes in fewer arrays: small neighbours are joined, which costs less than a call of the cipher or the socket for each. */
export const gathered = (parts: ReadonlyArray<Uint8Array>): ReadonlyArray<Uint8Array> => {
  const out: Array<Uint8Array> = []
  let small: Array<Uint8Array> = []
  let bytes = 0
  const join = (): void => {
    if (small.length > 1) out.push(Buffer.concat(small, bytes))
    else out.push(...small)
    small = []
    bytes = 0
  }
  for (const part of parts) {
    if (part.length >= smallBytes || bytes + part.length >= smallBytes) join()
    if (part.length >= smallBytes) out.push(part)
    else {
      small.push(part)
      bytes += part.length
    }
  }
  join()
  return out
}

/** The keys of one direction: secret, AES key, nonce base, and how far they have been used. */
class DirectionKeys {
  #secret: Uint8Array
  readonly #iv = new Uint8Array(gcmNonceBytes)
  readonly #ivView = new DataView(this.#iv.buffer)
  readonly #nonce = new Uint8Array(gcmNonceBytes)
  readonly #nonceView = new DataView(this.#nonce.buffer)
  key: KeyObject
  epoch = 0
  records = 0
  bytes = 0

  constructor(secret: Uint8Array) {
    this.#secret = Uint8Array.from(secret)
    this.key = this.#makeKey()
  }

  /** A KeyObject is made once per key: handing the raw bytes to each record costs 17 µs more. */
  #makeKey(): KeyObject {
    this.#iv.set(trafficIv(this.#secret))
    this.#nonce.set(this.#iv)
    const raw = trafficKey(this.#secret)
    const key = createSecretKey(raw)
    wipe(raw)
    return key
  }

  /**
   * iv XOR (0⁴ ‖ u64 seq) for the next record; the position is implicit, so no record opens anywhere else. The array is the same for
   * every record; the key changes long before the upper half of seq would.
   */
  nonce(): Uint8Array {
    this.#nonceView.setUint32(8, (this.#ivView.getUint32(8) ^ this.records) >>> 0)
    return this.#nonce
  }

  update(): void {
    const next = nextTrafficSecret(this.#secret)
    wipe(this.#secret)
    this.#secret = next
    this.key = this.#makeKey()
    this.epoch = (this.epoch + 1) & 0xff
    this.records = 0
    this.bytes = 0
  }

  wipe(): void {
    wipe(this.#secret, this.#iv, this.#nonce)
  }
}

const header = (epoch: number, ciphertextBytes: number): Uint8Array =>
  Uint8Array.of(epoch, ciphertextBytes >>> 16, (ciphertextBytes >>> 8) & 0xff, ciphertextBytes & 0xff)

/** Bounds of one key; tests lower them to see a key change without 2²⁴ records. */
export interface KeyLimits {
  readonly records: number
  readonly bytes: number
}

const specifiedLimits: KeyLimits = { records: maxRecordsPerKey, bytes: maxBytesPerKey }

/** Seals records of one direction (§3.1, §3.3). Changes keys by itself before a bound of §3.3 is reached. */
export class RecordSealer {
  readonly #keys: DirectionKeys
  readonly #engine: CipherEngine
  readonly #limits: KeyLimits

  constructor(secret: Uint8Array, engine: CipherEngine = nodeCipherEngine, limits: KeyLimits = specifiedLimits) {
    this.#keys = new DirectionKeys(secret)
    this.#engine = engine
    this.#limits = limits
  }

  get epoch(): number {
    return this.#keys.epoch
  }

  /** Records sealed under the present key. */
  get records(): number {
    return this.#keys.records
  }

  /** The bytes to write for one record, in parts; `payload` (≤ 65,536 bytes in all) is read before this returns. */
  seal(type: number, flags: number, stream: number, payload: ReadonlyArray<Uint8Array>): Array<Uint8Array> {
    let length = 0
    for (const part of payload) length += part.length
    if (length > maxRecordPayloadBytes) throw new ProtocolError("INTERNAL", `a record payload of ${length} bytes`)
    const out: Array<Uint8Array> = []
    const full = this.#keys.records + 1 >= this.#limits.records || this.#keys.bytes + length >= this.#limits.bytes
    if (full) out.push(...this.updateKey())
    this.#seal(out, type, flags, stream, payload, length)
    return out
  }

  /** Ends the epoch: the KEY_UPDATE record is the last under the old key. */
  updateKey(): Array<Uint8Array> {
    const out: Array<Uint8Array> = []
    this.#seal(out, recordTypes.keyUpdate, 0, 0, [], 0)
    this.#keys.update()
    return out
  }

  #seal(
    out: Array<Uint8Array>,
    type: number,
    flags: number,
    stream: number,
    payload: ReadonlyArray<Uint8Array>,
    length: number
  ): void {
    const keys = this.#keys
    const associated = header(keys.epoch, innerHeaderBytes + length + gcmTagBytes)
    const inner = Uint8Array.of(
      type,
      flags,
      stream >>> 24,
      (stream >>> 16) & 0xff,
      (stream >>> 8) & 0xff,
      stream & 0xff
    )
    out.push(associated, ...this.#engine.seal(keys.key, keys.nonce(), associated, gathered([inner, ...payload])))
    keys.records++
    keys.bytes += length
  }

  wipe(): void {
    this.#keys.wipe()
  }
}

/**
 * Opens records of one direction, from chunks of any size. A bad epoch or length is refused from the four header bytes, before anything
 * is waited for or allocated; at most one record is ever held. The first failure ends it: one forgery attempt per session.
 */
export class RecordOpener {
  readonly #keys: DirectionKeys
  readonly #engine: CipherEngine
  readonly #limits: KeyLimits
  /** A record that has not arrived whole: its first `#filled` bytes of `#awaited`, or of its header while that is not known. */
  #held: Uint8Array = new Uint8Array(0)
  #filled = 0
  #awaited = 0
  #updates = 0
  #failure: ProtocolError | undefined

  constructor(secret: Uint8Array, engine: CipherEngine = nodeCipherEngine, limits: KeyLimits = specifiedLimits) {
    this.#keys = new DirectionKeys(secret)
    this.#engine = engine
    this.#limits = limits
  }

  get epoch(): number {
    return this.#keys.epoch
  }

  /** Hands every record that is complete after `chunk` to `onRecord`; KEY_UPDATE is taken here. Throws ProtocolError, and again for ever after. */
  push(chunk: Uint8Array, onRecord: (record: Record) => void): void {
    if (this.#failure !== undefined) throw this.#failure
    try {
      this.#push(chunk, onRecord)
    } catch (error) {
      if (error instanceof ProtocolError) {
        this.#failure = error
        this.wipe()
      }
      throw error
    }
  }

  #push(chunk: Uint8Array, onRecord: (record: Record) => void): void {
    let at = 0
    if (this.#filled > 0) {
      at = this.#complete(chunk)
      if (this.#filled < this.#awaited) return
      // Whoever takes the record must find this reader ready for the next chunk.
      this.#filled = 0
      onRecordUnlessUpdate(this.#open(this.#held, 0, this.#awaited), onRecord)
    }
    while (chunk.length - at >= recordHeaderBytes) {
      const end = at + recordHeaderBytes + this.#length(chunk, at)
      if (end > chunk.length) break
      onRecordUnlessUpdate(this.#open(chunk, at, end), onRecord)
      at = end
    }
    if (at < chunk.length) this.#complete(chunk.subarray(at))
  }

  /** Adds to the held record what the chunk has of it: how many bytes that was. */
  #complete(chunk: Uint8Array): number {
    let taken = 0
    if (this.#filled < recordHeaderBytes) {
      taken = this.#hold(chunk, 0, recordHeaderBytes)
      if (this.#filled < recordHeaderBytes) return taken
    }
    return taken + this.#hold(chunk, taken, recordHeaderBytes + this.#length(this.#held, 0))
  }

  /** Holds bytes of the chunk up to a length, in memory that grows to the longest record and is used again. */
  #hold(chunk: Uint8Array, from: number, awaited: number): number {
    this.#awaited = awaited
    if (this.#held.length < awaited) {
      const longer = Buffer.allocUnsafeSlow(awaited)
      longer.set(this.#held.subarray(0, this.#filled))
      this.#held = longer
    }
    const taken = Math.min(awaited - this.#filled, chunk.length - from)
    this.#held.set(chunk.subarray(from, from + taken), this.#filled)
    this.#filled += taken
    return taken
  }

  /** The ciphertext's length, from a header that has been checked. */
  #length(bytes: Uint8Array, at: number): number {
    const epoch = bytes[at] ?? 0
    const length = ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)
    if (epoch !== this.#keys.epoch)
      throw new ProtocolError("BAD_MAC", `a record of epoch ${epoch} in epoch ${this.#keys.epoch}`)
    if (length < minCiphertextBytes || length > maxCiphertextBytes)
      throw new ProtocolError("TOO_LARGE", `a record of ${length} bytes`)
    return length
  }

  #open(bytes: Uint8Array, from: number, to: number): Record | undefined {
    const keys = this.#keys
    if (keys.records >= this.#limits.records || keys.bytes >= this.#limits.bytes)
      throw new ProtocolError("UNEXPECTED", "the other side has not changed its key in time")
    const tagAt = to - gcmTagBytes
    const start = from + recordHeaderBytes
    const associated = bytes.subarray(from, start)
    const plain = this.#engine.open(
      keys.key,
      keys.nonce(),
      associated,
      bytes.subarray(start, tagAt),
      bytes.subarray(tagAt, to)
    )
    if (plain === undefined) throw new ProtocolError("BAD_MAC", "a record is not authentic")
    keys.records++
    keys.bytes += plain.length - innerHeaderBytes
    const type = plain[0] ?? 0
    const flags = plain[1] ?? 0
    const stream = new DataView(plain.buffer, plain.byteOffset).getUint32(2)
    const payload = plain.subarray(innerHeaderBytes)
    if ((flags & ~knownFlags) !== 0) throw new ProtocolError("MALFORMED", `record flags ${flags}`)
    if (type !== recordTypes.keyUpdate) return { type, flags, stream, payload }
    this.#updateKey(flags, stream, payload)
    return undefined
  }

  #updateKey(flags: number, stream: number, payload: Uint8Array): void {
    if (flags !== 0 || stream !== 0 || payload.length > 0)
      throw new ProtocolError("MALFORMED", "KEY_UPDATE is not empty")
    if (this.#updates > 0 && this.#keys.records < minRecordsPerKeyUpdate) {
      throw new ProtocolError("UNEXPECTED", `a change of keys after ${this.#keys.records} records`)
    }
    this.#updates++
    this.#keys.update()
  }

  wipe(): void {
    this.#keys.wipe()
  }
}

const onRecordUnlessUpdate = (record: Record | undefined, onRecord: (record: Record) => void): void => {
  if (record !== undefined) onRecord(record)
}

/** The bytes of a sealed record as one piece: for tests and small records. */
export const joined = (parts: ReadonlyArray<Uint8Array>): Uint8Array => concat(...parts)
