import { fromUtf8, utf8 } from "../Bytes.ts"
import { ProtocolError } from "../ProtocolError.ts"
import { AckRanges } from "./AckRanges.ts"
import { ackDelayUnitsPerMs, chunkHeaderBytes, maxAckRanges, maxCloseReasonBytes, pathDataBytes } from "./constants.ts"

/** Frame types of §4.3. */
export const frameTypes = {
  pad: 0x00,
  chunk: 0x40,
  ack: 0x41,
  close: 0x42,
  ping: 0x43,
  pathChallenge: 0x44,
  pathResponse: 0x45,
  drop: 0x46,
  credit: 0x47
} as const

/** What a datagram says, in its order. Bytes are views of the datagram. */
export interface FrameHandler {
  readonly onChunk: (
    channel: number,
    messageId: number,
    total: number,
    offset: number,
    plain: Uint8Array,
    from: number,
    to: number
  ) => void
  /** `ranges` is filled anew by the next datagram. */
  readonly onAck: (ranges: AckRanges) => void
  readonly onClose: (code: number, reason: string) => void
  readonly onPathChallenge: (data: Uint8Array) => void
  readonly onPathResponse: (data: Uint8Array) => void
  readonly onDrop: (channel: number, messageId: number) => void
  readonly onCredit: (channel: number, limit: number) => void
}

const u16At = (bytes: Uint8Array, at: number): number => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
const u32At = (bytes: Uint8Array, at: number): number => u16At(bytes, at) * 0x10000 + u16At(bytes, at + 2)
const u48At = (bytes: Uint8Array, at: number): number => u16At(bytes, at) * 0x100000000 + u32At(bytes, at + 2)

const u64At = (bytes: Uint8Array, at: number): number => {
  const value = u32At(bytes, at) * 0x100000000 + u32At(bytes, at + 4)
  if (!Number.isSafeInteger(value)) throw new ProtocolError("MALFORMED", "a number beyond 2⁵³ in a datagram")
  return value
}

/** Bytes of an ACK before its ranges: type, largest, delay, n, first. */
const ackHeaderBytes = 16
const ackRangeBytes = 4
const dropBytes = 7
const creditBytes = 11

/**
 * Reads the frames of one opened datagram. Throws MALFORMED at the first that breaks a rule of §4.3; those before it have been told.
 * Returns whether it asks for an acknowledgement.
 */
export class FrameReader {
  readonly #ranges = new AckRanges()

  read(plain: Uint8Array, handler: FrameHandler): boolean {
    let eliciting = false
    let at = 0
    while (at < plain.length) {
      const type = plain[at] ?? 0
      if (type === frameTypes.pad) {
        at++
        continue
      }
      if (type === frameTypes.ack) {
        at = this.#ack(plain, at, handler)
        continue
      }
      if (type === frameTypes.close) {
        const reason = plain.subarray(need(plain, at, 3, "CLOSE"))
        if (reason.length > maxCloseReasonBytes)
          throw new ProtocolError("MALFORMED", `CLOSE: a reason of ${reason.length} bytes`)
        handler.onClose(u16At(plain, at + 1), fromUtf8(reason, "reason of CLOSE"))
        return eliciting
      }
      eliciting = true
      at = type === frameTypes.chunk ? chunk(plain, at, handler) : control(plain, at, type, handler)
    }
    return eliciting
  }

  #ack(plain: Uint8Array, from: number, handler: FrameHandler): number {
    need(plain, from, ackHeaderBytes, "ACK")
    const ranges = this.#ranges
    ranges.clear()
    const largest = u64At(plain, from + 1)
    ranges.delayMs = u32At(plain, from + 9) / ackDelayUnitsPerMs
    const count = plain[from + 13] ?? 0
    if (count > maxAckRanges) throw new ProtocolError("MALFORMED", `ACK: ${count} ranges`)
    const end = need(plain, from, ackHeaderBytes + count * ackRangeBytes, "ACK")
    let low = largest - u16At(plain, from + 14)
    ranges.add(low, largest)
    for (let at = from + ackHeaderBytes; at < end; at += ackRangeBytes) {
      const gap = u16At(plain, at)
      const length = u16At(plain, at + 2)
      if (gap === 0 || length === 0) throw new ProtocolError("MALFORMED", "ACK: an empty range")
      const high = low - gap - 1
      low = high - length + 1
      ranges.add(low, high)
    }
    if (low < 0) throw new ProtocolError("MALFORMED", "ACK: a range below 0")
    handler.onAck(ranges)
    return end
  }
}

/** Where the frame ends, if so many bytes of it are there. */
const need = (plain: Uint8Array, from: number, bytes: number, name: string): number => {
  if (from + bytes > plain.length)
    throw new ProtocolError("MALFORMED", `${name}: ${bytes} bytes expected, ${plain.length - from} are left`)
  return from + bytes
}

const chunk = (plain: Uint8Array, from: number, handler: FrameHandler): number => {
  const data = need(plain, from, chunkHeaderBytes, "CHUNK")
  const total = u48At(plain, from + 7)
  const offset = u48At(plain, from + 13)
  const length = u16At(plain, from + 19)
  const end = need(plain, from, chunkHeaderBytes + length, "CHUNK")
  if (length === 0 || offset + length > total)
    throw new ProtocolError("MALFORMED", `CHUNK: ${length} bytes at ${offset} of ${total}`)
  handler.onChunk(u16At(plain, from + 1), u32At(plain, from + 3), total, offset, plain, data, end)
  return end
}

const control = (plain: Uint8Array, from: number, type: number, handler: FrameHandler): number => {
  switch (type) {
    case frameTypes.ping:
      return from + 1
    case frameTypes.pathChallenge:
    case frameTypes.pathResponse: {
      const end = need(plain, from, 1 + pathDataBytes, "PATH")
      const data = plain.subarray(from + 1, end)
      if (type === frameTypes.pathChallenge) handler.onPathChallenge(data)
      else handler.onPathResponse(data)
      return end
    }
    case frameTypes.drop: {
      const end = need(plain, from, dropBytes, "DROP")
      handler.onDrop(u16At(plain, from + 1), u32At(plain, from + 3))
      return end
    }
    case frameTypes.credit: {
      const end = need(plain, from, creditBytes, "CREDIT")
      handler.onCredit(u16At(plain, from + 1), u64At(plain, from + 3))
      return end
    }
    default:
      throw new ProtocolError("MALFORMED", `a frame of type ${type}`)
  }
}

/** Writes the frames of one datagram into a buffer that is used for every datagram. What does not fit is not written. */
export class FrameWriter {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #length = 0
  #limit = 0

  constructor(maxBytes: number) {
    this.#bytes = new Uint8Array(maxBytes)
    this.#view = new DataView(this.#bytes.buffer)
  }

  get length(): number {
    return this.#length
  }

  get room(): number {
    return this.#limit - this.#length
  }

  /** The frames so far: a view, valid until the next `start`. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  start(limit: number): void {
    this.#length = 0
    this.#limit = Math.min(limit, this.#bytes.length)
  }

  #take(bytes: number): number {
    const at = this.#length
    this.#length += bytes
    return at
  }

  /** As many ranges as there is room for; a PING still fits behind it. */
  ack(ranges: AckRanges): boolean {
    const room = this.room - 1
    if (ranges.count === 0 || room < ackHeaderBytes) return false
    const more = Math.min(ranges.count - 1, Math.floor((room - ackHeaderBytes) / ackRangeBytes))
    const at = this.#take(ackHeaderBytes + more * ackRangeBytes)
    const view = this.#view
    const { low, high, largest } = ranges
    view.setUint8(at, frameTypes.ack)
    this.#u64(at + 1, largest)
    view.setUint32(at + 9, Math.min(Math.round(ranges.delayMs * ackDelayUnitsPerMs), 0xffffffff))
    view.setUint8(at + 13, more)
    view.setUint16(at + 14, largest - (low[0] ?? 0))
    for (let range = 1; range <= more; range++) {
      const field = at + ackHeaderBytes + (range - 1) * ackRangeBytes
      view.setUint16(field, (low[range - 1] ?? 0) - (high[range] ?? 0) - 1)
      view.setUint16(field + 2, (high[range] ?? 0) - (low[range] ?? 0) + 1)
    }
    return true
  }

  /** The header of a CHUNK; returns where its bytes are to be put in `buffer`. The caller has seen that there is room. */
  chunk(channel: number, messageId: number, total: number, offset: number, length: number): number {
    const at = this.#take(chunkHeaderBytes + length)
    const view = this.#view
    view.setUint8(at, frameTypes.chunk)
    view.setUint16(at + 1, channel)
    view.setUint32(at + 3, messageId)
    this.#u48(at + 7, total)
    this.#u48(at + 13, offset)
    view.setUint16(at + 19, length)
    return at + chunkHeaderBytes
  }

  get buffer(): Uint8Array {
    return this.#bytes
  }

  ping(): boolean {
    if (this.room < 1) return false
    this.#view.setUint8(this.#take(1), frameTypes.ping)
    return true
  }

  drop(channel: number, messageId: number): boolean {
    if (this.room < dropBytes) return false
    const at = this.#take(dropBytes)
    this.#view.setUint8(at, frameTypes.drop)
    this.#view.setUint16(at + 1, channel)
    this.#view.setUint32(at + 3, messageId)
    return true
  }

  credit(channel: number, limit: number): boolean {
    if (this.room < creditBytes) return false
    const at = this.#take(creditBytes)
    this.#view.setUint8(at, frameTypes.credit)
    this.#view.setUint16(at + 1, channel)
    this.#u64(at + 3, limit)
    return true
  }

  path(type: typeof frameTypes.pathChallenge | typeof frameTypes.pathResponse, data: Uint8Array): boolean {
    if (this.room < 1 + pathDataBytes) return false
    const at = this.#take(1 + pathDataBytes)
    this.#view.setUint8(at, type)
    this.#bytes.set(data, at + 1)
    return true
  }

  /** The last frame of its datagram: the reason goes on to the end. */
  close(code: number, reason: string): boolean {
    const text = utf8(reason)
    if (this.room < 3 + text.length) return false
    const at = this.#take(3 + text.length)
    this.#view.setUint8(at, frameTypes.close)
    this.#view.setUint16(at + 1, code)
    this.#bytes.set(text, at + 3)
    return true
  }

  /** Fills the datagram up to its limit. */
  pad(): void {
    this.#bytes.fill(frameTypes.pad, this.#length, this.#limit)
    this.#length = this.#limit
  }

  #u48(at: number, value: number): void {
    this.#view.setUint16(at, Math.floor(value / 0x100000000))
    this.#view.setUint32(at + 2, value >>> 0)
  }

  #u64(at: number, value: number): void {
    this.#view.setUint32(at, Math.floor(value / 0x100000000))
    this.#view.setUint32(at + 4, value >>> 0)
  }
}
