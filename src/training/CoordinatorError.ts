import { Cause, Exit, Schema } from "effect"

/**
 * The job cannot go on. `NO_WORKERS`: none came, or too few are left; `TOO_FEW_WORKERS`: the rule of aggregation needs more than were asked
 * for; `NON_FINITE`: a loss or gradient is not a number; `STALE_TERM`: another coordinator has taken this one's place.
 */
export class CoordinatorError extends Schema.TaggedError<CoordinatorError>()("CoordinatorError", {
  code: Schema.Literals([
    "NO_WORKERS",
    "TOO_FEW_WORKERS",
    "NON_FINITE",
    "STALE_TERM",
    "CANNOT_RESUME",
    "CHECKPOINT_FOLDER",
    "INTERNAL"
  ]),
  message: Schema.String,
  hint: Schema.String
}) {
  static nonFiniteLane(lane: number, step: number, peer: string): CoordinatorError {
    return new CoordinatorError({
      code: "NON_FINITE",
      message: `lane ${lane} of step ${step}, computed by ${peer}, has a loss or gradient that is not finite`,
      hint: "Lower the learning rate, or look for a division by zero or a logarithm of zero in the loss."
    })
  }

  /** `element`: the first of the gradient that is not finite, or −1 where only the loss is not. */
  static nonFiniteSum(step: number, element: number): CoordinatorError {
    const where = element >= 0 ? ` at element ${element}` : ""
    return new CoordinatorError({
      code: "NON_FINITE",
      message: `the sum of step ${step} is not finite${where}, though every lane was`,
      hint: "Lower the learning rate: the gradients overflow float32."
    })
  }

  /** `computing` of the `workers` can have equally many lanes, where the rule needs `needed`; `least` workers would do. */
  static tooFewWorkers(job: {
    readonly aggregation: string
    readonly hostile: number
    readonly needed: number
    readonly lanes: number
    readonly workers: number
    readonly computing: number
    readonly least: number
  }): CoordinatorError {
    const { aggregation, hostile, needed, lanes, workers, computing, least } = job
    return new CoordinatorError({
      code: "TOO_FEW_WORKERS",
      message: `${aggregation} against ${hostile} hostile members needs ${needed} with equally many of the ${lanes} lanes, and of ${workers} workers ${computing} can have that`,
      hint: `Begin with ${least} workers or more, or lower strategy.hostile.`
    })
  }

  static alreadyRunning(message: string): CoordinatorError {
    return new CoordinatorError({ code: "INTERNAL", message, hint: "Run one job at a time." })
  }

  static staleTerm(term: number): CoordinatorError {
    return new CoordinatorError({
      code: "STALE_TERM",
      message: `a coordinator with term ${term} or a later one has taken this one's place`,
      hint: "Let that one finish the job; start this one again if it does not."
    })
  }
}

/** Why a job ended, in words for those who worked on it. */
export const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return "it was interrupted"
  const error = Cause.squash(exit.cause)
  return (error instanceof Error ? error.message : String(error)).slice(0, 1_000)
}
