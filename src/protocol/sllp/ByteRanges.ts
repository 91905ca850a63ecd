/** A set of bytes of a message, as sorted ranges that neither touch nor overlap. Ends are excluded. */
export class ByteRanges {
  /** from, to, from, to, … */
  readonly #edges: Array<number> = []
  #bytes = 0

  get bytes(): number {
    return this.#bytes
  }

  get empty(): boolean {
    return this.#bytes === 0
  }

  get count(): number {
    return this.#edges.length / 2
  }

  from(range: number): number {
    return this.#edges[2 * range] ?? 0
  }

  to(range: number): number {
    return this.#edges[2 * range + 1] ?? 0
  }

  /** Adds a range; returns how many of its bytes are new. */
  add(from: number, to: number): number {
    const edges = this.#edges
    const last = edges[edges.length - 1] ?? -1
    if (from >= last) {
      // The common case: bytes come in order.
      if (from === last) edges[edges.length - 1] = to
      else edges.push(from, to)
      this.#bytes += to - from
      return to - from
    }
    const added = to - from - this.#covered(from, to)
    if (added > 0) this.#replace(from, to, true)
    this.#bytes += added
    return added
  }

  remove(from: number, to: number): void {
    if (this.#bytes === 0) return
    const removed = this.#covered(from, to)
    if (removed === 0) return
    this.#replace(from, to, false)
    this.#bytes -= removed
  }

  /** Where the next byte at or after `from` lies that is not in the set; `to` when there is none before it. */
  nextMissing(from: number, to: number): number {
    const at = this.#upperBound(from)
    return at % 2 === 0 ? from : Math.min(this.#edges[at] ?? to, to)
  }

  /** Where the next byte at or after `from` lies that is in the set; `to` when there is none before it. */
  nextPresent(from: number, to: number): number {
    const at = this.#upperBound(from)
    return at % 2 === 1 ? from : Math.min(this.#edges[at] ?? to, to)
  }

  clear(): void {
    this.#edges.length = 0
    this.#bytes = 0
  }

  #covered(from: number, to: number): number {
    const edges = this.#edges
    let covered = 0
    for (let at = this.#upperBound(from) & ~1; at < edges.length; at += 2) {
      const start = edges[at] ?? to
      if (start >= to) break
      covered += Math.min(edges[at + 1] ?? to, to) - Math.max(start, from)
    }
    return covered
  }

  /** An edge at either end stands exactly where the set changes there. */
  #replace(from: number, to: number, present: boolean): void {
    const outside = present ? 0 : 1
    const first = this.#lowerBound(from)
    const after = this.#upperBound(to)
    const edges: Array<number> = []
    if (first % 2 === outside) edges.push(from)
    if (after % 2 === outside) edges.push(to)
    this.#edges.splice(first, after - first, ...edges)
  }

  /** Number of edges before `place`. */
  #lowerBound(place: number): number {
    const edges = this.#edges
    let low = 0
    let high = edges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((edges[middle] ?? 0) < place) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Number of edges at or before `place`. */
  #upperBound(place: number): number {
    const edges = this.#edges
    let low = 0
    let high = edges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((edges[middle] ?? 0) <= place) low = middle + 1
      else high = middle
    }
    return low
  }
}
