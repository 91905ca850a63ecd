import { maxIncompleteMessages, messageOverheadBytes } from "./constants.ts"
import type { MessageHolder } from "./IncomingMemory.ts"
import { IncomingMessage, type SllpMessage } from "./IncomingMessage.ts"
import { checkTotal, type Inbox, type InboxHost } from "./Inbox.ts"

/** What `latest` and `ordered` share: at most 8 incomplete messages within the memory of the association (§4.3). */
export abstract class LossyInbox implements Inbox, MessageHolder {
  protected readonly channel: number
  protected readonly host: InboxHost
  protected readonly incomplete = new Map<number, IncomingMessage>()
  deadlineMs = Infinity

  constructor(channel: number, host: InboxHost) {
    this.channel = channel
    this.host = host
  }

  /** A message that is over, one way or the other. */
  protected abstract isPast(messageId: number): boolean
  /** All bytes are here; the message is in nobody's list. */
  protected abstract arrived(message: IncomingMessage, nowMs: number): void
  /** An incomplete message, already out of the list, of which no more will be waited for. */
  protected abstract givenUp(message: IncomingMessage): void
  /** The first bytes of a message have come, or one has been given up. */
  protected abstract settle(nowMs: number): void
  abstract drop(messageId: number, nowMs: number): void
  abstract read(nowMs: number): SllpMessage | undefined
  abstract evict(message: IncomingMessage): void
  abstract expire(nowMs: number): void
  abstract finish(): void

  chunk(
    messageId: number,
    total: number,
    offset: number,
    plain: Uint8Array,
    from: number,
    to: number,
    nowMs: number
  ): void {
    const known = this.incomplete.get(messageId)
    if (known === undefined) {
      if (this.isPast(messageId)) this.host.counters.late++
      else if (to - from === total) this.#whole(IncomingMessage.single(messageId, plain, from, to, nowMs), nowMs)
      else this.#first(new IncomingMessage(messageId, total, nowMs), offset, plain, from, to, nowMs)
      return
    }
    checkTotal(messageId, known.total, total)
    if (!this.host.memory.reserve(known.needs(offset, to - from), known)) return this.#abandon(known, nowMs)
    known.write(offset, plain, from, to)
    if (known.scattered) return this.#abandon(known, nowMs)
    if (known.complete) this.#complete(known, nowMs)
  }

  #whole(message: IncomingMessage, nowMs: number): void {
    if (!this.host.memory.reserve(message.heldBytes, message)) return void this.host.counters.dropped++
    this.host.memory.hold(message, this)
    this.arrived(message, nowMs)
  }

  #first(message: IncomingMessage, offset: number, plain: Uint8Array, from: number, to: number, nowMs: number): void {
    const { memory, counters } = this.host
    if (this.incomplete.size >= maxIncompleteMessages) {
      const oldest = this.#oldest()
      if (oldest === undefined || message.id < oldest.id) return void counters.late++
      this.#abandon(oldest, nowMs)
      // Others may have become deliverable, and this one may lie before them.
      if (this.isPast(message.id)) return void counters.late++
    }
    if (!memory.reserve(messageOverheadBytes + message.needs(offset, to - from), message))
      return void counters.dropped++
    this.incomplete.set(message.id, message)
    memory.hold(message, this)
    message.write(offset, plain, from, to)
    this.settle(nowMs)
  }

  #complete(message: IncomingMessage, nowMs: number): void {
    this.incomplete.delete(message.id)
    this.host.memory.completed(message, this)
    this.arrived(message, nowMs)
  }

  #abandon(message: IncomingMessage, nowMs: number): void {
    this.incomplete.delete(message.id)
    this.givenUp(message)
    this.settle(nowMs)
  }

  /** The lowest number, not the first to arrive: they may come out of order. */
  #oldest(): IncomingMessage | undefined {
    let oldest: IncomingMessage | undefined
    for (const message of this.incomplete.values()) if (oldest === undefined || message.id < oldest.id) oldest = message
    return oldest
  }

  protected release(message: IncomingMessage): void {
    this.host.memory.release(message)
  }
}
