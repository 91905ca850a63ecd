import type { PeerNode } from "../node/PeerNode.ts"
import type { ComputeInfo } from "../compute/Engine.ts"
import type { CheckpointDesk } from "./CheckpointDesk.ts"
import type { CoordinatorError } from "./CoordinatorError.ts"
import type { Changed } from "./Changed.ts"
import type { EvaluationDesk } from "./EvaluationDesk.ts"
import type { JobEvent } from "./JobEvent.ts"
import type { Membership } from "./Membership.ts"
import type { Speed } from "./Speed.ts"
import type { TrainingJob } from "./TrainingJob.ts"
import type { Effect } from "effect"

/** How long the coordinator waits for workers: for the first ones, and again whenever none is left. */
export const workerPatienceMs = 10 * 60_000
/** How long a member may take for its part of a step, or to take in a tensor, before it is given up. */
export const stepDeadlineMs = 120_000
/** How long a member may take to answer a change of view. */
export const viewDeadlineMs = 30_000

/** How long the last checkpoint of a job that is interrupted may take, the members' stop included. */
export const drainDeadlineMs = 60_000

/** A job that is being coordinated, whatever its strategy. */
export interface Coordination {
  readonly node: PeerNode["Service"]
  readonly job: TrainingJob
  readonly info: ComputeInfo
  /** First bytes of the SHA-256 of the job's fingerprint, which name it in every tensor's header. */
  readonly jobId: Uint8Array
  /** Steps of the whole job. */
  readonly steps: number
  /** Workers to wait for before the first step. */
  readonly minWorkers: number
  readonly members: Membership
  /** Notified when members come or go, and by whoever changes what the coordinator waits for. */
  readonly changed: Changed
  readonly speed: Speed
  readonly evaluations: EvaluationDesk
  readonly checkpoints: CheckpointDesk
  /** Bytes of a whole state. */
  readonly stateBytes: number
  /** Begins a term above all that are known, which none before it had: it is durable before it is given. `seen`: the highest that a member has told. */
  readonly nextTerm: (seen: number) => Effect.Effect<number, CoordinatorError>
  readonly onEvent: (event: JobEvent) => Effect.Effect<void>
}

/** What a strategy leaves when all steps are applied and every member has said with which weights. */
export interface Trained {
  readonly weightsSha256: string
  /** Lanes of applied steps. */
  readonly countedShards: number
  /** Bytes of tensors that members, and the coordinator where it takes part, have sent, headers included. */
  readonly sentBytes: number
}

/** The epoch, counted from 1, to which a step, counted from 1, belongs. */
export const epochOf = (step: number, { stepsPerEpoch }: ComputeInfo): number =>
  Math.floor((step - 1) / stepsPerEpoch) + 1
