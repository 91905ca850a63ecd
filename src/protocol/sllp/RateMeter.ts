/** Over how long a rate is averaged. */
const spanMs = 1_000

/** Bytes per second, the last second counting most: an exponentially weighted mean. */
export class RateMeter {
  #weighted = 0
  #atMs = 0

  add(bytes: number, nowMs: number): void {
    this.#decay(nowMs)
    this.#weighted += bytes
  }

  bytesPerSecond(nowMs: number): number {
    this.#decay(nowMs)
    return (this.#weighted * 1_000) / spanMs
  }

  #decay(nowMs: number): void {
    if (nowMs <= this.#atMs) return
    this.#weighted *= Math.exp((this.#atMs - nowMs) / spanMs)
    this.#atMs = nowMs
  }
}
