import { Clock, Deferred, Effect, Schedule, type Scope } from "effect"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { epochOf, stepDeadlineMs, type Coordination, type Trained } from "./Coordination.ts"
import { CoordinatorError } from "./CoordinatorError.ts"
import type { CoordinatorDesk } from "./Coordinator.ts"
import { DirectCheckpoints } from "./DirectCheckpoints.ts"
import { DirectCoordinatorProtocol, directCoordinatorService } from "./DirectProtocol.ts"
import { DirectViews, type RunningView } from "./DirectViews.ts"
import { computingMembers, leastMembers } from "./EqualLanes.ts"
import { evaluationDeadlineMs } from "./EvaluationDesk.ts"
import { checkIntervalMs, FailureDetector } from "./FailureDetector.ts"
import { LeftOut } from "./LeftOut.ts"
import { Pace } from "./Pace.ts"
import type { Member } from "./Membership.ts"
import { remoteCall } from "./RemoteCall.ts"
import { StateCourier } from "./StateCourier.ts"
import { StateHashes } from "./StateHashes.ts"
import { StepLedger, type EndedEpoch, type ToldStep } from "./StepLedger.ts"
import { isRobust } from "./Strategy.ts"
import { Troubles } from "./Troubles.ts"
import { mostHeld } from "./ViewChange.ts"

/**
 * The direct exchange (`Strategy.allReduce`), seen from the coordinator: it decides who takes part from which state on, and watches. No
 * gradient passes through it, and it holds no replica.
 */
export const directExchange = Effect.fn("DirectExchange.run")(function* (
  coordination: Coordination,
  desk: Deferred.Deferred<CoordinatorDesk>,
  awaitMembers: (needed: number) => Effect.Effect<void, CoordinatorError>
): Effect.fn.Return<Trained, CoordinatorError, Scope.Scope> {
  const { node, job, info, steps, minWorkers, members, changed, speed, evaluations, onEvent, checkpoints } =
    coordination
  /** Epochs that ended before this step are no news: they were evaluated before the job was interrupted. */
  const resumedAt = checkpoints.point?.step ?? 0
  const ledger = new StepLedger(info.stepsPerEpoch)
  const troubles = new Troubles()
  const hashes = new StateHashes()
  const nowMs = Effect.map(Clock.currentTimeNanos, nanos => Number(nanos) / 1e6)
  const detector = new FailureDetector<PeerId>(yield* nowMs)
  /** What members have told and the main loop has not reported yet. */
  const toldSteps: Array<ToldStep> = []
  const endedEpochs: Array<EndedEpoch> = []
  const pace = new Pace(job.lanes, info.parameterCount, isRobust(job.strategy))
  const leftOut = new LeftOut(job.strategy)
  const progress = new Map<PeerId, number>()
  const sentBytes = new Map<PeerId, number>()
  let running: RunningView | undefined
  let fault: CoordinatorError | undefined
  let lastSkipped = 0

  const courier = yield* StateCourier.make(
    node,
    job.name,
    coordination.jobId,
    coordination.stateBytes,
    () => false
  ).pipe(Effect.mapError(({ message }) => CoordinatorError.alreadyRunning(message)))
  const views = new DirectViews(coordination, 0, {
    courier,
    restorePoint: () => checkpoints.point,
    checkpointSteps: checkpoints.everySteps,
    laneSeconds: peer => pace.laneSeconds(peer),
    onBase: (decision, lossSums) =>
      Effect.sync(() => {
        endedEpochs.push(...ledger.rebase(decision.base, lossSums).filter(({ step }) => step >= resumedAt))
      })
  })
  const saving = new DirectCheckpoints(coordination, {
    views,
    courier,
    hashes,
    allHave: step =>
      running !== undefined &&
      (running.plan.base >= step || running.plan.members.every(({ peer }) => (progress.get(peer) ?? 0) >= step))
  })

  const ofRunning = Effect.map(RpcPeer.caller, ({ peer }) => (isPeerId(peer) ? running?.members.get(peer) : undefined))
  const handlers = DirectCoordinatorProtocol.toLayer({
    Heartbeat: () =>
      Effect.gen(function* () {
        const { peer } = yield* RpcPeer.caller
        if (isPeerId(peer)) detector.heartbeat(peer, yield* nowMs)
      }),
    ReportProgress: ({ applied, losses, state, computeMs, view, sentBytes: bytes }) =>
      Effect.gen(function* () {
        const { peer } = yield* RpcPeer.caller
        const member = isPeerId(peer) ? members.get(peer) : undefined
        if (member === undefined || applied > steps) return
        const told = ledger.told(applied, losses)
        toldSteps.push(...told.steps)
        endedEpochs.push(...told.ended)
        if (state !== undefined) hashes.told(state.step, member.peerId, state.sha256)
        sentBytes.set(member.peerId, bytes)
        if (running?.plan.view === view && running.members.get(member.peerId) === member) {
          progress.set(member.peerId, applied)
          troubles.progress(member.peerId, applied)
          pace.applied(member, applied, computeMs, yield* nowMs)
        }
        changed.notify()
      }),
    ReportTrouble: ({ term, view, ...trouble }) =>
      Effect.gen(function* () {
        const member = yield* ofRunning
        if (member === undefined || running?.plan.view !== view || running.plan.term !== term) return
        troubles.told(member.peerId, trouble, yield* nowMs)
        changed.notify()
      })
  })
  yield* Effect.provide(node.serve(directCoordinatorService, DirectCoordinatorProtocol), handlers)
  yield* Deferred.succeed(desk, {
    applied: () => ledger.applied,
    reportNonFinite: ({ step, lane, element, peer }) =>
      Effect.gen(function* () {
        const member = yield* ofRunning
        if (member === undefined || step > steps) return
        if (leftOut.covers({ lane, peer })) {
          const culprit = peer === undefined ? member : isPeerId(peer) ? running?.members.get(peer) : undefined
          const event = culprit === undefined ? undefined : leftOut.told({ step, lane, peer: culprit.peerId })
          return event === undefined ? undefined : yield* onEvent(event)
        }
        if (step <= ledger.applied) return
        if (job.strategy.kind === "allReduce" && job.strategy.nonFinite === "skip") {
          // Every member tells of the sum; the one who computed the lane has told of it before.
          if (lane === undefined && lastSkipped >= step) return
          lastSkipped = step
          return yield* onEvent({
            event: "skipped",
            step,
            peer: member.peerId,
            ...(lane === undefined ? {} : { lane })
          })
        }
        // A lane says more than the sum that it has spoiled.
        if (fault !== undefined && lane === undefined) return
        fault =
          lane === undefined
            ? CoordinatorError.nonFiniteSum(step, element ?? -1)
            : CoordinatorError.nonFiniteLane(lane, step, member.peerId)
        changed.notify()
      })
  })

  /** Looks for members that are silent, every 250 ms. */
  const watch = Effect.gen(function* () {
    const now = yield* nowMs
    for (const { peerId } of members.list) if (detector.silentMs(peerId, now) === undefined) detector.watch(peerId, now)
    for (const { peer, silentMs } of detector.check(now)) {
      detector.forget(peer)
      const member = members.get(peer)
      if (member !== undefined)
        yield* members.expel(member, `nothing was heard of it for ${(silentMs / 1000).toFixed(1)} s`)
    }
    // What members wait for ripens with time.
    changed.notify()
  })
  yield* Effect.forkScoped(Effect.repeat(watch, Schedule.spaced(checkIntervalMs)))

  const beginEvaluation = ({ epoch, step, lossSum }: EndedEpoch) =>
    evaluations.begin(
      epoch,
      lossSum / (job.lanes * info.stepsPerEpoch),
      member =>
        member === undefined || !views.held(member, step)
          ? undefined
          : member.client.Evaluate({ step }).pipe(remoteCall(evaluationDeadlineMs)),
      Effect.suspend(() =>
        Effect.forEach(
          members.list,
          member =>
            Effect.ignore(
              Effect.flatMap(views.client(member), client => client.Evaluated({ step })).pipe(
                remoteCall(stepDeadlineMs)
              )
            ),
          { concurrency: "unbounded", discard: true }
        )
      )
    )

  /** Reports what members have told since the last time. */
  const report = Effect.gen(function* () {
    for (let told = toldSteps.shift(); told !== undefined; told = toldSteps.shift()) {
      const { step, loss } = told
      saving.applied(step)
      yield* onEvent({
        event: "step",
        epoch: epochOf(step, info),
        step,
        steps,
        loss: loss / job.lanes,
        examplesPerSecond: speed.step(yield* Clock.currentTimeNanos),
        members: members.size
      })
    }
    for (let ended = endedEpochs.shift(); ended !== undefined; ended = endedEpochs.shift())
      yield* beginEvaluation(ended)
  })

  type Event =
    | { readonly event: "report" | "done" | "view" | "checkpoint" }
    | { readonly event: "fault"; readonly error: CoordinatorError }
    | { readonly event: "diverged"; readonly members: ReadonlyArray<Member>; readonly step: number }
    | { readonly event: "remove"; readonly member: Member; readonly reason: string }

  /** What has happened that the coordinator must see to. */
  const look = (view: RunningView, now: number): Event | undefined => {
    if (fault !== undefined) return { event: "fault", error: fault }
    if (toldSteps.length > 0 || endedEpochs.length > 0) return { event: "report" }
    if (saving.ready) return { event: "checkpoint" }
    const diverged = hashes.diverged(view.members.keys())
    if (diverged !== undefined)
      return {
        event: "diverged",
        step: diverged.step,
        members: diverged.peers.flatMap(peer => (isPeerId(peer) ? (view.members.get(peer) ?? []) : []))
      }
    const { plan } = view
    if (plan.members.every(({ peer }) => (progress.get(peer) ?? 0) >= steps)) return { event: "done" }
    if ([...view.members.values()].some(member => !members.has(member))) return { event: "view" }
    if (members.list.some(member => view.members.get(member.peerId) !== member)) return { event: "view" }
    const caughtUp = (peer: PeerId) => (progress.get(peer) ?? -1) >= ledger.applied - 1
    const computing = plan.members.length
    if (computingMembers(job, computing + plan.observers.filter(caughtUp).length) > computing) return { event: "view" }
    const remedy = troubles.remedy(now) ?? pace.remedy(now, peer => troubles.isWaiting(peer))
    if (remedy === undefined) return undefined
    if (remedy.remedy === "view") {
      views.introduceAgain()
      return { event: "view" }
    }
    const member = isPeerId(remedy.peer) ? view.members.get(remedy.peer) : undefined
    return member === undefined ? { event: "view" } : { event: "remove", member, reason: remedy.reason }
  }

  /** Watches a view until another one must be made; true where all steps are applied. */
  const watchView = Effect.fnUntraced(function* (view: RunningView) {
    for (;;) {
      const clock = yield* Clock.Clock
      const event = yield* changed.until(() => look(view, Number(clock.currentTimeNanosUnsafe()) / 1e6))
      switch (event.event) {
        case "report":
          yield* report
          break
        case "checkpoint":
          yield* saving.begin(view)
          break
        case "fault":
          return yield* event.error
        case "diverged":
          for (const member of event.members)
            yield* views.stop(member, `its state after step ${event.step} differs from the others'`)
          break
        case "remove":
          yield* members.expel(event.member, event.reason)
          return false
        case "view":
          return false
        case "done":
          return true
      }
    }
  })

  /** Every member says with which weights it has ended; those that differ from most are named. */
  const finish = Effect.gen(function* () {
    yield* evaluations.settled
    members.over = true
    const weights = new Map<Member, string>()
    yield* Effect.forEach(
      members.list,
      member =>
        member.client.Finish({ steps }).pipe(
          remoteCall(stepDeadlineMs),
          Effect.map(({ weightsSha256, sentBytes: bytes }) => {
            weights.set(member, weightsSha256)
            sentBytes.set(member.peerId, bytes)
          }),
          Effect.catch(error => members.drop(member, error.message))
        ),
      { concurrency: "unbounded", discard: true }
    )
    const weightsSha256 = mostHeld([...weights].map(([{ peerId }, hash]) => [peerId, hash]))
    for (const [member, hash] of weights)
      if (hash !== weightsSha256) yield* members.drop(member, `its weights differ: ${hash}`)
    return weightsSha256
  })

  const train = Effect.gen(function* () {
    for (let first = true; ;) {
      // Without another step to take, whoever is left will do.
      const done = changed.until(() => (members.size > 0 && ledger.applied >= steps ? true : undefined))
      yield* Effect.race(awaitMembers(Math.max(first ? minWorkers : 1, leastMembers(job))), done)
      if (first) views.term = yield* coordination.nextTerm(Math.max(0, ...members.list.map(({ term }) => term)))
      running = undefined
      const view = yield* views.change()
      if (view === undefined) continue
      if (first) speed.start(yield* Clock.currentTimeNanos)
      first = false
      const { plan } = view
      progress.clear()
      for (const peer of view.members.keys())
        if (!plan.gifts.some(({ to }) => to === peer)) progress.set(peer, plan.base)
      troubles.begin(view.members.keys(), plan.base, plan.observers)
      pace.begin(view, yield* nowMs)
      running = view
      const none = [info.parameterCount, info.parameterCount] as const
      yield* onEvent({
        event: "view",
        view: plan.view,
        lanes: job.lanes,
        members: [...plan.members, ...plan.observers.map(peer => ({ peer, lanes: [], segment: none }))].toSorted(
          (a, b) => (a.peer < b.peer ? -1 : 1)
        )
      })
      if (!(yield* watchView(view))) continue
      yield* saving.last(view)
      const weightsSha256 = yield* finish
      if (weightsSha256 !== "") {
        const total = [...sentBytes.values()].reduce((sum, bytes) => sum + bytes, 0)
        return { weightsSha256, countedShards: ledger.applied * job.lanes, sentBytes: total }
      }
      // All that held the result are gone: whoever comes begins anew.
      members.over = false
    }
  })
  return yield* Effect.onInterrupt(train, () => saving.drain)
})
