import { aggregationFields, readAggregation, type AggregationOptions } from "../compute/Aggregation.ts"
import { compressionFields, readCompression, type CompressionOptions } from "../compute/Compression.ts"
import {
  describeGiven,
  isRecord,
  JobOptionError,
  numberOption,
  readOptions,
  textOption,
  type Options
} from "../compute/Options.ts"

/** Every member exchanges with every other. */
export interface AllReduceOptions extends AggregationOptions {
  readonly kind: "allReduce"
  /** What a loss or gradient that is not finite does: it ends the job, or its step changes nothing but the count. */
  readonly nonFinite: "fail" | "skip"
  /** What travels: float32 as it is, or fewer bytes for it, at the price of equal bits. */
  readonly compression: CompressionOptions["compression"]
  /** Share of the elements that `topK` sends, above 0 to 1. */
  readonly density: number
  /** Share of its momentum that a member keeps per step before it sends it to a robust rule, from 0, below 1. */
  readonly memberMomentum: number
}

/** How the members of a job combine their gradients. */
export type StrategyOptions = AllReduceOptions | { readonly kind: "parameterServer" }

/** An exchange with a rule in place of the mean, which stands up to `hostile` members. */
export const isRobust = (strategy: StrategyOptions): strategy is AllReduceOptions =>
  strategy.kind === "allReduce" && strategy.aggregation !== "mean"

const allReduceFields = {
  nonFinite: textOption({ pattern: /^(fail|skip)$/, allowed: "fail or skip", default: "fail" }),
  ...compressionFields,
  ...aggregationFields,
  memberMomentum: numberOption({ minimum: 0, below: 1, unit: "share kept per step", default: 0.9 })
} satisfies Options

/** The options of each strategy. */
const fields = { allReduce: allReduceFields, parameterServer: {} } satisfies Readonly<
  Record<StrategyOptions["kind"], Options>
>

/** The options that a strategy of this kind has. */
export const strategyFields = ({ kind }: StrategyOptions): Options => fields[kind]

const readAllReduce = (given: Readonly<Record<string, unknown>>): AllReduceOptions => {
  const prefix = "strategy"
  const { nonFinite, compression, density, memberMomentum, ...rule } = readOptions(fields.allReduce, given, { prefix })
  const strategy: AllReduceOptions = {
    kind: "allReduce",
    nonFinite: nonFinite === "skip" ? "skip" : "fail",
    ...readCompression({ compression, density }, { prefix }),
    ...readAggregation(rule, { prefix }),
    memberMomentum
  }
  // What error feedback owes to a sum is not owed to a rule that may leave a vector out.
  if (isRobust(strategy) && compression !== "none" && compression !== "fp16")
    throw new JobOptionError({
      path: "strategy.compression",
      given: describeGiven(compression),
      allowed: `none or fp16 with ${strategy.aggregation}`
    })
  return strategy
}

/**
 * Checks a strategy and fills in defaults.
 * @throws JobOptionError with a path below `strategy`
 */
export const readStrategy = (given: unknown): StrategyOptions => {
  if (!isRecord(given) || typeof given.kind !== "string")
    throw new JobOptionError({
      path: "strategy",
      given: describeGiven(given),
      allowed: "a strategy, for example Strategy.allReduce()"
    })
  const { kind, ...rest } = given
  if (kind === "allReduce") return readAllReduce(rest)
  if (kind === "parameterServer") return { kind, ...readOptions(fields.parameterServer, rest, { prefix: "strategy" }) }
  throw new JobOptionError({
    path: "strategy.kind",
    given: describeGiven(kind),
    allowed: `one of ${Object.keys(fields).join(", ")}`
  })
}

/** The strategies a job can choose. */
export const Strategy = {
  /**
   * Every member exchanges with every other, synchronous: each reduces one segment of the gradient and sends it to all. Two rounds of
   * messages per step, and no member is special. The coordinator's line carries no gradient. `nonFinite` says what a loss or gradient that is
   * not finite does: `fail` (the default) ends the job, `skip` lets its step change nothing. `compression` (`none`, the default, `fp16`, `int8`,
   * `topK` with a `density`) sends fewer bytes and gives up equal bits for other numbers of members. `aggregation` (`mean`, the default,
   * `trimmedMean`, `krum`, `multiKrum`, `centeredClip`) says how the members' gradients become one; all but the mean stand up to
   * `hostile` members that send what they like, have members send their momentum (`memberMomentum`), and give up equal bits too.
   */
  allReduce: (options: Partial<Omit<AllReduceOptions, "kind">> = {}): AllReduceOptions => ({
    ...readAllReduce({}),
    ...options
  }),
  /**
   * A star through the coordinator, synchronous: every member sends it the sums of its lanes and receives the mean gradient
   * of the step. For members that cannot reach one another. It has no options.
   */
  parameterServer: (): StrategyOptions => ({ kind: "parameterServer" })
}
