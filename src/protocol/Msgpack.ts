/**
 * Strict msgpack (PROTOCOL §6): one value, no extensions, bounded depth and element count, valid UTF-8, no key twice.
 *
 * msgpackr has no strict mode: it resolves duplicate keys silently, follows extension types and trusts nesting. So a byte
 * scanner proves the limits first, in one pass and in memory bounded by the depth limit, and msgpackr only ever sees input
 * that passed. The same scanner runs over what we encode, so a value that the peer would refuse fails here, at its author.
 */
import { isUtf8 } from "node:buffer"
import { Packr, type Options } from "msgpackr"
import { ProtocolError } from "./ProtocolError.ts"

/** Nested arrays and maps, the outermost included. */
export const maxMsgpackDepth = 16
/** Msgpack items in one value: every value, every map key, and each array or map itself. */
export const maxMsgpackElements = 65_536

// skipValues leaves out `undefined` properties, which msgpackr would else write as an extension; its own types omit it.
const options: Options & { readonly skipValues: ReadonlyArray<unknown> } = {
  useRecords: false,
  mapsAsObjects: true,
  int64AsType: "number",
  copyBuffers: true,
  encodeUndefinedAsNil: true,
  skipValues: [undefined]
}
const packr = new Packr(options)

/**
 * Encodes one value. Properties that are `undefined` are left out. Throws `ProtocolError` MALFORMED for what msgpack without
 * extensions cannot say (Date, Set, bigint beyond ±2^53, lone surrogates, functions) and TOO_LARGE beyond a limit.
 */
export const encodeMsgpack = (value: unknown): Uint8Array => {
  let bytes: Uint8Array
  try {
    bytes = packr.pack(value)
  } catch (error) {
    throw malformed(`cannot be encoded: ${error instanceof Error ? error.message : String(error)}`)
  }
  scan(bytes)
  return bytes
}

/**
 * Decodes exactly one value; `Uint8Array`s in it are copies. Throws `ProtocolError` MALFORMED or TOO_LARGE and nothing else,
 * whatever the bytes are. Integers come as numbers; 64-bit ones beyond ±(2^53 − 1) are refused, since a number could not hold them.
 */
export const decodeMsgpack = (bytes: Uint8Array): unknown => {
  scan(bytes)
  try {
    return packr.unpack(bytes)
  } catch (error) {
    // The scanner has proved these bytes, so an error here means that it and msgpackr disagree: refuse rather than guess.
    throw malformed(`cannot be decoded: ${error instanceof Error ? error.message : String(error)}`)
  }
}

const malformed = (what: string): ProtocolError => new ProtocolError("MALFORMED", `msgpack: ${what}`)
const tooLarge = (what: string): ProtocolError => new ProtocolError("TOO_LARGE", `msgpack: ${what}`)

/** A container being read: items left in it, and the keys a map has shown so far (as latin-1, that is: their exact bytes). */
interface Container {
  left: number
  readonly keys: Set<string> | undefined
}

/** Proves that `bytes` is exactly one msgpack value within the limits of §6, in time linear in the bytes. */
const scan = (bytes: Uint8Array): void => new Scanner(bytes).run()

class Scanner {
  private readonly bytes: Buffer
  private at = 0
  private elements = 0
  private readonly stack: Array<Container> = []

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  run(): void {
    do {
      const top = this.stack.at(-1)
      if (top?.left === 0) {
        this.stack.pop()
        continue
      }
      this.need(1)
      this.elements++
      if (top === undefined) {
        this.value()
        continue
      }
      top.left--
      if (top.keys !== undefined && top.left % 2 === 1) this.key(top.keys)
      else this.value()
    } while (this.stack.length > 0)
    const trailing = this.bytes.length - this.at
    if (trailing > 0) throw malformed(`${trailing} bytes after the value`)
  }

  private value(): void {
    const tag = this.uint(1)
    if (tag <= 0x7f || tag >= 0xe0) return
    if (tag <= 0x8f) return this.open(tag & 0x0f, true)
    if (tag <= 0x9f) return this.open(tag & 0x0f, false)
    if (tag <= 0xbf) return this.text(tag & 0x1f)
    switch (tag) {
      case 0xc0: // nil
      case 0xc2: // false
      case 0xc3: // true
        return
      case 0xc4: // bin 8, 16, 32
        return this.skip(this.uint(1))
      case 0xc5:
        return this.skip(this.uint(2))
      case 0xc6:
        return this.skip(this.uint(4))
      case 0xcc: // u8
      case 0xd0: // i8
        return this.skip(1)
      case 0xcd: // u16
      case 0xd1: // i16
        return this.skip(2)
      case 0xca: // float 32
      case 0xce: // u32
      case 0xd2: // i32
        return this.skip(4)
      case 0xcb: // float 64
        return this.skip(8)
      case 0xcf: // u64
      case 0xd3: // i64
        return this.int64(tag === 0xd3)
      case 0xd9: // str 8, 16, 32
        return this.text(this.uint(1))
      case 0xda:
        return this.text(this.uint(2))
      case 0xdb:
        return this.text(this.uint(4))
      case 0xdc: // array 16, 32
        return this.open(this.uint(2), false)
      case 0xdd:
        return this.open(this.uint(4), false)
      case 0xde: // map 16, 32
        return this.open(this.uint(2), true)
      case 0xdf:
        return this.open(this.uint(4), true)
      default:
        throw malformed(`an extension or unused type 0x${tag.toString(16)} at ${this.at - 1}`)
    }
  }

  private key(keys: Set<string>): void {
    const tag = this.uint(1)
    let size: number
    if (tag >= 0xa0 && tag <= 0xbf) size = tag & 0x1f
    else if (tag === 0xd9) size = this.uint(1)
    else if (tag === 0xda) size = this.uint(2)
    else if (tag === 0xdb) size = this.uint(4)
    else throw malformed(`a map key that is not a string at ${this.at - 1}`)
    const start = this.at
    this.text(size)
    const name = this.bytes.toString("latin1", start, this.at)
    if (name === "__proto__") throw malformed(`the key __proto__ at ${start}`)
    if (keys.has(name)) throw malformed(`a key twice in one map at ${start}`)
    keys.add(name)
  }

  private open(count: number, isMap: boolean): void {
    const items = isMap ? count * 2 : count
    if (items > maxMsgpackElements - this.elements) throw tooLarge(`more than ${maxMsgpackElements} elements`)
    // Every item takes at least one byte, so a count beyond the rest is a lie, found before msgpackr could allocate for it.
    this.need(items)
    if (this.stack.length >= maxMsgpackDepth) throw tooLarge(`nested deeper than ${maxMsgpackDepth}`)
    this.stack.push({ left: items, keys: isMap ? new Set() : undefined })
  }

  private text(size: number): void {
    this.need(size)
    const start = this.at
    this.at += size
    for (let i = start; i < this.at; i++) {
      if ((this.bytes[i] ?? 0) < 0x80) continue
      if (!isUtf8(this.bytes.subarray(start, this.at))) throw malformed(`invalid UTF-8 at ${start}`)
      return
    }
  }

  private int64(signed: boolean): void {
    this.need(8)
    const high = signed ? this.bytes.readInt32BE(this.at) : this.bytes.readUInt32BE(this.at)
    const value = high * 0x1_0000_0000 + this.bytes.readUInt32BE(this.at + 4)
    if (!Number.isSafeInteger(value)) throw malformed(`an integer beyond ±(2^53 - 1) at ${this.at - 1}`)
    this.at += 8
  }

  private uint(width: 1 | 2 | 4): number {
    this.need(width)
    const value = this.bytes.readUIntBE(this.at, width)
    this.at += width
    return value
  }

  private skip(size: number): void {
    this.need(size)
    this.at += size
  }

  private need(size: number): void {
    const left = this.bytes.length - this.at
    if (size > left) throw malformed(`truncated: ${size} bytes needed at ${this.at}, ${left} left`)
  }
}
