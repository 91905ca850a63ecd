import { ByteReader, concat, fromUtf8, u16, u8, utf8 } from "./Bytes.ts"
import { firstPrefixBytes, maxReasonBytes, maxStreamNameBytes, pingBytes, unknownTotal } from "./constants.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** What the payload of each record type holds (§3.2). */

/** Priority of a stream: administration, calls, bulk data. */
export const streamClasses = { admin: 0, rpc: 1, bulk: 2 } as const
export type StreamClass = (typeof streamClasses)[keyof typeof streamClasses]
const isStreamClass = (value: number): value is StreamClass => value === 0 || value === 1 || value === 2

/** The first 16 bytes of a message: its number, and its length where that is known. */
export interface MessagePrefix {
  readonly messageId: number
  /** Bytes of the message without this prefix; undefined where the sender did not know. */
  readonly total: number | undefined
}

/** Written into one array: this lies on the way of every message. */
export const encodePrefix = ({ messageId, total }: MessagePrefix): Uint8Array => {
  const bytes = new Uint8Array(firstPrefixBytes)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(messageId))
  view.setBigUint64(8, total === undefined ? unknownTotal : BigInt(total))
  return bytes
}

export const parsePrefix = (reader: ByteReader): MessagePrefix => {
  const messageId = reader.u64("message id")
  const total = reader.u64("message total")
  if (messageId === 0n || messageId > Number.MAX_SAFE_INTEGER)
    throw new ProtocolError("MALFORMED", `message id ${messageId}`)
  if (total === unknownTotal) return { messageId: Number(messageId), total: undefined }
  if (total > Number.MAX_SAFE_INTEGER) throw new ProtocolError("MALFORMED", `a message of ${total} bytes`)
  return { messageId: Number(messageId), total: Number(total) }
}

export interface OpenPacket {
  readonly streamClass: StreamClass
  readonly name: string
}

export const encodeOpen = ({ streamClass, name }: OpenPacket): Uint8Array => {
  const bytes = utf8(name)
  if (bytes.length > maxStreamNameBytes) throw new ProtocolError("TOO_LARGE", `a stream name of ${bytes.length} bytes`)
  return concat(u8(streamClass), u8(bytes.length), bytes)
}

export const parseOpen = (payload: Uint8Array): OpenPacket => {
  const reader = new ByteReader(payload)
  const streamClass = reader.u8("stream class")
  const length = reader.u8("name length")
  if (length > maxStreamNameBytes) throw new ProtocolError("TOO_LARGE", `a stream name of ${length} bytes`)
  const name = fromUtf8(reader.bytes(length, "stream name"), "stream name")
  reader.end("OPEN")
  if (!isStreamClass(streamClass)) throw new ProtocolError("MALFORMED", `stream class ${streamClass}`)
  return { streamClass, name }
}

export interface GoodbyePacket {
  readonly code: number
  readonly reason: string
}

export const encodeGoodbye = ({ code, reason }: GoodbyePacket): Uint8Array => {
  const text = new Uint8Array(maxReasonBytes)
  const { written } = new TextEncoder().encodeInto(reason, text)
  return concat(u16(code), text.subarray(0, written))
}

export const parseGoodbye = (payload: Uint8Array): GoodbyePacket => {
  const reader = new ByteReader(payload)
  const code = reader.u16("GOODBYE code")
  if (reader.remaining > maxReasonBytes) throw new ProtocolError("TOO_LARGE", `a reason of ${reader.remaining} bytes`)
  return { code, reason: fromUtf8(reader.bytes(reader.remaining, "reason"), "reason") }
}

export const parsePing = (payload: Uint8Array): Uint8Array => {
  if (payload.length !== pingBytes) throw new ProtocolError("MALFORMED", `a PING of ${payload.length} bytes`)
  return payload
}

export const parseReset = (payload: Uint8Array): number => {
  const reader = new ByteReader(payload)
  const code = reader.u16("RESET code")
  reader.end("RESET")
  return code
}

/** A 64-bit number alone: RAW_ACK's message, CREDIT's limit. Beyond 2⁵³ it is MALFORMED. */
export const parseNumber = (payload: Uint8Array, what: string): number => {
  const reader = new ByteReader(payload)
  const value = reader.u64(what)
  reader.end(what)
  if (value > Number.MAX_SAFE_INTEGER) throw new ProtocolError("MALFORMED", `${what} ${value}`)
  return Number(value)
}
