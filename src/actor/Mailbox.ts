/**
 * A bounded queue with one reader: plain code, since it lies on the way of every message.
 * `capacity` counts the messages not yet taken; the one being worked on is outside.
 */

/**
 * What happens to a message that finds the mailbox full:
 * `suspend` makes its sender wait (back-pressure, the default); `fail` refuses it; `dropNewest` drops it;
 * `dropOldest` drops the one that has waited longest. A sender that is owed a reply learns of a drop.
 */
export type Overflow = "suspend" | "fail" | "dropNewest" | "dropOldest"

/** `full` means: under `suspend` call `wait`, under `fail` tell the sender. A dropped message counts as accepted. */
export type Offered = "accepted" | "full" | "closed"

interface Waiting<M> {
  readonly message: M
  readonly accepted: () => void
}

export class Mailbox<M> {
  readonly capacity: number
  readonly overflow: Overflow
  /** Called once for the first message after `take` found nothing; the reader sets it, and it clears itself. */
  onArrival: (() => void) | undefined
  private readonly onDropped: (message: M) => void
  private inbox: Array<M> = []
  // The reader works through one array while senders fill the other, so that a take costs no shift.
  private batch: Array<M | undefined> = []
  private next = 0
  private readonly line = new Set<Waiting<M>>()
  private closed = false

  constructor(capacity: number, overflow: Overflow, onDropped: (message: M) => void) {
    if (!Number.isInteger(capacity) || capacity < 1)
      throw new RangeError(`a mailbox holds at least 1 message, not ${capacity}`)
    this.capacity = capacity
    this.overflow = overflow
    this.onDropped = onDropped
  }

  /** Messages that wait to be taken, without those of suspended senders. */
  get size(): number {
    return this.batch.length - this.next + this.inbox.length
  }

  /** Senders that stand in line. */
  get suspended(): number {
    return this.line.size
  }

  offer(message: M): Offered {
    if (this.closed) return "closed"
    if (this.size < this.capacity) {
      this.push(message)
      return "accepted"
    }
    switch (this.overflow) {
      case "dropNewest":
        this.onDropped(message)
        return "accepted"
      case "dropOldest": {
        const oldest = this.takeFirst()
        if (oldest !== undefined) this.onDropped(oldest)
        this.push(message)
        return "accepted"
      }
      default:
        return "full"
    }
  }

  /** Stands in line until there is room. Returns how to leave the line; after `close` the message comes back from there. */
  wait(message: M, accepted: () => void): () => void {
    const waiting = { message, accepted }
    this.line.add(waiting)
    return () => this.line.delete(waiting)
  }

  /** The message that has waited longest, or undefined. Lets the first suspended sender in. */
  take(): M | undefined {
    const message = this.takeFirst()
    if (message !== undefined && this.line.size > 0) {
      for (const first of this.line) {
        this.line.delete(first)
        this.push(first.message)
        first.accepted()
        break
      }
    }
    return message
  }

  /** Refuses new messages; those inside can still be taken. Returns the messages of the senders that stood in line. */
  close(): Array<M> {
    this.closed = true
    const refused = Array.from(this.line, waiting => waiting.message)
    this.line.clear()
    return refused
  }

  private push(message: M): void {
    this.inbox.push(message)
    const onArrival = this.onArrival
    if (onArrival === undefined) return
    this.onArrival = undefined
    onArrival()
  }

  private takeFirst(): M | undefined {
    if (this.next === this.batch.length) {
      if (this.inbox.length === 0) return undefined
      this.batch = this.inbox
      this.inbox = []
      this.next = 0
    }
    const message = this.batch[this.next]
    // A handled message must not be kept alive by the array.
    this.batch[this.next++] = undefined
    return message
  }
}
