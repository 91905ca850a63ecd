/**
 * What a running job tells the outside: the objects that `artifice --json` prints one per line.
 *
 * A job emits these values and any printer consumes them; the printer adds `at` (ISO 8601). Fields may be added later,
 * the ones here stay. `peer` is 64 lower-case hex digits, `epoch` and `step` count from 1, `step` and `steps` count
 * applied steps of the whole job, losses are natural-log means, accuracy is 0..1.
 */
import * as Schema from "effect/Schema"

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Ordinal = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const NonNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const Fraction = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const Hex256 = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/, { expected: "64 lower-case hex digits" }))
const ErrorCode = Schema.String.check(
  Schema.isPattern(/^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$/, { expected: "a code in SCREAMING_SNAKE" })
)

/** One process of the cluster on this machine, from `run`: itself and each child. */
export const ProcessEvent = Schema.Struct({
  event: Schema.Literal("process"),
  role: Schema.Literals(["coordinator", "worker"]),
  pid: Ordinal,
  peer: Hex256
})
export type ProcessEvent = typeof ProcessEvent.Type

/** This peer accepts connections. `address` is `HOST:PORT` with the port really bound. */
export const ListeningEvent = Schema.Struct({
  event: Schema.Literal("listening"),
  peer: Hex256,
  address: Schema.String,
  dashboard: Schema.optionalKey(Schema.String)
})
export type ListeningEvent = typeof ListeningEvent.Type

/** A one-time token to pair with this peer, and the exact command to run on the other machine. */
export const InviteEvent = Schema.Struct({
  event: Schema.Literal("invite"),
  token: Schema.String,
  expiresAt: Schema.String,
  command: Schema.String
})
export type InviteEvent = typeof InviteEvent.Type

/** A member joined; `members` is the count after it. */
export const MemberJoinedEvent = Schema.Struct({
  event: Schema.Literal("member-joined"),
  peer: Hex256,
  members: Count
})
export type MemberJoinedEvent = typeof MemberJoinedEvent.Type

/** A member was lost or left; `members` is the count after it. */
export const MemberLostEvent = Schema.Struct({
  event: Schema.Literal("member-lost"),
  peer: Hex256,
  members: Count,
  reason: Schema.String
})
export type MemberLostEvent = typeof MemberLostEvent.Type

/** A new view: who computes which lanes and reduces which `[from, to)` of the flat gradient. `lanes` is the total. */
export const ViewEvent = Schema.Struct({
  event: Schema.Literal("view"),
  view: Count,
  members: Schema.Array(
    Schema.Struct({
      peer: Hex256,
      lanes: Schema.Array(Count),
      segment: Schema.Tuple([Count, Count])
    })
  ),
  lanes: Ordinal
})
export type ViewEvent = typeof ViewEvent.Type

/** A step was applied. A job emits every step; printers show at most 4 per second. */
export const StepEvent = Schema.Struct({
  event: Schema.Literal("step"),
  epoch: Ordinal,
  step: Ordinal,
  steps: Ordinal,
  loss: Schema.Finite,
  examplesPerSecond: NonNegative,
  members: Count
})
export type StepEvent = typeof StepEvent.Type

/** A step was counted and changed nothing: a lane of it, or the sum of all, was not finite. `peer` computed the lane, or has told of the sum. */
export const SkippedEvent = Schema.Struct({
  event: Schema.Literal("skipped"),
  step: Ordinal,
  peer: Hex256,
  lane: Schema.optionalKey(Count)
})
export type SkippedEvent = typeof SkippedEvent.Type

/**
 * A step was applied without a member's vector: a robust rule had to leave it out, as it was not finite. `lane` where the member has said so
 * itself.
 */
export const LeftOutEvent = Schema.Struct({
  event: Schema.Literal("left-out"),
  step: Ordinal,
  peer: Hex256,
  lane: Schema.optionalKey(Count)
})
export type LeftOutEvent = typeof LeftOutEvent.Type

/** An epoch is over and its test figures are known. */
export const EpochEvent = Schema.Struct({
  event: Schema.Literal("epoch"),
  epoch: Ordinal,
  trainLoss: Schema.Finite,
  testLoss: Schema.Finite,
  testAccuracy: Schema.optionalKey(Fraction)
})
export type EpochEvent = typeof EpochEvent.Type

/** A job goes on from a checkpoint, with `step` steps applied; without `path` there was none, and it begins at step 0. */
export const ResumedEvent = Schema.Struct({
  event: Schema.Literal("resumed"),
  step: Count,
  path: Schema.optionalKey(Schema.String)
})
export type ResumedEvent = typeof ResumedEvent.Type

/** A checkpoint is safe on the disk; `path` names its manifest. */
export const CheckpointEvent = Schema.Struct({
  event: Schema.Literal("checkpoint"),
  path: Schema.String,
  step: Count
})
export type CheckpointEvent = typeof CheckpointEvent.Type

/** A checkpoint could not be saved: the job goes on, and those saved before are still there. */
export const CheckpointFailedEvent = Schema.Struct({
  event: Schema.Literal("checkpoint-failed"),
  step: Count,
  reason: Schema.String,
  message: Schema.String,
  hint: Schema.String
})
export type CheckpointFailedEvent = typeof CheckpointFailedEvent.Type

/** A checkpoint that was to be resumed was passed over: it is torn, or of another job. */
export const CheckpointSkippedEvent = Schema.Struct({
  event: Schema.Literal("checkpoint-skipped"),
  path: Schema.String,
  reason: Schema.String
})
export type CheckpointSkippedEvent = typeof CheckpointSkippedEvent.Type

/**
 * The job is done. `seconds` runs from the start of the first step to the last step applied; `weightsSha256` is over the
 * flat float32 parameters, little-endian, leaves in the order of their key path sorted by UTF-16 code unit.
 */
export const FinishedEvent = Schema.Struct({
  event: Schema.Literal("finished"),
  job: Schema.String,
  epochs: Ordinal,
  steps: Ordinal,
  members: Count,
  seconds: NonNegative,
  examplesPerSecond: NonNegative,
  trainLoss: Schema.Finite,
  testLoss: Schema.Finite,
  testAccuracy: Schema.optionalKey(Fraction),
  weightsSha256: Hex256,
  shards: Schema.Struct({ expected: Count, counted: Count }),
  /** Bytes of gradients, states and parameters that crossed the network, their headers included. */
  sentBytes: Schema.optionalKey(Count)
})
export type FinishedEvent = typeof FinishedEvent.Type

/** The command failed: a stable `code`, what happened, and what to do. */
export const ErrorEvent = Schema.Struct({
  event: Schema.Literal("error"),
  code: ErrorCode,
  message: Schema.String,
  hint: Schema.String
})
export type ErrorEvent = typeof ErrorEvent.Type

/** Every event of a job, told apart by `event`. */
export const JobEvent = Schema.Union([
  ProcessEvent,
  ListeningEvent,
  InviteEvent,
  MemberJoinedEvent,
  MemberLostEvent,
  ViewEvent,
  StepEvent,
  SkippedEvent,
  LeftOutEvent,
  EpochEvent,
  ResumedEvent,
  CheckpointEvent,
  CheckpointFailedEvent,
  CheckpointSkippedEvent,
  FinishedEvent,
  ErrorEvent
])
export type JobEvent = typeof JobEvent.Type

/** A printed line (JSON text) to its event; unknown fields such as `at` are dropped, an unknown event is refused. */
export const JobEventLine = Schema.fromJsonString(JobEvent)
