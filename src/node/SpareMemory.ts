/**
 * Memory of tensors that their takers are done with, for the next ones of the same size. A program that takes one large tensor after the
 * other else spends more time on the collector and on pages that the system has to clear than on the tensors.
 *
 * What `take` gives holds whatever was there before: it is for those who overwrite all of it before anyone sees it.
 */
export class SpareMemory {
  readonly #maxBytes: number
  readonly #spare: Array<ArrayBuffer> = []
  #bytes = 0

  /** @param maxBytes that may lie here unused */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  take(bytes: number): Uint8Array<ArrayBuffer> {
    const at = this.#spare.findIndex(({ byteLength }) => byteLength === bytes)
    const [spare] = at < 0 ? [] : this.#spare.splice(at, 1)
    if (spare === undefined) return new Uint8Array(Buffer.allocUnsafeSlow(bytes).buffer)
    this.#bytes -= bytes
    return new Uint8Array(spare)
  }

  /** Takes the memory over: whoever still has an array of it finds that empty, and cannot see what comes next. */
  give(buffer: ArrayBuffer): void {
    const { byteLength } = buffer
    if (byteLength === 0) return
    if (this.#bytes + byteLength > this.#maxBytes) return void buffer.transfer(0)
    this.#spare.push(buffer.transfer())
    this.#bytes += byteLength
  }
}
