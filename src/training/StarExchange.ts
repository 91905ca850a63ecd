import { Clock, Deferred, Effect, type Scope } from "effect"
import type { ComputeError, ComputeThread } from "../compute/ComputeThread.ts"
import { bytesOf, gradientExchanger, Placement, sendTensor, type PlaceTensor } from "../node/GradientExchanger.ts"
import { tensorHeaderBytes, tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionError } from "../transport/SessionError.ts"
import type { LoadedCheckpoint } from "./Checkpoint.ts"
import {
  drainDeadlineMs,
  epochOf,
  stepDeadlineMs,
  viewDeadlineMs,
  type Coordination,
  type Trained
} from "./Coordination.ts"
import { CoordinatorError } from "./CoordinatorError.ts"
import { evaluateAll } from "./Evaluation.ts"
import { evaluationDeadlineMs, maxPendingEvaluations } from "./EvaluationDesk.ts"
import type { CoordinatorDesk } from "./Coordinator.ts"
import type { Member } from "./Membership.ts"
import { remoteCall } from "./RemoteCall.ts"
import { assignLanes, firstNonFinite, Round, type ViewMember } from "./Round.ts"
import { sharedFloats } from "./Replica.ts"

/**
 * The star (`Strategy.parameterServer`), at its centre: sums what members send along the lane tree, sends back the mean gradient of each
 * step, and keeps a replica of its own that new members are given.
 */
export const starExchange = Effect.fn("StarExchange.run")(function* (
  coordination: Coordination,
  compute: ComputeThread,
  resumed: LoadedCheckpoint | undefined,
  desk: Deferred.Deferred<CoordinatorDesk>,
  awaitMembers: (needed: number) => Effect.Effect<void, CoordinatorError>
): Effect.fn.Return<Trained, CoordinatorError | ComputeError, Scope.Scope> {
  const { node, job, info, jobId, steps, members, changed, speed, evaluations, checkpoints, onEvent } = coordination
  const { parameterCount, stepsPerEpoch } = info
  const round = new Round(job.lanes, parameterCount)
  const reduced = sharedFloats(parameterCount)
  let view = 0
  let viewMembers: ReadonlyArray<Member> = []
  let applied = 0
  /** The step whose parts are awaited, counted from 1. */
  let expected = 1
  let placements: Array<Placement> = []
  let fault: CoordinatorError | undefined
  let epochLoss = 0
  let countedShards = 0
  let sentBytes = 0
  /** An epoch ended with the step that the job goes on from: its figures are not known here. */
  let endedBefore: number | undefined
  const term = yield* coordination.nextTerm(0)

  if (resumed !== undefined) {
    const { position, ledger, state } = resumed
    compute.writeState(state)
    applied = position.step
    expected = applied + 1
    countedShards = ledger.shardsCounted
    epochLoss = ledger.epochLossSums.at(-1) ?? 0
    if (applied > 0 && applied % stepsPerEpoch === 0) endedBefore = position.epoch
  }
  const save = Effect.suspend(() => {
    const state = new Uint8Array(compute.stateByteLength)
    compute.readState(state)
    return checkpoints.save({
      id: { term, view },
      step: applied,
      lossSums: [[epochOf(applied, info), epochLoss]],
      state
    })
  })

  const headerOf = (kind: TensorHeader["kind"], step: number, length: number): TensorHeader => ({
    kind,
    job: jobId,
    term: 0,
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
    applied: () => applied,
    reportNonFinite: ({ step, lane }) =>
      Effect.map(RpcPeer.caller, ({ peer }) => {
        if (step !== expected || lane === undefined || !viewMembers.some(({ peerId }) => peerId === peer)) return
        fault = CoordinatorError.nonFiniteLane(lane, step, peer)
        changed.notify()
      })
  })

  const giveUp = (member: Member) => (error: { readonly message: string }) => members.expel(member, error.message)

  const send = (member: Member, header: TensorHeader, data: Uint8Array): Effect.Effect<void> =>
    sendTensor(exchanger, member.session, header, data).pipe(
      Effect.tap(() => Effect.sync(() => (sentBytes += tensorHeaderBytes + data.length))),
      Effect.timeoutOrElse({
        duration: stepDeadlineMs,
        orElse: () =>
          Effect.fail(sessionError(new ProtocolError("TIMEOUT", `it took no tensor for ${stepDeadlineMs / 1000} s`)))
      }),
      Effect.catch(giveUp(member))
    )

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
    yield* onEvent({
      event: "view",
      view,
      lanes: job.lanes,
      // The coordinator sums for all: no member owns a part of the gradient.
      members: assigned.map(({ peer, lanes }) => ({
        peer,
        lanes,
        segment: [parameterCount, parameterCount] as const
      }))
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
            .AssignLanes({ view, base: applied, lanes: assigned[index]?.lanes ?? [] })
            .pipe(remoteCall(viewDeadlineMs), Effect.catch(giveUp(member)))
        }),
      { concurrency: "unbounded", discard: true }
    )
  })

  const endEpoch = Effect.fnUntraced(function* (epoch: number) {
    const parameters = sharedFloats(parameterCount)
    parameters.set(compute.parameters)
    const trainLoss = epochLoss / (job.lanes * stepsPerEpoch)
    const step = applied
    yield* evaluations.begin(epoch, trainLoss, member =>
      member === undefined
        ? evaluateAll(compute, parameters)
        : Effect.andThen(
            sendTensor(
              exchanger,
              member.session,
              headerOf(tensorKinds.evaluation, step, parameterCount),
              bytesOf(parameters)
            ),
            member.client.Evaluate({ step })
          ).pipe(remoteCall(evaluationDeadlineMs))
    )
    yield* changed.until(() => (evaluations.pending < maxPendingEvaluations ? true : undefined))
  })

  const applyRound = Effect.gen(function* () {
    const { loss } = round.finish(reduced)
    // All of them have arrived: none is left to be revoked.
    placements = []
    const step = expected
    const bad = firstNonFinite(reduced)
    if (bad >= 0 || !Number.isFinite(loss)) return yield* CoordinatorError.nonFiniteSum(step, bad)
    // From here on parts of the next step may come: the fastest member needs nothing but this gradient.
    if (step < steps) round.next()
    expected = step + 1
    const header = headerOf(tensorKinds.reduced, step, parameterCount)
    const sends = viewMembers
      .filter(member => members.has(member))
      .map(member => send(member, header, bytesOf(reduced)))
    // Parameters, their number of steps and what is counted belong together: an interruption waits for all of it.
    const apply = Effect.andThen(
      compute.applyStep(reduced),
      Effect.sync(() => {
        applied = step
        epochLoss = (step - 1) % stepsPerEpoch === 0 ? loss : epochLoss + loss
        countedShards += job.lanes
      })
    )
    yield* Effect.all([Effect.uninterruptible(apply), ...sends], { concurrency: "unbounded", discard: true })
    const nanos = yield* Clock.currentTimeNanos
    const epoch = epochOf(step, info)
    yield* onEvent({
      event: "step",
      epoch,
      step,
      steps,
      loss: loss / job.lanes,
      examplesPerSecond: speed.step(nanos),
      members: members.size
    })
    if (checkpoints.isDue(step) || (step === steps && checkpoints.lacks(step))) yield* save
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

  const train = Effect.gen(function* () {
    // The last step of a job that was done may be all that is to be told.
    while (applied < steps || view === 0) {
      yield* awaitMembers(view === 0 ? coordination.minWorkers : 1)
      const isFirst = view === 0
      yield* startView
      if (isFirst) speed.start(yield* Clock.currentTimeNanos)
      if (endedBefore !== undefined) yield* endEpoch(endedBefore)
      endedBefore = undefined
      while (applied < steps) {
        const event = yield* nextEvent
        if (event === "lost") break
        if (event !== "complete") return yield* event
        yield* applyRound
        // Newcomers are let in between two steps.
        if (members.size > viewMembers.length) break
      }
    }
    yield* evaluations.settled
  })
  const drain = Effect.suspend(() => (checkpoints.lacks(applied) ? save : Effect.void))
  yield* Effect.onInterrupt(train, () => Effect.asVoid(Effect.timeoutOption(drain, drainDeadlineMs)))
  members.over = true
  const weightsSha256 = yield* compute.weightsSha256
  yield* Effect.forEach(
    members.list,
    member =>
      member.client.Finish({ steps }).pipe(
        remoteCall(stepDeadlineMs),
        Effect.tap(result => Effect.sync(() => (sentBytes += result.sentBytes))),
        Effect.flatMap(result =>
          result.weightsSha256 === weightsSha256
            ? Effect.void
            : members.drop(member, `its weights differ: ${result.weightsSha256}`)
        ),
        Effect.catch(error => members.drop(member, error.message))
      ),
    { concurrency: "unbounded", discard: true }
  )
  return { weightsSha256, countedShards, sentBytes }
})
