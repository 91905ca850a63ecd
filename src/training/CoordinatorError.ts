import { Cause, Exit, Schema } from "effect"

/**
 * The job cannot go on. `NO_WORKERS`: none came, or none is left; `NON_FINITE`: a loss or gradient is not a number.
 */
export class CoordinatorError extends Schema.TaggedError<CoordinatorError>()("CoordinatorError", {
  code: Schema.Literals(["NO_WORKERS", "NON_FINITE", "INTERNAL"]),
  message: Schema.String,
  hint: Schema.String
}) {}

/** Why a job ended, in words for those who worked on it. */
export const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return "it was interrupted"
  const error = Cause.squash(exit.cause)
  return (error instanceof Error ? error.message : String(error)).slice(0, 1_000)
}
