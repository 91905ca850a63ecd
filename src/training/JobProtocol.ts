import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { Fingerprint, type FingerprintDifference } from "./Fingerprint.ts"

/** What coordinator and workers say to each other. Gradients travel beside this, as tensors. */

export const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
export const Lanes = Schema.Array(Count).check(Schema.isMaxLength(256))
const ShortText = Schema.String.check(Schema.isMaxLength(4_096))
export const Sha256 = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))

/** The worker's job differs from the coordinator's, and this is the first field in which it does. */
export class JobMismatch extends Schema.TaggedError<JobMismatch>()("JobMismatch", {
  field: ShortText,
  coordinator: ShortText,
  worker: ShortText
}) {
  override get message() {
    return `this machine's job is another one: ${this.field} is ${this.worker} here and ${this.coordinator} at the coordinator`
  }
}

/** The job has ended, or is about to: nothing is left to compute. */
export class JobOver extends Schema.TaggedError<JobOver>()("JobOver", {}) {
  override get message() {
    return "the job is over"
  }
}

export const mismatchOf = ({ field, ours, theirs }: FingerprintDifference): JobMismatch =>
  new JobMismatch({
    field,
    coordinator: (ours ?? "absent").slice(0, 4_096),
    worker: (theirs ?? "absent").slice(0, 4_096)
  })

export const coordinatorService = "coordinator"
export const CoordinatorProtocol = RpcGroup.make(
  /** Which job is coordinated here, for a worker that was not told: the module as a path relative to the place it is run from, and its overrides. */
  Rpc.make("Describe", {
    success: Schema.Struct({
      name: ShortText,
      module: ShortText,
      set: Schema.Array(Schema.Tuple([ShortText, ShortText]))
    })
  }),
  /** Asks to become a member. `steps` is how many steps are applied: above 0, the state of that step follows as a tensor. */
  Rpc.make("Join", {
    payload: {
      fingerprint: Fingerprint,
      initialWeightsSha256: Sha256,
      /** The highest term that this worker has worked under. */
      term: Count
    },
    success: Schema.Struct({ steps: Count }),
    error: Schema.Union([JobMismatch, JobOver])
  }),
  /**
   * A lane's loss or gradient is not finite, or, without a lane, the sum of all at an element: the step cannot be applied. With a peer: what that
   * one has sent is not finite, and a robust rule has left it out.
   */
  Rpc.make("ReportNonFinite", {
    payload: {
      step: Count,
      lane: Schema.optionalKey(Count),
      element: Schema.optionalKey(Schema.Int),
      peer: Schema.optionalKey(Sha256)
    }
  })
)
export type CoordinatorRpcs = RpcGroup.Rpcs<typeof CoordinatorProtocol>

export const workerService = "worker"
export const WorkerProtocol = RpcGroup.make(
  /** The star: from here on, with `base` steps applied, compute these lanes of every step. An unfinished step of the view before is dropped. */
  Rpc.make("AssignLanes", {
    payload: { view: Count, base: Count, lanes: Lanes }
  }),
  /** Evaluates all test examples at the parameters of this step, which the star sends as a tensor; sums in float64 over batches in index order. */
  Rpc.make("Evaluate", {
    payload: { step: Count },
    success: Schema.Struct({
      count: Count,
      lossSum: Schema.Number,
      metricSums: Schema.Record(ShortText, Schema.Number)
    })
  }),
  /** All steps are applied: says with which result, and how many bytes of tensors this member has sent. */
  Rpc.make("Finish", {
    payload: { steps: Count },
    success: Schema.Struct({ weightsSha256: Sha256, sentBytes: Count })
  }),
  /** The job ends without being done, for this reason: there is nothing to come back for. */
  Rpc.make("Stop", { payload: { reason: ShortText } })
)
export type WorkerRpcs = RpcGroup.Rpcs<typeof WorkerProtocol>
