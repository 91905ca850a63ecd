import { Effect, Semaphore } from "effect"
import type { LaneNode } from "../compute/LaneTree.ts"
import type { ComputeError, ComputeThread } from "../compute/ComputeThread.ts"
import { bytesOf, Placement, type PlaceTensor } from "../node/GradientExchanger.ts"
import { tensorKinds } from "../node/TensorHeader.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { Session } from "../transport/Session.ts"
import { Changed } from "./Changed.ts"
import type { TrainingJob } from "./TrainingJob.ts"

/** Reduced gradients that may wait to be applied: a member falls behind by no more than its network lets it. */
const maxWaitingGradients = 8
/** Sets of parameters that may wait to be evaluated. */
const maxEvaluations = 4

/** What the coordinator has told this member to compute, once `base` steps are applied. */
export interface View {
  readonly view: number
  readonly base: number
  readonly nodes: ReadonlyArray<LaneNode>
}

interface Evaluation {
  readonly parameters: Float32Array
  arrived: boolean
}

/** Floats in memory that the compute thread shares. */
export const sharedFloats = (length: number): Float32Array => new Float32Array(new SharedArrayBuffer(length * 4))

/** This member's copy of the job's state, and the tensors that change it. One at a time computes on it or changes it. */
export class Replica {
  readonly compute: ComputeThread
  readonly job: TrainingJob
  readonly jobId: Uint8Array
  readonly steps: number
  readonly changed = new Changed()
  readonly exclusive = Semaphore.makeUnsafe(1)
  /** The session that counts: tensors of any other are late. */
  session: Session | undefined
  view: View | undefined
  /** Bytes of tensors sent, headers included. */
  sentBytes = 0
  /** Steps applied to the parameters. */
  applied = 0
  readonly evaluations = new Map<number, Evaluation>()
  readonly #free: Array<Float32Array> = []
  readonly #arrived: Array<
    { readonly step: number; readonly gradient: Float32Array } | { readonly step: number; readonly state: Uint8Array }
  > = []
  #gradients = 0

  constructor(job: TrainingJob, compute: ComputeThread, jobId: Uint8Array) {
    this.job = job
    this.compute = compute
    this.jobId = jobId
    this.steps = compute.info.stepsPerEpoch * job.epochs
  }

  readonly place: PlaceTensor = (header, _from, session) => {
    if (session !== this.session) return undefined
    const { compute } = this
    const isState = header.kind === tensorKinds.state
    const length = isState ? compute.stateByteLength : compute.info.parameterCount
    if (header.segment.from !== 0 || header.segment.to !== length)
      throw new ProtocolError("MALFORMED", "a part of a tensor")
    switch (header.kind) {
      case tensorKinds.reduced:
        return this.#placeGradient(header.step)
      case tensorKinds.state: {
        const state = new Uint8Array(length)
        return new Placement(state, () => this.#arrive({ step: header.step, state }))
      }
      case tensorKinds.evaluation: {
        if (this.evaluations.size >= maxEvaluations)
          throw new ProtocolError("LIMIT", `${maxEvaluations} evaluations are waiting`)
        const evaluation = { parameters: sharedFloats(length), arrived: false }
        this.evaluations.set(header.step, evaluation)
        return new Placement(bytesOf(evaluation.parameters), () => {
          evaluation.arrived = true
          this.changed.notify()
        })
      }
      default:
        throw new ProtocolError("UNEXPECTED", `a worker takes no tensor of kind ${header.kind}`)
    }
  }

  #placeGradient(step: number): Placement {
    if (this.#gradients >= maxWaitingGradients)
      throw new ProtocolError("LIMIT", `${maxWaitingGradients} gradients are waiting`)
    this.#gradients++
    const gradient = this.#free.pop() ?? sharedFloats(this.compute.info.parameterCount)
    return new Placement(bytesOf(gradient), () => this.#arrive({ step, gradient }))
  }

  #arrive(
    tensor:
      { readonly step: number; readonly gradient: Float32Array } | { readonly step: number; readonly state: Uint8Array }
  ): void {
    this.#arrived.push(tensor)
    this.changed.notify()
  }

  /**
   * Begins anew with another session: what the old one had on its way never arrives, and what this replica holds counts for nothing until the
   * coordinator has said, or sent, where the job is.
   */
  attach(session: Session): void {
    this.session = session
    this.view = undefined
    this.applied = 0
    this.#arrived.length = 0
    this.#gradients = 0
    this.evaluations.clear()
  }

  /** Applies what has arrived, in order, for ever. A gradient out of order ends the session: this replica would no longer be one. */
  applyArrivals(session: Session): Effect.Effect<never, ComputeError> {
    return Effect.forever(
      Effect.flatMap(
        this.changed.until(() => this.#arrived.shift()),
        tensor => {
          if ("state" in tensor) return this.#takeState(tensor.step, tensor.state)
          if (tensor.step !== this.applied + 1) {
            session.fail("UNEXPECTED", `the gradient of step ${tensor.step} after step ${this.applied}`)
            return Effect.void
          }
          return this.#apply(tensor.step, tensor.gradient)
        }
      )
    )
  }

  #apply(step: number, gradient: Float32Array): Effect.Effect<void, ComputeError> {
    // Not to be left between the parameters and their number of steps.
    return Effect.uninterruptible(
      this.exclusive.withPermits(1)(
        Effect.andThen(
          this.compute.applyStep(gradient),
          Effect.sync(() => {
            this.#free.push(gradient)
            this.#gradients--
            this.applied = step
            this.changed.notify()
          })
        )
      )
    )
  }

  #takeState(step: number, state: Uint8Array): Effect.Effect<void> {
    return Effect.andThen(
      this.compute.cancel,
      this.exclusive.withPermits(1)(
        Effect.sync(() => {
          this.compute.writeState(state)
          this.applied = step
          this.changed.notify()
        })
      )
    )
  }
}
