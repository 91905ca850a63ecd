import { checkBuffer, compressionError, floatsIn, type Codec } from "./Codec.ts"

/** Elements that share one scale. */
export const int8BlockElements = 256

const maxQuantum = 127
/** A smaller scale is subnormal and could not be divided by; such a block is sent as zeros. */
const minScale = 2 ** -126
/** With this scale even −128 decodes to a finite number. */
const maxScale = Math.fround(2 ** 128 * (1 - 2 ** -24)) / 128
/** Adding and subtracting 1.5 · 2⁵² rounds a float64 to the nearest integer, ties to even. */
const roundingShift = 6_755_399_441_055_744

/** The largest magnitude of a block; NaN or Infinity where a value is not finite. */
const magnitudeOf = (values: Float32Array, from: number, to: number): number => {
  let largest = 0
  let faults = 0
  for (let index = from; index < to; index++) {
    const value = values[index] ?? 0
    const magnitude = Math.abs(value)
    largest = magnitude > largest ? magnitude : largest
    faults += value - value
  }
  return largest + faults
}

const quantiseBlock = (values: Float32Array, quanta: Int8Array, from: number, to: number, inverse: number): void => {
  for (let index = from; index < to; index++)
    quanta[index] = (values[index] ?? 0) * inverse + roundingShift - roundingShift
}

const quantiseBlockWithError = (
  values: Float32Array,
  quanta: Int8Array,
  error: Float32Array,
  from: number,
  to: number,
  inverse: number,
  scale: number
): void => {
  for (let index = from; index < to; index++) {
    const value = values[index] ?? 0
    const quantum = value * inverse + roundingShift - roundingShift
    quanta[index] = quantum
    error[index] = value - Math.fround(quantum * scale)
  }
}

const decodeBlock = (quanta: Int8Array, into: Float32Array, from: number, to: number, scale: number): void => {
  for (let index = from; index < to; index++) into[index] = (quanta[index] ?? 0) * scale
}

const addBlock = (quanta: Int8Array, target: Float32Array, from: number, to: number, scale: number): void => {
  for (let index = from; index < to; index++)
    target[index] = (target[index] ?? 0) + Math.fround((quanta[index] ?? 0) * scale)
}

const isScale = (scale: number): boolean => (scale >= minScale && scale <= maxScale) || Object.is(scale, 0)

/**
 * Blockwise 8-bit quantisation with a linear code: q = round(127 · x / max|x|) over blocks of {@link int8BlockElements}, decoded as q · scale
 * with scale = max|x| / 127. Blocks keep one outlier from spoiling all others (Dettmers et al., "8-bit Optimizers via Block-wise
 * Quantization", ICLR 2022, section 2.1; the buckets of QSGD, Alistarh et al., NeurIPS 2017, section 4). Rounds to the nearest, ties to even, so
 * that it is a function of the values alone; what that loses is for the error feedback to carry.
 *
 * |x − decoded| ≤ scale · (½ + 2⁻¹⁶), or twice that where max|x| is within a hundredth of the largest float32; below 127 · 2⁻¹²⁶ a block
 * decodes to zeros. Bytes: a float32 scale for each block, then an int8 for each element: 1.016 per element, 3.94 times fewer than float32.
 */
export const int8Codec = (): Codec => {
  const blocksOf = (elements: number): number => Math.ceil(elements / int8BlockElements)
  const encodedBytes = (elements: number): number => 4 * blocksOf(elements) + elements

  /** The scales and quanta in `bytes`, once they are known to be such as an encoder gives. */
  const read = (bytes: Uint8Array, elements: number) => {
    checkBuffer(bytes, encodedBytes(elements), elements)
    const scales = floatsIn(bytes, 0, blocksOf(elements))
    for (let block = 0; block < scales.length; block++) {
      const scale = scales[block] ?? 0
      if (!isScale(scale)) throw compressionError("Scale", `The scale of block ${block} is ${scale}`)
    }
    return { scales, quanta: new Int8Array(bytes.buffer, bytes.byteOffset + scales.byteLength, elements) }
  }

  return {
    kind: "int8",
    needsFeedback: true,
    encodedBytes,
    encode: (values, into, error) => {
      const elements = values.length
      checkBuffer(into, encodedBytes(elements), elements)
      const scales = floatsIn(into, 0, blocksOf(elements))
      const quanta = new Int8Array(into.buffer, into.byteOffset + scales.byteLength, elements)
      for (let block = 0; block < scales.length; block++) {
        const from = block * int8BlockElements
        const to = Math.min(elements, from + int8BlockElements)
        const magnitude = magnitudeOf(values, from, to)
        if (!Number.isFinite(magnitude))
          throw compressionError("NonFinite", `A value of the elements ${from} to ${to} is not finite`)
        const scale = Math.min(Math.fround(magnitude / maxQuantum), maxScale)
        const isSent = scale >= minScale
        const inverse = isSent ? maxQuantum / magnitude : 0
        scales[block] = isSent ? scale : 0
        if (error === undefined) quantiseBlock(values, quanta, from, to, inverse)
        else quantiseBlockWithError(values, quanta, error, from, to, inverse, isSent ? scale : 0)
      }
    },
    decode: (bytes, into) => {
      const { scales, quanta } = read(bytes, into.length)
      for (let block = 0; block < scales.length; block++) {
        const from = block * int8BlockElements
        decodeBlock(quanta, into, from, Math.min(into.length, from + int8BlockElements), scales[block] ?? 0)
      }
    },
    decodeAdd: (bytes, target) => {
      const { scales, quanta } = read(bytes, target.length)
      for (let block = 0; block < scales.length; block++) {
        const from = block * int8BlockElements
        addBlock(quanta, target, from, Math.min(target.length, from + int8BlockElements), scales[block] ?? 0)
      }
    }
  }
}
