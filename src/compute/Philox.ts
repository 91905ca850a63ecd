/**
 * Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011; constants and test vectors from Random123). A word depends on its coordinates alone, so any machine can draw
 * the numbers of any epoch, step and lane without having drawn those before.
 */

const rounds = 10
const multiplier0 = 0xd2511f53
const multiplier1 = 0xcd9e8d57
const weyl0 = 0x9e3779b9
const weyl1 = 0xbb67ae85

/** What a stream of numbers is for. Streams of one seed with different purposes share no block. */
export const Purpose = { shuffle: 1, loss: 2, init: 3, data: 4 } as const
export type Purpose = (typeof Purpose)[keyof typeof Purpose]

/** Upper 32 bits of the 64-bit product of two unsigned 32-bit words. */
const multiplyHigh = (a: number, b: number): number => {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const low = aLow * bLow
  const middle = aHigh * bLow + (low >>> 16)
  const carried = aLow * bHigh + (middle % 0x10000)
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carried / 0x10000)) >>> 0
}

/**
 * One block: encrypts the 128-bit `counter` (four words, least significant first) under the 64-bit `key` (two words) into
 * the four words of `output`. `output` may be `counter`.
 */
export const philox4x32 = (counter: Uint32Array, key: Uint32Array, output: Uint32Array): void => {
  let c0 = counter[0] ?? 0
  let c1 = counter[1] ?? 0
  let c2 = counter[2] ?? 0
  let c3 = counter[3] ?? 0
  let k0 = key[0] ?? 0
  let k1 = key[1] ?? 0
  for (let round = 0; round < rounds; round++) {
    const high0 = multiplyHigh(multiplier0, c0)
    const low0 = Math.imul(multiplier0, c0)
    const high1 = multiplyHigh(multiplier1, c2)
    const low1 = Math.imul(multiplier1, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + weyl0) >>> 0
    k1 = (k1 + weyl1) >>> 0
  }
  output[0] = c0
  output[1] = c1
  output[2] = c2
  output[3] = c3
}

/** The two key words of a seed, an integer from 0 to 2⁵³−1. */
const seedWords = (seed: number): Uint32Array => Uint32Array.of(seed >>> 0, Math.floor(seed / 0x1_0000_0000))

/**
 * A stream of unsigned 32-bit words: block `i` is Philox of counter (i, epoch, 0, purpose) under the seed. A stream holds
 * 2³⁴ words.
 */
export class PhiloxStream {
  readonly #key: Uint32Array
  readonly #counter: Uint32Array
  readonly #block = new Uint32Array(4)
  #used = 4

  constructor(seed: number, purpose: Purpose, epoch = 0) {
    this.#key = seedWords(seed)
    this.#counter = Uint32Array.of(0, epoch, 0, purpose)
  }

  /** A word uniform over 0 … 2³²−1. */
  nextUint32(): number {
    if (this.#used === 4) {
      philox4x32(this.#counter, this.#key, this.#block)
      this.#counter[0] = (this.#counter[0] ?? 0) + 1
      this.#used = 0
    }
    return this.#block[this.#used++] ?? 0
  }

  /** A number uniform over 0 … bound−1, unbiased by rejection. `bound` is an integer from 1 to 2³². */
  nextBelow(bound: number): number {
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound)
    let word = this.nextUint32()
    while (word >= limit) word = this.nextUint32()
    return word % bound
  }

  /** A float32 value uniform over the multiples of 2⁻²⁴ in [0, 1). */
  nextUnit(): number {
    return (this.nextUint32() >>> 8) / 0x100_0000
  }
}

/** The random key (two words) that `loss` receives for one lane: counter (step, epoch, lane, loss). `step` counts from 0 within the epoch. */
export const lossKey = (seed: number, epoch: number, step: number, lane: number): Uint32Array => {
  const block = Uint32Array.of(step, epoch, lane, Purpose.loss)
  philox4x32(block, seedWords(seed), block)
  return block.slice(0, 2)
}

/** The random key (two words) that `init` receives. */
export const initKey = (seed: number): Uint32Array => {
  const block = Uint32Array.of(0, 0, 0, Purpose.init)
  philox4x32(block, seedWords(seed), block)
  return block.slice(0, 2)
}
