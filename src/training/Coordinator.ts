import { Clock, Deferred, Effect, Fiber, Semaphore, type Scope } from "effect"
import { ComputeThread, type ComputeError } from "../compute/ComputeThread.ts"
import type { EvaluationResult } from "../compute/Engine.ts"
import { bytesOf, gradientExchanger, Placement, sendTensor, type PlaceTensor } from "../node/GradientExchanger.ts"
import { PeerNode } from "../node/PeerNode.ts"
import { jobIdBytes, tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import { fromHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionError } from "../transport/SessionError.ts"
import { Changed } from "./Changed.ts"
import { CoordinatorError, reasonOf } from "./CoordinatorError.ts"
import { evaluateAll, figuresOf, type EpochFigures } from "./Evaluation.ts"
import { fingerprintOf, fingerprintSha256, type Fingerprint } from "./Fingerprint.ts"
import type { FinishedEvent, JobEvent } from "./JobEvent.ts"
import { CoordinatorProtocol, coordinatorService, type JobMismatch, type JobOver } from "./JobProtocol.ts"
import { Membership, type Member } from "./Membership.ts"
import { remoteCall } from "./RemoteCall.ts"
import { assignLanes, firstNonFinite, Round, type ViewMember } from "./Round.ts"
import { sharedFloats } from "./Replica.ts"
import { Speed } from "./Speed.ts"
import type { TrainingJob } from "./TrainingJob.ts"

/** How long the coordinator waits for workers: for the first ones, and again whenever none is left. */
export const workerPatienceMs = 10 * 60_000
/** How long a member may take for its part of a step, or to take in a tensor, before it is given up. */
export const stepDeadlineMs = 120_000
/** How long a member may take to answer a change of view. */
export const viewDeadlineMs = 30_000
/** How long an evaluation of all test examples may take at a worker before another one does it. */
export const evaluationDeadlineMs = 10 * 60_000
/** Epochs whose evaluation may be outstanding; each keeps one copy of the parameters. Training waits at this bound. */
export const maxPendingEvaluations = 4

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
}

/** What workers' calls are answered by, once this coordinator knows its own initial weights. */
interface Desk {
  readonly join: (
    fingerprint: Fingerprint,
    weights: string
  ) => Effect.Effect<{ readonly steps: number }, JobMismatch | JobOver>
  readonly reportNonFinite: (step: number, lane: number) => Effect.Effect<void>
}

/**
 * Coordinates a job until its last step: lets workers in, gives them lanes, sums what they send along the lane tree, sends back the mean
 * gradient of each step, and keeps a replica of its own that new workers are given. The result does not depend on who came, went or was
 * how fast.
 */
export const coordinate = Effect.fn("Coordinator.run")(function* (
  options: CoordinateOptions
): Effect.fn.Return<FinishedEvent, CoordinatorError | ComputeError, PeerNode | Scope.Scope> {
  const { job, onEvent } = options
  const node = yield* PeerNode
  // Workers may call before this process has computed the initial weights: they wait for the answer, not for the service.
  const desk = yield* Deferred.make<Desk>()
  const atDesk = <A, E>(use: (desk: Desk) => Effect.Effect<A, E>) => Effect.flatMap(Deferred.await(desk), use)
  const handlers = CoordinatorProtocol.toLayer({
    Describe: () => Effect.succeed({ name: job.name, module: options.module, set: options.set }),
    Join: request => atDesk(({ join }) => join(request.fingerprint, request.initialWeightsSha256)),
    ReportNonFinite: ({ step, lane }) => atDesk(({ reportNonFinite }) => reportNonFinite(step, lane))
  })
  yield* Effect.provide(node.serve(coordinatorService, CoordinatorProtocol), handlers)

  const compute = yield* ComputeThread.make({ jobUrl: options.jobUrl, set: options.set })
  const { parameterCount, stepsPerEpoch } = compute.info
  const initialWeightsSha256 = yield* compute.initialise
  const fingerprint = fingerprintOf(job, compute.info)
  const jobId = fromHex(fingerprintSha256(fingerprint)).subarray(0, jobIdBytes)
  const steps = stepsPerEpoch * job.epochs

  const changed = new Changed()
  const members = new Membership(node, fingerprint, initialWeightsSha256, changed, onEvent)
  /** A job that ends without a result says so: its workers need not look for it again. */
  yield* Effect.addFinalizer(exit => members.stop(reasonOf(exit)))
  const round = new Round(job.lanes, parameterCount)
  const reduced = sharedFloats(parameterCount)
  const speed = new Speed(job.lanes * job.microBatch)
  let view = 0
  let viewMembers: ReadonlyArray<Member> = []
  let applied = 0
  /** The step whose parts are awaited, counted from 1. */
  let expected = 1
  let placements: Array<Placement> = []
  let fault: CoordinatorError | undefined
  let epochLoss = 0
  let countedShards = 0
  const figures = new Map<number, EpochFigures & { readonly trainLoss: number }>()

  const headerOf = (kind: TensorHeader["kind"], step: number, length: number): TensorHeader => ({
    kind,
    job: jobId,
    view,
    step,
    lanes: { from: 0, to: job.lanes },
    segment: { from: 0, to: length },
    loss: 0
  })

  const place: PlaceTensor = (header, from) => {
    if (header.kind !== tensorKinds.partial)
      throw new ProtocolError("UNEXPECTED", `a coordinator takes no tensor of kind ${header.kind}`)
    if (header.view !== view || header.step !== expected) return undefined
    if (header.segment.from !== 0 || header.segment.to !== parameterCount)
      throw new ProtocolError("MALFORMED", "a part of a gradient")
    const slot = round.claim(from, header.lanes)
    if (slot === undefined)
      throw new ProtocolError("UNEXPECTED", `lanes ${header.lanes.from} to ${header.lanes.to} are not this member's`)
    const placement = new Placement(bytesOf(slot), () => {
      round.place(header.lanes, header.loss)
      if (round.complete) changed.notify()
    })
    placements.push(placement)
    return placement
  }
  const exchanger = yield* node.supervisor
    .spawn(`exchanger-${job.name}`, gradientExchanger(node, jobId, place))
    .pipe(
      Effect.mapError(
        error => new CoordinatorError({ code: "INTERNAL", message: error.message, hint: "Run one job at a time." })
      )
    )

  yield* Deferred.succeed(desk, {
    join: (theirs, weights) => Effect.map(members.join(theirs, weights), () => ({ steps: applied })),
    reportNonFinite: (step, lane) =>
      Effect.map(RpcPeer.caller, ({ peer }) => {
        if (step !== expected || !viewMembers.some(({ peerId }) => peerId === peer)) return
        fault = new CoordinatorError({
          code: "NON_FINITE",
          message: `lane ${lane} of step ${step}, computed by ${peer}, has a loss or gradient that is not finite`,
          hint: "Lower the learning rate, or look for a division by zero or a logarithm of zero in the loss."
        })
        changed.notify()
      })
  })

  const giveUp = (member: Member) => (error: { readonly message: string }) => members.expel(member, error.message)

  const send = (member: Member, header: TensorHeader, data: Uint8Array): Effect.Effect<void> =>
    sendTensor(exchanger, member.session, header, data).pipe(
      Effect.timeoutOrElse({
        duration: stepDeadlineMs,
        orElse: () =>
          Effect.fail(sessionError(new ProtocolError("TIMEOUT", `it took no tensor for ${stepDeadlineMs / 1000} s`)))
      }),
      Effect.catch(giveUp(member))
    )

  const awaitMembers = Effect.suspend(() => {
    const needed = applied === 0 && view === 0 ? options.minWorkers : 1
    return changed
      .until(() => (members.size >= needed ? true : undefined))
      .pipe(
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
  })

  /** Gives all members that are here now their lanes; those that are new get the state first. Between two steps, so nothing is lost. */
  const startView = Effect.gen(function* () {
    for (const placement of placements) placement.revoke()
    placements = []
    const known = new Set(viewMembers)
    viewMembers = members.list
    view++
    const assigned: ReadonlyArray<ViewMember<PeerId>> = assignLanes(
      viewMembers.map(({ peerId }) => peerId),
      job.lanes
    )
    round.begin(assigned)
    expected = applied + 1
    const whole = [0, parameterCount] as const
    yield* onEvent({
      event: "view",
      view,
      lanes: job.lanes,
      // The coordinator sums for all: no member owns a part of the gradient.
      members: assigned.map(({ peer, lanes }) => ({ peer, lanes, segment: [whole[1], whole[1]] as const }))
    })
    const state = new Uint8Array(applied === 0 ? 0 : compute.stateByteLength)
    if (applied > 0) compute.readState(state)
    yield* Effect.forEach(
      viewMembers,
      (member, index) =>
        Effect.gen(function* () {
          if (applied > 0 && !known.has(member))
            yield* send(member, headerOf(tensorKinds.state, applied, state.length), state)
          yield* member.client
            .StartView({ view, base: applied, lanes: assigned[index]?.lanes ?? [] })
            .pipe(remoteCall(viewDeadlineMs), Effect.catch(giveUp(member)))
        }),
      { concurrency: "unbounded", discard: true }
    )
  })

  const evaluations = yield* Semaphore.make(1)
  let pendingEvaluations = 0

  /** The first member by PeerID evaluates; when it is lost the next one repeats it; when none is left this process does. */
  const evaluate = Effect.fnUntraced(function* (
    epoch: number,
    step: number,
    parameters: Float32Array,
    trainLoss: number
  ) {
    for (;;) {
      const evaluator = members.list[0]
      const attempt: Effect.Effect<EvaluationResult, { readonly message: string }> =
        evaluator === undefined
          ? evaluateAll(compute, parameters)
          : Effect.andThen(
              sendTensor(
                exchanger,
                evaluator.session,
                headerOf(tensorKinds.evaluation, step, parameterCount),
                bytesOf(parameters)
              ),
              evaluator.client.Evaluate({ step })
            ).pipe(remoteCall(evaluationDeadlineMs))
      const result = yield* Effect.result(attempt)
      if (result._tag === "Success") {
        const { testLoss, testAccuracy } = figuresOf(result.success)
        figures.set(epoch, { testLoss, testAccuracy, trainLoss })
        yield* onEvent({ event: "epoch", epoch, trainLoss, testLoss, ...accuracyField(testAccuracy) })
        return
      }
      if (evaluator === undefined) return yield* Effect.die(result.failure)
      yield* giveUp(evaluator)({ message: `it could not evaluate: ${result.failure.message}` })
    }
  })

  const evaluationFibers: Array<Fiber.Fiber<void>> = []
  const endEpoch = Effect.fnUntraced(function* (epoch: number) {
    const parameters = sharedFloats(parameterCount)
    parameters.set(compute.parameters)
    const trainLoss = epochLoss / (job.lanes * stepsPerEpoch)
    epochLoss = 0
    pendingEvaluations++
    const fiber = yield* Effect.forkChild(
      evaluations
        .withPermits(1)(evaluate(epoch, applied, parameters, trainLoss))
        .pipe(
          Effect.ensuring(
            Effect.sync(() => {
              pendingEvaluations--
              changed.notify()
            })
          )
        )
    )
    evaluationFibers.push(fiber)
    yield* changed.until(() => (pendingEvaluations < maxPendingEvaluations ? true : undefined))
  })

  const applyRound = Effect.gen(function* () {
    const { loss } = round.finish(reduced)
    // All of them have arrived: none is left to be revoked.
    placements = []
    const step = expected
    const bad = firstNonFinite(reduced)
    if (bad >= 0 || !Number.isFinite(loss)) {
      return yield* new CoordinatorError({
        code: "NON_FINITE",
        message: `the sum of step ${step} is not finite${bad >= 0 ? ` at element ${bad}` : ""}, though every lane was`,
        hint: "Lower the learning rate: the gradients overflow float32."
      })
    }
    // From here on parts of the next step may come: the fastest member needs nothing but this gradient.
    if (step < steps) round.next()
    expected = step + 1
    const header = headerOf(tensorKinds.reduced, step, parameterCount)
    const sends = viewMembers
      .filter(member => members.has(member))
      .map(member => send(member, header, bytesOf(reduced)))
    yield* Effect.all([compute.applyStep(reduced), ...sends], { concurrency: "unbounded", discard: true })
    applied = step
    epochLoss += loss
    countedShards += job.lanes
    const nanos = yield* Clock.currentTimeNanos
    const epoch = Math.floor((step - 1) / stepsPerEpoch) + 1
    yield* onEvent({
      event: "step",
      epoch,
      step,
      steps,
      loss: loss / job.lanes,
      examplesPerSecond: speed.step(nanos),
      members: members.size
    })
    if (step % stepsPerEpoch === 0) yield* endEpoch(epoch)
  })

  /** What the coordinator waits for within a view: a complete step, a change of members, a fault. */
  const nextEvent = changed
    .until(() => {
      if (fault !== undefined) return fault
      if (!viewMembers.every(member => members.has(member))) return "lost"
      return round.complete ? "complete" : undefined
    })
    .pipe(
      Effect.timeoutOrElse({
        duration: stepDeadlineMs,
        orElse: () => {
          const late = new Set(round.missing())
          const reason = `it did not deliver its part of step ${expected} within ${stepDeadlineMs / 1000} s`
          return Effect.as(
            Effect.forEach(
              viewMembers.filter(({ peerId }) => late.has(peerId)),
              member => members.expel(member, reason)
            ),
            "lost" as const
          )
        }
      })
    )

  while (applied < steps) {
    yield* awaitMembers
    yield* startView
    if (applied === 0) speed.start(yield* Clock.currentTimeNanos)
    while (applied < steps) {
      const event = yield* nextEvent
      if (event === "lost") break
      if (event !== "complete") return yield* event
      yield* applyRound
      // Newcomers are let in between two steps.
      if (members.size > viewMembers.length) break
    }
  }
  const seconds = speed.seconds

  yield* Effect.forEach(evaluationFibers, Fiber.join, { discard: true })
  members.over = true
  const weightsSha256 = yield* compute.weightsSha256
  yield* Effect.forEach(
    members.list,
    member =>
      member.client.Finish({ steps }).pipe(
        remoteCall(stepDeadlineMs),
        Effect.flatMap(result =>
          result.weightsSha256 === weightsSha256
            ? Effect.void
            : members.drop(member, `its weights differ: ${result.weightsSha256}`)
        ),
        Effect.catch(error => members.drop(member, error.message))
      ),
    { concurrency: "unbounded", discard: true }
  )
  members.ended = true
  const last = figures.get(job.epochs)
  const shards = { expected: steps * job.lanes, counted: countedShards }
  const finished: FinishedEvent = {
    event: "finished",
    job: job.name,
    epochs: job.epochs,
    steps,
    members: members.size,
    seconds,
    examplesPerSecond: seconds > 0 ? (steps * job.lanes * job.microBatch) / seconds : 0,
    trainLoss: last?.trainLoss ?? 0,
    testLoss: last?.testLoss ?? 0,
    ...accuracyField(last?.testAccuracy),
    weightsSha256,
    shards
  }
  yield* onEvent(finished)
  return finished
})

const accuracyField = (accuracy: number | undefined) => (accuracy === undefined ? {} : { testAccuracy: accuracy })
