import { Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import type { ComputeThread } from "../compute/ComputeThread.ts"
import { maximalSubtrees } from "../compute/LaneTree.ts"
import { bytesOf, gradientExchanger, sendTensor, type ExchangerRpcs } from "../node/GradientExchanger.ts"
import type { PeerNode } from "../node/PeerNode.ts"
import { tensorHeaderBytes, tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import { evaluateAll } from "./Evaluation.ts"
import { byCoordinator, tensorDeadlineMs, type JobMember } from "./JobMember.ts"
import type { CoordinatorRpcs } from "./JobProtocol.ts"
import { remoteCall } from "./RemoteCall.ts"
import { Replica, sharedFloats } from "./Replica.ts"
import type { TrainingJob } from "./TrainingJob.ts"

/** A member of the star: sends what it computes to the coordinator, and applies the mean gradients that come back. */
export const starMember = Effect.fnUntraced(function* (
  node: PeerNode["Service"],
  job: TrainingJob,
  compute: ComputeThread,
  jobId: Uint8Array
) {
  const replica = new Replica(job, compute, jobId)
  const { changed } = replica
  const exchanger = yield* node.supervisor.spawn(`exchanger-${job.name}`, gradientExchanger(node, jobId, replica.place))
  const member: JobMember = {
    changed,
    term: 0,
    finished: false,
    stopped: undefined,
    attach: session => replica.attach(session),
    services: () => Effect.void,
    handlers: session => ({
      AssignLanes: ({ view, base, lanes }) =>
        byCoordinator(
          session,
          Effect.suspend(() => {
            replica.view = { view, base, nodes: maximalSubtrees(lanes, job.lanes) }
            return Effect.andThen(
              compute.cancel,
              Effect.sync(() => changed.notify())
            )
          })
        ),
      Evaluate: ({ step }) =>
        byCoordinator(
          session,
          changed
            .until(() => (replica.evaluations.get(step)?.arrived === true ? replica.evaluations.get(step) : undefined))
            .pipe(
              Effect.timeout(tensorDeadlineMs),
              Effect.flatMap(({ parameters }) => evaluateAll(compute, parameters)),
              Effect.ensuring(Effect.sync(() => replica.evaluations.delete(step))),
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
                return { weightsSha256, sentBytes: replica.sentBytes }
              }),
              Effect.orDie
            )
        ),
      Stop: ({ reason }) =>
        byCoordinator(
          session,
          Effect.sync(() => {
            member.stopped = reason
            changed.notify()
          })
        )
    }),
    work: (session, client, steps) =>
      Effect.gen(function* () {
        // A coordinator that has applied nothing sends no state: it has begun, or begins anew, with the initial weights.
        if (steps === 0) yield* compute.initialise
        yield* Effect.forkScoped(replica.applyArrivals(session))
        return yield* computeLanes(replica, session, exchanger, client)
      })
  }
  return member
})

/** Computes this member's nodes of every step and sends them, as long as the session lives. */
const computeLanes = Effect.fnUntraced(function* (
  replica: Replica,
  session: Session,
  exchanger: ActorRef<ExchangerRpcs>,
  client: RpcPeer.Client<CoordinatorRpcs>
) {
  const { compute, changed } = replica
  const { parameterCount, stepsPerEpoch } = compute.info
  const slots: Array<Float32Array> = []
  let done = { view: 0, step: 0 }

  /** The next step to compute: the view's base must be applied, and this view's part of the step not sent yet. */
  const task = () => {
    const { view, applied, steps } = replica
    if (view === undefined || applied < view.base || applied >= steps || view.nodes.length === 0) return undefined
    return done.view === view.view && done.step === applied + 1 ? undefined : { view, step: applied + 1 }
  }

  for (;;) {
    const { view, step } = yield* changed.until(task)
    const current = () => replica.view === view && replica.applied + 1 === step
    let sent = 0
    for (const [index, node] of view.nodes.entries()) {
      const output = (slots[index] ??= sharedFloats(parameterCount))
      const computed = yield* replica.exclusive
        .withPermits(1)(
          Effect.suspend(() =>
            current()
              ? compute.computeNode({
                  epoch: Math.floor((step - 1) / stepsPerEpoch) + 1,
                  step: (step - 1) % stepsPerEpoch,
                  ...node,
                  output
                })
              : Effect.succeed(undefined)
          )
        )
        .pipe(Effect.catchTag("ComputeCancelled", () => Effect.succeed(undefined)))
      if (computed === undefined || !current()) break
      if (computed.nonFiniteLane !== undefined) {
        yield* Effect.ignore(client.ReportNonFinite({ step, lane: computed.nonFiniteLane }).pipe(remoteCall()))
        sent = view.nodes.length
        break
      }
      const header: TensorHeader = {
        kind: tensorKinds.partial,
        job: replica.jobId,
        term: 0,
        view: view.view,
        step,
        lanes: node,
        segment: { from: 0, to: parameterCount },
        loss: computed.loss
      }
      // A lost session ends this fiber with its scope; until then there is nothing else to do.
      yield* Effect.ignore(sendTensor(exchanger, session, header, bytesOf(output)))
      replica.sentBytes += tensorHeaderBytes + output.byteLength
      sent++
    }
    if (sent === view.nodes.length) done = { view: view.view, step }
  }
})
