import { Schema } from "effect"
import type { Batch } from "./Dataset.ts"

/** The model is not one that can be trained: which of its functions is at fault, and why. */
export class ModelError extends Schema.TaggedError<ModelError>()("ModelError", {
  function: Schema.Literals(["init", "loss", "metric", "batch"]),
  message: Schema.String
}) {}

/** One array of parameters. The flat parameters hold the leaves in the order of `path`, sorted by UTF-16 code unit. */
export interface Leaf {
  /** Keys from the root of the tree joined by dots, for example `hidden.weight` or `layers.0.bias`. */
  readonly path: string
  readonly shape: ReadonlyArray<number>
}

/** What computed the gradients: two members of a job must agree in all of it, or their bits may differ. */
export interface Backend {
  readonly name: string
  readonly version: string
  /** True when no kernel uses instructions whose result depends on the machine. */
  readonly strict: boolean
  readonly threads: number
}

/** Means over a batch. */
export interface Evaluation {
  readonly loss: number
  readonly metrics: Readonly<Record<string, number>>
}

/**
 * A model ready to compute: flat float32 parameters in, a loss and a flat float32 gradient out. Nothing here depends on
 * what computes it.
 */
export interface CompiledModel {
  readonly backend: Backend
  readonly leaves: ReadonlyArray<Leaf>
  readonly parameterCount: number
  /**
   * Fills `parameters` (shape `[parameterCount]`) with the model's initial values for `key` (two words).
   * @throws ModelError when one is not finite
   */
  readonly initialise: (key: Uint32Array, parameters: Float32Array) => void
  /**
   * The operations of loss and gradient for a batch of this shape, as text that is the same on every machine. Values of arrays that the
   * loss closes over are not in it.
   * @throws ModelError when the loss is not a scalar
   */
  readonly program: (batch: Batch, key: Uint32Array) => string
  /** Takes a copy of `parameters` for the calls that follow. */
  readonly setParameters: (parameters: Float32Array) => void
  /**
   * The mean loss over `batch`, as float32, and its gradient (into `gradient`, shape `[parameterCount]`). `key`: two words.
   * @throws ModelError when the loss is not a scalar or the batch has other shapes than the first one
   */
  readonly gradient: (batch: Batch, key: Uint32Array, gradient: Float32Array) => number
  /** Mean loss and metrics over `batch`, which may have any number of examples. */
  readonly evaluate: (batch: Batch) => Evaluation
}

/** A model as a job names it; it is compiled in the compute thread. */
export interface Model {
  /**
   * Traces `init` once to learn the leaves; nothing is computed.
   * @throws ModelError when `init` yields something that is not a tree of float32 arrays
   */
  readonly compile: () => Promise<CompiledModel>
}

/** True for something that can be compiled. */
export const isModel = (value: unknown): value is Model =>
  typeof value === "object" && value !== null && "compile" in value && typeof value.compile === "function"
