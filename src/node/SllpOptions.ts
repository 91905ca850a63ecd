/** How SLLP associations are opened and served. */
import { isIP } from "node:net"
import type { PeerId } from "../protocol/Identity.ts"
import type { SllpChannelOptions } from "../protocol/sllp/SllpAssociation.ts"
import { defaultIdleMs, maxChannels } from "../protocol/sllp/constants.ts"
import type { Address } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"

/** What each side chooses for itself. */
export interface SllpEndOptions {
  /**
   * Bytes of UDP payload to aim at, 1,200 (the default, which passes everywhere) to 65,507; `interface`: what the network interface takes.
   * It is used once three answered datagrams of this size have shown that it passes, and left where it no longer does.
   */
  readonly datagramBytes?: number | "interface"
  /** Bytes per second that this side never exceeds. Default: what congestion control finds. */
  readonly ceilingBytesPerSecond?: number
  /** Milliseconds without a word from the other side after which the association ends, with `idle`. Default 30,000. */
  readonly idleMs?: number
}

/** How an association is opened. The modes and largest messages of the channels hold on both sides. */
export interface SllpOpenOptions extends SllpEndOptions {
  /** Place = channel number; 1 to 256. */
  readonly channels: ReadonlyArray<SllpChannelOptions>
  /**
   * Where to send instead of to the peer's own address, which it is given: to a forwarder that can be reached from where this host reaches
   * the peer. Only for the side that has dialled the session: the other one learns where to send.
   */
  readonly via?: (peer: Address) => Address
}

/** What a server of associations allows. */
export interface SllpServeOptions extends SllpEndOptions {
  /** Largest message that may come, and go: bytes. Default 64 MiB. */
  readonly maxMessageBytes?: number
  /** How this side treats the channels, whatever the other side does. */
  readonly channel?: Pick<SllpChannelOptions, "sendQueueBytes" | "maxLagMs" | "holes" | "repairMs">
  /** Which of the peers may open; default: all that have a session. */
  readonly allow?: (peer: PeerId) => boolean
}

/** What of the options cannot be. */
export const whyNot = (
  { channels, via, idleMs = defaultIdleMs }: SllpOpenOptions,
  session: Session
): string | undefined => {
  if (channels.length === 0 || channels.length > maxChannels) return `an association has 1 to ${maxChannels} channels`
  if (!(idleMs > 0)) return `idleMs is more than 0, not ${idleMs}`
  if (via !== undefined && session.role !== "initiator")
    return "`via` is for the side that has dialled the session: the other one learns where to send"
  return undefined
}

/** An address to which datagrams can be sent where they can be sent to the other one. */
export const isLike = (address: Address, other: Address): boolean =>
  isIP(address.host) === isIP(other.host) && isIP(address.host) !== 0 && address.port > 0 && address.port <= 65_535
