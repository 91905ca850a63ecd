/**
 * Text in pieces to whole lines, holding at most `maxLineChars` of an unfinished one: a longer line is dropped whole and
 * counted, and the next is read as usual.
 */
export class LineSplitter {
  readonly #maxLineChars: number
  #held = ""
  #dropping = false
  #dropped = 0

  constructor(maxLineChars: number) {
    this.#maxLineChars = maxLineChars
  }

  /** Lines dropped so far for their length. */
  get dropped(): number {
    return this.#dropped
  }

  push(text: string): Array<string> {
    const lines: Array<string> = []
    const pieces = text.split("\n")
    const unfinished = pieces.pop() ?? ""
    for (const piece of pieces) this.#finish(piece, lines)
    this.#hold(unfinished)
    return lines
  }

  /** The last line, where the text did not end with a line break. */
  end(): Array<string> {
    const lines: Array<string> = []
    if (this.#held !== "" || this.#dropping) this.#finish("", lines)
    return lines
  }

  #hold(piece: string): void {
    if (this.#dropping) return
    if (this.#held.length + piece.length > this.#maxLineChars) {
      this.#dropping = true
      this.#held = ""
    } else {
      this.#held += piece
    }
  }

  #finish(piece: string, lines: Array<string>): void {
    this.#hold(piece)
    if (this.#dropping) this.#dropped += 1
    else lines.push(this.#held.endsWith("\r") ? this.#held.slice(0, -1) : this.#held)
    this.#held = ""
    this.#dropping = false
  }
}
