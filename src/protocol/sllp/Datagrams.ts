import { createSecretKey, type KeyObject } from "node:crypto"
import { concat, wipe } from "../Bytes.ts"
import { nodeCipherEngine, type CipherEngine } from "../CipherEngine.ts"
import { gcmNonceBytes, gcmTagBytes } from "../constants.ts"
import { expand, nextTrafficSecret, trafficIv, trafficKey } from "../KeySchedule.ts"
import {
  cidBytes,
  datagramHeaderBytes,
  datagramOverheadBytes,
  datagramsPerKey,
  fixedFlag,
  keyAgeMs,
  keyPhaseFlag,
  maxDatagramsPerKey,
  maxFailedOpens,
  maxPacketNumber
} from "./constants.ts"
import { ReplayWindow } from "./ReplayWindow.ts"

/** Bounds of one key; tests lower them to see a change of keys without 2²³ datagrams. */
export interface SllpKeyLimits {
  readonly datagrams: number
  readonly maxDatagrams: number
  readonly ageMs: number
  readonly failedOpens: number
}

export const specifiedKeyLimits: SllpKeyLimits = {
  datagrams: datagramsPerKey,
  maxDatagrams: maxDatagramsPerKey,
  ageMs: keyAgeMs,
  failedOpens: maxFailedOpens
}

/**
 * The association's secret (§4.1) from the session's exporter. Both connection ids are 8 bytes, that of the session's initiator first.
 */
export const sllpSecret = (
  exportKey: (label: string, context: Uint8Array, length?: number) => Uint8Array,
  initiatorCid: Uint8Array,
  responderCid: Uint8Array
): Uint8Array => exportKey("sllp", concat(initiatorCid, responderCid))

/** The traffic secrets of both directions. */
export const directionSecrets = (
  secret: Uint8Array
): { readonly initiatorToResponder: Uint8Array; readonly responderToInitiator: Uint8Array } => ({
  initiatorToResponder: expand(secret, "sllp i2r"),
  responderToInitiator: expand(secret, "sllp r2i")
})

/** The key of one phase of one direction. */
class PhaseKey {
  readonly #secret: Uint8Array
  readonly #iv: Uint8Array
  readonly #nonce = new Uint8Array(gcmNonceBytes)
  readonly #ivHigh: number
  readonly #ivLow: number
  readonly #nonceView: DataView
  readonly key: KeyObject
  /** 0 or the flag of the key phase, in turn. */
  readonly phaseBit: number
  failedOpens = 0

  constructor(secret: Uint8Array, phaseBit: number) {
    this.#secret = secret
    this.phaseBit = phaseBit
    const raw = trafficKey(secret)
    this.key = createSecretKey(raw)
    wipe(raw)
    this.#iv = trafficIv(secret)
    this.#nonce.set(this.#iv)
    this.#nonceView = new DataView(this.#nonce.buffer)
    const view = new DataView(this.#iv.buffer, this.#iv.byteOffset)
    this.#ivHigh = view.getUint32(4)
    this.#ivLow = view.getUint32(8)
  }

  /** iv XOR (0⁴ ‖ u64 number), in the same array each time. */
  nonce(numberHigh: number, numberLow: number): Uint8Array {
    this.#nonceView.setUint32(4, this.#ivHigh ^ numberHigh)
    this.#nonceView.setUint32(8, this.#ivLow ^ numberLow)
    return this.#nonce
  }

  next(): PhaseKey {
    return new PhaseKey(nextTrafficSecret(this.#secret), this.phaseBit ^ keyPhaseFlag)
  }

  wipe(): void {
    wipe(this.#secret, this.#iv, this.#nonce)
  }
}

/**
 * Datagrams share a piece of memory, which is left to the collector when all of them have gone. The pieces grow from the least to the
 * most, so that an association that only keeps alive holds little.
 */
const leastSlabBytes = 1_024
const mostSlabBytes = 64 * 1024

/** Seals the datagrams of one direction (§4.2). */
export class DatagramSealer {
  readonly #engine: CipherEngine
  readonly #limits: SllpKeyLimits
  readonly #header = new Uint8Array(datagramHeaderBytes)
  readonly #headerView = new DataView(this.#header.buffer)
  readonly #parts: [Uint8Array] = [this.#header]
  #key: PhaseKey
  #slab = Buffer.alloc(0)
  #used = 0
  #next = 0
  #phaseStart = 0
  #phaseStartMs: number
  #proven = false

  /** @param cid the connection id that the receiver chose */
  constructor(
    secret: Uint8Array,
    cid: Uint8Array,
    nowMs: number,
    engine: CipherEngine = nodeCipherEngine,
    limits: SllpKeyLimits = specifiedKeyLimits
  ) {
    this.#key = new PhaseKey(Uint8Array.from(secret), 0)
    this.#header.set(cid, 1)
    this.#engine = engine
    this.#limits = limits
    this.#phaseStartMs = nowMs
  }

  /** The number that the next datagram will carry. */
  get nextNumber(): number {
    return this.#next
  }

  /** The key is due to change, and only an acknowledgement of something sealed by it is missing. */
  awaitsProof(nowMs: number): boolean {
    return this.#due(nowMs) && !this.#proven
  }

  /** No datagram may be sealed by this key any more, and none has been acknowledged. */
  get wornOut(): boolean {
    return this.#next - this.#phaseStart >= this.#limits.maxDatagrams || this.#next > maxPacketNumber
  }

  /** The other side has opened a datagram: when it is of this phase, the next change of keys will be understood. */
  acknowledged(number: number): void {
    if (number >= this.#phaseStart) this.#proven = true
  }

  #due(nowMs: number): boolean {
    return this.#next - this.#phaseStart >= this.#limits.datagrams || nowMs - this.#phaseStartMs >= this.#limits.ageMs
  }

  /** Seals frames as the next datagram: memory that is not written again. */
  seal(plain: Uint8Array, nowMs: number): Uint8Array {
    if (this.#due(nowMs) && this.#proven) this.#flip(nowMs)
    const high = Math.floor(this.#next / 0x100000000)
    const low = this.#next >>> 0
    this.#header[0] = fixedFlag | this.#key.phaseBit
    this.#headerView.setUint32(9, high)
    this.#headerView.setUint32(13, low)
    this.#parts[0] = plain
    const datagram = this.#take(plain.length + datagramOverheadBytes)
    datagram.set(this.#header)
    let at = datagramHeaderBytes
    for (const part of this.#engine.seal(this.#key.key, this.#key.nonce(high, low), this.#header, this.#parts)) {
      datagram.set(part, at)
      at += part.length
    }
    this.#next++
    return datagram
  }

  #take(bytes: number): Uint8Array {
    if (this.#used + bytes > this.#slab.length) {
      const next = Math.min(Math.max(2 * this.#slab.length, leastSlabBytes), mostSlabBytes)
      this.#slab = Buffer.allocUnsafeSlow(Math.max(next, bytes))
      this.#used = 0
    }
    const from = this.#used
    this.#used += bytes
    return this.#slab.subarray(from, this.#used)
  }

  #flip(nowMs: number): void {
    const next = this.#key.next()
    this.#key.wipe()
    this.#key = next
    this.#phaseStart = this.#next
    this.#phaseStartMs = nowMs
    this.#proven = false
  }

  wipe(): void {
    this.#key.wipe()
  }
}

/** Why a datagram was not opened. */
export type OpenFailure = "malformed" | "replayed" | "forged"

/** Opens the datagrams of one direction (§4.2): each number once, whatever the order, and nothing that was not sealed by the peer. */
export class DatagramOpener {
  readonly #engine: CipherEngine
  readonly #limits: SllpKeyLimits
  readonly #cid: Uint8Array
  /** Copies of header and tag, used for every datagram: cheaper than views of each. */
  readonly #header = Buffer.alloc(datagramHeaderBytes)
  readonly #tag = Buffer.alloc(gcmTagBytes)
  readonly window = new ReplayWindow()
  #key: PhaseKey
  #next: PhaseKey
  #previous: PhaseKey | undefined
  #previousUntilMs = 0
  /** The first number that was opened by the present key: all that the previous one sealed lies below it, all that the next one seals above. */
  #phaseStart = 0
  /** The number of the last datagram that was opened. */
  number = -1

  /** @param cid the connection id that this side chose */
  constructor(
    secret: Uint8Array,
    cid: Uint8Array,
    engine: CipherEngine = nodeCipherEngine,
    limits: SllpKeyLimits = specifiedKeyLimits
  ) {
    this.#key = new PhaseKey(Uint8Array.from(secret), 0)
    // Made ahead, so that the first datagram of a phase costs no more time than any other.
    this.#next = this.#key.next()
    this.#cid = Uint8Array.from(cid)
    this.#engine = engine
    this.#limits = limits
  }

  /** So many forgeries were tried under one key that the next might succeed. */
  get wornOut(): boolean {
    return this.#key.failedOpens >= this.#limits.failedOpens || this.#next.failedOpens >= this.#limits.failedOpens
  }

  /**
   * The frames, or why there are none.
   * @param keptMs for how long the previous key is kept after a change: 3 PTOs
   */
  open(datagram: Uint8Array, nowMs: number, keptMs: number): Uint8Array | OpenFailure {
    const flags = datagram[0] ?? 0
    if (datagram.length < datagramOverheadBytes || (flags & ~keyPhaseFlag) !== fixedFlag) return "malformed"
    for (let at = 0; at < cidBytes; at++) if (datagram[1 + at] !== this.#cid[at]) return "malformed"
    const high = u32At(datagram, 9)
    const low = u32At(datagram, 13)
    const number = high * 0x100000000 + low
    if (!this.window.accepts(number)) return "replayed"
    const key = this.#keyFor(flags & keyPhaseFlag, number, nowMs)
    if (key === undefined) return "forged"
    const tagAt = datagram.length - gcmTagBytes
    copy(datagram, 0, this.#header)
    copy(datagram, tagAt, this.#tag)
    const sealed = datagram.subarray(datagramHeaderBytes, tagAt)
    const plain = this.#engine.open(key.key, key.nonce(high, low), this.#header, sealed, this.#tag)
    if (plain === undefined) {
      key.failedOpens++
      return "forged"
    }
    this.window.mark(number)
    if (key === this.#next) this.#flip(number, nowMs + keptMs)
    this.number = number
    return plain
  }

  /** RFC 9001, section 6.3: the other phase is the next one, or, for numbers below the present phase, the last one. */
  #keyFor(phaseBit: number, number: number, nowMs: number): PhaseKey | undefined {
    if (phaseBit === this.#key.phaseBit) return this.#key
    if (number > this.#phaseStart) return this.#next
    if (this.#previous !== undefined && nowMs >= this.#previousUntilMs) {
      this.#previous.wipe()
      this.#previous = undefined
    }
    return this.#previous
  }

  #flip(number: number, previousUntilMs: number): void {
    this.#previous?.wipe()
    this.#previous = this.#key
    this.#previousUntilMs = previousUntilMs
    this.#key = this.#next
    this.#next = this.#key.next()
    this.#phaseStart = number
  }

  wipe(): void {
    this.#key.wipe()
    this.#next.wipe()
    this.#previous?.wipe()
  }
}

const copy = (from: Uint8Array, at: number, to: Uint8Array): void => {
  for (let place = 0; place < to.length; place++) to[place] = from[at + place] ?? 0
}

const u32At = (bytes: Uint8Array, at: number): number =>
  (((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)) >>> 0
