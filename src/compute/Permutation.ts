import { PhiloxStream, Purpose } from "./Philox.ts"

/**
 * The order in which an epoch visits `examples` examples: Fisher–Yates from the last position down, drawn from
 * Philox4x32-10 keyed by (seed, shuffle, epoch), unbiased by rejection. Shape `[examples]`, a permutation of
 * 0 … examples−1. `epoch` is an unsigned 32-bit number.
 */
export const permutation = (examples: number, seed: number, epoch: number): Uint32Array => {
  const stream = new PhiloxStream(seed, Purpose.shuffle, epoch)
  const order = Uint32Array.from({ length: examples }, (_, index) => index)
  for (let last = examples - 1; last > 0; last--) {
    const chosen = stream.nextBelow(last + 1)
    const swapped = order[last] ?? 0
    order[last] = order[chosen] ?? 0
    order[chosen] = swapped
  }
  return order
}

/** How an epoch is cut into steps; the unit of every field is in its name. */
export interface EpochPlan {
  readonly stepsPerEpoch: number
  readonly droppedExamples: number
}

/** `stepsPerEpoch = floor(examples / (lanes × microBatch))`; the tail of each epoch's permutation is dropped. */
export const planEpoch = (examples: number, lanes: number, microBatch: number): EpochPlan => {
  const globalBatch = lanes * microBatch
  const stepsPerEpoch = Math.floor(examples / globalBatch)
  return { stepsPerEpoch, droppedExamples: examples - stepsPerEpoch * globalBatch }
}

/**
 * The examples of lane `lane` of step `step` (0-based within the epoch): a view of `order`, not a copy. They follow from
 * the seed alone, never from who computes them.
 */
export const laneExamples = (
  order: Uint32Array,
  { lanes, microBatch, step, lane }: { lanes: number; microBatch: number; step: number; lane: number }
): Uint32Array => {
  const first = (step * lanes + lane) * microBatch
  return order.subarray(first, first + microBatch)
}
