import { initialWindowBytes, initialWindowDatagrams, lossReduction, minimumWindowDatagrams } from "./constants.ts"

const initialWindow = (datagramBytes: number): number =>
  Math.min(initialWindowDatagrams * datagramBytes, Math.max(initialWindowBytes, minimumWindowDatagrams * datagramBytes))

/** Congestion control: RFC 9002, section 7 and appendix B, without ECN. Windows in bytes. */
export class NewReno {
  #datagramBytes: number
  #window: number
  #slowStartThreshold = Infinity
  #recoveryStartMs = -Infinity
  inFlightBytes = 0

  constructor(datagramBytes: number) {
    this.#datagramBytes = datagramBytes
    this.#window = initialWindow(datagramBytes)
  }

  get windowBytes(): number {
    return this.#window
  }

  get slowStart(): boolean {
    return this.#window < this.#slowStartThreshold
  }

  allows(bytes: number): boolean {
    return this.inFlightBytes + bytes <= this.#window
  }

  /** The size of datagrams has changed: a window that no loss has set begins anew from it. */
  resize(datagramBytes: number): void {
    this.#datagramBytes = datagramBytes
    const least =
      this.#slowStartThreshold === Infinity ? initialWindow(datagramBytes) : minimumWindowDatagrams * datagramBytes
    this.#window = Math.max(this.#window, least)
  }

  /** @param limited whether more would have been sent had the window been larger: else its growth proves nothing (section 7.8) */
  acknowledged(bytes: number, sentAtMs: number, limited: boolean): void {
    if (!limited || sentAtMs <= this.#recoveryStartMs) return
    this.#window += this.slowStart ? bytes : (this.#datagramBytes * bytes) / this.#window
  }

  /** A loss of something sent before the last reduction is of the same congestion. */
  lost(sentAtMs: number, nowMs: number): void {
    if (sentAtMs <= this.#recoveryStartMs) return
    this.#recoveryStartMs = nowMs
    this.#slowStartThreshold = Math.max(this.#window * lossReduction, this.#least)
    this.#window = this.#slowStartThreshold
  }

  /** Nothing came through for several PTOs (section 7.6). */
  persistentCongestion(): void {
    this.#window = this.#least
    this.#recoveryStartMs = -Infinity
  }

  get #least(): number {
    return minimumWindowDatagrams * this.#datagramBytes
  }
}
