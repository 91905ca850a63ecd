import { Clock, Deferred, Effect, Exit, Random, Schedule, Schema, type Scope } from "effect"
import { maximalSubtrees } from "../compute/LaneTree.ts"
import { ComputeThread, type ComputeError } from "../compute/ComputeThread.ts"
import { bytesOf, gradientExchanger, sendTensor, type ExchangerRpcs } from "../node/GradientExchanger.ts"
import { PeerNode } from "../node/PeerNode.ts"
import { jobIdBytes, tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { fromHex } from "../protocol/Bytes.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { evaluateAll } from "./Evaluation.ts"
import { fingerprintOf, fingerprintSha256, type Fingerprint } from "./Fingerprint.ts"
import {
  CoordinatorProtocol,
  coordinatorService,
  WorkerProtocol,
  workerService,
  type CoordinatorRpcs,
  type WorkerRpcs
} from "./JobProtocol.ts"
import { remoteCall } from "./RemoteCall.ts"
import { Replica, sharedFloats } from "./Replica.ts"
import type { TrainingJob } from "./TrainingJob.ts"

/** How long a worker tries to reach its coordinator again before it gives up. */
export const coordinatorPatienceMs = 10 * 60_000
const describeRetryMs = 250
const describeRetries = 40
const firstRedialMs = 250
const lastRedialMs = 2_000
const tensorDeadlineMs = 120_000
/** How long a coordinator that has this member's result may take to end the session. */
const goodbyeGraceMs = 10_000

/**
 * The worker's part is over without the job being done. `REFUSED`: the coordinator does not know this machine, or its token is used or has
 * run out; `JOB_MISMATCH`: this machine's job is another one; `JOB_OVER`: there is nothing left to do; `UNREACHABLE`: no coordinator answers.
 */
export class WorkerError extends Schema.TaggedError<WorkerError>()("WorkerError", {
  code: Schema.Literals(["REFUSED", "JOB_MISMATCH", "JOB_OVER", "UNREACHABLE"]),
  message: Schema.String
}) {}

/** What the coordinator says of its job: where its module is, and the overrides it was started with. */
export interface JobDescription {
  readonly name: string
  readonly module: string
  readonly set: ReadonlyArray<readonly [path: string, text: string]>
}

export interface WorkOptions<E> {
  /** The first session: by a token or with a coordinator that is paired already. */
  readonly connect: Effect.Effect<Session, SessionError>
  /** Finds this machine's module of the job. */
  readonly load: (
    description: JobDescription
  ) => Effect.Effect<{ readonly job: TrainingJob; readonly jobUrl: string }, E>
}

/** Codes of a handshake that tell of the network or of the moment, not of a refusal. */
const passing: ReadonlySet<string> = new Set(["UNREACHABLE", "TIMEOUT", "BUSY", "INTERNAL"])

/** Whoever is not known meets silence: that is what a lost connection during a handshake means. */
const refusalOf = ({ code, message }: SessionError): string =>
  code === "TRUNCATED"
    ? `the coordinator hung up without a word: it does not know this machine, or not this token (${message})`
    : message

/**
 * Works on a coordinator's job until it is done: computes the lanes it is given, keeps a replica in step, and finds its coordinator again when
 * a session is lost.
 */
export const work = Effect.fn("Worker.run")(function* <E>(
  options: WorkOptions<E>
): Effect.fn.Return<{ readonly steps: number }, WorkerError | ComputeError | E, PeerNode | Scope.Scope> {
  const node = yield* PeerNode
  const first = yield* Effect.mapError(
    options.connect,
    error => new WorkerError({ code: passing.has(error.code) ? "UNREACHABLE" : "REFUSED", message: refusalOf(error) })
  )
  const coordinator = first.peer.peerId
  // A coordinator that has only just begun to listen may not serve its job yet.
  const description = yield* Effect.scoped(
    Effect.flatMap(node.client(first, coordinatorService, CoordinatorProtocol), client =>
      client.Describe().pipe(remoteCall())
    )
  ).pipe(
    Effect.retry({ schedule: Schedule.spaced(describeRetryMs), times: describeRetries }),
    Effect.mapError(
      error => new WorkerError({ code: "UNREACHABLE", message: `no job is coordinated there: ${error.message}` })
    )
  )
  const { job, jobUrl } = yield* options.load(description)
  const compute = yield* ComputeThread.make({ jobUrl, set: description.set })
  const initialWeightsSha256 = yield* compute.initialise
  const fingerprint = fingerprintOf(job, compute.info)
  const jobId = fromHex(fingerprintSha256(fingerprint)).subarray(0, jobIdBytes)
  const replica = new Replica(job, compute, jobId)
  const exchanger = yield* node.supervisor
    .spawn(`exchanger-${job.name}`, gradientExchanger(node, jobId, replica.place))
    .pipe(Effect.mapError(error => new WorkerError({ code: "UNREACHABLE", message: error.message })))

  const member = (session: Session) =>
    Effect.scoped(serveSession(node, session, replica, exchanger, fingerprint, initialWeightsSha256))

  let session = first
  let refusedSinceMs: number | undefined
  while ((yield* member(session)) === "lost") {
    if (session.ended === undefined) {
      const nowMs = yield* Clock.currentTimeMillis
      refusedSinceMs ??= nowMs
      if (nowMs - refusedSinceMs > coordinatorPatienceMs) {
        return yield* new WorkerError({ code: "UNREACHABLE", message: "the coordinator no longer serves its job" })
      }
      // It lives, but the coordinator does not serve its job: not yet, or no longer.
      yield* Effect.sleep(lastRedialMs)
      continue
    }
    yield* Effect.logWarning(`the session with the coordinator is lost (${session.ended.message}); dialling it again`)
    refusedSinceMs = undefined
    session = yield* redial(node, coordinator)
  }
  return { steps: replica.steps }
})

const redial = (node: PeerNode["Service"], coordinator: Session["peer"]["peerId"]) =>
  Effect.gen(function* () {
    for (let waitMs = firstRedialMs; ; waitMs = Math.min(lastRedialMs, waitMs * 2)) {
      const attempt = yield* Effect.result(node.connect(coordinator))
      if (attempt._tag === "Success") return attempt.success
      yield* Effect.logInfo(`the coordinator cannot be reached: ${attempt.failure.message}`)
      yield* Effect.sleep(waitMs * (0.5 + 0.5 * (yield* Random.next)))
    }
  }).pipe(
    Effect.timeoutOrElse({
      duration: coordinatorPatienceMs,
      orElse: () =>
        Effect.fail(
          new WorkerError({
            code: "UNREACHABLE",
            message: `the coordinator could not be reached for ${coordinatorPatienceMs / 60_000} minutes`
          })
        )
    })
  )

/** Takes part in the job over one session, until the job is done or the session is lost. */
const serveSession = Effect.fnUntraced(function* (
  node: PeerNode["Service"],
  session: Session,
  replica: Replica,
  exchanger: ActorRef<ExchangerRpcs>,
  fingerprint: Fingerprint,
  initialWeightsSha256: string
) {
  const { compute, changed } = replica
  replica.attach(session)
  const handlers = WorkerProtocol.toLayer(workerHandlers(replica, session))
  yield* Effect.provide(node.serve(workerService, WorkerProtocol), handlers)
  const joined = yield* Effect.result(
    Effect.gen(function* () {
      const client = yield* node.client(session, coordinatorService, CoordinatorProtocol)
      const { steps } = yield* client.Join({ fingerprint, initialWeightsSha256 }).pipe(remoteCall())
      return { client, steps }
    })
  )
  if (joined._tag === "Failure") {
    const error = joined.failure
    if (error._tag === "JobMismatch") return yield* new WorkerError({ code: "JOB_MISMATCH", message: error.message })
    if (error._tag === "JobOver") return yield* new WorkerError({ code: "JOB_OVER", message: error.message })
    return "lost" as const
  }
  // A coordinator that has applied nothing sends no state: it has begun, or begins anew, with the initial weights.
  if (joined.success.steps === 0) yield* compute.initialise
  yield* Effect.forkScoped(replica.applyArrivals(session))
  const computing = yield* Effect.forkScoped(computeLanes(replica, session, exchanger, joined.success.client))
  // The coordinator ends the session when it has everyone's result; one that lives on for other work is not waited for.
  const finished = Effect.andThen(
    changed.until(() => (replica.finished ? true : undefined)),
    Effect.sleep(goodbyeGraceMs)
  )
  const stopped = changed.until(() => (replica.stopped === undefined ? undefined : true))
  const gone = Effect.raceAllFirst([Effect.asVoid(Deferred.await(session.closed)), stopped, finished])
  const failed = Effect.flatMap(
    Effect.callback<Exit.Exit<unknown, ComputeError>>(resume => {
      computing.addObserver(exit => resume(Effect.succeed(exit)))
    }),
    exit => (Exit.isFailure(exit) ? Effect.failCause(exit.cause) : Effect.never)
  )
  yield* Effect.raceFirst(gone, failed)
  changed.notify()
  if (replica.stopped !== undefined) {
    return yield* new WorkerError({ code: "JOB_OVER", message: `the coordinator ended the job: ${replica.stopped}` })
  }
  return replica.finished ? ("done" as const) : ("lost" as const)
})

const workerHandlers = (replica: Replica, session: Session) => {
  const { compute, changed } = replica
  /** Only the coordinator of this session may steer. */
  const byCoordinator = <A>(effect: Effect.Effect<A>): Effect.Effect<A> =>
    Effect.flatMap(RpcPeer.caller, ({ peer }) =>
      peer === session.peer.peerId ? effect : Effect.die(new Error(`${peer} is not this worker's coordinator`))
    )
  return {
    StartView: ({
      view,
      base,
      lanes
    }: {
      readonly view: number
      readonly base: number
      readonly lanes: ReadonlyArray<number>
    }) =>
      byCoordinator(
        Effect.suspend(() => {
          replica.view = { view, base, nodes: maximalSubtrees(lanes, replica.job.lanes) }
          return Effect.andThen(
            compute.cancel,
            Effect.sync(() => changed.notify())
          )
        })
      ),
    Evaluate: ({ step }: { readonly step: number }) =>
      byCoordinator(
        changed
          .until(() => (replica.evaluations.get(step)?.arrived === true ? replica.evaluations.get(step) : undefined))
          .pipe(
            Effect.timeout(tensorDeadlineMs),
            Effect.flatMap(({ parameters }) => evaluateAll(compute, parameters)),
            Effect.ensuring(Effect.sync(() => replica.evaluations.delete(step))),
            Effect.orDie
          )
      ),
    Finish: ({ steps }: { readonly steps: number }) =>
      byCoordinator(
        changed
          .until(() => (replica.applied === steps ? true : undefined))
          .pipe(
            Effect.timeout(tensorDeadlineMs),
            Effect.andThen(compute.weightsSha256),
            Effect.map(weightsSha256 => {
              replica.finished = true
              changed.notify()
              return { weightsSha256 }
            }),
            Effect.orDie
          )
      ),
    Stop: ({ reason }: { readonly reason: string }) =>
      byCoordinator(
        Effect.sync(() => {
          replica.stopped = reason
          changed.notify()
        })
      )
  } satisfies { readonly [Tag in WorkerRpcs["_tag"]]: unknown }
}

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
        view: view.view,
        step,
        lanes: node,
        segment: { from: 0, to: parameterCount },
        loss: computed.loss
      }
      // A lost session ends this fiber with its scope; until then there is nothing else to do.
      yield* Effect.ignore(sendTensor(exchanger, session, header, bytesOf(output)))
      sent++
    }
    if (sent === view.nodes.length) done = { view: view.view, step }
  }
})
