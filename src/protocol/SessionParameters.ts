import {
  defaultConnectionWindowBytes,
  defaultMaxMessageBytes,
  defaultMaxStreams,
  defaultStreamWindowBytes,
  maxParametersBytes,
  maxRecordPayloadBytes,
  maxWindowBytes,
  minRecordLimitBytes
} from "./constants.ts"
import { decodeMsgpack, encodeMsgpack } from "./Msgpack.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** What one side is ready to receive in a session (§2.5). Signed inside AUTH; the other side keeps to it. */
export interface SessionParameters {
  /** Largest record payload, bytes: 256 to 65,536. */
  readonly maxRecordBytes: number
  /** Largest message that is buffered whole, bytes. */
  readonly maxMessageBytes: number
  /** Unread bytes that one stream may have in flight. */
  readonly streamWindowBytes: number
  /** Unread bytes that all bulk streams together may have in flight. */
  readonly connectionWindowBytes: number
  /** Streams that the other side may have open at once. */
  readonly maxStreams: number
  /** Version of the application's own protocol: 0 where it has none. */
  readonly applicationVersion: number
}

export const defaultParameters: SessionParameters = {
  maxRecordBytes: maxRecordPayloadBytes,
  maxMessageBytes: defaultMaxMessageBytes,
  streamWindowBytes: defaultStreamWindowBytes,
  connectionWindowBytes: defaultConnectionWindowBytes,
  maxStreams: defaultMaxStreams,
  applicationVersion: 0
}

/** Field, its key on the wire, least and greatest value that makes sense. */
const fields = [
  ["maxRecordBytes", "mr", minRecordLimitBytes, maxRecordPayloadBytes],
  ["maxMessageBytes", "mm", minRecordLimitBytes, maxWindowBytes],
  ["streamWindowBytes", "wi", minRecordLimitBytes, maxWindowBytes],
  ["connectionWindowBytes", "wc", minRecordLimitBytes, maxWindowBytes],
  ["maxStreams", "ms", 1, 2 ** 31],
  ["applicationVersion", "pv", 0, 2 ** 32 - 1]
] as const

/** Only what differs from the default is sent. */
export const encodeParameters = (parameters: SessionParameters): Uint8Array => {
  const given = fields.filter(([name]) => parameters[name] !== defaultParameters[name])
  return encodeMsgpack(Object.fromEntries(given.map(([name, key]) => [key, parameters[name]])))
}

/** Reads the other side's parameters: unknown keys are ignored, an absent one means its default. */
export const decodeParameters = (bytes: Uint8Array): SessionParameters => {
  if (bytes.length > maxParametersBytes) {
    throw new ProtocolError("TOO_LARGE", `${bytes.length} bytes of parameters, at most ${maxParametersBytes}`)
  }
  const map = decodeMsgpack(bytes)
  if (typeof map !== "object" || map === null || Array.isArray(map) || map instanceof Uint8Array) {
    throw new ProtocolError("MALFORMED", "the session parameters are no map")
  }
  const given = new Map<string, unknown>(Object.entries(map))
  const parameters: { -readonly [K in keyof SessionParameters]: number } = { ...defaultParameters }
  for (const [name, key, least, greatest] of fields) {
    if (!given.has(key)) continue
    const value = given.get(key)
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
      throw new ProtocolError("MALFORMED", `session parameter ${key} is no unsigned integer`)
    }
    if (value < least)
      throw new ProtocolError("MALFORMED", `session parameter ${key} is ${value}, at least ${least} is needed`)
    parameters[name] = Math.min(value, greatest)
  }
  return parameters
}
