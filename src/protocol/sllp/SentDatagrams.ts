import { maxTrackedDatagrams } from "./constants.ts"
import type { SendMessage } from "./SendMessage.ts"
import type { SendQueue } from "./SendQueue.ts"

/** A frame that is sent again, with what holds then, when its datagram is lost. */
export interface ControlFrame {
  readonly type: "drop" | "credit"
  readonly channel: number
  /** Of DROP. */
  readonly messageId: number
}

/** What is known of a datagram until it is acknowledged or lost. Used again for later ones. */
export class SentDatagram {
  number = -1
  sentAtMs = 0
  bytes = 0
  /** Acknowledgement is awaited. */
  pending = false
  /** It has arrived. */
  arrived = false
  /** It tries a size or a path: its loss says nothing of congestion. */
  trial = false
  /** The next four tell of one chunk each. */
  readonly #queues: Array<SendQueue> = []
  readonly #messages: Array<SendMessage> = []
  readonly #extents: Array<number> = []
  /** A probe carries it too, or will: when this datagram is lost, that one counts. */
  readonly #copied: Array<boolean> = []
  readonly controls: Array<ControlFrame> = []

  begin(number: number): void {
    this.number = number
    this.pending = false
    this.arrived = false
    this.trial = false
    this.forget()
  }

  get hasChunks(): boolean {
    return this.#queues.length > 0
  }

  addChunk(queue: SendQueue, message: SendMessage, offset: number, length: number): void {
    this.#queues.push(queue)
    this.#messages.push(message)
    this.#extents.push(offset, length)
    this.#copied.push(false)
  }

  /** Tells the queues what became of the chunks. */
  acknowledged(): void {
    for (let at = 0; at < this.#queues.length; at++) {
      const message = this.#messages[at]
      if (message !== undefined)
        this.#queues[at]?.acknowledged(message, this.#extents[2 * at] ?? 0, this.#extents[2 * at + 1] ?? 0)
    }
  }

  lost(nowMs: number): void {
    for (let at = 0; at < this.#queues.length; at++) {
      const message = this.#messages[at]
      if (message !== undefined)
        this.#queues[at]?.lost(
          message,
          this.#extents[2 * at] ?? 0,
          this.#extents[2 * at + 1] ?? 0,
          this.#copied[at] ?? false,
          nowMs
        )
    }
  }

  /** Lets the chunks go out once more. */
  probe(nowMs: number): void {
    for (let at = 0; at < this.#queues.length; at++) {
      const message = this.#messages[at]
      if (message === undefined || this.#copied[at] === true) continue
      this.#copied[at] =
        this.#queues[at]?.probe(message, this.#extents[2 * at] ?? 0, this.#extents[2 * at + 1] ?? 0, nowMs) ?? false
    }
  }

  /** Lets go of messages, so that nothing that is over is kept. */
  forget(): void {
    if (this.controls.length > 0) this.controls.length = 0
    if (this.#queues.length === 0) return
    this.#queues.length = 0
    this.#messages.length = 0
    this.#extents.length = 0
    this.#copied.length = 0
  }
}

const firstCapacity = 16

/** The datagrams of which nothing final is known, by number: a ring that grows to 16,384 places. */
export class SentDatagrams {
  #ring: Array<SentDatagram> = Array.from({ length: firstCapacity }, () => new SentDatagram())
  #lowest = 0
  #next = 0

  /** All numbers below are settled. */
  get lowest(): number {
    return this.#lowest
  }

  /** The number that the next one has. */
  get next(): number {
    return this.#next
  }

  get full(): boolean {
    return this.#next - this.#lowest >= maxTrackedDatagrams
  }

  /** A place for the next datagram. It takes its number with `commit`; until then the same place is given again. */
  begin(): SentDatagram {
    if (this.#next - this.#lowest >= this.#ring.length) this.#grow()
    const datagram = this.#at(this.#next)
    datagram.begin(this.#next)
    return datagram
  }

  commit(): void {
    this.#next++
  }

  /** The datagram of a number between `lowest` and `next` that awaits its acknowledgement. */
  pending(number: number): SentDatagram | undefined {
    if (number < this.#lowest || number >= this.#next) return undefined
    const datagram = this.#at(number)
    return datagram.pending ? datagram : undefined
  }

  /** When a datagram left, if that is still known: those at and above `lowest`. */
  sentAtMs(number: number): number | undefined {
    return number < this.#lowest || number >= this.#next ? undefined : this.#at(number).sentAtMs
  }

  /** Whether one at or above `lowest` is known to have arrived. */
  arrived(number: number): boolean {
    return this.#at(number).arrived
  }

  settle(datagram: SentDatagram): void {
    datagram.pending = false
    datagram.forget()
  }

  /** Forgets those at the low end of which no acknowledgement is awaited. */
  advance(): void {
    while (this.#lowest < this.#next && !this.#at(this.#lowest).pending) this.#lowest++
  }

  #at(number: number): SentDatagram {
    const datagram = this.#ring[number % this.#ring.length]
    if (datagram === undefined) throw new Error("a ring without a place")
    return datagram
  }

  #grow(): void {
    const larger = Array.from({ length: 2 * this.#ring.length }, () => new SentDatagram())
    for (let number = this.#lowest; number < this.#next; number++) larger[number % larger.length] = this.#at(number)
    this.#ring = larger
  }
}
