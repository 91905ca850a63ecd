import { Effect, type Scope } from "effect"
import type { ComputeError, ComputeThread } from "../compute/ComputeThread.ts"
import { viewStreams } from "../node/GradientExchanger.ts"
import type { PeerNode } from "../node/PeerNode.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import {
  DirectCoordinatorProtocol,
  directCoordinatorService,
  DirectMemberProtocol,
  directMemberService,
  maxReportedSteps,
  StaleTerm,
  type ViewPlan
} from "./DirectProtocol.ts"
import type { StepGradient } from "./AllGather.ts"
import { DirectReplica } from "./DirectReplica.ts"
import { evaluateAll } from "./Evaluation.ts"
import { maxPendingEvaluations } from "./EvaluationDesk.ts"
import { byCoordinator, tensorDeadlineMs, type JobMember } from "./JobMember.ts"
import type { CoordinatorRpcs } from "./JobProtocol.ts"
import { heartbeats, reportLeftOut, reportProgress, reportTrouble, type DirectClient } from "./MemberReports.ts"
import { remoteCall } from "./RemoteCall.ts"
import { sharedFloats } from "./Replica.ts"
import { StateCourier } from "./StateCourier.ts"
import { firstNonFinite } from "./Round.ts"
import type { TrainingJob } from "./TrainingJob.ts"
import { compareViews, type ViewId } from "./ViewChange.ts"
import { ViewExchange } from "./ViewExchange.ts"
import { ViewStreams } from "./ViewStreams.ts"

/** A member of the direct exchange (`Strategy.allReduce`): computes its lanes, reduces its segment, and applies what all have reduced. */
export const directMember = Effect.fnUntraced(function* (
  node: PeerNode["Service"],
  job: TrainingJob,
  compute: ComputeThread,
  jobId: Uint8Array,
  coordinator: PeerId
) {
  yield* node.trustIntroducer(coordinator, jobId)
  const replica = new DirectReplica(job, compute)
  const { changed } = replica
  /** Members that this one cannot reach in the view in progress. */
  const lost = new Set<PeerId>()
  const streams = new ViewStreams(node, jobId, (exchange, peer) => {
    if (replica.exchange !== exchange) return
    lost.add(peer)
    changed.notify()
  })
  yield* node.onBulk(viewStreams, streams.take)
  const courier = yield* StateCourier.make(node, job.name, jobId, compute.stateByteLength, from => from === coordinator)
  const leave = () => {
    replica.freeze()
    streams.end()
    lost.clear()
  }
  yield* Effect.addFinalizer(() => Effect.sync(leave))

  const prepare = Effect.fnUntraced(function* (id: { readonly term: number; readonly view: number }) {
    if (compareViews(id, replica.prepared) <= 0) return yield* new StaleTerm(replica.prepared)
    if (id.term > replica.prepared.term)
      for (const step of replica.snapshots.keys()) if (step !== replica.applied) replica.snapshots.delete(step)
    replica.prepared = id
    leave()
    yield* compute.cancel
    // A step that is being applied is applied first: the answer must not be overtaken by it.
    return yield* replica.exclusive.withPermits(1)(
      Effect.gen(function* () {
        const { started, applied, lossSums } = replica
        return { started, applied, lossSums, stateSha256: yield* Effect.orDie(compute.stateSha256(applied)) }
      })
    )
  })

  const start = Effect.fnUntraced(function* (plan: ViewPlan) {
    if (compareViews(plan, replica.prepared) !== 0) return yield* new StaleTerm(replica.prepared)
    if (replica.exchange !== undefined) return
    const { parameterCount } = compute.info
    const exchange = new ViewExchange({
      self: node.identity.peerId,
      plan,
      jobId,
      lanes: job.lanes,
      elements: parameterCount,
      steps: replica.steps,
      stateBytes: compute.stateByteLength,
      compression: replica.compression,
      vector: replica.vector,
      free: replica.free,
      send: streams.send,
      changed: () => changed.notify()
    })
    replica.exchange = exchange
    streams.begin(exchange)
    changed.notify()
  })

  const giveState = Effect.fnUntraced(function* (session: Session, wanted: { step: number; newest: boolean }) {
    const given = yield* Effect.orDie(replica.give(wanted.step, wanted.newest))
    if (given === undefined) return yield* Effect.die(new Error(`the state of step ${wanted.step} is not here`))
    const { state, ...answer } = given
    yield* Effect.orDie(courier.send(session, given.started, given.step, state))
    return answer
  })

  const takeState = Effect.fnUntraced(function* (state: {
    readonly prepared: ViewId
    readonly started: ViewId
    readonly step: number
    readonly stateSha256: string
    readonly lossSums: readonly [number, number]
  }) {
    const arrived = yield* courier.taken(coordinator, state.step)
    if (compareViews(state.prepared, replica.prepared) !== 0 || replica.exchange !== undefined)
      return yield* new StaleTerm(replica.prepared)
    if (arrived === undefined || !(yield* Effect.orDie(replica.restore({ ...state, state: arrived.state }))))
      return yield* Effect.die(new Error(`the state of step ${state.step} has not come, or is another one`))
  })

  const serveViews = (session: Session) =>
    Effect.provide(
      node.serve(directMemberService, DirectMemberProtocol),
      DirectMemberProtocol.toLayer({
        PrepareView: id => byCoordinator(session, prepare(id)),
        StartView: ({ plan }) => byCoordinator(session, start(plan)),
        GiveState: wanted => byCoordinator(session, giveState(session, wanted)),
        TakeState: state => byCoordinator(session, takeState(state)),
        Evaluated: ({ step }) =>
          byCoordinator(
            session,
            Effect.sync(() => {
              for (const known of replica.snapshots.keys()) if (known <= step) replica.snapshots.delete(known)
              changed.notify()
            })
          )
      })
    )

  const member: JobMember = {
    changed,
    get term() {
      return replica.prepared.term
    },
    finished: false,
    stopped: undefined,
    attach: leave,
    services: serveViews,
    handlers: session => ({
      AssignLanes: () => Effect.die(new Error("the members of this job exchange directly")),
      Evaluate: ({ step }) =>
        byCoordinator(
          session,
          changed
            .until(() => replica.snapshots.get(step) ?? (replica.applied > step ? "gone" : undefined))
            .pipe(
              Effect.timeout(tensorDeadlineMs),
              Effect.flatMap(kept =>
                kept === "gone"
                  ? Effect.die(new Error(`the parameters of step ${step} are not here`))
                  : evaluateAll(compute, kept)
              ),
              Effect.orDie
            )
        ),
      Finish: ({ steps }) =>
        byCoordinator(
          session,
          changed
            .until(() => (replica.applied === steps ? true : undefined))
            .pipe(
              Effect.timeout(tensorDeadlineMs),
              Effect.andThen(compute.weightsSha256),
              Effect.map(weightsSha256 => {
                member.finished = true
                changed.notify()
                return { weightsSha256, sentBytes: streams.sentBytes }
              }),
              Effect.orDie
            )
        ),
      Stop: ({ reason }) =>
        byCoordinator(
          session,
          Effect.sync(() => {
            leave()
            member.stopped = reason
            changed.notify()
          })
        )
    }),
    work: (session, client) =>
      Effect.gen(function* () {
        // Without a coordinator nobody decides who takes part: what is here stays as it is until one asks for it.
        yield* Effect.addFinalizer(() => Effect.sync(leave))
        const direct = yield* Effect.orDie(node.client(session, directCoordinatorService, DirectCoordinatorProtocol))
        yield* Effect.forkScoped(reportProgress(replica, streams, direct))
        yield* Effect.forkScoped(heartbeats(session, direct))
        for (;;) {
          const exchange = yield* changed.until(() => replica.exchange)
          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* Effect.forkScoped(reportTrouble(replica, exchange, lost, direct))
              yield* takePart(replica, exchange, streams, lost, client, direct)
              yield* changed.until(() => (exchange.closed ? true : undefined))
            })
          )
        }
      })
  }
  return member
})

/** One view at one member: opens its streams, comes to the view's base, and goes on step by step until the view is over. */
const takePart = Effect.fnUntraced(function* (
  replica: DirectReplica,
  exchange: ViewExchange,
  streams: ViewStreams,
  lost: Set<PeerId>,
  client: RpcPeer.Client<CoordinatorRpcs>,
  direct: DirectClient
): Effect.fn.Return<void, ComputeError, Scope.Scope> {
  const { changed, steps } = replica
  const { plan } = exchange
  const opened = yield* Effect.result(streams.open(exchange))
  if (opened._tag === "Failure") {
    const { peer, error } = opened.failure
    yield* Effect.logDebug(`member ${peer} cannot be reached: ${error.message}`)
    lost.add(peer)
    return changed.notify()
  }
  // What this one gives is queued before anything else on each stream.
  yield* replica.exclusive.withPermits(1)(Effect.sync(() => exchange.give(() => replica.copyState(), replica.last)))
  if (!(yield* reachBase(replica, exchange))) {
    const { term, view, base } = plan
    const peers = plan.gifts.filter(({ to }) => to === exchange.self).map(({ from }) => from)
    return yield* Effect.ignore(
      direct.ReportTrouble({ term, view, step: base, what: "state", peers }).pipe(remoteCall())
    )
  }
  replica.compression?.own(exchange.segment)
  replica.vector?.begin()
  if (replica.vector !== undefined) yield* Effect.forkScoped(reportLeftOut(replica, exchange, client))
  if (replica.last?.step === plan.base) exchange.beginAfter(replica.last)
  const slots: Array<Float32Array> = []
  while (!exchange.closed && replica.applied < steps) {
    yield* changed.until(() =>
      exchange.closed ||
      (replica.snapshots.size < maxPendingEvaluations && replica.unreported.length < maxReportedSteps)
        ? true
        : undefined
    )
    const step = replica.applied + 1
    if (!(yield* computeNodes(replica, exchange, step, slots, client))) return
    const gradient = yield* changed.until(() =>
      exchange.closed ? "closed" : exchange.overrun ? "overrun" : exchange.take(step)
    )
    if (gradient === "closed") return
    if (gradient === "overrun") {
      const { term, view } = plan
      return yield* Effect.ignore(
        direct.ReportTrouble({ term, view, step, what: "state", peers: [] }).pipe(remoteCall())
      )
    }
    if (!(yield* applyGradient(replica, exchange, gradient, client))) return
  }
})

/** Brings this member to the base of the view, by what others give it where it lacks something. False where that is not the base's state. */
const reachBase = Effect.fnUntraced(function* (replica: DirectReplica, exchange: ViewExchange) {
  const { changed, compute } = replica
  const { plan } = exchange
  const gift = plan.gifts.find(({ to }) => to === exchange.self)
  let reached = replica.applied === plan.base
  if (gift?.what === "state") {
    const state = yield* changed.until(() => (exchange.closed ? "closed" : exchange.gifts.state))
    if (state === "closed") return true
    reached = yield* replica.takeState(exchange, plan, state)
    exchange.gifts.state = undefined
  } else if (gift?.what === "gradient") {
    const gradient = yield* changed.until(() => (exchange.closed ? "closed" : exchange.gifts.gradient))
    if (gradient === "closed") return true
    const skip = isPoisoned(gradient)
    if (!(yield* replica.apply(exchange, gradient, skip))) return true
    reached = (yield* compute.stateSha256(replica.applied)) === plan.stateSha256
  }
  if (exchange.closed) return true
  if (!reached) {
    replica.started = { term: 0, view: 0 }
    return false
  }
  replica.started = { term: plan.term, view: plan.view }
  replica.lossSums = plan.lossSums
  changed.notify()
  return true
})

/** Whether a step that is not finite is counted and changes nothing. */
const skips = ({ job }: DirectReplica): boolean =>
  job.strategy.kind === "allReduce" && job.strategy.nonFinite === "skip"

const isPoisoned = ({ values, loss }: StepGradient): boolean => !Number.isFinite(loss) || firstNonFinite(values) >= 0

/** Computes this member's nodes of a step, each of which is sent while the next one is computed. False where the view is over. */
const computeNodes = Effect.fnUntraced(function* (
  replica: DirectReplica,
  exchange: ViewExchange,
  step: number,
  slots: Array<Float32Array>,
  client: RpcPeer.Client<CoordinatorRpcs>
) {
  const { compute } = replica
  const { parameterCount, stepsPerEpoch } = compute.info
  let computeMs = 0
  for (const [index, node] of exchange.nodes.entries()) {
    const output = (slots[index] ??= sharedFloats(parameterCount))
    const computed = yield* replica.exclusive
      .withPermits(1)(
        Effect.suspend(() =>
          exchange.closed
            ? Effect.succeed(undefined)
            : compute.computeNode({
                epoch: Math.floor((step - 1) / stepsPerEpoch) + 1,
                step: (step - 1) % stepsPerEpoch,
                ...node,
                output
              })
        )
      )
      .pipe(Effect.catchTag("ComputeCancelled", () => Effect.succeed(undefined)))
    if (computed === undefined || exchange.closed) return false
    computeMs += computed.milliseconds
    if (computed.nonFiniteLane === undefined) {
      exchange.contribute(step, node, output, computed.loss)
      continue
    }
    yield* Effect.ignore(client.ReportNonFinite({ step, lane: computed.nonFiniteLane }).pipe(remoteCall()))
    if (!skips(replica) && replica.vector === undefined) return false
    // The loss tells all others: what is sent beside it is not looked at.
    exchange.contribute(step, node, output.fill(0), NaN)
  }
  if (exchange.nodes.length > 0) replica.computeMs = computeMs
  return true
})

/** Applies the mean gradient of a step, after a look whether it is finite: all members come to the same answer. */
const applyGradient = Effect.fnUntraced(function* (
  replica: DirectReplica,
  exchange: ViewExchange,
  gradient: StepGradient,
  client: RpcPeer.Client<CoordinatorRpcs>
) {
  const poisoned = isPoisoned(gradient)
  if (poisoned) {
    const element = firstNonFinite(gradient.values)
    yield* Effect.ignore(client.ReportNonFinite({ step: gradient.step, element }).pipe(remoteCall()))
    if (!skips(replica)) return false
  }
  return yield* replica.apply(exchange, gradient, poisoned)
})
