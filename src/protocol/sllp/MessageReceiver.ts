import { ProtocolError } from "../ProtocolError.ts"
import { defaultMemoryBudgetBytes, messageOverheadBytes } from "./constants.ts"
import type { ControlFrames } from "./ControlFrames.ts"
import { IncomingMemory } from "./IncomingMemory.ts"
import type { SllpMessage } from "./IncomingMessage.ts"
import type { Inbox, InboxHost, ReceiveCounters } from "./Inbox.ts"
import { LatestInbox } from "./LatestInbox.ts"
import { OrderedInbox } from "./OrderedInbox.ts"
import { ReliableInbox } from "./ReliableInbox.ts"
import type { EventQueue } from "./SllpEvents.ts"
import type { ResolvedChannel, SllpOptions } from "./SllpOptions.ts"

/** The receiving side of all channels: chunks in, messages out (§4.4). */
export class MessageReceiver {
  readonly memory: IncomingMemory
  readonly counters: ReceiveCounters = { delivered: 0, late: 0, dropped: 0, superseded: 0 }
  lost = 0
  readonly #channels: ReadonlyArray<ResolvedChannel>
  readonly #inboxes: ReadonlyArray<Inbox>

  constructor(
    options: SllpOptions,
    channels: ReadonlyArray<ResolvedChannel>,
    controls: ControlFrames,
    events: EventQueue
  ) {
    const { memoryBudgetBytes = defaultMemoryBudgetBytes } = options
    this.memory = new IncomingMemory(memoryBudgetBytes)
    this.#channels = channels
    const host: InboxHost = {
      memory: this.memory,
      counters: this.counters,
      onReadable: channel => events.push({ type: "readable", channel }),
      onLost: (channel, messageId, count) => {
        this.lost += count
        events.push({ type: "lost", channel, messageId, count })
      },
      onCredit: (channel, limit) => controls.credit(channel, limit)
    }
    this.#inboxes = channels.map((channel, place) => {
      if (channel.mode === "reliable") return new ReliableInbox(place, host, channel.maxMessageBytes)
      if (channel.maxMessageBytes + messageOverheadBytes > memoryBudgetBytes)
        throw new ProtocolError(
          "LIMIT",
          `messages of ${channel.maxMessageBytes} bytes need more memory than ${memoryBudgetBytes} bytes`
        )
      return channel.mode === "latest" ? new LatestInbox(place, host) : new OrderedInbox(place, host, channel)
    })
  }

  #inbox(channel: number): Inbox {
    const inbox = this.#inboxes[channel]
    if (inbox === undefined) throw new ProtocolError("MALFORMED", `channel ${channel} of ${this.#inboxes.length}`)
    return inbox
  }

  onChunk(
    channel: number,
    messageId: number,
    total: number,
    offset: number,
    plain: Uint8Array,
    from: number,
    to: number,
    nowMs: number
  ): void {
    const inbox = this.#inbox(channel)
    const limit = this.#channels[channel]?.maxMessageBytes ?? 0
    if (total > limit) throw new ProtocolError("TOO_LARGE", `a message of ${total} bytes, at most ${limit}`)
    inbox.chunk(messageId, total, offset, plain, from, to, nowMs)
  }

  onDrop(channel: number, messageId: number, nowMs: number): void {
    this.#inbox(channel).drop(messageId, nowMs)
  }

  read(channel: number, nowMs: number): SllpMessage | undefined {
    return this.#inbox(channel).read(nowMs)
  }

  get deadlineMs(): number {
    let earliest = Infinity
    for (const inbox of this.#inboxes) if (inbox.deadlineMs < earliest) earliest = inbox.deadlineMs
    return earliest
  }

  expire(nowMs: number): void {
    for (const inbox of this.#inboxes) if (inbox.deadlineMs <= nowMs) inbox.expire(nowMs)
  }

  /** The association is over: what has arrived need not wait for the rest. */
  finish(): void {
    for (const inbox of this.#inboxes) inbox.finish()
  }
}
