import type { AckRanges } from "./AckRanges.ts"
import { maxPacketNumber, replayWindowDatagrams } from "./constants.ts"

const wordBits = 32
/** RFC 6479: a power of two of words, at least one more than the window has, so that moving the window clears whole words. */
const words = 2 * (replayWindowDatagrams / wordBits)

/**
 * Which packet numbers have arrived: the sliding window of RFC 6479 over the last 2,048 of them. `accepts` is asked before a datagram is
 * opened, `mark` is told after its tag has verified, so that no forged number moves the window. The same bits say what to acknowledge.
 */
export class ReplayWindow {
  readonly #words = new Uint32Array(words)
  #largest = -1

  /** The highest number that has arrived; −1 before the first. */
  get largest(): number {
    return this.#largest
  }

  /** Neither seen before nor so old that it might have been. */
  accepts(number: number): boolean {
    if (number > this.#largest) return number <= maxPacketNumber
    if (number < this.#floor) return false
    return ((this.#words[wordOf(number)] ?? 0) & (1 << (number % wordBits))) === 0
  }

  /** Notes a number that `accepts` has allowed. */
  mark(number: number): void {
    if (number > this.#largest) {
      const last = Math.floor(this.#largest / wordBits)
      const passed = Math.min(Math.floor(number / wordBits) - last, words)
      for (let at = 1; at <= passed; at++) this.#words[(last + at + words) % words] = 0
      this.#largest = number
    }
    const word = wordOf(number)
    this.#words[word] = (this.#words[word] ?? 0) | (1 << (number % wordBits))
  }

  /** Fills in what has arrived, the newest ranges first, as far as they fit. */
  acknowledge(ranges: AckRanges): void {
    ranges.clear()
    const floor = this.#floor
    let high = this.#largest
    while (high >= floor && !ranges.full) {
      const below = this.#endOfRun(high, floor, true)
      ranges.add(below + 1, high)
      high = this.#endOfRun(below, floor, false)
    }
  }

  get #floor(): number {
    return Math.max(0, this.#largest - replayWindowDatagrams + 1)
  }

  /** The first number from `at` downward whose bit differs from `set`, or floor − 1: a word at a time. */
  #endOfRun(at: number, floor: number, set: boolean): number {
    let number = at
    while (number >= floor) {
      const word = this.#words[wordOf(number)] ?? 0
      const bit = number % wordBits
      const run = Math.min(Math.clz32((set ? ~word : word) << (wordBits - 1 - bit)), bit + 1)
      number -= run
      if (run <= bit) break
    }
    return Math.max(number, floor - 1)
  }
}

const wordOf = (number: number): number => Math.floor(number / wordBits) % words
