import {
  baseDatagramBytes,
  blackHoleLosses,
  blackHolePtos,
  maxLostMtuProbes,
  mtuProbes,
  mtuRetryMs
} from "./constants.ts"

/**
 * The size of datagrams on the path (§4.5): 1,200 bytes until three PINGs padded to the configured size have been answered, and again
 * 1,200 when that size stops passing. The path's MTU is not searched for: Node cannot forbid fragmentation.
 */
export class DatagramSize {
  readonly #target: number
  #bytes = baseDatagramBytes
  #probe = -1
  #answered = 0
  #lostProbes = 0
  #lostInARow = 0
  /** The highest number of a larger datagram that has arrived. */
  #lastLarger = -1
  #nextProbeAtMs = -Infinity

  constructor(target: number) {
    this.#target = target
  }

  /** UDP payload bytes of a full datagram. */
  get bytes(): number {
    return this.#bytes
  }

  get target(): number {
    return this.#target
  }

  /** When the next probe should leave: Infinity when there is nothing to find out, or a probe is under way. */
  get probeAtMs(): number {
    return this.#bytes >= this.#target || this.#probe >= 0 ? Infinity : this.#nextProbeAtMs
  }

  onProbe(number: number): void {
    this.#probe = number
  }

  /** A datagram has arrived; true when the size is confirmed by it. */
  onAcknowledged(number: number, bytes: number): boolean {
    if (bytes > baseDatagramBytes) {
      this.#lostInARow = 0
      this.#lastLarger = Math.max(this.#lastLarger, number)
    }
    if (number !== this.#probe) return false
    this.#probe = -1
    this.#lostProbes = 0
    this.#answered++
    if (this.#answered < mtuProbes) return false
    this.#bytes = this.#target
    return true
  }

  /** A datagram was lost; true when the size has to fall back. */
  onLost(number: number, bytes: number, nowMs: number): boolean {
    if (number === this.#probe) {
      this.#probe = -1
      this.#lostProbes++
      if (this.#lostProbes >= maxLostMtuProbes) this.restart(nowMs + mtuRetryMs)
      return false
    }
    if (bytes <= baseDatagramBytes || this.#bytes === baseDatagramBytes) return false
    // One that was sent after it has passed: a full queue loses many in a row, and is no black hole.
    if (number < this.#lastLarger) return false
    this.#lostInARow++
    return this.#lostInARow >= blackHoleLosses && this.fallBack(nowMs)
  }

  /** Probe timeouts in a row without an acknowledgement; true when the size has to fall back. */
  onTimeouts(count: number, nowMs: number): boolean {
    return count >= blackHolePtos && this.fallBack(nowMs)
  }

  /** Back to 1,200 bytes; false when it was that. */
  fallBack(nowMs: number): boolean {
    if (this.#bytes === baseDatagramBytes) return false
    this.restart(nowMs + mtuRetryMs)
    return true
  }

  /** Nothing is known any more: from this time on the size is tried again. */
  restart(probeAtMs: number): void {
    this.#bytes = baseDatagramBytes
    this.#probe = -1
    this.#answered = 0
    this.#lostProbes = 0
    this.#lostInARow = 0
    this.#nextProbeAtMs = probeAtMs
  }
}
