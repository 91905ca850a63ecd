/** First in, first out, without moving what waits. */
export class Fifo<A> {
  #items: Array<A | undefined> = []
  #first = 0

  get size(): number {
    return this.#items.length - this.#first
  }

  get head(): A | undefined {
    return this.#items[this.#first]
  }

  push(item: A): void {
    this.#items.push(item)
  }

  shift(): A | undefined {
    const item = this.#items[this.#first]
    if (this.#first === this.#items.length) return undefined
    this.#items[this.#first] = undefined
    this.#first++
    if (this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first)
      this.#first = 0
    }
    return item
  }

  /** Takes an item out, wherever it stands. */
  remove(item: A): void {
    const at = this.#items.indexOf(item, this.#first)
    if (at >= 0) this.#items.splice(at, 1)
  }
}
