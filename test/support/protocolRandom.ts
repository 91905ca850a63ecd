import { concat } from "../../src/protocol/Bytes.ts"

/** A seeded generator (sfc32, from PractRand): the same seed gives the same draws on every machine. */
export class SeededRandom {
  #a: number
  #b = 0x9e3779b9
  #c = 0x243f6a88
  #counter = 1

  constructor(seed: number) {
    this.#a = seed >>> 0
    for (let warmUp = 0; warmUp < 15; warmUp++) this.u32()
  }

  u32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum
    return sum >>> 0
  }

  /** 0 ≤ result < bound */
  below(bound: number): number {
    return this.u32() % bound
  }

  chance(ofHundred: number): boolean {
    return this.below(100) < ofHundred
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (let at = 0; at < length; at += 4) {
      const word = this.u32()
      for (let part = 0; part < 4 && at + part < length; part++) bytes[at + part] = word >>> (8 * part)
    }
    return bytes
  }

  pick<A>(values: ReadonlyArray<A>): A {
    const value = values[this.below(values.length)]
    if (value === undefined) throw new Error("nothing to pick from")
    return value
  }

  /** What goes wrong with bytes on their way: bits flip, pieces move, are doubled, lost or invented, lengths lie. */
  mutate(bytes: Uint8Array): Uint8Array {
    let mutated = bytes
    for (let times = 1 + this.below(3); times > 0; times--) mutated = this.#mutateOnce(mutated)
    return mutated
  }

  #mutateOnce(bytes: Uint8Array): Uint8Array {
    const out = Uint8Array.from(bytes)
    const at = this.below(bytes.length + 1)
    switch (this.below(8)) {
      case 0:
        return out.slice(0, at)
      case 1:
        return concat(out, this.bytes(1 + this.below(8)))
      case 2: {
        const length = this.below(16)
        return concat(out.subarray(0, at), this.bytes(length), out.subarray(at))
      }
      case 3:
        return concat(out.subarray(0, at), out.subarray(at + this.below(16)))
      case 4: {
        const from = this.below(bytes.length + 1)
        out.set(bytes.subarray(from, from + Math.min(16, bytes.length - at)), at)
        return out
      }
      case 5:
        // A length field, wherever one may be.
        if (at + 1 < out.length)
          out.set(
            this.pick([
              [0, 0],
              [0, 1],
              [0xff, 0xff],
              [0x80, 0]
            ]),
            at
          )
        return out
      case 6:
        if (at < out.length) out[at] = this.pick([0, 1, 2, 127, 128, 255])
        return out
      default:
        if (at < out.length) out[at] = (out[at] ?? 0) ^ (1 << this.below(8))
        return out
    }
  }
}
