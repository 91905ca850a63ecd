/** What this host takes on for the associations of its peers. */
import {
  defaultMaxSllpMessageBytes,
  defaultMemoryBudgetBytes,
  maxIncompleteMessages,
  maxReadyMessages,
  messageOverheadBytes,
  reliableSpareBytes
} from "../protocol/sllp/constants.ts"
import type { SllpChannelOptions } from "../protocol/sllp/SllpAssociation.ts"

/** What a host allows its peers, and itself, of associations. */
export interface SllpLimits {
  /** Associations with one peer at once. Default 16. */
  readonly maxAssociationsPeer: number
  /** Associations at once. Default 1,024. */
  readonly maxAssociations: number
  /** Bytes that the associations with one peer may need for messages that arrive, by what their channels allow. Default 2 GiB. */
  readonly maxMemoryBytesPeer: number
}

export const defaultSllpLimits: SllpLimits = {
  maxAssociationsPeer: 16,
  maxAssociations: 1_024,
  maxMemoryBytesPeer: 2 * 1024 ** 3
}

/** Associations of one session, one after another: what was used has to be remembered. */
export const maxSllpAssociationsSession = 65_536
/** Small messages cost more than their bytes. */
const leastBudgetBytes = 1024 * 1024

/** Bytes that the `latest` and `ordered` channels of an association may hold together: what their largest messages can need, 128 MiB at most. */
export const memoryBudgetOf = (channels: ReadonlyArray<SllpChannelOptions>): number => {
  let bytes = 0
  for (const { mode, maxMessageBytes = defaultMaxSllpMessageBytes } of channels)
    if (mode !== "reliable")
      bytes += (maxIncompleteMessages + maxReadyMessages) * (maxMessageBytes + messageOverheadBytes)
  return Math.max(leastBudgetBytes, Math.min(bytes, defaultMemoryBudgetBytes))
}

/** All that the messages of an association may need until they are read. */
const memoryOf = (channels: ReadonlyArray<SllpChannelOptions>): number => {
  let bytes = memoryBudgetOf(channels)
  for (const { mode, maxMessageBytes = defaultMaxSllpMessageBytes } of channels)
    if (mode === "reliable") bytes += maxMessageBytes + messageOverheadBytes + reliableSpareBytes
  return bytes
}

/** The associations of one session. */
export interface SessionRoom {
  associations: number
  memoryBytes: number
  /** Ids that either side has chosen so far. */
  readonly used: Set<string>
}

export const emptyRoom = (): SessionRoom => ({ associations: 0, memoryBytes: 0, used: new Set() })

export class SllpRoom {
  readonly #limits: SllpLimits
  #total = 0

  constructor(limits: SllpLimits) {
    this.#limits = limits
  }

  /** Takes room for an association of these channels: how to give it back, or why there is none. */
  take(room: SessionRoom, channels: ReadonlyArray<SllpChannelOptions>): (() => void) | string {
    const { maxAssociations, maxAssociationsPeer, maxMemoryBytesPeer } = this.#limits
    const bytes = memoryOf(channels)
    if (this.#total >= maxAssociations) return `${maxAssociations} associations are open here, and no more may be`
    if (room.associations >= maxAssociationsPeer)
      return `${maxAssociationsPeer} associations are open with this peer, and no more may be`
    if (room.memoryBytes + bytes > maxMemoryBytesPeer)
      return `its channels may need ${bytes} bytes, and of the ${maxMemoryBytesPeer} for this peer ${room.memoryBytes} are taken`
    if (room.used.size >= 2 * maxSllpAssociationsSession)
      return `${maxSllpAssociationsSession} associations were opened in this session: a new session allows more`
    this.#total++
    room.associations++
    room.memoryBytes += bytes
    let taken = true
    return () => {
      if (!taken) return
      taken = false
      this.#total--
      room.associations--
      room.memoryBytes -= bytes
    }
  }
}
