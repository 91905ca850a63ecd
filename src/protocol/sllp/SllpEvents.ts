import type { SllpCloseName } from "./CloseCodes.ts"
import { maxPendingEvents } from "./constants.ts"

/** What happens to an association beside its messages. */
export type SllpEvent =
  /** The first proof that the peer is there, and where. */
  | { readonly type: "connected"; readonly address: string }
  /** Something can be read from a channel where nothing could before. */
  | { readonly type: "readable"; readonly channel: number }
  /** A channel that was full has room again. */
  | { readonly type: "writable"; readonly channel: number }
  /** `ordered`: `count` messages from this one on will not be delivered. */
  | { readonly type: "lost"; readonly channel: number; readonly messageId: number; readonly count: number }
  /** The peer has moved, and has shown that it is at this address. */
  | { readonly type: "path"; readonly address: string }
  /** Full datagrams have this size from now on. */
  | { readonly type: "datagramSize"; readonly bytes: number }
  /** The association is over. What has arrived can still be read. */
  | { readonly type: "closed"; readonly code: SllpCloseName; readonly reason: string; readonly by: "us" | "peer" }

/** Events that wait to be taken. Neighbouring losses are one event; beyond 1,024 events losses are only counted. */
export class EventQueue {
  #events: Array<SllpEvent> = []

  push(event: SllpEvent): void {
    if (event.type === "lost" && (this.#joins(event) || this.#events.length >= maxPendingEvents)) return
    const again = event.type === "readable" || event.type === "writable"
    if (again && this.#events.some(other => other.type === event.type && other.channel === event.channel)) return
    this.#events.push(event)
  }

  #joins(event: SllpEvent & { readonly type: "lost" }): boolean {
    const last = this.#events.at(-1)
    if (last?.type !== "lost" || last.channel !== event.channel) return false
    if (last.messageId + last.count !== event.messageId) return false
    this.#events[this.#events.length - 1] = { ...last, count: last.count + event.count }
    return true
  }

  take(): ReadonlyArray<SllpEvent> {
    if (this.#events.length === 0) return nothing
    const events = this.#events
    this.#events = []
    return events
  }
}

const nothing: ReadonlyArray<SllpEvent> = []

/** Counters are of the whole life of the association. */
export interface SllpStatistics {
  readonly sentDatagrams: number
  readonly sentBytes: number
  readonly receivedDatagrams: number
  readonly receivedBytes: number
  /** Of the last second, mostly. */
  readonly sentBytesPerSecond: number
  readonly receivedBytesPerSecond: number
  /** Own datagrams that asked for an acknowledgement and got one. */
  readonly acknowledgedDatagrams: number
  /** Own datagrams that count as lost. */
  readonly lostDatagrams: number
  /** Part of the datagrams that asked for an acknowledgement, 0 to 1, since the beginning. */
  readonly lossRate: number
  /** Smoothed. */
  readonly roundTripMs: number
  /** Undefined before the first measurement. */
  readonly minRoundTripMs: number | undefined
  readonly roundTripVariationMs: number
  readonly congestionWindowBytes: number
  readonly inFlightBytes: number
  readonly datagramBytes: number
  /** Whole messages that left and did not lose a part, as far as that is known. */
  readonly sentMessages: number
  /** `latest`: messages that a newer one replaced before they left. */
  readonly replacedMessages: number
  /** Own messages of which a part was lost for good. */
  readonly incompleteMessages: number
  /** Messages that were read. */
  readonly deliveredMessages: number
  /** Arriving messages of which something came and that were given up. */
  readonly droppedMessages: number
  /** `latest`: whole messages that a newer one replaced before they were read. */
  readonly supersededMessages: number
  /** Messages of `ordered` that will not be delivered. */
  readonly lostMessages: number
  /** Chunks that came after their message had been passed over. */
  readonly lateChunks: number
  /** Datagrams that came twice, or too late to know. */
  readonly replayedDatagrams: number
  /** Datagrams that did not open. */
  readonly forgedDatagrams: number
  readonly malformedDatagrams: number
  /** Memory of incomplete and unread messages of `latest` and `ordered`. */
  readonly memoryBytes: number
}
