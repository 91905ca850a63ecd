import { timingSafeEqual } from "node:crypto"
import { ProtocolError } from "./ProtocolError.ts"

/** Reads big-endian fields; every read past the end is a MALFORMED error that names the field. */
export class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #offset = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get offset(): number {
    return this.#offset
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset
  }

  #advance(length: number, field: string): number {
    if (length > this.remaining) {
      throw new ProtocolError("MALFORMED", `${field}: ${length} bytes expected, ${this.remaining} are left`)
    }
    const at = this.#offset
    this.#offset += length
    return at
  }

  u8(field: string): number {
    return this.#view.getUint8(this.#advance(1, field))
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#advance(2, field))
  }

  u32(field: string): number {
    return this.#view.getUint32(this.#advance(4, field))
  }

  u64(field: string): bigint {
    return this.#view.getBigUint64(this.#advance(8, field))
  }

  /** A view of the next bytes; it shares memory with the input. */
  bytes(length: number, field: string): Uint8Array {
    const at = this.#advance(length, field)
    return this.#bytes.subarray(at, at + length)
  }

  end(what: string): void {
    if (this.remaining > 0) throw new ProtocolError("MALFORMED", `${what}: ${this.remaining} bytes after the end`)
  }
}

export const u8 = (value: number): Uint8Array => Uint8Array.of(value)

export const u16 = (value: number): Uint8Array => Uint8Array.of(value >>> 8, value & 0xff)

export const u32 = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value)
  return bytes
}

export const u64 = (value: bigint | number): Uint8Array => {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value))
  return bytes
}

export const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  let length = 0
  for (const part of parts) length += part.length
  const out = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

export const utf8 = (text: string): Uint8Array => encoder.encode(text)

export const fromUtf8 = (bytes: Uint8Array, field: string): string => {
  try {
    return decoder.decode(bytes)
  } catch {
    throw new ProtocolError("MALFORMED", `${field} is not valid UTF-8`)
  }
}

export const toHex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex")

/** Reads hexadecimal text; anything else is a MALFORMED error. */
export const fromHex = (text: string, field = "hexadecimal text"): Uint8Array => {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(text))
    throw new ProtocolError("MALFORMED", `${field}: not hexadecimal`)
  return Uint8Array.from(Buffer.from(text, "hex"))
}

/** Compares secrets in constant time; different lengths are simply different. */
export const equal = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && timingSafeEqual(a, b)

/** Bytewise order, as of PeerIDs. */
export const compare = (a: Uint8Array, b: Uint8Array): number => Buffer.compare(a, b)

/** Overwrites secrets with zeros: best effort in a runtime that may have moved them. */
export const wipe = (...secrets: ReadonlyArray<Uint8Array>): void => {
  for (const secret of secrets) secret.fill(0)
}
