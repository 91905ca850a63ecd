import { ByteRanges } from "./ByteRanges.ts"

/** A message on its way out. Its bytes are the caller's: they must not change until it is done. */
export class SendMessage {
  /** Its number, once it begins to leave. */
  id = -1
  readonly total: number
  readonly queuedAtMs: number
  #parts: ReadonlyArray<Buffer>
  /** Where each part begins. */
  readonly #starts: ReadonlyArray<number>
  /** What of it has been acknowledged; only kept where lost ranges are sent again. */
  readonly acknowledged = new ByteRanges()
  /** Ranges that were lost and are to be sent again. */
  readonly again = new ByteRanges()
  /** Bytes before this have been sent once. */
  sent = 0
  /** Chunks that are neither acknowledged nor lost. */
  inFlight = 0
  /** Bytes that were lost and will not be sent again. */
  givenUp = 0
  /** The caller has its bytes back. */
  released = false

  constructor(parts: ReadonlyArray<Uint8Array>, nowMs: number) {
    const starts: Array<number> = []
    let total = 0
    this.#parts = parts
      .filter(part => part.length > 0)
      .map(part => {
        starts.push(total)
        total += part.length
        return Buffer.from(part.buffer, part.byteOffset, part.length)
      })
    this.#starts = starts
    this.total = total
    this.queuedAtMs = nowMs
  }

  get allSent(): boolean {
    return this.sent === this.total
  }

  /** Copies bytes from `offset` on. */
  copy(target: Uint8Array, at: number, offset: number, length: number): void {
    let index = this.#partAt(offset)
    for (let done = 0; done < length;) {
      const part = this.#parts[index]
      if (part === undefined) return
      const within = offset + done - (this.#starts[index] ?? 0)
      done += part.copy(target, at + done, within, within + length - done)
      index++
    }
  }

  #partAt(offset: number): number {
    let low = 0
    let high = this.#starts.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if ((this.#starts[middle] ?? 0) <= offset) low = middle
      else high = middle - 1
    }
    return low
  }

  /** Marks what of a range has not been acknowledged to be sent again. */
  sendAgain(from: number, to: number): void {
    for (let at = this.acknowledged.nextMissing(from, to); at < to;) {
      const until = this.acknowledged.nextPresent(at, to)
      this.again.add(at, until)
      at = this.acknowledged.nextMissing(until, to)
    }
  }

  /** Lets go of the caller's bytes. */
  release(): void {
    this.released = true
    this.#parts = []
  }
}
