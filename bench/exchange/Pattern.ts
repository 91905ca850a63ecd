// What members give to an all-reduce and what must come out of it. `gloo.py` has the same numbers.
//
// Every value is a small multiple of 1/64, so float32 holds every sum exactly: in whatever order a subject adds, there is one right result.

/** A prime: no boundary of a segment, record or chunk is at a multiple of it, so that a piece in the wrong place shows. */
const period = 1021
const scale = 1 / 64

/** What member `rank` gives at `element` of `step`; each step has other numbers, so that what is left of the step before shows. */
const valueAt = (rank: number, step: number, element: number): number =>
  (((element * 31 + rank * 17 + step * 7) % period) - 510) * scale

const fillPeriodic = (values: Float32Array, at: (element: number) => number): void => {
  const table = Float32Array.from({ length: period }, (_, element) => at(element))
  for (let from = 0; from < values.length; from += period)
    values.set(values.length - from < period ? table.subarray(0, values.length - from) : table, from)
}

export const fillInput = (values: Float32Array, rank: number, step: number): void =>
  fillPeriodic(values, element => valueAt(rank, step, element))

/**
 * Compares every element with the plain sum over the members, divided by `divisor`.
 * @throws Error that names the first element that differs
 */
export const checkResult = (values: Float32Array, members: number, step: number, divisor: number): void => {
  const expected = Float64Array.from({ length: period }, (_, element) => {
    let sum = 0
    for (let rank = 0; rank < members; rank++) sum += valueAt(rank, step, element)
    return sum / divisor
  })
  for (let element = 0; element < values.length; element++) {
    const wanted = expected[element % period]
    if (values[element] !== wanted)
      throw new Error(`element ${element} of step ${step} is ${values[element]} and not ${wanted}`)
  }
}
