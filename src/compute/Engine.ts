import { createHash } from "node:crypto"
import type { ComputeJob } from "./ComputeJob.ts"
import { DatasetError, loadDataset, type LoadedDataset } from "./Dataset.ts"
import { addInto, splitPoint } from "./LaneTree.ts"
import type { Backend, CompiledModel, Leaf } from "./Model.ts"
import { applyOptimizer, optimizerLayout, resetOptimizer, type OptimizerState } from "./Optimizer.ts"
import { laneExamples, permutation, planEpoch, type EpochPlan } from "./Permutation.ts"
import { initKey, lossKey } from "./Philox.ts"

/** What a job turns out to be once its model is traced and its dataset loaded. */
export interface ComputeInfo extends EpochPlan {
  readonly lanes: number
  readonly leaves: ReadonlyArray<Leaf>
  readonly parameterCount: number
  readonly backend: Backend
  /** SHA-256 in hex of the traced loss and gradient: two modules that compute something else differ in it. */
  readonly programSha256: string
  readonly dataset: { readonly digest: string; readonly trainExamples: number; readonly testExamples: number }
}

/** A node of the lane tree at one step. */
export interface NodeRequest {
  /** An unsigned 32-bit number; jobs count epochs from 1. */
  readonly epoch: number
  /** 0-based within the epoch. */
  readonly step: number
  /** The lanes [from, to). */
  readonly from: number
  readonly to: number
}

/** The value of a node is in the output array; this is the rest. */
export interface NodeResult {
  /** Tree sum of the lane losses, float32. */
  readonly loss: number
  /** The first lane whose loss or gradient is not finite. The output is then not to be used. */
  readonly nonFiniteLane?: number
  readonly milliseconds: number
}

/** Sums over the examples of an evaluation, in float64: mean of the batch × count. */
export interface EvaluationResult {
  readonly count: number
  readonly lossSum: number
  readonly metricSums: Readonly<Record<string, number>>
}

const firstExamples = ({ train }: LoadedDataset, count: number) =>
  train.batch(Uint32Array.from({ length: count }, (_, index) => index))

/** A node computation was abandoned between two lanes. */
export const cancelled: unique symbol = Symbol("cancelled")

const shared = (elements: number): Float32Array =>
  new Float32Array(new SharedArrayBuffer(elements * Float32Array.BYTES_PER_ELEMENT))

const allFinite = (values: Float32Array): boolean => {
  // x·0 is 0 for finite x and NaN otherwise; four sums keep the processor's adders busy.
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  const even = values.length - (values.length % 4)
  for (let index = 0; index < even; index += 4) {
    a += (values[index] ?? 0) * 0
    b += (values[index + 1] ?? 0) * 0
    c += (values[index + 2] ?? 0) * 0
    d += (values[index + 3] ?? 0) * 0
  }
  for (let index = even; index < values.length; index++) a += (values[index] ?? 0) * 0
  return a + b + c + d === 0
}

const bytesOf = (values: Float32Array | Float64Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/**
 * Computes one job in the thread it is made in: lane gradients, optimizer updates, evaluation. Parameters and optimizer
 * state are in shared memory. Everything is synchronous.
 */
export class ComputeEngine {
  readonly info: ComputeInfo
  readonly parameters: Float32Array
  readonly optimizerState: OptimizerState
  readonly #job: ComputeJob
  readonly #model: CompiledModel
  readonly #dataset: LoadedDataset
  readonly #scratch: Array<Float32Array> = []
  #order: Uint32Array = new Uint32Array(0)
  #orderEpoch = -1

  /**
   * Traces the model and loads the dataset.
   * @throws ModelError, DatasetError
   */
  static async load(job: ComputeJob): Promise<ComputeEngine> {
    return new ComputeEngine(job, await job.model.compile(), await loadDataset(job.dataset))
  }

  private constructor(job: ComputeJob, model: CompiledModel, dataset: LoadedDataset) {
    const { lanes, microBatch } = job
    const plan = planEpoch(dataset.train.count, lanes, microBatch)
    if (plan.stepsPerEpoch === 0)
      throw new DatasetError({
        dataset: job.dataset.name,
        message: `It has ${dataset.train.count} training examples, fewer than one global batch of ${lanes} lanes × ${microBatch} examples; use fewer lanes or a smaller microBatch`
      })
    this.#job = job
    this.#model = model
    this.#dataset = dataset
    this.info = {
      ...plan,
      lanes,
      leaves: model.leaves,
      parameterCount: model.parameterCount,
      backend: model.backend,
      programSha256: createHash("sha256")
        .update(model.program(firstExamples(dataset, microBatch), Uint32Array.of(0, 0)))
        .digest("hex"),
      dataset: { digest: dataset.digest, trainExamples: dataset.train.count, testExamples: dataset.test.count }
    }
    const layout = optimizerLayout(job.optimizer)
    this.parameters = shared(model.parameterCount)
    this.optimizerState = {
      vectors: Array.from({ length: layout.vectors }, () => shared(model.parameterCount)),
      scalars: new Float64Array(new SharedArrayBuffer(layout.scalars.length * Float64Array.BYTES_PER_ELEMENT))
    }
  }

  /**
   * Parameters from the model's `init` and the seed, optimizer state as before the first step. Returns {@link weightsSha256}.
   * @throws ModelError
   */
  initialise(): string {
    this.#model.initialise(initKey(this.#job.seed), this.parameters)
    resetOptimizer(this.#job.optimizer, this.optimizerState)
    return this.weightsSha256()
  }

  /**
   * The value of a tree node at the current parameters, into `output` (shape `[parameterCount]`). `isCancelled` is asked
   * between lanes.
   * @throws ModelError, DatasetError
   */
  computeNode(
    request: NodeRequest,
    output: Float32Array,
    isCancelled: () => boolean = () => false
  ): NodeResult | typeof cancelled {
    const started = performance.now()
    this.#model.setParameters(this.parameters)
    let nonFiniteLane: number | undefined
    const visit = (from: number, to: number, target: Float32Array, depth: number): number | typeof cancelled => {
      if (to - from === 1) {
        if (isCancelled()) return cancelled
        const loss = this.#laneGradient(request, from, target)
        if (nonFiniteLane === undefined && !(Number.isFinite(loss) && allFinite(target))) nonFiniteLane = from
        return loss
      }
      const middle = splitPoint(from, to)
      const left = visit(from, middle, target, depth)
      if (left === cancelled || nonFiniteLane !== undefined) return left
      const partial = (this.#scratch[depth] ??= new Float32Array(this.info.parameterCount))
      const right = visit(middle, to, partial, depth + 1)
      if (right === cancelled) return cancelled
      addInto(target, partial)
      return Math.fround(left + right)
    }
    const loss = visit(request.from, request.to, output, 0)
    if (loss === cancelled) return cancelled
    const milliseconds = performance.now() - started
    return nonFiniteLane === undefined ? { loss, milliseconds } : { loss, milliseconds, nonFiniteLane }
  }

  #laneGradient({ epoch, step }: NodeRequest, lane: number, target: Float32Array): number {
    const { lanes, microBatch, seed } = this.#job
    if (this.#orderEpoch !== epoch) {
      this.#order = permutation(this.#dataset.train.count, seed, epoch)
      this.#orderEpoch = epoch
    }
    const examples = laneExamples(this.#order, { lanes, microBatch, step, lane })
    return this.#model.gradient(this.#dataset.train.batch(examples), lossKey(seed, epoch, step, lane), target)
  }

  /** One optimizer update from the mean gradient of a step, shape `[parameterCount]`. */
  applyStep(reduced: Float32Array): void {
    applyOptimizer(this.#job.optimizer, this.parameters, reduced, this.optimizerState)
  }

  /**
   * Loss and metrics over the test examples [from, to) in index order, as one batch, at `parameters`.
   * @throws ModelError, DatasetError
   */
  evaluate(parameters: Float32Array, from: number, to: number): EvaluationResult {
    const count = to - from
    this.#model.setParameters(parameters)
    const batch = this.#dataset.test.batch(Uint32Array.from({ length: count }, (_, index) => from + index))
    const { loss, metrics } = this.#model.evaluate(batch)
    return {
      count,
      lossSum: loss * count,
      metricSums: Object.fromEntries(Object.entries(metrics).map(([name, mean]) => [name, mean * count]))
    }
  }

  /** SHA-256 of the flat float32 parameters, little-endian, in hex. */
  weightsSha256(): string {
    return createHash("sha256").update(bytesOf(this.parameters)).digest("hex")
  }

  /**
   * SHA-256 in hex of: `step` (the number of steps applied, unsigned 64-bit) ‖ parameters ‖ the optimizer's vectors in
   * order (float32 each) ‖ its scalars (float64), all little-endian.
   */
  stateSha256(step: number): string {
    const counter = Buffer.alloc(8)
    counter.writeBigUInt64LE(BigInt(step))
    const hash = createHash("sha256").update(counter).update(bytesOf(this.parameters))
    for (const vector of this.optimizerState.vectors) hash.update(bytesOf(vector))
    return hash.update(bytesOf(this.optimizerState.scalars)).digest("hex")
  }
}
