import type { CipherEngine } from "../CipherEngine.ts"
import { ProtocolError } from "../ProtocolError.ts"
import {
  baseDatagramBytes,
  cidBytes,
  defaultMaxLagMs,
  defaultMaxSllpMessageBytes,
  defaultSendQueueBytes,
  largestDatagramBytes,
  maxChannels,
  maxSllpMessageBytes
} from "./constants.ts"
import type { SllpKeyLimits } from "./Datagrams.ts"

/** How messages of a channel are delivered (§4.4). */
export type SllpMode = "latest" | "ordered" | "reliable"

/** One channel. Mode and `maxMessageBytes` are the same on both sides; the rest concerns this side alone. */
export interface SllpChannelOptions {
  readonly mode: SllpMode
  /** Largest message, bytes: 64 MiB. */
  readonly maxMessageBytes?: number
  /**
   * Bytes that may wait to be sent (reliable: or to be acknowledged) on `ordered` and `reliable`: 4 MiB. An empty queue takes any message.
   * `latest` keeps one message that has not begun to leave, and replaces it by the next.
   */
  readonly sendQueueBytes?: number
  /** `ordered`: how long a message may be missing once something of a later one has come, ms: 100. */
  readonly maxLagMs?: number
  /** `ordered`: what becomes of a message that never becomes whole. Default: it is passed over. */
  readonly holes?: "skip" | "deliver"
  /**
   * `latest` and `ordered`: lost ranges are sent again while the message is younger than this, ms. Default 0: never. Raise it to a
   * little more than the round trip where a message of many datagrams is worth waiting for.
   */
  readonly repairMs?: number
}

/** Options of an association; both sides must agree on secret, ids and channels, which SLLP_OPEN and SLLP_ACCEPT settle. */
export interface SllpOptions {
  /** Of the session, whoever asked for the association. */
  readonly role: "initiator" | "responder"
  /** From `sllpSecret`, 32 bytes. */
  readonly secret: Uint8Array
  /** 8 bytes that this side chose: arriving datagrams carry it. */
  readonly cid: Uint8Array
  /** 8 bytes that the other side chose. */
  readonly peerCid: Uint8Array
  /** Place = channel number; 1 to 256. */
  readonly channels: ReadonlyArray<SllpChannelOptions>
  /** Where the peer is, in any form: it is only compared, and given back as `to`. The initiator needs it; a responder learns it. */
  readonly address?: string
  /** UDP payload bytes to aim at, 1,200 (the default) to 65,507: the least of what both sides have announced. */
  readonly datagramBytes?: number
  /** Default: none. */
  readonly ceilingBytesPerSecond?: number
  /** Memory for messages of `latest` and `ordered` that have not been read, bytes: 128 MiB. */
  readonly memoryBudgetBytes?: number
  /** An association that hears nothing for so long ends, ms: 30,000. */
  readonly idleMs?: number
  /** After so long without hearing anything the peer is asked for a sign of life, ms: 10,000. Infinity: never. */
  readonly keepAliveMs?: number
  /** Round trip to assume before the first one is measured, ms: 333. */
  readonly initialRttMs?: number
  readonly nowMs: number
  readonly engine?: CipherEngine
  readonly randomBytes?: (length: number) => Uint8Array
  /** For tests: the bounds of a key. */
  readonly keyLimits?: SllpKeyLimits
}

export type ResolvedChannel = Required<SllpChannelOptions>

const check = (holds: boolean, what: string): void => {
  if (!holds) throw new ProtocolError("LIMIT", what)
}

/** A channel with its defaults; throws LIMIT for values out of range. */
export const resolveChannel = (options: SllpChannelOptions): ResolvedChannel => {
  const {
    mode,
    maxMessageBytes = defaultMaxSllpMessageBytes,
    sendQueueBytes = defaultSendQueueBytes,
    maxLagMs = defaultMaxLagMs,
    holes = "skip",
    repairMs = 0
  } = options
  const whole = Number.isInteger(maxMessageBytes) && maxMessageBytes >= 1 && maxMessageBytes <= maxSllpMessageBytes
  check(whole, `the largest message of a channel is 1 to ${maxSllpMessageBytes} bytes, not ${maxMessageBytes}`)
  check(sendQueueBytes >= 1, `a send queue of ${sendQueueBytes} bytes`)
  check(maxLagMs >= 0 && repairMs >= 0, "maxLagMs and repairMs are not negative")
  return { mode, maxMessageBytes, sendQueueBytes, maxLagMs, holes, repairMs }
}

/** The rest of the options; throws LIMIT. */
export const checkOptions = (options: SllpOptions): void => {
  const { address, channels, cid, peerCid, role, secret } = options
  const { ceilingBytesPerSecond = Infinity, datagramBytes = baseDatagramBytes } = options
  check(secret.length === 32, `a secret of ${secret.length} bytes`)
  check(cid.length === cidBytes && peerCid.length === cidBytes, `connection ids have ${cidBytes} bytes`)
  check(channels.length >= 1 && channels.length <= maxChannels, `an association has 1 to ${maxChannels} channels`)
  check(role === "responder" || address !== undefined, "the initiator sends first and needs an address")
  check(
    Number.isInteger(datagramBytes) && datagramBytes >= baseDatagramBytes && datagramBytes <= largestDatagramBytes,
    `datagrams have ${baseDatagramBytes} to ${largestDatagramBytes} bytes, not ${datagramBytes}`
  )
  check(ceilingBytesPerSecond > 0, `a ceiling of ${ceilingBytesPerSecond} bytes per second`)
}
