import { statSync } from "node:fs"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { Effect, Schema } from "effect"
import { isComputeJob, type ComputeJob } from "../compute/ComputeJob.ts"
import { isDataset, type Dataset } from "../compute/Dataset.ts"
import { provideToJobModules } from "../compute/JobModule.ts"
import { isModel, type Model } from "../compute/Model.ts"
import { Optimizer, optimizerFields, readOptimizer, type OptimizerOptions } from "../compute/Optimizer.ts"
import {
  describeGiven,
  integerOption,
  isRecord,
  JobOptionError,
  readOptions,
  textOption,
  type Options
} from "../compute/Options.ts"
import { checkLanes } from "./EqualLanes.ts"
import { readStrategy, Strategy, strategyFields, type StrategyOptions } from "./Strategy.ts"

/** The module of a job could not be loaded. */
export class JobLoadError extends Schema.TaggedError<JobLoadError>()("JobLoadError", {
  reason: Schema.Literals(["NotFound", "ImportFailed", "NoDefaultExport", "NotAJob"]),
  /** What was asked for, as it was given. */
  specifier: Schema.String,
  message: Schema.String,
  /** Where the module threw; empty when it did not. For logs at debug level. */
  moduleStack: Schema.String
}) {}

const fields = {
  name: textOption({
    pattern: /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
    allowed: "1 to 64 letters, digits, dots, dashes and underscores, starting with a letter or digit"
  }),
  microBatch: integerOption({ minimum: 1, maximum: 65_536, unit: "examples per lane", default: 32 }),
  lanes: integerOption({ minimum: 1, maximum: 256, unit: "lanes per step", default: 8 }),
  epochs: integerOption({ minimum: 1, maximum: 1_000_000, unit: "passes over the training examples", default: 1 }),
  seed: integerOption({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, unit: "start of all random numbers", default: 0 })
} satisfies Options

const checkpointFields = {
  everySteps: integerOption({
    minimum: 0,
    maximum: 1_000_000_000,
    unit: "steps from one checkpoint to the next; 0 for none",
    default: 200
  }),
  keep: integerOption({ minimum: 1, maximum: 1_000, unit: "checkpoints that are kept", default: 3 })
} satisfies Options

/** When a job saves its state, and how many of these stay. Both may differ between members, and change when a job is resumed. */
export interface CheckpointOptions {
  /** Steps from one checkpoint to the next; 0: none are saved. Default 200. */
  readonly everySteps?: number
  /** How many stay, 1 to 1,000: the newest. Default 3. Saving needs room for one more. */
  readonly keep?: number
}

const readCheckpoint = (given: unknown): Required<CheckpointOptions> => {
  if (!isRecord(given))
    throw new JobOptionError({
      path: "checkpoint",
      given: describeGiven(given),
      allowed: "an object, for example { everySteps: 200, keep: 3 }"
    })
  return readOptions(checkpointFields, given, { prefix: "checkpoint" })
}

const parts = ["model", "dataset", "optimizer", "strategy", "checkpoint"]

/** What `TrainingJob.make` takes. Any value out of range is refused before anything else happens. */
export interface TrainingJobOptions {
  /** Names the job: letters, digits, `.`, `-`, `_`; at most 64. Required. */
  readonly name: string
  /** What is trained, for example from `JaxModel.make`. Required. */
  readonly model: Model
  /** What it is trained on; each machine loads its own copy. Required. */
  readonly dataset: Dataset
  /** How parameters follow gradients. Default `Optimizer.adam()`. */
  readonly optimizer?: OptimizerOptions
  /** How members combine gradients. Default `Strategy.allReduce()`. */
  readonly strategy?: StrategyOptions
  /** Examples per lane, 1 to 65,536. Default 32. A lane is the smallest unit of work. */
  readonly microBatch?: number
  /** Lanes per step, 1 to 256. Default 8. At most this many workers compute at once; a step takes `lanes × microBatch` examples. */
  readonly lanes?: number
  /** Passes over the training examples, 1 to 1,000,000. Default 1. */
  readonly epochs?: number
  /** Start of all random numbers: initial parameters, order of examples, dropout. 0 to 2⁵³−1. Default 0. */
  readonly seed?: number
  /** When the state is saved. */
  readonly checkpoint?: CheckpointOptions
}

const below = (prefix: string, options: Options): Options =>
  Object.fromEntries(Object.entries(options).map(([name, option]) => [`${prefix}.${name}`, option]))

const settable = (job: TrainingJob): Options => ({
  ...fields,
  ...below("optimizer", optimizerFields(job.optimizer)),
  ...below("strategy", strategyFields(job.strategy)),
  ...below("checkpoint", checkpointFields)
})

const isFile = (url: string): boolean => {
  try {
    return statSync(new URL(url)).isFile()
  } catch {
    return false
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/**
 * A job: what is trained, on what, and how. The default export of a job module.
 *
 * @example
 * export default TrainingJob.make({ name: "mnist", model, dataset, optimizer: Optimizer.adam({ learningRate: 1e-3 }), epochs: 3 })
 */
export class TrainingJob implements ComputeJob {
  readonly name: string
  readonly model: Model
  readonly dataset: Dataset
  readonly optimizer: OptimizerOptions
  readonly strategy: StrategyOptions
  readonly microBatch: number
  readonly lanes: number
  readonly epochs: number
  readonly seed: number
  readonly checkpoint: Required<CheckpointOptions>

  private constructor(given: Readonly<Record<string, unknown>>) {
    const values = readOptions(fields, given, { others: parts })
    const { model, dataset } = given
    if (!isModel(model))
      throw new JobOptionError({
        path: "model",
        given: describeGiven(model),
        allowed: "a model, for example JaxModel.make({ init, loss })"
      })
    if (!isDataset(dataset))
      throw new JobOptionError({
        path: "dataset",
        given: describeGiven(dataset),
        allowed: "a dataset, for example Dataset.make({ name, load })"
      })
    this.model = model
    this.dataset = dataset
    this.optimizer = readOptimizer(given.optimizer ?? Optimizer.adam())
    this.strategy = readStrategy(given.strategy ?? Strategy.allReduce())
    this.name = values.name
    this.microBatch = values.microBatch
    this.lanes = values.lanes
    checkLanes(this)
    this.epochs = values.epochs
    this.seed = values.seed
    this.checkpoint = readCheckpoint(given.checkpoint ?? {})
  }

  /**
   * Checks every option and fills in defaults.
   * @throws JobOptionError with the path of the first option that is missing, unknown or out of range
   */
  static make(options: TrainingJobOptions): TrainingJob {
    const given: unknown = options
    if (!isRecord(given))
      throw new JobOptionError({
        path: "options",
        given: describeGiven(given),
        allowed: "an object with name, model and dataset"
      })
    return new TrainingJob(given)
  }

  /**
   * Loads the job that a module exports by default, with options replaced. `specifier` is a path (relative to the working
   * directory, or absolute) or a file URL; `set` holds pairs of path and text, for example `["optimizer.learningRate", "0.01"]`.
   * The module may lie anywhere: its imports of this package and of `@jax-js/jax` are the running ones. Fails with
   * `JobLoadError`, or with `JobOptionError` for an option that the module or `set` gives.
   */
  static readonly load = Effect.fn("TrainingJob.load")(function* (
    specifier: string,
    { set = [] }: { readonly set?: ReadonlyArray<readonly [path: string, text: string]> } = {}
  ): Effect.fn.Return<TrainingJob, JobLoadError | JobOptionError> {
    const fail = (reason: JobLoadError["reason"], message: string, error?: unknown) =>
      new JobLoadError({ reason, specifier, message, moduleStack: error instanceof Error ? (error.stack ?? "") : "" })
    const url = TrainingJob.url(specifier)
    if (!isFile(url))
      return yield* fail(
        "NotFound",
        `There is no job module at ${specifier}; give a path relative to ${process.cwd()}, or absolute`
      )
    const module = yield* Effect.acquireUseRelease(
      Effect.sync(provideToJobModules),
      () =>
        Effect.tryPromise({
          try: (): Promise<unknown> => import(url),
          catch: error =>
            error instanceof JobOptionError
              ? error
              : fail("ImportFailed", `Loading ${specifier} failed: ${messageOf(error)}`, error)
        }),
      hooks => Effect.sync(() => hooks.deregister())
    )
    if (!isRecord(module) || module.default === undefined)
      return yield* fail(
        "NoDefaultExport",
        `${specifier} has no default export; it must be \`export default TrainingJob.make({ … })\``
      )
    const job = module.default
    if (!(isComputeJob(job) && job instanceof TrainingJob))
      return yield* fail(
        "NotAJob",
        `The default export of ${specifier} is ${describeGiven(job)}, not what TrainingJob.make returns`
      )
    return yield* Effect.try({
      try: () => job.override(set),
      catch: error => {
        if (error instanceof JobOptionError) return error
        throw error
      }
    })
  })

  /** The file URL of a job module: what `load` imports, and what a compute thread takes as `jobUrl`. */
  static url(specifier: string): string {
    return specifier.startsWith("file:") ? specifier : pathToFileURL(resolve(specifier)).href
  }

  /**
   * The same job with options replaced, in the order given.
   * @throws JobOptionError for an unknown path or a value that is not allowed
   */
  override(set: ReadonlyArray<readonly [path: string, text: string]>): TrainingJob {
    const options = settable(this)
    const top: { [name: string]: unknown } = Object.fromEntries(Object.entries(this))
    const nested: Readonly<Record<string, Record<string, unknown>>> = {
      optimizer: { ...this.optimizer },
      strategy: { ...this.strategy },
      checkpoint: { ...this.checkpoint }
    }
    for (const [path, text] of set) {
      const option = Object.hasOwn(options, path) ? options[path] : undefined
      if (option === undefined)
        throw new JobOptionError({
          path,
          given: describeGiven(text),
          allowed: `one of the options that can be set: ${Object.keys(options).join(", ")}`
        })
      const value = option.parse(text)
      const [owner = "", name] = path.split(".")
      const inner = nested[owner]
      if (name !== undefined && inner !== undefined) inner[name] = value
      else top[path] = value
    }
    return new TrainingJob({ ...top, ...nested })
  }

  /**
   * Every option that the bits of the result depend on, as path and JSON text, in a fixed order; model and dataset are not options in this
   * sense.
   */
  get optionTexts(): ReadonlyArray<readonly [path: string, text: string]> {
    const nested = (prefix: string, values: object) =>
      Object.entries(values)
        .toSorted(([left], [right]) => (left < right ? -1 : 1))
        .map(([name, value]) => [`${prefix}.${name}`, JSON.stringify(value)] as const)
    return [
      ["name", JSON.stringify(this.name)],
      ["microBatch", String(this.microBatch)],
      ["lanes", String(this.lanes)],
      ["epochs", String(this.epochs)],
      ["seed", String(this.seed)],
      ...nested("optimizer", this.optimizer),
      ...nested("strategy", this.strategy)
    ]
  }
}
