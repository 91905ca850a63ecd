import { Clock, Deferred, Effect, Exit, Random, Schedule, Schema, type Scope } from "effect"
import { ComputeThread, type ComputeError } from "../compute/ComputeThread.ts"
import { PeerNode } from "../node/PeerNode.ts"
import { jobIdBytes } from "../node/TensorHeader.ts"
import { fromHex } from "../protocol/Bytes.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { directMember } from "./DirectMember.ts"
import { fingerprintOf, fingerprintSha256, type Fingerprint } from "./Fingerprint.ts"
import { CoordinatorProtocol, coordinatorService, WorkerProtocol, workerService } from "./JobProtocol.ts"
import type { JobMember } from "./JobMember.ts"
import { remoteCall } from "./RemoteCall.ts"
import { starMember } from "./StarMember.ts"
import type { TrainingJob } from "./TrainingJob.ts"

/** How long a worker tries to reach its coordinator again before it gives up. */
export const coordinatorPatienceMs = 10 * 60_000
const describeRetryMs = 250
const describeRetries = 40
const firstRedialMs = 250
const lastRedialMs = 2_000
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
  const joining: Effect.Effect<JobMember, { readonly message: string }, Scope.Scope> =
    job.strategy.kind === "allReduce"
      ? directMember(node, job, compute, jobId, coordinator)
      : starMember(node, job, compute, jobId)
  const member = yield* Effect.mapError(
    joining,
    error => new WorkerError({ code: "UNREACHABLE", message: error.message })
  )
  const serve = (session: Session) =>
    Effect.scoped(serveSession(node, session, member, fingerprint, initialWeightsSha256))

  let session = first
  let refusedSinceMs: number | undefined
  while ((yield* serve(session)) === "lost") {
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
  return { steps: compute.info.stepsPerEpoch * job.epochs }
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
  member: JobMember,
  fingerprint: Fingerprint,
  initialWeightsSha256: string
) {
  const { changed } = member
  member.attach(session)
  yield* Effect.provide(node.serve(workerService, WorkerProtocol), WorkerProtocol.toLayer(member.handlers(session)))
  yield* member.services(session)
  const joined = yield* Effect.result(
    Effect.gen(function* () {
      const client = yield* node.client(session, coordinatorService, CoordinatorProtocol)
      const { steps } = yield* client.Join({ fingerprint, initialWeightsSha256, term: member.term }).pipe(remoteCall())
      return { client, steps }
    })
  )
  if (joined._tag === "Failure") {
    const error = joined.failure
    if (error._tag === "JobMismatch") return yield* new WorkerError({ code: "JOB_MISMATCH", message: error.message })
    if (error._tag === "JobOver") return yield* new WorkerError({ code: "JOB_OVER", message: error.message })
    return "lost" as const
  }
  const { client, steps } = joined.success
  const working = yield* Effect.forkScoped(member.work(session, client, steps))
  // The coordinator ends the session when it has everyone's result; one that lives on for other work is not waited for.
  const finished = Effect.andThen(
    changed.until(() => (member.finished ? true : undefined)),
    Effect.sleep(goodbyeGraceMs)
  )
  const stopped = changed.until(() => (member.stopped === undefined ? undefined : true))
  const gone = Effect.raceAllFirst([Effect.asVoid(Deferred.await(session.closed)), stopped, finished])
  const failed = Effect.flatMap(
    Effect.callback<Exit.Exit<unknown, ComputeError>>(resume => {
      working.addObserver(exit => resume(Effect.succeed(exit)))
    }),
    exit => (Exit.isFailure(exit) ? Effect.failCause(exit.cause) : Effect.never)
  )
  yield* Effect.raceFirst(gone, failed)
  changed.notify()
  if (member.stopped !== undefined) {
    return yield* new WorkerError({ code: "JOB_OVER", message: `the coordinator ended the job: ${member.stopped}` })
  }
  return member.finished ? ("done" as const) : ("lost" as const)
})
