import { blockElements, firstNonFinite } from "./Blocks.ts"
import { checkBuffer, compressionError, floatsIn, type Codec } from "./Codec.ts"
import { addInto } from "./LaneTree.ts"

const checkFinite = (values: Float32Array): void => {
  const bad = firstNonFinite(values)
  if (bad >= 0) throw compressionError("NonFinite", `Element ${bad} is ${values[bad]}`)
}

/** The float32 values themselves, 4 bytes each, little-endian. */
export const plainCodec = (): Codec => {
  const encodedBytes = (elements: number): number => 4 * elements
  const read = (bytes: Uint8Array, elements: number): Float32Array => {
    checkBuffer(bytes, encodedBytes(elements), elements)
    const values = floatsIn(bytes, 0, elements)
    checkFinite(values)
    return values
  }
  return {
    kind: "none",
    needsFeedback: false,
    encodedBytes,
    encode: (values, into, error) => {
      checkBuffer(into, encodedBytes(values.length), values.length)
      checkFinite(values)
      floatsIn(into, 0, values.length).set(values)
      error?.fill(0)
    },
    decode: (bytes, into) => into.set(read(bytes, into.length)),
    decodeAdd: (bytes, target) => addInto(target, read(bytes, target.length))
  }
}

/** `error = values − decoded`, of one block. */
const subtractBlock = (values: Float32Array, decoded: Float32Array, error: Float32Array, length: number): void => {
  for (let index = 0; index < length; index++) error[index] = (values[index] ?? 0) - (decoded[index] ?? 0)
}

const halfExponent = 0x7c00

const findBlock = (bits: Uint16Array, from: number, to: number): number => {
  for (let index = from; index < to; index++) if (((bits[index] ?? 0) & halfExponent) === halfExponent) return index
  return -1
}

/** Index of the first half that is not finite (all bits of its exponent are set), or −1. */
const firstNonFiniteHalf = (bits: Uint16Array): number => {
  for (let from = 0; from < bits.length; from += blockElements) {
    const found = findBlock(bits, from, Math.min(bits.length, from + blockElements))
    if (found >= 0) return found
  }
  return -1
}

/**
 * IEEE 754 binary16, rounded to the nearest, ties to even: 2 bytes each.
 *
 * |x − decoded| ≤ 2⁻¹¹ · |x| where |x| ≥ 2⁻¹⁴, and ≤ 2⁻²⁵ below. Magnitudes from 65,520 on do not fit: Overflow. What is lost is lost; it is
 * unbiased but for values under 2⁻²⁵, which become zero every time.
 */
export const halfCodec = (): Codec => {
  const scratch = new Float32Array(blockElements)
  const encodedBytes = (elements: number): number => 2 * elements
  const halvesIn = (bytes: Uint8Array, elements: number): Float16Array =>
    new Float16Array(bytes.buffer, bytes.byteOffset, elements)
  const bitsIn = (bytes: Uint8Array, elements: number): Uint16Array =>
    new Uint16Array(bytes.buffer, bytes.byteOffset, elements)

  const read = (bytes: Uint8Array, elements: number): Float16Array => {
    checkBuffer(bytes, encodedBytes(elements), elements)
    const bad = firstNonFiniteHalf(bitsIn(bytes, elements))
    if (bad >= 0) throw compressionError("NonFinite", `Element ${bad} is not finite`)
    return halvesIn(bytes, elements)
  }

  return {
    kind: "fp16",
    needsFeedback: false,
    encodedBytes,
    encode: (values, into, error) => {
      const elements = values.length
      checkBuffer(into, encodedBytes(elements), elements)
      const halves = halvesIn(into, elements)
      halves.set(values)
      const bad = firstNonFiniteHalf(bitsIn(into, elements))
      if (bad >= 0)
        throw compressionError(
          Number.isFinite(values[bad]) ? "Overflow" : "NonFinite",
          `Element ${bad} is ${values[bad]}, which float16 cannot hold`
        )
      if (error === undefined) return
      for (let from = 0; from < elements; from += blockElements) {
        const to = Math.min(elements, from + blockElements)
        scratch.set(halves.subarray(from, to))
        subtractBlock(values.subarray(from, to), scratch, error.subarray(from, to), to - from)
      }
    },
    decode: (bytes, into) => into.set(read(bytes, into.length)),
    decodeAdd: (bytes, target) => {
      const halves = read(bytes, target.length)
      for (let from = 0; from < target.length; from += blockElements) {
        const to = Math.min(target.length, from + blockElements)
        const decoded = scratch.subarray(0, to - from)
        decoded.set(halves.subarray(from, to))
        addInto(target.subarray(from, to), decoded)
      }
    }
  }
}
