/**
 * RPC messages as administrative messages: kind 256 from client to server, 257 from server to client; the body is Effect's
 * encoded RPC message as a map. Payloads and results inside are checked by their schemas later; here the envelope is.
 */
import { Array as Arr, Predicate } from "effect"
import type {
  AckEncoded,
  FromClientEncoded,
  FromServerEncoded,
  InterruptEncoded,
  RequestEncoded,
  ResponseChunkEncoded,
  ResponseExitEncoded
} from "effect/rpc/RpcMessage"
import { decodeAdmin, encodeAdmin, firstApplicationKind, type AdminBody } from "../protocol/AdminMessage.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { defaultMaxMessageBytes } from "../protocol/constants.ts"

/** Largest RPC message. Anything larger is a tensor and belongs on a bulk stream. */
export const maxRpcMessageBytes = defaultMaxMessageBytes

const toServerKind = firstApplicationKind
const toClientKind = firstApplicationKind + 1

/** What a client may send. `id` is an integer that is new on this channel. */
export type ToServer =
  (RequestEncoded & { readonly id: number }) | (AckEncoded & Numbered) | (InterruptEncoded & Numbered)
/** What a server may send. */
export type ToClient = (ResponseChunkEncoded & Numbered) | (ResponseExitEncoded & Numbered)

interface Numbered {
  readonly requestId: number
}

/** Throws `ProtocolError` for a value that msgpack cannot say or a message that is too large. */
export const encodeToServer = (message: FromClientEncoded): Uint8Array => encode(toServerKind, { ...message })
/** Throws `ProtocolError` for a value that msgpack cannot say or a message that is too large. */
export const encodeToClient = (message: FromServerEncoded): Uint8Array => encode(toClientKind, { ...message })

const encode = (kind: number, body: AdminBody): Uint8Array => {
  const bytes = encodeAdmin(kind, body)
  if (bytes.length > maxRpcMessageBytes) throw tooLarge(bytes.length)
  return bytes
}

/** Throws `ProtocolError`, whatever the bytes are. */
export const decodeToServer = (bytes: Uint8Array): ToServer => {
  const body = decode(toServerKind, bytes)
  switch (body._tag) {
    case "Request": {
      const { id, tag, headers = [], payload } = body
      if (!isId(id) || typeof tag !== "string" || !isHeaders(headers)) throw malformed("Request")
      // Rebuilt field by field: a peer must not set the flags for notifications and discarded calls, which get no reply and so
      // would escape the count of calls in flight.
      return { _tag: "Request", id, tag, payload, headers, ...traceOf(body) }
    }
    case "Ack":
    case "Interrupt": {
      if (!isId(body.requestId)) throw malformed(body._tag)
      return { _tag: body._tag, requestId: body.requestId }
    }
    default:
      throw malformed("message of a client")
  }
}

/** Throws `ProtocolError`, whatever the bytes are. */
export const decodeToClient = (bytes: Uint8Array): ToClient => {
  const body = decode(toClientKind, bytes)
  switch (body._tag) {
    case "Chunk": {
      const { requestId, values } = body
      if (!isId(requestId) || !Array.isArray(values) || !Arr.isArrayNonEmpty(values)) throw malformed("Chunk")
      return { _tag: "Chunk", requestId, values }
    }
    case "Exit": {
      const { requestId, exit } = body
      if (!isId(requestId) || !isExit(exit)) throw malformed("Exit")
      return { _tag: "Exit", requestId, exit }
    }
    default:
      throw malformed("message of a server")
  }
}

const decode = (expected: number, bytes: Uint8Array): AdminBody => {
  if (bytes.length > maxRpcMessageBytes) throw tooLarge(bytes.length)
  const { kind, body } = decodeAdmin(bytes)
  if (kind !== expected) throw new ProtocolError("UNEXPECTED", `RPC: kind ${kind} where only ${expected} may come`)
  return body
}

const isId = (value: unknown): value is number => Number.isSafeInteger(value)

const isHeaders = (value: unknown): value is ReadonlyArray<[string, string]> =>
  Array.isArray(value) &&
  value.every(pair => Array.isArray(pair) && pair.length === 2 && pair.every(part => typeof part === "string"))

/** The reasons inside are left to the schema of the rpc, which the client decodes them with. */
const isExit = (value: unknown): value is ResponseExitEncoded["exit"] =>
  Predicate.hasProperty(value, "_tag") &&
  (value._tag === "Success" ||
    (value._tag === "Failure" && Predicate.hasProperty(value, "cause") && Array.isArray(value.cause)))

const traceOf = ({
  traceId,
  spanId,
  sampled
}: AdminBody): Partial<Pick<RequestEncoded, "traceId" | "spanId" | "sampled">> =>
  typeof traceId === "string" && typeof spanId === "string" && typeof sampled === "boolean"
    ? { traceId, spanId, sampled }
    : {}

const malformed = (what: string): ProtocolError => new ProtocolError("MALFORMED", `RPC: not a well-formed ${what}`)
const tooLarge = (size: number): ProtocolError =>
  new ProtocolError(
    "TOO_LARGE",
    `RPC: a message of ${size} bytes, more than ${maxRpcMessageBytes}; send tensors on a bulk stream`
  )
