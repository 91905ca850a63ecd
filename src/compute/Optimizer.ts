import {
  booleanOption,
  describeGiven,
  isRecord,
  JobOptionError,
  numberOption,
  readOptions,
  type Options
} from "./Options.ts"

/**
 * Optimizers as plain loops over flat float32 arrays. Every +, −, ×, ÷ and sqrt is rounded to float32 on its own
 * (rounding the double result once more is exact for these five), so all members get the same bits. Powers of β are
 * float64 running products in the state; `Math.pow`, `exp` and `log` may differ between machines and are not used.
 */

/** State of an optimizer, all zeros and initial scalars at step 0. `vectors` have the shape of the flat parameters. */
export interface OptimizerState {
  readonly vectors: ReadonlyArray<Float32Array>
  readonly scalars: Float64Array
}

/** An optimizer as a job names it: its kind and the options of that kind; checked by {@link readOptimizer}. */
export interface OptimizerOptions {
  readonly kind: string
  readonly [option: string]: string | number | boolean | undefined
}

type Values = Readonly<Record<string, number | boolean>>

interface Kind {
  readonly options: Options
  /** Vectors of the length of the parameters. */
  readonly vectors: number
  /** Scalars before the first step. */
  readonly scalars: ReadonlyArray<number>
  readonly apply: (options: Values, parameters: Float32Array, gradient: Float32Array, state: OptimizerState) => void
}

const fround = Math.fround

const learningRate = (preset: number) =>
  numberOption({ above: 0, maximum: 1_000, unit: "step per unit of gradient", default: preset })

const decayRate = (preset: number) =>
  numberOption({ minimum: 0, below: 1, unit: "share kept per step", default: preset })

const adamOptions = {
  learningRate: learningRate(1e-3),
  beta1: decayRate(0.9),
  beta2: decayRate(0.999),
  epsilon: numberOption({ above: 0, maximum: 1, unit: "added to the root of the second moment", default: 1e-8 })
}

const float = (value: number | boolean | undefined): number => fround(Number(value))

const noVector = new Float32Array(0)

const sgd: Kind = {
  options: { learningRate: learningRate(1e-2) },
  vectors: 0,
  scalars: [],
  apply(options, parameters, gradient) {
    const rate = float(options.learningRate)
    for (let index = 0; index < parameters.length; index++)
      parameters[index] = (parameters[index] ?? 0) - fround(rate * (gradient[index] ?? 0))
  }
}

const momentum: Kind = {
  options: { learningRate: learningRate(1e-2), momentum: decayRate(0.9), nesterov: booleanOption({ default: false }) },
  vectors: 1,
  scalars: [],
  apply(options, parameters, gradient, state) {
    const rate = float(options.learningRate)
    const kept = float(options.momentum)
    const nesterov = options.nesterov === true
    const velocity = state.vectors[0] ?? noVector
    for (let index = 0; index < parameters.length; index++) {
      const slope = gradient[index] ?? 0
      const speed = fround(fround(kept * (velocity[index] ?? 0)) + slope)
      velocity[index] = speed
      const direction = nesterov ? fround(slope + fround(kept * speed)) : speed
      parameters[index] = (parameters[index] ?? 0) - fround(rate * direction)
    }
  }
}

// The bias corrections are folded into two scalars, as in section 2 of the paper: one division and one root per element.
const applyAdam: Kind["apply"] = (options, parameters, gradient, state) => {
  const learningRate = float(options.learningRate)
  const beta1 = float(options.beta1)
  const beta2 = float(options.beta2)
  const rest1 = fround(1 - beta1)
  const rest2 = fround(1 - beta2)
  const kept = fround(1 - fround(learningRate * float(options.weightDecay ?? 0)))
  const first = state.vectors[0] ?? noVector
  const second = state.vectors[1] ?? noVector
  const power1 = (state.scalars[0] ?? 1) * Number(options.beta1)
  const power2 = (state.scalars[1] ?? 1) * Number(options.beta2)
  state.scalars[0] = power1
  state.scalars[1] = power2
  const root = fround(Math.sqrt(fround(1 - power2)))
  const rate = fround(fround(learningRate * root) / fround(1 - power1))
  const epsilon = fround(float(options.epsilon) * root)
  for (let index = 0; index < parameters.length; index++) {
    const slope = gradient[index] ?? 0
    const mean = fround(fround(beta1 * (first[index] ?? 0)) + fround(rest1 * slope))
    const square = fround(fround(beta2 * (second[index] ?? 0)) + fround(rest2 * fround(slope * slope)))
    first[index] = mean
    second[index] = square
    const scale = fround(fround(Math.sqrt(square)) + epsilon)
    parameters[index] = fround(kept * (parameters[index] ?? 0)) - fround(fround(rate * mean) / scale)
  }
}

const adam: Kind = { options: adamOptions, vectors: 2, scalars: [1, 1], apply: applyAdam }

const adamW: Kind = {
  options: {
    ...adamOptions,
    weightDecay: numberOption({ minimum: 0, maximum: 10, unit: "per step and unit of learning rate", default: 1e-2 })
  },
  vectors: 2,
  scalars: [1, 1],
  apply: applyAdam
}

const kinds: Readonly<Record<string, Kind>> = { sgd, momentum, adam, adamW }

const kindOf = (options: OptimizerOptions): Kind => {
  const kind = Object.hasOwn(kinds, options.kind) ? kinds[options.kind] : undefined
  if (kind === undefined)
    throw new JobOptionError({
      path: "optimizer.kind",
      given: describeGiven(options.kind),
      allowed: `one of ${Object.keys(kinds).join(", ")}`
    })
  return kind
}

/**
 * Checks an optimizer's options and fills in defaults.
 * @throws JobOptionError with a path below `optimizer`
 */
export const readOptimizer = (given: unknown): OptimizerOptions => {
  if (!isRecord(given) || typeof given.kind !== "string")
    throw new JobOptionError({
      path: "optimizer",
      given: describeGiven(given),
      allowed: `an optimizer, for example Optimizer.adam({ learningRate: 1e-3 })`
    })
  const { kind, ...rest } = given
  return { kind, ...readOptions(kindOf({ kind }).options, rest, { prefix: "optimizer" }) }
}

/** The options of an optimizer's kind, for `--set`. */
export const optimizerFields = (options: OptimizerOptions): Options => kindOf(options).options

/** What state `options` need: vectors of the length of the parameters, and the scalars before the first step. */
export const optimizerLayout = (
  options: OptimizerOptions
): { readonly vectors: number; readonly scalars: ReadonlyArray<number> } => kindOf(options)

/** Puts the state back to what it is before the first step. */
export const resetOptimizer = (options: OptimizerOptions, state: OptimizerState): void => {
  for (const vector of state.vectors) vector.fill(0)
  state.scalars.set(kindOf(options).scalars)
}

/**
 * One update of `parameters` from the mean `gradient` (same shape, flat), in place; changes `state` with it. `options`
 * must come from {@link readOptimizer}.
 */
export const applyOptimizer = (
  options: OptimizerOptions,
  parameters: Float32Array,
  gradient: Float32Array,
  state: OptimizerState
): void => {
  const { kind, ...values } = options
  const numbers: Record<string, number | boolean> = {}
  for (const [name, value] of Object.entries(values))
    if (typeof value === "number" || typeof value === "boolean") numbers[name] = value
  kindOf({ kind }).apply(numbers, parameters, gradient, state)
}

/** The optimizers a job can choose. Options left out take the defaults named here; the job refuses values out of range. */
export const Optimizer = {
  /** `p ← p − learningRate · g`. `learningRate`: above 0, at most 1000, default 0.01. */
  sgd: (options: { readonly learningRate?: number } = {}): OptimizerOptions => ({ kind: "sgd", ...options }),

  /**
   * `v ← momentum · v + g`, `p ← p − learningRate · v`; with `nesterov`, `p ← p − learningRate · (g + momentum · v)`.
   * `learningRate`: default 0.01; `momentum`: from 0, below 1, default 0.9; `nesterov`: default false.
   */
  momentum: (
    options: { readonly learningRate?: number; readonly momentum?: number; readonly nesterov?: boolean } = {}
  ): OptimizerOptions => ({ kind: "momentum", ...options }),

  /**
   * Adam (Kingma and Ba, 2015) with bias correction. `learningRate`: default 0.001; `beta1`, `beta2`: from 0, below 1,
   * defaults 0.9 and 0.999; `epsilon`: above 0, at most 1, default 1e-8.
   */
  adam: (
    options: {
      readonly learningRate?: number
      readonly beta1?: number
      readonly beta2?: number
      readonly epsilon?: number
    } = {}
  ): OptimizerOptions => ({ kind: "adam", ...options }),

  /**
   * Adam with decoupled weight decay (Loshchilov and Hutter, 2019): `p ← (1 − learningRate · weightDecay) · p` before
   * the step of Adam. `weightDecay`: from 0 to 10, default 0.01; the others as for `adam`.
   */
  adamW: (
    options: {
      readonly learningRate?: number
      readonly beta1?: number
      readonly beta2?: number
      readonly epsilon?: number
      readonly weightDecay?: number
    } = {}
  ): OptimizerOptions => ({ kind: "adamW", ...options })
}
