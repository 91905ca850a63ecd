/**
 * What each command is given, parsed and checked.
 */
import type { PeerNodeOptions } from "artifice"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { Environment } from "effect/cli/Command"
import type { CliFailure } from "./CliFailure.ts"
import type { CoordinatorChoice } from "./CoordinatorChoice.ts"
import type { HostPort } from "./HostPort.ts"
import type { Output } from "./Output.ts"
import type { Override } from "./Override.ts"

/** Checkpoints of a job that is coordinated. */
export interface CheckpointChoice {
  readonly resume: boolean
  /** `undefined`: the folder that the job's name gives, below the working directory. */
  readonly checkpointDir: string | undefined
}

/** `artifice run JOB`: the whole cluster on this machine. Paths are absolute. */
export interface RunOptions extends CheckpointChoice {
  readonly job: string
  /** Worker processes to start, at least 1. */
  readonly workers: number
  readonly listen: HostPort
  /** Members to wait for before the first step: by default all workers. */
  readonly minWorkers: number
  readonly set: ReadonlyArray<Override>
}

/** Absent where discovery on the local network is off. */
type Discovery = PeerNodeOptions["discovery"]

/** `artifice coordinator JOB`. */
export interface CoordinatorOptions extends CheckpointChoice {
  /** `ARTIFICE_HOME`: the folder of the identity and the peer database; absolute, perhaps not yet there. */
  readonly home: string
  readonly job: string
  /** Port 0: the one that the system chose the last time. */
  readonly listen: HostPort
  readonly discovery: Discovery
  readonly minWorkers: number
  readonly set: ReadonlyArray<Override>
}

/** `artifice worker`. Without `job` the coordinator names it. */
export interface WorkerOptions {
  readonly home: string
  readonly job: string | undefined
  readonly coordinator: CoordinatorChoice
  readonly discovery: Discovery
}

/** `artifice export`. */
export interface ExportOptions {
  /** A manifest, or a folder of checkpoints. */
  readonly checkpoint: string
  readonly out: string
}

/** `artifice invite`. */
export interface InviteOptions {
  readonly home: string
  readonly listen: HostPort
  readonly ttlMs: number
  /** Whether the person at this terminal compares the guest's fingerprint with the guest's screen. */
  readonly confirm: boolean
  readonly discovery: Discovery
}

/** `artifice join TOKEN`. */
export interface JoinOptions {
  readonly home: string
  readonly token: Redacted.Redacted<string>
}

/** `artifice peers show`, `remove` and `verify`. */
export interface PeerOptions {
  readonly home: string
  /** The beginning of its id, in lower-case hex digits. */
  readonly peer: string
}

/** `artifice init`, `artifice id` and `artifice peers list`. */
export interface IdentityOptions {
  readonly home: string
}

/** What a command's module exports: the command itself, given its options and where to show what happens. */
export type CommandBody<Options> = (
  options: Options,
  output: Output
) => Effect.Effect<void, CliFailure, Scope.Scope | Environment>
