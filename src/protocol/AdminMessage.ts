/** Typed messages (PROTOCOL §6): strict msgpack `[kind u16, body map]`. */
import { decodeMsgpack, encodeMsgpack, maxMsgpackDepth, maxMsgpackElements } from "./Msgpack.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** Nested arrays and maps, the outer `[kind, body]` included. */
export const maxAdminDepth = maxMsgpackDepth
/** Msgpack items in one message. */
export const maxAdminElements = maxMsgpackElements
/** Kinds are u16. Those from here on belong to the application. */
export const firstApplicationKind = 256
const maxAdminKind = 0xffff

/** A msgpack map: string keys only, no `__proto__`, none twice. `Uint8Array` values are copies, independent of the input. */
export interface AdminBody {
  readonly [key: string]: unknown
}

export interface AdminMessage {
  readonly kind: number
  readonly body: AdminBody
}

/**
 * Encodes `[kind, body]`. Properties that are `undefined` are left out.
 * Throws `ProtocolError` MALFORMED for what msgpack without extensions cannot say (Date, symbols, integers beyond ±(2^53 − 1)
 * as bigint, maps with other keys than strings, the key `__proto__`) and TOO_LARGE beyond the depth or element limit.
 * A Set goes as an array and a function as nil; a string with a lone surrogate is refused or, if long, goes with U+FFFD in it.
 */
export const encodeAdmin = (kind: number, body: AdminBody): Uint8Array => {
  if (!isKind(kind)) throw new ProtocolError("MALFORMED", `kind ${kind} is not a u16`)
  const bytes = encodeMsgpack([kind, body])
  checkEnvelope(bytes)
  return bytes
}

/**
 * Decodes one whole message. Throws `ProtocolError` MALFORMED or TOO_LARGE and nothing else, whatever the bytes are.
 * Integers come as numbers; 64-bit ones beyond ±(2^53 − 1) are refused, since a number could not hold them.
 */
export const decodeAdmin = (bytes: Uint8Array): AdminMessage => {
  checkEnvelope(bytes)
  // A plain view: given a Buffer, msgpackr would hand out Buffers.
  const message = decodeMsgpack(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
  if (!Array.isArray(message)) throw malformed("not an array")
  const [kind, body]: Array<unknown> = message
  if (!isKind(kind) || !isBody(body)) throw malformed("not [kind u16, body map]")
  return { kind, body }
}

const isKind = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= maxAdminKind

const isBody = (value: unknown): value is AdminBody =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)

const malformed = (what: string): ProtocolError => new ProtocolError("MALFORMED", `administrative message: ${what}`)

const pairArray = 0x92

/** Refuses another shape before the body is looked at. */
const checkEnvelope = (bytes: Uint8Array): void => {
  if (bytes.length < 3 || bytes[0] !== pairArray) throw malformed("not an array of two")
}
