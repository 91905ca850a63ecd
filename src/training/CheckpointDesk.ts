import { Effect } from "effect"
import type { ComputeThread } from "../compute/ComputeThread.ts"
import { loadCheckpoint, type Checkpoints, type LoadedCheckpoint } from "./Checkpoint.ts"
import type { CheckpointError } from "./CheckpointError.ts"
import type { Ledger } from "./CheckpointManifest.ts"
import { CoordinatorError } from "./CoordinatorError.ts"
import type { Fingerprint } from "./Fingerprint.ts"
import type { JobEvent } from "./JobEvent.ts"
import type { TrainingJob } from "./TrainingJob.ts"
import type { ViewId } from "./ViewChange.ts"

/** A state as a checkpoint is to hold it. */
export interface StateToSave {
  readonly id: ViewId
  /** Applied steps. */
  readonly step: number
  /** Sum of the step losses of the epochs that it knows, by epoch, the last of them that of `step`. */
  readonly lossSums: ReadonlyArray<readonly [epoch: number, sum: number]>
  readonly state: Uint8Array
}

/** Where the state is that all can be brought back to. */
export interface RestorePoint {
  readonly id: ViewId
  readonly step: number
  readonly stateSha256: string
  /** Sums of the step losses of the epoch before that of `step`, and of that one. */
  readonly lossSums: readonly [number, number]
  readonly load: Effect.Effect<Uint8Array, CoordinatorError>
}

const cannotResume = (message: string, hint: string): CoordinatorError =>
  new CoordinatorError({ code: "CANNOT_RESUME", message, hint })

/** Loss sums of the epoch before that of the last applied step, and of that one, as members keep them. */
const lastTwo = ({ epochLossSums: sums }: Ledger): readonly [number, number] => [sums.at(-2) ?? 0, sums.at(-1) ?? 0]

const pointOf = ({ path, position, ledger, stateSha256 }: Omit<LoadedCheckpoint, "state">): RestorePoint => ({
  id: { term: position.term, view: position.view },
  step: position.step,
  stateSha256,
  lossSums: lastTwo(ledger),
  load: loadCheckpoint(path).pipe(
    Effect.map(({ state }) => state),
    Effect.mapError(({ message, hint }) => cannotResume(`${path} cannot be read again: ${message}`, hint))
  )
})

/** The checkpoints of a job that is being coordinated: when they are due, what goes into them, and the one to go back to. */
export class CheckpointDesk {
  readonly #checkpoints: Checkpoints | undefined
  readonly #job: TrainingJob
  readonly #compute: ComputeThread
  readonly #fingerprint: Fingerprint
  readonly #emit: (event: JobEvent) => Effect.Effect<void>
  /** Sum of the step losses of each epoch that is known, by epoch. */
  readonly #epochLossSums = new Map<number, number>()
  #saved = -1
  /** The newest checkpoint of this run. */
  point: RestorePoint | undefined

  /** Without `checkpoints` nothing is saved. */
  constructor(
    checkpoints: Checkpoints | undefined,
    job: TrainingJob,
    compute: ComputeThread,
    fingerprint: Fingerprint,
    emit: (event: JobEvent) => Effect.Effect<void>
  ) {
    this.#checkpoints = checkpoints
    this.#job = job
    this.#compute = compute
    this.#fingerprint = fingerprint
    this.#emit = emit
  }

  /** Steps from one checkpoint to the next; 0 where none are saved. */
  get everySteps(): number {
    return this.#checkpoints === undefined ? 0 : this.#job.checkpoint.everySteps
  }

  isDue(step: number): boolean {
    return this.everySteps > 0 && step % this.everySteps === 0
  }

  /** Whether a state with so many applied steps has yet to be saved. */
  lacks(step: number): boolean {
    return this.everySteps > 0 && step > 0 && step !== this.#saved
  }

  /** The highest term that a checkpoint was saved under. */
  get highestTerm(): Effect.Effect<number, CoordinatorError> {
    return this.#checkpoints === undefined
      ? Effect.succeed(0)
      : Effect.mapError(this.#checkpoints.highestTerm, folderError)
  }

  /** Goes on from the newest good checkpoint: undefined where there is none at all. Fails where there are some, and none that can be used. */
  readonly resume = Effect.fnUntraced(function* (
    this: CheckpointDesk
  ): Effect.fn.Return<LoadedCheckpoint | undefined, CoordinatorError> {
    if (this.#checkpoints === undefined)
      return yield* cannotResume("this job has no checkpoints", "Set checkpoint.everySteps, or begin without --resume.")
    const { folder } = this.#checkpoints
    const { checkpoint, skipped } = yield* Effect.mapError(this.#checkpoints.newest(this.#fingerprint), folderError)
    for (const { path, reason } of skipped) yield* this.#emit({ event: "checkpoint-skipped", path, reason })
    const [first] = skipped
    if (checkpoint === undefined && first !== undefined)
      return yield* cannotResume(
        `no checkpoint in ${folder} can be used: ${first.path.slice(folder.length + 1)}: ${first.reason}`,
        "Give the job the options that it had, name another --checkpoint-dir, or begin without --resume."
      )
    if (checkpoint === undefined) {
      yield* this.#emit({ event: "resumed", step: 0 })
      return undefined
    }
    const { path, position, ledger } = checkpoint
    for (const [index, sum] of ledger.epochLossSums.entries()) this.#epochLossSums.set(index + 1, sum)
    this.#saved = position.step
    this.point = pointOf(checkpoint)
    yield* this.#emit({ event: "resumed", step: position.step, path })
    return checkpoint
  })

  /** Saves a state; what cannot be saved is told by an event, and the job goes on. `state.state` must not change meanwhile. */
  save({ id, step, lossSums, state }: StateToSave): Effect.Effect<void> {
    const checkpoints = this.#checkpoints
    if (checkpoints === undefined) return Effect.void
    const { info, optimizerState } = this.#compute
    for (const [epoch, sum] of lossSums) if (epoch > 0) this.#epochLossSums.set(epoch, sum)
    const epoch = Math.max(1, Math.ceil(step / info.stepsPerEpoch))
    const ledger: Ledger = {
      shardsCounted: step * this.#job.lanes,
      epochLossSums: Array.from({ length: epoch }, (_, index) => this.#epochLossSums.get(index + 1) ?? 0)
    }
    const position = { ...id, epoch, step }
    const described = {
      position,
      seed: this.#job.seed,
      ledger,
      fingerprint: this.#fingerprint,
      leaves: info.leaves,
      optimizer: { vectors: optimizerState.vectors.length, scalars: optimizerState.scalars.length }
    }
    return checkpoints.save({ ...described, state }).pipe(
      Effect.flatMap(({ path, stateSha256, weightsSha256 }) => {
        this.#saved = step
        this.point = pointOf({ ...described, path, stateSha256, weightsSha256 })
        return this.#emit({ event: "checkpoint", path, step })
      }),
      Effect.catch(error => this.failed(step, error))
    )
  }

  /** A state could not be saved, or not be had. */
  failed(
    step: number,
    { reason, message, hint }: Pick<CheckpointError, "reason" | "message" | "hint">
  ): Effect.Effect<void> {
    return this.#emit({ event: "checkpoint-failed", step, reason, message, hint })
  }
}

export const folderError = ({ path, message, hint }: CheckpointError): CoordinatorError =>
  new CoordinatorError({ code: "CHECKPOINT_FOLDER", message: `${path} cannot hold checkpoints: ${message}`, hint })
