import { hash } from "node:crypto"
import { concat, u16, u64, u8, utf8 } from "./Bytes.ts"
import { gcmNonceBytes, hashBytes, tagBytes, tagEpochSeconds } from "./constants.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** Keys and hashes of the handshake and of the record layer: §2.2 and §2.4. HKDF is RFC 5869 with SHA-256. */

const empty = new Uint8Array(0)

export const sha256 = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const [only] = parts
  return hash("sha256", parts.length === 1 && only !== undefined ? only : concat(...parts), "buffer")
}

const hmacBlockBytes = 64
const hmacInnerPad = new Uint8Array(hmacBlockBytes).fill(0x36)
const hmacOuterPad = new Uint8Array(hmacBlockBytes).fill(0x5c)

const padded = (key: Uint8Array, pad: Uint8Array): Uint8Array => {
  const block = pad.slice()
  for (const [at, byte] of key.entries()) block[at] = byte ^ (pad[at] ?? 0)
  return block
}

/** HMAC-SHA-256 (RFC 2104) of two one-shot hashes: for messages as short as ours, an `Hmac` of node:crypto costs several times as much. */
export const hmac = (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const short = key.length > hmacBlockBytes ? sha256(key) : key
  const inner = hash("sha256", concat(padded(short, hmacInnerPad), ...parts), "buffer")
  return hash("sha256", concat(padded(short, hmacOuterPad), inner), "buffer")
}

/** HKDF-Extract (RFC 5869 §2.2). */
export const extract = (salt: Uint8Array, inputKey: Uint8Array): Uint8Array => hmac(salt, inputKey)

/** HKDF-Expand (RFC 5869 §2.3) with a ready-made `info`. */
export const hkdfExpand = (pseudoRandomKey: Uint8Array, info: Uint8Array, length: number): Uint8Array => {
  if (length > 255 * hashBytes) throw new ProtocolError("INTERNAL", `HKDF cannot give ${length} bytes`)
  const out = new Uint8Array(length)
  let block: Uint8Array = empty
  for (let at = 0, counter = 1; at < length; at += hashBytes, counter++) {
    block = hmac(pseudoRandomKey, block, info, u8(counter))
    out.set(block.subarray(0, Math.min(hashBytes, length - at)), at)
  }
  return out
}

/** Expand with the labelled `info` of RFC 8446 §7.1, prefix `artf1 `. */
export const expand = (
  key: Uint8Array,
  label: string,
  context: Uint8Array = empty,
  length: number = hashBytes
): Uint8Array => {
  const name = utf8(`artf1 ${label}`)
  return hkdfExpand(key, concat(u16(length), u8(name.length), name, u8(context.length), context), length)
}

/** What one pair key gives for one direction of dialling: the initiator's id first. All of it is secret. */
export interface PairKeys {
  readonly tag: Uint8Array
  readonly mac1: Uint8Array
  readonly retry: Uint8Array
  readonly abort: Uint8Array
  readonly psk: Uint8Array
}

/** The keys of a pair for the direction in which `initiator` dials `responder`. */
export const derivePairKeys = (pairKey: Uint8Array, initiator: Uint8Array, responder: Uint8Array): PairKeys => {
  const { tag, mac1, retry, abort, psk } = new LazyPairKeys(pairKey, initiator, responder)
  return { tag, mac1, retry, abort, psk }
}

/** The same keys, each worked out when it is first asked for: of most pairs that a host knows only the tag is ever needed. */
export class LazyPairKeys implements PairKeys {
  readonly #pairKey: Uint8Array
  readonly #initiator: Uint8Array
  readonly #responder: Uint8Array
  #tag: Uint8Array | undefined
  #others: Omit<PairKeys, "tag"> | undefined

  constructor(pairKey: Uint8Array, initiator: Uint8Array, responder: Uint8Array) {
    this.#pairKey = pairKey
    this.#initiator = initiator
    this.#responder = responder
  }

  get #prk(): Uint8Array {
    return extract(utf8("artifice v1 pair"), this.#pairKey)
  }

  #expanded(): Omit<PairKeys, "tag"> {
    const prk = this.#prk
    const context = concat(this.#initiator, this.#responder)
    const of = (label: string): Uint8Array => expand(prk, label, context)
    return { mac1: of("mac1"), retry: of("retry"), abort: of("abort"), psk: of("psk") }
  }

  get tag(): Uint8Array {
    return (this.#tag ??= expand(this.#prk, "tag", concat(this.#initiator, this.#responder)))
  }

  get mac1(): Uint8Array {
    return (this.#others ??= this.#expanded()).mac1
  }

  get retry(): Uint8Array {
    return (this.#others ??= this.#expanded()).retry
  }

  get abort(): Uint8Array {
    return (this.#others ??= this.#expanded()).abort
  }

  get psk(): Uint8Array {
    return (this.#others ??= this.#expanded()).psk
  }
}

/** The hour that a tag belongs to. */
export const tagEpoch = (unixSeconds: number): number => Math.floor(unixSeconds / tagEpochSeconds)

/** The 16 bytes by which a responder finds the pair, and by which nobody else finds anything. */
export const tagFor = (tagKey: Uint8Array, epoch: number): Uint8Array => hmac(tagKey, u64(epoch)).subarray(0, tagBytes)

/** A direction's traffic secret gives its AES key and nonce base. */
export const trafficKey = (secret: Uint8Array): Uint8Array => expand(secret, "key")
export const trafficIv = (secret: Uint8Array): Uint8Array => expand(secret, "iv", empty, gcmNonceBytes)
/** The traffic secret of the next epoch; the old one cannot be found from it. */
export const nextTrafficSecret = (secret: Uint8Array): Uint8Array => expand(secret, "upd")

/** Keys for other uses of a session (SLLP, pairing), as RFC 8446 §7.5. */
export const exportKey = (
  exporterSecret: Uint8Array,
  label: string,
  context: Uint8Array,
  length: number = hashBytes
): Uint8Array => expand(expand(exporterSecret, label, sha256(empty)), "exporter", sha256(context), length)
