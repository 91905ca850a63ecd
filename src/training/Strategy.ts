import { describeGiven, isRecord, JobOptionError, readOptions } from "../compute/Options.ts"

/** How the members of a job combine their gradients. */
export interface StrategyOptions {
  readonly kind: "parameterServer"
}

const kinds = ["parameterServer"] as const

/**
 * Checks a strategy and fills in defaults.
 * @throws JobOptionError with a path below `strategy`
 */
export const readStrategy = (given: unknown): StrategyOptions => {
  if (!isRecord(given) || typeof given.kind !== "string")
    throw new JobOptionError({
      path: "strategy",
      given: describeGiven(given),
      allowed: "a strategy, for example Strategy.parameterServer()"
    })
  const { kind, ...rest } = given
  const known = kinds.find(name => name === kind)
  if (known === undefined)
    throw new JobOptionError({
      path: "strategy.kind",
      given: describeGiven(kind),
      allowed: `one of ${kinds.join(", ")}`
    })
  return { kind: known, ...readOptions({}, rest, { prefix: "strategy" }) }
}

/** The strategies a job can choose. */
export const Strategy = {
  /**
   * A star through the coordinator, synchronous: every member sends it the sums of its lanes and receives the mean gradient
   * of the step. For members that cannot reach one another. It has no options.
   */
  parameterServer: (): StrategyOptions => ({ kind: "parameterServer" })
}
