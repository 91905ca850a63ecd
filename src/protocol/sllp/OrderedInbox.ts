import { maxCompleteSuccessors, maxReadyMessages } from "./constants.ts"
import { Fifo } from "./Fifo.ts"
import type { IncomingMessage, SllpMessage } from "./IncomingMessage.ts"
import type { InboxHost } from "./Inbox.ts"
import { LossyInbox } from "./LossyInbox.ts"

/** Messages that the sender gave up ahead of the one that is waited for; beyond so many it is not waited for any longer. */
const maxGone = 64

export interface OrderedOptions {
  /** How long a message that is due may be missing once something of a later one has come, ms. */
  readonly maxLagMs: number
  /** What becomes of a message that never becomes whole: passed over, or delivered with its holes. */
  readonly holes: "skip" | "deliver"
}

/**
 * Mode `ordered` (§4.4): messages by their number. One that is due and not whole is waited for until a later one has been
 * coming for `maxLagMs`, until 4 later ones are whole, or until the sender says that no more of it will come.
 */
export class OrderedInbox extends LossyInbox {
  readonly #options: OrderedOptions
  /** The message that is due. */
  #head = 0
  /** After the one that is due: whole, or as whole as they will be. */
  readonly #waiting = new Map<number, IncomingMessage>()
  /** After the one that is due: nothing of them will be delivered. With the time when that was known. */
  readonly #gone = new Map<number, number>()
  readonly #ready = new Fifo<IncomingMessage>()
  #finished = false

  constructor(channel: number, host: InboxHost, options: OrderedOptions) {
    super(channel, host)
    this.#options = options
  }

  protected override isPast(messageId: number): boolean {
    return messageId < this.#head || this.#waiting.has(messageId) || this.#gone.has(messageId)
  }

  protected override arrived(message: IncomingMessage, nowMs: number): void {
    this.#waiting.set(message.id, message)
    this.settle(nowMs)
  }

  protected override givenUp(message: IncomingMessage): void {
    this.host.counters.dropped++
    if (this.#options.holes === "deliver") {
      this.host.memory.completed(message, this)
      this.#waiting.set(message.id, message)
      return
    }
    this.release(message)
    this.#gone.set(message.id, message.seenAtMs)
  }

  override drop(messageId: number, nowMs: number): void {
    const message = this.incomplete.get(messageId)
    if (message !== undefined) {
      this.incomplete.delete(messageId)
      this.givenUp(message)
    } else if (!this.isPast(messageId)) this.#gone.set(messageId, nowMs)
    this.settle(nowMs)
  }

  override read(): SllpMessage | undefined {
    const message = this.#ready.shift()
    if (message === undefined) return undefined
    this.host.counters.delivered++
    this.release(message)
    return message.deliver()
  }

  override evict(message: IncomingMessage): void {
    this.host.counters.dropped++
    this.release(message)
    if (message.id < this.#head) {
      this.#ready.remove(message)
      this.host.onLost(this.channel, message.id, 1)
      return
    }
    this.incomplete.delete(message.id)
    this.#waiting.delete(message.id)
    this.#gone.set(message.id, message.seenAtMs)
    this.deadlineMs = 0
  }

  override expire(nowMs: number): void {
    this.settle(nowMs)
  }

  /** Nothing more will come: what there is need not wait for anything. */
  override finish(): void {
    this.#finished = true
    this.settle(0)
  }

  /** Moves on as far as it goes, and says until when it will wait. */
  protected override settle(nowMs: number): void {
    while (this.#takeHead() || this.#giveUpHead(nowMs));
  }

  #takeHead(): boolean {
    const message = this.#waiting.get(this.#head)
    if (message !== undefined) {
      this.#waiting.delete(this.#head)
      this.#head++
      this.#enqueue(message)
      return true
    }
    if (!this.#gone.delete(this.#head)) return false
    this.host.onLost(this.channel, this.#head, 1)
    this.#head++
    return true
  }

  #enqueue(message: IncomingMessage): void {
    if (this.#ready.size === 0) this.host.onReadable(this.channel)
    else if (this.#ready.size >= maxReadyMessages) {
      const unread = this.#ready.head
      if (unread !== undefined) this.evict(unread)
    }
    this.#ready.push(message)
  }

  #giveUpHead(nowMs: number): boolean {
    const deadlineMs = this.#blockedSinceMs() + this.#options.maxLagMs
    const pressed = this.#waiting.size >= maxCompleteSuccessors || this.#gone.size >= maxGone
    this.deadlineMs = deadlineMs
    if (nowMs < deadlineMs && !pressed && !this.#finished) return false
    const message = this.incomplete.get(this.#head)
    if (message === undefined) {
      const next = this.#nextKnown()
      if (next === Infinity) return false
      this.host.onLost(this.channel, this.#head, next - this.#head)
      this.#head = next
    } else {
      this.incomplete.delete(message.id)
      this.givenUp(message)
    }
    return true
  }

  /** When the first sign of a later message came; Infinity without one. */
  #blockedSinceMs(): number {
    let since = Infinity
    for (const [id, { seenAtMs }] of this.incomplete) if (id > this.#head) since = Math.min(since, seenAtMs)
    for (const { seenAtMs } of this.#waiting.values()) since = Math.min(since, seenAtMs)
    for (const goneAtMs of this.#gone.values()) since = Math.min(since, goneAtMs)
    return since
  }

  #nextKnown(): number {
    let next = Infinity
    for (const ids of [this.incomplete.keys(), this.#waiting.keys(), this.#gone.keys()])
      for (const id of ids) next = Math.min(next, id)
    return next
  }
}
