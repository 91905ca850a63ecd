import { blockElements } from "./Blocks.ts"
import { Optimizer, readOptimizer, type OptimizerOptions } from "./Optimizer.ts"
import { integerOption, numberOption, readOptions } from "./Options.ts"

/**
 * DiLoCo (Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, algorithm 1): every replica takes some
 * steps of its own from the same parameters; then the mean of the ways they went is taken as a gradient, and an outer optimizer applies it.
 */

/** How often replicas meet, and what is done with the mean of their ways. */
export interface LocalSgdOptions {
  /** Steps that a replica takes by itself in a round. */
  readonly innerSteps: number
  readonly outerLearningRate: number
  readonly outerMomentum: number
}

/** The options of local SGD, to stand among those of a strategy. The outer ones are those of the paper. */
export const localSgdFields = {
  innerSteps: integerOption({ minimum: 1, maximum: 1_000_000, unit: "steps of a replica per round", default: 50 }),
  outerLearningRate: numberOption({ above: 0, maximum: 10, unit: "share of the mean way", default: 0.7 }),
  outerMomentum: numberOption({ minimum: 0, below: 1, unit: "share kept per round", default: 0.9 })
}

/**
 * Checks the options of local SGD and fills in defaults.
 * @throws JobOptionError with a path below `prefix`
 */
export const readLocalSgd = (
  given: Readonly<Record<string, unknown>>,
  options: { readonly prefix?: string; readonly others?: ReadonlyArray<string> } = {}
): LocalSgdOptions => readOptions(localSgdFields, given, options)

/**
 * The outer optimizer, for `applyOptimizer` with the parameters that the round began with and the mean way: Nesterov momentum, v ← μ·v + d,
 * p ← p − η·(d + μ·v). Its state (one vector) lasts for the whole job.
 */
export const outerOptimizer = ({ outerLearningRate, outerMomentum }: LocalSgdOptions): OptimizerOptions =>
  readOptimizer(Optimizer.momentum({ learningRate: outerLearningRate, momentum: outerMomentum, nesterov: true }))

const subtractBlock = (out: Float32Array, start: Float32Array, end: Float32Array, from: number, to: number): void => {
  for (let index = from; index < to; index++) out[index] = (start[index] ?? 0) - (end[index] ?? 0)
}

/**
 * The way that a replica went in a round, `out = start − end`, each element rounded to float32: where it points, parameters are to go the other
 * way, like a gradient. All of one length; `out` may be `end`.
 */
export const replicaDelta = (start: Float32Array, end: Float32Array, out: Float32Array): void => {
  for (let from = 0; from < out.length; from += blockElements)
    subtractBlock(out, start, end, from, Math.min(out.length, from + blockElements))
}
