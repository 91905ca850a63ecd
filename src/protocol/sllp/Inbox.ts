import { ProtocolError } from "../ProtocolError.ts"
import type { IncomingMemory } from "./IncomingMemory.ts"
import type { SllpMessage } from "./IncomingMessage.ts"

/** What the receiving side of a channel tells its association. */
export interface InboxHost {
  readonly memory: IncomingMemory
  readonly counters: ReceiveCounters
  /** Something can be read where nothing could before. */
  readonly onReadable: (channel: number) => void
  /** Messages that will not be delivered. */
  readonly onLost: (channel: number, messageId: number, count: number) => void
  /** The peer may send up to another limit. */
  readonly onCredit: (channel: number, limit: number) => void
}

/** What became of messages that arrived, or did not. */
export interface ReceiveCounters {
  /** Messages that were read. */
  delivered: number
  /** Chunks that came after their message had been passed over. */
  late: number
  /** Messages of which something arrived and that were given up. */
  dropped: number
  /** Whole messages that a newer one replaced before they were read. */
  superseded: number
}

/** The receiving side of a channel: one class per delivery mode (§4.4). */
export interface Inbox {
  /** A range of a message: bytes `plain[from, to)` at `offset` of `total`. */
  readonly chunk: (
    messageId: number,
    total: number,
    offset: number,
    plain: Uint8Array,
    from: number,
    to: number,
    nowMs: number
  ) => void
  /** The sender will send no more of a message. */
  readonly drop: (messageId: number, nowMs: number) => void
  readonly read: (nowMs: number) => SllpMessage | undefined
  /** When `expire` is due; Infinity for never. */
  readonly deadlineMs: number
  readonly expire: (nowMs: number) => void
  /** The association is over: what has arrived can still be read. */
  readonly finish: () => void
}

/** §4.3: the totals of one message agree. */
export const checkTotal = (messageId: number, known: number, total: number): void => {
  if (known !== total)
    throw new ProtocolError("MALFORMED", `message ${messageId} has ${known} bytes, and then ${total}`)
}
