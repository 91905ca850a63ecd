/**
 * Elements that one call of an inner loop takes. A function that runs long enough to be replaced while it runs is thrown back to
 * slow code afterwards, for about 8,600 calls (V8 13.6): with blocks of 4,096 elements half of the first 300 divisions of 235,000
 * elements took ten times as long; with 512 or fewer, none after the first three.
 */
export const blockElements = 512

/** Writes the block's quotients; gives NaN where one is not finite, else 0. */
const divideBlock = (out: Float32Array, sum: Float32Array, divisor: number, from: number, to: number): number => {
  let faults = 0
  for (let index = from; index < to; index++) {
    const quotient = Math.fround((sum[index] ?? 0) / divisor)
    out[index] = quotient
    // x − x is 0 for a finite x and NaN otherwise: the sum tells of all elements at once.
    faults += quotient - quotient
  }
  return faults
}

/** `out = fround(sum / divisor)`, element by element; gives the index of the first result that is not finite, or −1. */
export const divideInto = (out: Float32Array, sum: Float32Array, divisor: number): number => {
  const { length } = out
  let firstNonFinite = -1
  for (let from = 0; from < length; from += blockElements) {
    const to = Math.min(length, from + blockElements)
    if (divideBlock(out, sum, divisor, from, to) !== 0 && firstNonFinite < 0)
      firstNonFinite = from + out.subarray(from, to).findIndex(value => !Number.isFinite(value))
  }
  return firstNonFinite
}

const checkBlock = (values: Float32Array, from: number, to: number): number => {
  let faults = 0
  for (let index = from; index < to; index++) {
    const value = values[index] ?? 0
    faults += value - value
  }
  return faults
}

/** Index of the first element that is not a finite number, or −1. */
export const firstNonFinite = (values: Float32Array): number => {
  const { length } = values
  for (let from = 0; from < length; from += blockElements) {
    const to = Math.min(length, from + blockElements)
    if (checkBlock(values, from, to) !== 0)
      return from + values.subarray(from, to).findIndex(value => !Number.isFinite(value))
  }
  return -1
}
