import { burstDatagrams, burstMs, pacingGain } from "./constants.ts"

/**
 * Spreads datagrams over the round trip (§4.5): a bucket of bytes that fills by the clock at 1.25 × window / RTT, or at the
 * configured ceiling where that is lower, and holds 10 datagrams or 2 ms of the rate, whichever is more.
 */
export class Pacer {
  readonly #ceiling: number
  #bytesPerMs = 0
  #burst = 0
  #tokens = Infinity
  #filledAtMs = -Infinity

  /** @param ceilingBytesPerSecond Infinity for none */
  constructor(ceilingBytesPerSecond: number) {
    this.#ceiling = ceilingBytesPerSecond / 1_000
  }

  get bytesPerMs(): number {
    return this.#bytesPerMs
  }

  /** Fills the bucket up to now; to be called before `readyAtMs`. */
  fill(nowMs: number, windowBytes: number, rttMs: number, datagramBytes: number): void {
    this.#bytesPerMs = Math.min(this.#ceiling, (pacingGain * windowBytes) / rttMs)
    this.#burst = Math.max(burstDatagrams * datagramBytes, burstMs * this.#bytesPerMs)
    const added = Math.max(0, nowMs - this.#filledAtMs) * this.#bytesPerMs
    this.#tokens = Math.min(this.#burst, this.#tokens + added)
    this.#filledAtMs = nowMs
  }

  /** When so many bytes may leave: −Infinity for at once. A byte too few is enough, or rounding could ask for no time at all. */
  readyAtMs(bytes: number): number {
    return this.#tokens >= bytes - 1 ? -Infinity : this.#filledAtMs + (bytes - this.#tokens) / this.#bytesPerMs
  }

  sent(bytes: number): void {
    this.#tokens -= bytes
  }
}
