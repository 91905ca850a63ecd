import { maxAckDelayMs, maxPtoMs, timeThreshold, timerGranularityMs } from "./constants.ts"

/** Round-trip times of a path: RFC 9002, section 5. All in ms, with fractions. */
export class RttEstimator {
  #smoothedMs: number
  #variationMs: number
  #latestMs: number
  #minMs = Infinity

  constructor(initialMs: number) {
    this.#smoothedMs = initialMs
    this.#variationMs = initialMs / 2
    this.#latestMs = initialMs
  }

  get smoothedMs(): number {
    return this.#smoothedMs
  }

  get variationMs(): number {
    return this.#variationMs
  }

  /** The least that was ever measured; Infinity before the first. */
  get minMs(): number {
    return this.#minMs
  }

  get measured(): boolean {
    return this.#minMs !== Infinity
  }

  /** @param ackDelayMs for how long the other side says that it held the acknowledgement back */
  sample(rttMs: number, ackDelayMs: number): void {
    this.#latestMs = rttMs
    if (!this.measured) {
      this.#minMs = rttMs
      this.#smoothedMs = rttMs
      this.#variationMs = rttMs / 2
      return
    }
    this.#minMs = Math.min(this.#minMs, rttMs)
    const delayMs = Math.min(ackDelayMs, maxAckDelayMs)
    const adjustedMs = rttMs >= this.#minMs + delayMs ? rttMs - delayMs : rttMs
    this.#variationMs = 0.75 * this.#variationMs + 0.25 * Math.abs(this.#smoothedMs - adjustedMs)
    this.#smoothedMs = 0.875 * this.#smoothedMs + 0.125 * adjustedMs
  }

  /** How long after a later one was acknowledged a datagram counts as lost (section 6.1.2). */
  get lossDelayMs(): number {
    return Math.max(timeThreshold * Math.max(this.#smoothedMs, this.#latestMs), timerGranularityMs)
  }

  /** Probe timeout without backoff (section 6.2.1). */
  get ptoMs(): number {
    return this.#smoothedMs + Math.max(4 * this.#variationMs, timerGranularityMs) + maxAckDelayMs
  }

  /** Doubles with each probe that was not answered, up to a bound of this host, so that an outage ends soon after its end. */
  backedOffPtoMs(count: number): number {
    return Math.max(this.ptoMs, Math.min(this.ptoMs * 2 ** count, maxPtoMs))
  }
}
