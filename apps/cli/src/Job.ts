/**
 * The job that a command is about: its module, loaded here to be checked before any peer is asked.
 */
import {
  type CheckpointError,
  Checkpoints,
  type ComputeError,
  CoordinatorError,
  type FinishedEvent,
  type JobLoadError,
  type JobOptionError,
  PeerNode,
  type SessionError,
  TrainingJob,
  coordinate,
  defaultCheckpointFolder,
  WorkQueue,
  type WorkQueueError,
  WorkQueueMemory
} from "artifice"
import { isAbsolute, join, relative, resolve } from "node:path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { CliFailure, failed, wrongUsage } from "./CliFailure.ts"
import type { CheckpointChoice } from "./Options.ts"
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

export const cannotInvite = (error: SessionError): CliFailure =>
  failed({
    code: "CANNOT_INVITE",
    message: error.message,
    hint: "Run it again with --log-level debug.",
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

const folderFailure = ({ path, message, hint }: CheckpointError): CliFailure =>
  failed({ code: "CHECKPOINT_FOLDER", message: `${path} cannot hold checkpoints: ${message}`, hint })

/** A counter of terms in a home, which outlives this process; a job's terms rise for whoever coordinates it from there. */
const termsOf = (home: string, job: string) =>
  Effect.map(
    Layer.build(WorkQueueMemory.layer({ termsFile: join(home, "terms.json") })),
    context => (seen: number) => Context.get(context, WorkQueue).nextTerm(job, seen)
  )

/** Coordinates a loaded job until it is done. With a `home`, which this process must have, its terms are kept there. */
export const coordinateJob = (
  job: TrainingJob,
  options: CheckpointChoice & {
    readonly job: string
    readonly set: ReadonlyArray<Override>
    readonly minWorkers: number
    readonly home?: string
  },
  output: Output
): Effect.Effect<FinishedEvent, CliFailure, PeerNode | Scope.Scope> =>
  Effect.gen(function* () {
    const { everySteps, keep } = job.checkpoint
    const folder = resolve(options.checkpointDir ?? defaultCheckpointFolder(job.name))
    const checkpoints =
      everySteps === 0 ? undefined : yield* Effect.mapError(Checkpoints.make({ folder, keep }), folderFailure)
    const terms =
      options.home === undefined ? undefined : yield* Effect.mapError(termsOf(options.home, job.name), termFailure)
    return yield* coordinate({
      job,
      jobUrl: TrainingJob.url(options.job),
      module: tellablePath(options.job),
      set: options.set,
      minWorkers: options.minWorkers,
      onEvent: output.emit,
      checkpoints,
      resume: options.resume,
      nextTerm: terms === undefined ? undefined : seen => Effect.mapError(terms(seen), termFailure)
    })
  }).pipe(
    Effect.mapError(error => {
      if (error instanceof CliFailure) return error
      return error instanceof CoordinatorError
        ? failed({ code: error.code, message: error.message, hint: error.hint, cause: error })
        : computeFailure(error)
    }),
    whilePeerLives
  )

const termFailure = ({ message, hint }: WorkQueueError): CoordinatorError =>
  new CoordinatorError({ code: "INTERNAL", message, hint })
