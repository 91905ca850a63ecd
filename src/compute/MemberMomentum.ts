import { AggregationError } from "./Aggregation.ts"
import { blockElements, firstNonFinite } from "./Blocks.ts"

const blendBlock = (
  out: Float32Array,
  momentum: Float32Array,
  gradient: Float32Array,
  kept: number,
  rest: number,
  from: number,
  to: number
): void => {
  for (let index = from; index < to; index++)
    out[index] = Math.fround(kept * (momentum[index] ?? 0)) + Math.fround(rest * (gradient[index] ?? 0))
}

/** Bytes before the vector in the state: a uint32 that is 0 until a step was applied. */
const flagBytes = 4

const lengthError = (message: string): AggregationError => new AggregationError({ reason: "Length", message })

/**
 * What a member sends to a robust rule in place of its gradient: m ← β·m + (1 − β)·g, and m = g in its first step. It averages out the noise
 * between batches, behind which small lies can hide for as long as they like (Karimireddy, He, Jaggi, "Learning from History for Byzantine
 * Robust Optimization", ICML 2021, algorithm 1). Each operation is rounded to float32.
 *
 * In two phases like error feedback: `stage` changes nothing until `commit`. Memory: 8 bytes per parameter.
 */
export class MemberMomentum {
  readonly stateByteLength: number
  readonly #kept: number
  #momentum: Float32Array
  #staged: Float32Array
  #started = false
  #attempted = false

  /** `kept`: the share β of the momentum that is kept per step, from 0, below 1. */
  constructor(parameters: number, kept: number) {
    this.#kept = Math.fround(kept)
    this.#momentum = new Float32Array(parameters)
    this.#staged = new Float32Array(parameters)
    this.stateByteLength = flagBytes + this.#momentum.byteLength
  }

  /**
   * What to send for `gradient` (shape `[parameters]`): not to be changed, and valid until the next call of any method but `commit`.
   * @throws AggregationError Length
   */
  stage(gradient: Float32Array): Float32Array {
    const { length } = this.#staged
    if (gradient.length !== length) throw lengthError(`The gradient has ${gradient.length} elements, not ${length}`)
    if (this.#started) {
      const rest = Math.fround(1 - this.#kept)
      for (let from = 0; from < length; from += blockElements)
        blendBlock(
          this.#staged,
          this.#momentum,
          gradient,
          this.#kept,
          rest,
          from,
          Math.min(length, from + blockElements)
        )
    } else this.#staged.set(gradient)
    this.#attempted = true
    return this.#staged
  }

  /** The step is applied: what was staged is the momentum now. */
  commit(): void {
    if (!this.#attempted) return
    ;[this.#momentum, this.#staged] = [this.#staged, this.#momentum]
    this.#started = true
    this.#attempted = false
  }

  /** The attempt was given up: the momentum is as it was before it. */
  abandon(): void {
    this.#attempted = false
  }

  /** Copies the state to `into` (length {@link stateByteLength}), little-endian. */
  readState(into: Uint8Array): void {
    new DataView(into.buffer, into.byteOffset).setUint32(0, this.#started ? 1 : 0, true)
    into.set(new Uint8Array(this.#momentum.buffer, this.#momentum.byteOffset, this.#momentum.byteLength), flagBytes)
  }

  /**
   * Replaces the state by what {@link readState} copied.
   * @throws AggregationError Length or NonFinite; nothing has changed then
   */
  writeState(from: Uint8Array): void {
    if (from.length !== this.stateByteLength)
      throw lengthError(`The state has ${this.stateByteLength} bytes, the given block ${from.length}`)
    const given = new Float32Array(this.#momentum.length)
    new Uint8Array(given.buffer).set(from.subarray(flagBytes))
    const bad = firstNonFinite(given)
    if (bad >= 0)
      throw new AggregationError({ reason: "NonFinite", message: `The momentum of parameter ${bad} is ${given[bad]}` })
    this.#momentum.set(given)
    this.#started = new DataView(from.buffer, from.byteOffset).getUint32(0, true) !== 0
    this.#attempted = false
  }
}
