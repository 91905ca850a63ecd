import { AckRanges } from "./AckRanges.ts"
import { ackEvery, maxAckDelayMs } from "./constants.ts"
import type { FrameWriter } from "./Frames.ts"
import type { ReplayWindow } from "./ReplayWindow.ts"

/**
 * When to acknowledge (RFC 9000, section 13.2): every second datagram that asks for it, one out of order at once, and none later
 * than 25 ms. What arrived is in the replay window.
 */
export class Acknowledger {
  readonly #window: ReplayWindow
  readonly #ranges = new AckRanges()
  #waiting = 0
  #dueAtMs = Infinity
  #expected = 0
  #largestAtMs = 0

  constructor(window: ReplayWindow) {
    this.#window = window
  }

  /** When an acknowledgement must leave; Infinity when nothing asks for one. */
  get dueAtMs(): number {
    return this.#dueAtMs
  }

  onReceived(number: number, eliciting: boolean, nowMs: number): void {
    const inOrder = number === this.#expected
    if (number >= this.#expected) {
      this.#expected = number + 1
      this.#largestAtMs = nowMs
    }
    if (!eliciting) return
    this.#waiting++
    if (!inOrder || this.#waiting >= ackEvery) this.#dueAtMs = nowMs
    else this.#dueAtMs = Math.min(this.#dueAtMs, nowMs + maxAckDelayMs)
  }

  /** Adds an ACK to a datagram where one is waited for and fits. */
  write(writer: FrameWriter, nowMs: number): void {
    if (this.#waiting === 0) return
    this.#window.acknowledge(this.#ranges)
    this.#ranges.delayMs = Math.max(nowMs - this.#largestAtMs, 0)
    if (!writer.ack(this.#ranges)) return
    this.#waiting = 0
    this.#dueAtMs = Infinity
  }
}
