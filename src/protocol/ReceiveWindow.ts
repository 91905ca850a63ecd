/**
 * What the other side may send on a stream or on the connection (§3.5): an absolute limit in bytes, which rises when half of
 * the window, or another step, has been consumed since it was last raised.
 */
export class ReceiveWindow {
  readonly #windowBytes: number
  readonly #stepBytes: number
  #limit: number
  #received = 0
  #consumed = 0

  constructor(windowBytes: number, stepBytes: number = windowBytes / 2) {
    this.#windowBytes = windowBytes
    this.#stepBytes = stepBytes
    this.#limit = windowBytes
  }

  /** Bytes that may still come. */
  get credit(): number {
    return this.#limit - this.#received
  }

  /** Bytes that came and were not consumed. */
  get unread(): number {
    return this.#received - this.#consumed
  }

  /** Counts bytes that came: false where they are over the limit. */
  receive(bytes: number): boolean {
    this.#received += bytes
    return this.#received <= this.#limit
  }

  /** Counts bytes that are done with: the new limit where it is time to announce one. */
  consume(bytes: number): number | undefined {
    this.#consumed += bytes
    const limit = this.#consumed + this.#windowBytes
    if (limit - this.#limit < this.#stepBytes) return undefined
    this.#limit = limit
    return limit
  }
}
