import { Effect, Semaphore } from "effect"
import type { ComputeError, ComputeThread } from "../compute/ComputeThread.ts"
import type { StepGradient } from "./AllGather.ts"
import { Changed } from "./Changed.ts"
import type { ViewPlan } from "./DirectProtocol.ts"
import { GradientCompression } from "./GradientCompression.ts"
import { MemberVector } from "./MemberVector.ts"
import { sharedFloats } from "./Replica.ts"
import { isRobust } from "./Strategy.ts"
import type { TrainingJob } from "./TrainingJob.ts"
import type { ViewId } from "./ViewChange.ts"
import type { ViewExchange } from "./ViewExchange.ts"

/** Steps after which members say by a hash which state they have. */
export const stateHashSteps = 50

/** A state, and where in the job it is. */
export interface KeptState {
  readonly started: ViewId
  readonly step: number
  readonly stateSha256: string
  readonly lossSums: readonly [number, number]
  readonly state: Uint8Array
}

/**
 * A member's copy of the job's state in the direct exchange, and where in the job it stands. It outlives sessions with the coordinator: a
 * member that is found again goes on with what it has.
 */
export class DirectReplica {
  readonly job: TrainingJob
  readonly compute: ComputeThread
  readonly steps: number
  readonly changed = new Changed()
  /** One at a time computes on the state or changes it. */
  readonly exclusive = Semaphore.makeUnsafe(1)
  /** The last view that was prepared: older ones are refused. */
  prepared: ViewId = { term: 0, view: 0 }
  /** The last view whose state this is. */
  started: ViewId = { term: 0, view: 0 }
  applied = 0
  /** Sums of the step losses of the epoch before that of the last applied step, and of that one. */
  lossSums: readonly [number, number] = [0, 0]
  /** The gradient of the last applied step: for one who lacks just that. */
  last: StepGradient | undefined
  /** The view in progress. */
  exchange: ViewExchange | undefined
  /** Parameters at the end of epochs whose test figures are not known yet, by step. */
  readonly snapshots = new Map<number, Float32Array>()
  /** Gradients of steps that are over, to be filled again. */
  readonly free: Array<Float32Array> = []
  /** Losses of the applied steps that the coordinator has not been told of, the last one last. */
  unreported: Array<number> = []
  /** The newest state hash that the coordinator has not been told of. */
  stateHash: { readonly step: number; readonly sha256: string } | undefined
  /** Where what travels is compressed. */
  readonly compression: GradientCompression | undefined
  /** Where a robust rule takes the place of the mean. */
  readonly vector: MemberVector | undefined
  /** The state of the last step of which this member is to keep a copy for a checkpoint. */
  kept: KeptState | undefined
  computeMs = 0
  sentBytes = 0

  constructor(job: TrainingJob, compute: ComputeThread) {
    this.job = job
    this.compute = compute
    this.steps = compute.info.stepsPerEpoch * job.epochs
    const { strategy, lanes } = job
    if (strategy.kind === "allReduce" && strategy.compression !== "none")
      this.compression = new GradientCompression(strategy, compute.info.parameterCount, lanes)
    if (isRobust(strategy)) this.vector = new MemberVector(strategy, compute.info.parameterCount)
  }

  /** Ends the view in progress: nothing of it arrives or is applied any more. */
  freeze(): void {
    this.exchange?.close()
    this.exchange = undefined
    this.changed.notify()
  }

  /** Applies the gradient of the next step, unless its view is over. A gradient that is not finite changes nothing but the count. */
  apply(
    exchange: ViewExchange,
    { step, values, loss }: StepGradient,
    skip: boolean
  ): Effect.Effect<boolean, ComputeError> {
    return Effect.uninterruptible(
      this.exclusive.withPermits(1)(
        Effect.gen({ self: this }, function* () {
          if (exchange.closed || step !== this.applied + 1) return false
          if (!skip) yield* this.compute.applyStep(values)
          this.compression?.applied(step, skip)
          this.vector?.applied(skip)
          const { stepsPerEpoch } = this.compute.info
          const [before, current] = this.lossSums
          const counted = skip ? 0 : loss
          this.lossSums = (step - 1) % stepsPerEpoch === 0 ? [current, counted] : [before, current + counted]
          if (this.last !== undefined) this.free.push(this.last.values)
          this.last = { step, values, loss }
          this.applied = step
          this.unreported.push(counted)
          this.#keepSnapshot()
          const { checkpointSteps = 0, members } = exchange.plan
          const isSaved = checkpointSteps > 0 && step % checkpointSteps === 0
          if (isSaved || step % stateHashSteps === 0 || step === this.steps)
            this.stateHash = { step, sha256: yield* this.compute.stateSha256(step) }
          if (isSaved && members[0]?.peer === exchange.self) this.kept = yield* this.#copy
          this.changed.notify()
          return true
        })
      )
    )
  }

  /** Takes the state that a donor has sent; false where it is not the one that the coordinator has named. */
  takeState(
    exchange: ViewExchange,
    { base, stateSha256, lossSums }: ViewPlan,
    state: Uint8Array
  ): Effect.Effect<boolean, ComputeError> {
    return Effect.uninterruptible(
      this.exclusive.withPermits(1)(
        Effect.gen({ self: this }, function* () {
          if (exchange.closed) return true
          // Whatever comes of it, this is not the state of an older view any more.
          this.started = { term: 0, view: 0 }
          this.#replace(base, lossSums, state)
          return (yield* this.compute.stateSha256(base)) === stateSha256
        })
      )
    )
  }

  /** The state after `step`, where it is the one held now or the copy that was kept; or the copy, whatever its step. */
  give(step: number, newest: boolean): Effect.Effect<KeptState | undefined, ComputeError> {
    return this.exclusive.withPermits(1)(
      Effect.suspend(() => {
        if (newest || this.kept?.step === step) return Effect.succeed(this.kept)
        return this.applied === step ? this.#copy : Effect.succeed(undefined)
      })
    )
  }

  get #copy(): Effect.Effect<KeptState, ComputeError> {
    return Effect.suspend(() => {
      const { started, applied: step, lossSums } = this
      const state = this.copyState()
      return Effect.map(this.compute.stateSha256(step), stateSha256 => ({
        started,
        step,
        lossSums,
        state,
        stateSha256
      }))
    })
  }

  /** Takes the state of a checkpoint: from now on this member stands where it was saved. False where it is another one. */
  restore({ started, step, stateSha256, lossSums, state }: KeptState): Effect.Effect<boolean, ComputeError> {
    return Effect.uninterruptible(
      this.exclusive.withPermits(1)(
        Effect.gen({ self: this }, function* () {
          this.started = { term: 0, view: 0 }
          this.#replace(step, lossSums, state)
          if ((yield* this.compute.stateSha256(step)) !== stateSha256) return false
          this.started = started
          return true
        })
      )
    )
  }

  #replace(step: number, lossSums: readonly [number, number], state: Uint8Array): void {
    this.compute.writeState(state)
    this.compression?.clear()
    this.vector?.clear()
    this.applied = step
    this.lossSums = lossSums
    this.last = undefined
    this.kept = undefined
    this.snapshots.clear()
    this.unreported = []
    this.#keepSnapshot()
  }

  #keepSnapshot(): void {
    const { parameters, info } = this.compute
    if (this.applied === 0 || this.applied % info.stepsPerEpoch !== 0) return
    const snapshot = sharedFloats(info.parameterCount)
    snapshot.set(parameters)
    this.snapshots.set(this.applied, snapshot)
  }

  /** A copy of the state. Nothing may be computing or changing it. */
  copyState(): Uint8Array {
    const state = new Uint8Array(this.compute.stateByteLength)
    this.compute.readState(state)
    return state
  }
}
