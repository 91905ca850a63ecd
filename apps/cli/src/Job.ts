/**
 * The job that a command is about: its module, loaded here to be checked before any peer is asked.
 */
import {
  type ComputeError,
  CoordinatorError,
  type FinishedEvent,
  type JobLoadError,
  type JobOptionError,
  PeerNode,
  TrainingJob,
  coordinate
} from "artifice"
import { isAbsolute, relative } from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type CliFailure, failed, wrongUsage } from "./CliFailure.ts"
import type { Output } from "./Output.ts"
import type { Override } from "./Override.ts"

const jobFailure = (error: JobLoadError | JobOptionError): CliFailure =>
  error._tag === "JobOptionError"
    ? wrongUsage({
        code: "JOB_OPTION",
        message: `The job's option ${error.path} is ${error.given}`,
        hint: `Allowed is ${error.allowed}.`,
        cause: error
      })
    : failed({ code: "JOB_NOT_LOADED", message: error.message, hint: "", cause: error })

export const computeFailure = (error: ComputeError): CliFailure =>
  failed({
    code: `COMPUTE_${error.reason.toUpperCase()}`,
    message: error.message,
    hint: "Run it again with --log-level debug for the details.",
    cause: error
  })

/** Loads a job's module with its overrides. */
export const loadJob = (path: string, set: ReadonlyArray<Override>): Effect.Effect<TrainingJob, CliFailure> =>
  Effect.mapError(TrainingJob.load(path, { set }), jobFailure)

/** A job's path as another machine with the same tree may use it: relative to here, or nothing where it lies elsewhere. */
export const tellablePath = (path: string): string => {
  const told = relative(process.cwd(), path)
  return told.startsWith("..") || isAbsolute(told) ? "" : told.replaceAll("\\", "/")
}

/** Ends a command's work when the peer's supervision tree has given up: it would wait for ever for what cannot come. */
export const whilePeerLives = <A, R>(
  effect: Effect.Effect<A, CliFailure, R>
): Effect.Effect<A, CliFailure, R | PeerNode> =>
  Effect.flatMap(PeerNode, node =>
    Effect.raceFirst(
      effect,
      Effect.mapError(node.failure, error =>
        failed({
          code: "PEER_FAILED",
          message: error.message,
          hint: "Run it again with --log-level debug for the details.",
          cause: error
        })
      )
    )
  )

/** Coordinates a loaded job until it is done. */
export const coordinateJob = (
  job: TrainingJob,
  options: { readonly job: string; readonly set: ReadonlyArray<Override>; readonly minWorkers: number },
  output: Output
): Effect.Effect<FinishedEvent, CliFailure, PeerNode | Scope.Scope> =>
  coordinate({
    job,
    jobUrl: TrainingJob.url(options.job),
    module: tellablePath(options.job),
    set: options.set,
    minWorkers: options.minWorkers,
    onEvent: output.emit
  }).pipe(
    Effect.mapError(error =>
      error instanceof CoordinatorError
        ? failed({ code: error.code, message: error.message, hint: error.hint, cause: error })
        : computeFailure(error)
    ),
    whilePeerLives
  )
