import { Schema } from "effect"
import { blockElements } from "./Blocks.ts"
import { integerOption, numberOption, readOptions, textOption } from "./Options.ts"

/**
 * How the vectors of the members become one. The rules other than the mean stand up to members that send whatever they like, as long as these
 * are no more than `hostile`. They take one vector per member, each the mean over the same number of lanes, in the order of the members.
 *
 * All work on one segment at a time. What a rule must know of the whole vector is a few float64 numbers per segment, summed in a fixed order,
 * which the owners of the segments give each other first.
 */

/** `TooFew`: the rule needs more members to stand up to so many; `Length`: arrays do not fit each other; `NonFinite`: too many vectors are not finite. */
export class AggregationError extends Schema.TaggedError<AggregationError>()("AggregationError", {
  reason: Schema.Literals(["TooFew", "Length", "NonFinite"]),
  message: Schema.String
}) {}

const rules = ["mean", "trimmedMean", "krum", "multiKrum", "centeredClip"] as const

/** A rule, as a strategy names it. */
export interface AggregationOptions {
  readonly aggregation: (typeof rules)[number]
  /** How many members may lie. */
  readonly hostile: number
  /** The norm beyond which centeredClip cuts; 0: the median of the members' distances. */
  readonly radius: number
  /** Rounds of centeredClip. */
  readonly iterations: number
}

/** The options of aggregation, to stand among those of a strategy. */
export const aggregationFields = {
  aggregation: textOption({
    pattern: new RegExp(`^(${rules.join("|")})$`),
    allowed: `one of ${rules.join(", ")}`,
    default: "mean"
  }),
  hostile: integerOption({ minimum: 0, maximum: 127, unit: "members that may lie", default: 1 }),
  radius: numberOption({ minimum: 0, maximum: 1e9, unit: "norm of a gradient; 0 for the median distance", default: 0 }),
  iterations: integerOption({ minimum: 1, maximum: 100, unit: "rounds of centeredClip", default: 3 })
}

/**
 * Checks the options of aggregation and fills in defaults.
 * @throws JobOptionError with a path below `prefix`
 */
export const readAggregation = (
  given: Readonly<Record<string, unknown>>,
  options: { readonly prefix?: string; readonly others?: ReadonlyArray<string> } = {}
): AggregationOptions => {
  const { aggregation, ...rest } = readOptions(aggregationFields, given, options)
  return { aggregation: rules.find(rule => rule === aggregation) ?? "mean", ...rest }
}

/** How many members a rule needs to stand up to `hostile` of them. */
export const membersNeeded = ({ aggregation, hostile }: AggregationOptions): number => {
  switch (aggregation) {
    case "mean":
      return 1
    case "trimmedMean":
    case "centeredClip":
      return 2 * hostile + 1
    case "krum":
    case "multiKrum":
      return 2 * hostile + 3
  }
}

/** Checks that all arrays have the length of `out`. */
export const checkLengths = (vectors: ReadonlyArray<Float32Array>, out: Float32Array): void => {
  for (const [member, vector] of vectors.entries())
    if (vector.length !== out.length)
      throw new AggregationError({
        reason: "Length",
        message: `The vector of member ${member} has ${vector.length} elements, the result ${out.length}`
      })
}

/** Adds up what the owners of the segments know of theirs, in their order. Shape of `out` and of each part: as the rule says. */
export const addPartials = (parts: ReadonlyArray<Float64Array>, out: Float64Array): void => {
  out.fill(0)
  for (const [owner, part] of parts.entries()) {
    if (part.length !== out.length)
      throw new AggregationError({
        reason: "Length",
        message: `Owner ${owner} sent ${part.length} numbers, not ${out.length}`
      })
    for (let index = 0; index < out.length; index++) out[index] = (out[index] ?? 0) + (part[index] ?? 0)
  }
}

const addBlock = (sums: Float64Array, vector: Float32Array, from: number, length: number): void => {
  for (let index = 0; index < length; index++) sums[index] = (sums[index] ?? 0) + (vector[from + index] ?? 0)
}

const divideBlock = (sums: Float64Array, divisor: number, out: Float32Array, from: number, length: number): void => {
  for (let index = 0; index < length; index++) out[from + index] = (sums[index] ?? 0) / divisor
}

/** Rules that look at one coordinate at a time, with the memory that they need: one object, one thread. */
export class CoordinateRules {
  readonly #sums = new Float64Array(blockElements)
  #column = new Float64Array(0)

  /**
   * `out[i]` = the sum of the vectors' i-th elements, in float64 and in the order given, divided by `divisor` and rounded once. Shapes: as `out`.
   * @throws AggregationError Length
   */
  mean(vectors: ReadonlyArray<Float32Array>, out: Float32Array, divisor = vectors.length): void {
    checkLengths(vectors, out)
    for (let from = 0; from < out.length; from += blockElements) {
      const length = Math.min(blockElements, out.length - from)
      this.#sums.fill(0)
      for (const vector of vectors) addBlock(this.#sums, vector, from, length)
      divideBlock(this.#sums, divisor, out, from, length)
    }
  }

  /**
   * `out[i]` = the mean of the vectors' i-th elements without the `trim` smallest and the `trim` largest (Yin, Chen, Ramchandran, Bartlett,
   * "Byzantine-Robust Distributed Learning", ICML 2018, definition 2). Sorted, summed in float64 from the smallest on, rounded once: the order
   * of the vectors does not matter. NaN counts as the largest. While no more than `trim` vectors lie, each result lies between the
   * smallest and the largest honest value.
   * @throws AggregationError Length, or TooFew unless there are more than 2 · trim vectors
   */
  trimmedMean(vectors: ReadonlyArray<Float32Array>, trim: number, out: Float32Array): void {
    checkLengths(vectors, out)
    if (vectors.length <= 2 * trim)
      throw new AggregationError({
        reason: "TooFew",
        message: `${vectors.length} vectors cannot lose the ${trim} smallest and the ${trim} largest of each element`
      })
    if (this.#column.length !== vectors.length) this.#column = new Float64Array(vectors.length)
    for (let from = 0; from < out.length; from += blockElements)
      trimBlock(vectors, trim, this.#column, out, from, Math.min(out.length, from + blockElements))
  }
}

/** Beyond so many numbers the library's sort is faster than insertion. */
const maxInsertion = 32

const trimBlock = (
  vectors: ReadonlyArray<Float32Array>,
  trim: number,
  column: Float64Array,
  out: Float32Array,
  from: number,
  to: number
): void => {
  const members = vectors.length
  for (let index = from; index < to; index++) {
    for (let member = 0; member < members; member++) {
      const given = vectors[member]?.[index] ?? 0
      const value = Number.isNaN(given) ? Infinity : given
      let place = member
      if (members <= maxInsertion)
        for (; place > 0 && (column[place - 1] ?? 0) > value; place--) column[place] = column[place - 1] ?? 0
      column[place] = value
    }
    if (members > maxInsertion) column.sort()
    let sum = 0
    for (let place = trim; place < members - trim; place++) sum += column[place] ?? 0
    out[index] = sum / (members - 2 * trim)
  }
}
