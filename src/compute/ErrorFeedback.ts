import { blockElements, firstNonFinite } from "./Blocks.ts"
import { compressionError, type Codec } from "./Codec.ts"

const sumBlock = (out: Float32Array, left: Float32Array, right: Float32Array, from: number, to: number): void => {
  for (let index = from; index < to; index++) out[index] = (left[index] ?? 0) + (right[index] ?? 0)
}

const scaleAddBlock = (target: Float32Array, addend: Float32Array, factor: number, from: number, to: number): void => {
  for (let index = from; index < to; index++)
    target[index] = (target[index] ?? 0) + Math.fround(factor * (addend[index] ?? 0))
}

/**
 * What compression has not sent yet, by flat parameter: it is added to what is sent next, so that nothing is lost but time. With residual e and
 * gradient g, p = g + e is compressed to C(p), and e becomes p − C(p) (Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD",
 * ICML 2019, algorithm 1; the memory of Stich et al., NeurIPS 2018). Each + and − is rounded to float32; p − C(p) is exact.
 *
 * In two phases, because a step may be given up: `encode` and `include` only stage the new residual of the elements they touch, `commit` makes it
 * the residual when the step is applied, `abandon` forgets it. It is indexed by parameter, so an attempt may be cut into other segments than
 * the last one. Memory: 8 bytes per parameter.
 */
export class ErrorFeedback {
  readonly stateByteLength: number
  #residual: Float32Array
  #staged: Float32Array
  /** The ranges of this attempt, in order. */
  #ranges: Array<{ readonly from: number; readonly to: number }> = []

  /** A residual of zeros for `parameters` parameters. */
  constructor(parameters: number) {
    this.#residual = new Float32Array(parameters)
    this.#staged = new Float32Array(parameters)
    this.stateByteLength = this.#residual.byteLength
  }

  /** What has not been sent, shape `[parameters]`: to be read, until the next `commit`. */
  get residual(): Float32Array {
    return this.#residual
  }

  #claim(from: number, length: number): Float32Array {
    const to = from + length
    if (!(from >= 0 && to <= this.#residual.length))
      throw compressionError("State", `There are no parameters ${from} to ${to}, only ${this.#residual.length}`)
    if (length > 0) {
      const next = this.#ranges.findIndex(range => range.to > from)
      const at = next < 0 ? this.#ranges.length : next
      if ((this.#ranges[at]?.from ?? to) < to)
        throw compressionError("State", `Parameters ${from} to ${to} were sent already in this attempt`)
      this.#ranges.splice(at, 0, { from, to })
    }
    return this.#staged.subarray(from, to)
  }

  /**
   * Writes `values` (those of the parameters from `from` on) and what is owed to them to `into`, and stages what that leaves.
   * @throws CompressionError of the codec, or State for parameters that do not exist or were sent in this attempt: abandon it then
   */
  encode(codec: Codec, values: Float32Array, from: number, into: Uint8Array): void {
    const staged = this.#claim(from, values.length)
    const residual = this.#residual.subarray(from, from + values.length)
    for (let at = 0; at < values.length; at += blockElements)
      sumBlock(staged, values, residual, at, Math.min(values.length, at + blockElements))
    codec.encode(staged, into, staged)
  }

  /**
   * Adds what is owed to `values` in place, and stages that nothing is: for what does not travel, or travels whole.
   * @throws CompressionError State as for `encode`
   */
  include(values: Float32Array, from: number): void {
    const staged = this.#claim(from, values.length)
    const residual = this.#residual.subarray(from, from + values.length)
    for (let at = 0; at < values.length; at += blockElements)
      sumBlock(values, values, residual, at, Math.min(values.length, at + blockElements))
    staged.fill(0)
  }

  /** The step is applied: what was staged is the residual now. Parameters that the attempt did not touch keep theirs. */
  commit(): void {
    const touched = this.#ranges.reduce((sum, { from, to }) => sum + to - from, 0)
    if (touched === this.#residual.length) [this.#residual, this.#staged] = [this.#staged, this.#residual]
    else for (const { from, to } of this.#ranges) this.#residual.set(this.#staged.subarray(from, to), from)
    this.#ranges = []
  }

  /** The attempt was given up: the residual is as it was before it. */
  abandon(): void {
    this.#ranges = []
  }

  /**
   * Takes over what `other` still owes for the parameters [from, to), `factor` times, and leaves it with nothing: when a member no longer
   * owns a segment it owes the rest of the mean as its own gradient, times the number of lanes.
   * @throws CompressionError State while either is in an attempt
   */
  absorb(other: ErrorFeedback, factor: number, from: number, to: number): void {
    if (this.#ranges.length > 0 || other.#ranges.length > 0)
      throw compressionError("State", "A residual changes hands between two steps only")
    const owed = other.#residual.subarray(from, to)
    const own = this.#residual.subarray(from, to)
    for (let at = 0; at < own.length; at += blockElements)
      scaleAddBlock(own, owed, factor, at, Math.min(own.length, at + blockElements))
    owed.fill(0)
  }

  /** Forgets everything: nothing is owed. */
  clear(): void {
    this.#residual.fill(0)
    this.#ranges = []
  }

  /** Copies the residual to `into` (length {@link stateByteLength}): float32, little-endian, by parameter. Staged changes are not part of it. */
  readState(into: Uint8Array): void {
    into.set(new Uint8Array(this.#residual.buffer, this.#residual.byteOffset, this.#residual.byteLength))
  }

  /**
   * Replaces the residual by what {@link readState} copied, and gives up any attempt.
   * @throws CompressionError Length or NonFinite; the residual is then as it was
   */
  writeState(from: Uint8Array): void {
    if (from.length !== this.stateByteLength)
      throw compressionError("Length", `The residual has ${this.stateByteLength} bytes, the given block ${from.length}`)
    const given = new Float32Array(this.#residual.length)
    new Uint8Array(given.buffer).set(from)
    const bad = firstNonFinite(given)
    if (bad >= 0) throw compressionError("NonFinite", `The residual of parameter ${bad} is ${given[bad]}`)
    this.#residual.set(given)
    this.#ranges = []
  }
}
