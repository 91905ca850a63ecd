import { maxAckRanges } from "./constants.ts"

/** Acknowledged packet numbers (§4.3): ranges from the highest down, ends included. One object is filled again and again. */
export class AckRanges {
  readonly low = new Float64Array(maxAckRanges + 1)
  readonly high = new Float64Array(maxAckRanges + 1)
  count = 0
  /** Since the datagram of the highest number arrived. */
  delayMs = 0

  get largest(): number {
    return this.count === 0 ? -1 : (this.high[0] ?? -1)
  }

  get full(): boolean {
    return this.count > maxAckRanges
  }

  clear(): void {
    this.count = 0
    this.delayMs = 0
  }

  /** The next range below the last one. */
  add(low: number, high: number): void {
    this.low[this.count] = low
    this.high[this.count] = high
    this.count++
  }
}
