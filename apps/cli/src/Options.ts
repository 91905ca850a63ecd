/**
 * What each command is given, parsed and checked.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Environment } from "effect/cli/Command"
import type { CliFailure } from "./CliFailure.ts"
import type { CoordinatorChoice } from "./CoordinatorChoice.ts"
import type { HostPort } from "./HostPort.ts"
import type { Output } from "./Output.ts"
import type { Override } from "./Override.ts"

/** `artifice run JOB`: the whole cluster on this machine. Paths are absolute. */
export interface RunOptions {
  readonly job: string
  /** Worker processes to start, at least 1. */
  readonly workers: number
  readonly listen: HostPort
  /** Members to wait for before the first step: by default all workers. */
  readonly minWorkers: number
  readonly set: ReadonlyArray<Override>
}

/** `artifice coordinator JOB`. */
export interface CoordinatorOptions {
  /** `ARTIFICE_HOME`: the folder of the identity and the peer database; absolute, perhaps not yet there. */
  readonly home: string
  readonly job: string
  readonly listen: HostPort
  readonly minWorkers: number
  readonly set: ReadonlyArray<Override>
}

/** `artifice worker`. Without `job` the coordinator names it. */
export interface WorkerOptions {
  readonly home: string
  readonly job: string | undefined
  readonly coordinator: CoordinatorChoice
}

/** `artifice init` and `artifice id`. */
export interface IdentityOptions {
  readonly home: string
}

/** What a command's module exports: the command itself, given its options and where to show what happens. */
export type CommandBody<Options> = (
  options: Options,
  output: Output
) => Effect.Effect<void, CliFailure, Scope.Scope | Environment>
