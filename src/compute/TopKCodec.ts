import { blockElements } from "./Blocks.ts"
import { checkBuffer, compressionError, floatsIn, type Codec } from "./Codec.ts"

/**
 * Magnitudes are compared by the 31 bits of their float32, which have the same order. The k-th largest is found as in a radix sort from the
 * top: by the upper 11 bits, then twice by the next 10.
 */
const magnitudeMask = 0x7fff_ffff
const topShift = 20
const digitBits = 10
const digitMask = 2 ** digitBits - 1

const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length)

const countTop = (bits: Uint32Array, counts: Uint32Array, from: number, to: number): void => {
  for (let index = from; index < to; index++) {
    const digit = ((bits[index] ?? 0) & magnitudeMask) >>> topShift
    counts[digit] = (counts[digit] ?? 0) + 1
  }
}

/** Counts by the digit at `shift` those elements whose bits above it are `prefix`. */
const countDigit = (
  bits: Uint32Array,
  counts: Uint32Array,
  from: number,
  to: number,
  shift: number,
  prefix: number
): void => {
  for (let index = from; index < to; index++) {
    const digits = ((bits[index] ?? 0) & magnitudeMask) >>> shift
    if (digits >>> digitBits === prefix) {
      const digit = digits & digitMask
      counts[digit] = (counts[digit] ?? 0) + 1
    }
  }
}

/** Which elements are sent: progress over the blocks. */
interface Selection {
  /** Bits of the smallest magnitude that is sent. */
  readonly least: number
  /** How many more elements with these very bits are sent. */
  ties: number
  /** How many elements are selected so far. */
  rank: number
}

const selectBlock = (bits: Uint32Array, indices: Uint32Array, from: number, to: number, selection: Selection): void => {
  const { least } = selection
  let { ties, rank } = selection
  for (let index = from; index < to; index++) {
    const magnitude = (bits[index] ?? 0) & magnitudeMask
    if (magnitude < least || (magnitude === least && ties-- <= 0)) continue
    indices[rank] = index
    rank++
  }
  selection.ties = Math.max(0, ties)
  selection.rank = rank
}

/**
 * Sends the k = ⌈density · n⌉ elements with the largest magnitudes, of equal ones those with the lowest index, and nothing of the others
 * (Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, definition 2.1 and algorithm 1: the memory is the error feedback).
 *
 * ‖x − decoded‖² ≤ (1 − k/n) · ‖x‖², the contraction that their convergence proof needs. Bytes: k indices in ascending order (uint32), then
 * k values (float32): at a density of 0.01, 0.08 per element, 50 times fewer than float32.
 */
export const topKCodec = (density: number): Codec => {
  const counts = new Uint32Array(2 ** (31 - topShift))
  const countOf = (elements: number): number => Math.min(elements, Math.ceil(density * elements))
  const encodedBytes = (elements: number): number => 8 * countOf(elements)

  const eachBlock = (length: number, visit: (from: number, to: number) => void): void => {
    for (let from = 0; from < length; from += blockElements) visit(from, Math.min(length, from + blockElements))
  }

  /** What to send of k elements. */
  const selectionOf = (bits: Uint32Array, k: number): Selection => {
    let ties = k
    /** The digit, among those counted, of the element that is `ties`-th from the top; `ties` becomes its place among those with that digit. */
    const descend = (digits: number): number => {
      let digit = digits - 1
      for (; digit > 0 && (counts[digit] ?? 0) < ties; digit--) ties -= counts[digit] ?? 0
      return digit
    }
    counts.fill(0)
    eachBlock(bits.length, (from, to) => countTop(bits, counts, from, to))
    let least = descend(counts.length)
    for (let shift = topShift - digitBits; shift >= 0; shift -= digitBits) {
      counts.fill(0)
      eachBlock(bits.length, (from, to) => countDigit(bits, counts, from, to, shift, least))
      least = least * 2 ** digitBits + descend(2 ** digitBits)
    }
    return { least, ties, rank: 0 }
  }

  /** The indices and values in `bytes`, once they are known to be such as an encoder gives. */
  const read = (bytes: Uint8Array, elements: number) => {
    checkBuffer(bytes, encodedBytes(elements), elements)
    const k = countOf(elements)
    const indices = new Uint32Array(bytes.buffer, bytes.byteOffset, k)
    const values = floatsIn(bytes, 4 * k, k)
    let before = -1
    for (let rank = 0; rank < k; rank++) {
      const index = indices[rank] ?? 0
      if (index <= before || index >= elements)
        throw compressionError("Index", `Index ${index} after ${before}, of ${elements} elements`)
      if (!Number.isFinite(values[rank]))
        throw compressionError("NonFinite", `The value at index ${index} is not finite`)
      before = index
    }
    return { k, indices, values }
  }

  return {
    kind: "topK",
    needsFeedback: true,
    encodedBytes,
    encode: (values, into, error) => {
      const elements = values.length
      checkBuffer(into, encodedBytes(elements), elements)
      const k = countOf(elements)
      const indices = new Uint32Array(into.buffer, into.byteOffset, k)
      const sent = floatsIn(into, 4 * k, k)
      if (error !== undefined && error !== values) error.set(values)
      if (k === 0) return
      const bits = bitsOf(values)
      const selection = selectionOf(bits, k)
      eachBlock(elements, (from, to) => selectBlock(bits, indices, from, to, selection))
      for (let rank = 0; rank < k; rank++) {
        const index = indices[rank] ?? 0
        const value = values[index] ?? 0
        // Whatever is not finite has the largest bits of all.
        if (!Number.isFinite(value)) throw compressionError("NonFinite", `Element ${index} is ${value}`)
        sent[rank] = value
        if (error !== undefined) error[index] = 0
      }
    },
    decode: (bytes, into) => {
      const { k, indices, values } = read(bytes, into.length)
      into.fill(0)
      for (let rank = 0; rank < k; rank++) into[indices[rank] ?? 0] = values[rank] ?? 0
    },
    decodeAdd: (bytes, target) => {
      const { k, indices, values } = read(bytes, target.length)
      for (let rank = 0; rank < k; rank++) {
        const index = indices[rank] ?? 0
        target[index] = (target[index] ?? 0) + (values[rank] ?? 0)
      }
    }
  }
}
