import { Deferred, Effect, type Scope } from "effect"
import { ComputeThread, type ComputeError } from "../compute/ComputeThread.ts"
import { PeerNode } from "../node/PeerNode.ts"
import { jobIdBytes } from "../node/TensorHeader.ts"
import { fromHex } from "../protocol/Bytes.ts"
import { Changed } from "./Changed.ts"
import type { Checkpoints } from "./Checkpoint.ts"
import { CheckpointDesk } from "./CheckpointDesk.ts"
import { workerPatienceMs, type Coordination } from "./Coordination.ts"
import { CoordinatorError, reasonOf } from "./CoordinatorError.ts"
import { directExchange } from "./DirectExchange.ts"
import { tooFewWorkers } from "./EqualLanes.ts"
import { accuracyField, EvaluationDesk } from "./EvaluationDesk.ts"
import { fingerprintOf, fingerprintSha256 } from "./Fingerprint.ts"
import type { FinishedEvent, JobEvent } from "./JobEvent.ts"
import { CoordinatorProtocol, coordinatorService } from "./JobProtocol.ts"
import { Membership } from "./Membership.ts"
import { Speed } from "./Speed.ts"
import { starExchange } from "./StarExchange.ts"
import type { TrainingJob } from "./TrainingJob.ts"

export interface CoordinateOptions {
  readonly job: TrainingJob
  /** What `TrainingJob.url` gives for the job's module. */
  readonly jobUrl: string
  /** The module's path as workers may be told it: relative, or empty where each must name its own. */
  readonly module: string
  readonly set: ReadonlyArray<readonly [path: string, text: string]>
  /** Workers to wait for before the first step. */
  readonly minWorkers: number
  readonly onEvent: (event: JobEvent) => Effect.Effect<void>
  /** Where the job's checkpoints are saved, every `job.checkpoint.everySteps` steps, at its end, and when it is interrupted. */
  readonly checkpoints?: Checkpoints | undefined
  /**
   * Go on from the newest good checkpoint, where members do not hold a newer state themselves. Without any the job begins at step 0; where there are
   * some and none can be used it fails with `CANNOT_RESUME`.
   */
  readonly resume?: boolean | undefined
  /** Gives a term above `seen` and above all that it gave before, and keeps it before it is used. Without it terms outlive this process only in checkpoints. */
  readonly nextTerm?: ((seen: number) => Effect.Effect<number, CoordinatorError>) | undefined
}

/** What workers' calls are answered by, once this coordinator knows its own initial weights. */
export interface CoordinatorDesk {
  /** Steps that are applied. */
  readonly applied: () => number
  readonly reportNonFinite: (report: {
    readonly step: number
    readonly lane?: number
    readonly element?: number
    readonly peer?: string
  }) => Effect.Effect<void>
}

/**
 * Coordinates a job until its last step: lets workers in, gives them lanes, and has their gradients combined as the job's strategy says. The
 * result does not depend on who came, went or was how fast.
 */
export const coordinate = Effect.fn("Coordinator.run")(function* (
  options: CoordinateOptions
): Effect.fn.Return<FinishedEvent, CoordinatorError | ComputeError, PeerNode | Scope.Scope> {
  const { job, onEvent, minWorkers } = options
  const tooFew = tooFewWorkers(job, minWorkers)
  if (tooFew !== undefined) return yield* tooFew
  const node = yield* PeerNode
  // Workers may call before this process has computed the initial weights: they wait for the answer, not for the service.
  const admission = yield* Deferred.make<Membership>()
  const desk = yield* Deferred.make<CoordinatorDesk>()
  const handlers = CoordinatorProtocol.toLayer({
    Describe: () => Effect.succeed({ name: job.name, module: options.module, set: options.set }),
    Join: ({ fingerprint, initialWeightsSha256, term }) =>
      Effect.gen(function* () {
        const members = yield* Deferred.await(admission)
        const { applied } = yield* Deferred.await(desk)
        yield* members.join(fingerprint, initialWeightsSha256, term)
        return { steps: applied() }
      }),
    ReportNonFinite: report => Effect.flatMap(Deferred.await(desk), ({ reportNonFinite }) => reportNonFinite(report))
  })
  yield* Effect.provide(node.serve(coordinatorService, CoordinatorProtocol), handlers)

  const compute = yield* ComputeThread.make({ jobUrl: options.jobUrl, set: options.set })
  const { info } = compute
  const initialWeightsSha256 = yield* compute.initialise
  const fingerprint = fingerprintOf(job, info)
  const jobId = fromHex(fingerprintSha256(fingerprint)).subarray(0, jobIdBytes)
  const steps = info.stepsPerEpoch * job.epochs

  const changed = new Changed()
  const members = new Membership(node, fingerprint, initialWeightsSha256, changed, onEvent)
  /** A job that ends without a result says so: its workers need not look for it again. */
  yield* Effect.addFinalizer(exit => members.stop(reasonOf(exit)))
  const evaluations = new EvaluationDesk(members, changed, onEvent)
  const speed = new Speed(job.lanes * job.microBatch)
  const checkpoints = new CheckpointDesk(
    job.checkpoint.everySteps > 0 ? options.checkpoints : undefined,
    job,
    compute,
    fingerprint,
    onEvent
  )
  const resumed = options.resume === true ? yield* checkpoints.resume() : undefined
  const { nextTerm = seen => Effect.succeed(seen + 1) } = options
  const coordination: Coordination = {
    node,
    job,
    info,
    jobId,
    steps,
    minWorkers,
    members,
    changed,
    speed,
    evaluations,
    checkpoints,
    stateBytes: compute.stateByteLength,
    nextTerm: seen => Effect.flatMap(checkpoints.highestTerm, highest => nextTerm(Math.max(seen, highest))),
    onEvent
  }
  yield* Deferred.succeed(admission, members)

  const awaitMembers = (needed: number): Effect.Effect<void, CoordinatorError> =>
    changed
      .until(() => (members.size >= needed ? true : undefined))
      .pipe(
        Effect.asVoid,
        Effect.timeoutOrElse({
          duration: workerPatienceMs,
          orElse: () =>
            Effect.fail(
              new CoordinatorError({
                code: "NO_WORKERS",
                message: `${members.size} of ${needed} workers came within ${workerPatienceMs / 60_000} minutes`,
                hint: "Start workers with the command that the coordinator prints."
              })
            )
        })
      )

  const { weightsSha256, countedShards, sentBytes } =
    job.strategy.kind === "allReduce"
      ? yield* directExchange(coordination, desk, awaitMembers)
      : yield* starExchange(coordination, compute, resumed, desk, awaitMembers)
  members.ended = true
  const { seconds } = speed
  const last = evaluations.figures.get(job.epochs)
  const finished: FinishedEvent = {
    event: "finished",
    job: job.name,
    epochs: job.epochs,
    steps,
    members: members.size,
    seconds,
    examplesPerSecond: speed.examplesPerSecond,
    trainLoss: last?.trainLoss ?? 0,
    testLoss: last?.testLoss ?? 0,
    ...accuracyField(last?.testAccuracy),
    weightsSha256,
    shards: { expected: steps * job.lanes, counted: countedShards },
    sentBytes
  }
  yield* onEvent(finished)
  return finished
})
