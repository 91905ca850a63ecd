import { isDataset, type Dataset } from "./Dataset.ts"
import { isModel, type Model } from "./Model.ts"
import { isRecord } from "./Options.ts"
import type { OptimizerOptions } from "./Optimizer.ts"

/** What the compute thread needs to know of a job. The default export of a job module is one. */
export interface ComputeJob {
  readonly name: string
  readonly model: Model
  readonly dataset: Dataset
  readonly optimizer: OptimizerOptions
  /** Examples per lane and step. */
  readonly microBatch: number
  /** Lanes per step. */
  readonly lanes: number
  /** Integer from 0 to 2⁵³−1. */
  readonly seed: number
  /**
   * The same job with options replaced: pairs of path and text, as `--set path=text` gives them.
   * @throws JobOptionError for an unknown path or a value that is not allowed
   */
  readonly override: (set: ReadonlyArray<readonly [path: string, text: string]>) => ComputeJob
}

/** True for a job, even one made by another copy of this package. */
export const isComputeJob = (value: unknown): value is ComputeJob =>
  isRecord(value) &&
  typeof value.name === "string" &&
  isModel(value.model) &&
  isDataset(value.dataset) &&
  isRecord(value.optimizer) &&
  typeof value.microBatch === "number" &&
  typeof value.lanes === "number" &&
  typeof value.seed === "number" &&
  typeof value.override === "function"
