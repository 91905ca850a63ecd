import { PeerNode, TrainingJob, work, WorkerError, type JobDescription } from "artifice"
import { isAbsolute, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import { CliFailure, failed, refused, wrongUsage } from "../CliFailure.ts"
import { computeFailure, loadJob, whilePeerLives } from "../Job.ts"
import type { CommandBody, WorkerOptions } from "../Options.ts"
import { hasParentPipe } from "../ParentPipe.ts"
import { listeningPeer } from "../Listening.ts"
import { choosePeer } from "../PeerChoice.ts"
import { peerFailure } from "../PeerFailure.ts"
import { readInvite } from "../Token.ts"

const hints: Readonly<Record<WorkerError["code"], string>> = {
  REFUSED: "Ask the coordinator for a new token; each one pairs one machine, once, within ten minutes.",
  JOB_MISMATCH: "Use the coordinator's version of the job's module, of its data and of Artifice.",
  JOB_OVER: "Start the coordinator again to train once more.",
  UNREACHABLE: "Check that the coordinator is running, and that its address can be reached from here."
}

const workerFailure = (error: WorkerError): CliFailure => {
  const fields = { code: error.code, message: error.message, hint: hints[error.code], cause: error }
  return error.code === "REFUSED" || error.code === "JOB_MISMATCH" ? refused(fields) : failed(fields)
}

/** The module to load: the one that was named here, or the one that the coordinator names, if it lies below this folder. */
const moduleOf = (named: string | undefined, { module, name }: JobDescription): Effect.Effect<string, CliFailure> => {
  if (named !== undefined) return Effect.succeed(named)
  const told = module.split("/")
  if (module !== "" && !isAbsolute(module) && !told.includes("..")) return Effect.succeed(resolve(module))
  return Effect.fail(
    wrongUsage({
      code: "JOB_NOT_NAMED",
      message: `The coordinator's job is "${name}", whose module it cannot name for this machine`,
      hint: "Give the path of the job's module here as the last argument."
    })
  )
}

/** Other members of a job dial this one, on a port that the system chooses: those on this machine alone where all members run here. */
const loopback = { host: "127.0.0.1", port: 0 }
const everywhere = { host: "0.0.0.0", port: 0 }

/** With discovery on, a coordinator whose address is not known any more is waited for: its beacons come every few seconds. */
const discoveryPatienceMs = 30_000
const discoveryRetryMs = 500

/** The first session with the coordinator. */
const reach = (node: PeerNode["Service"], { coordinator, discovery }: WorkerOptions) => {
  if (coordinator._tag === "Invite") return Effect.mapError(node.join(Redacted.value(coordinator.token)), peerFailure)
  return Effect.gen(function* () {
    const known = yield* Effect.orDie(node.registry.client.List())
    const peerId = yield* choosePeer(
      coordinator.peer,
      known.map(each => each.peerId)
    )
    return yield* node.connect(peerId).pipe(
      Effect.retry({
        while: error => discovery !== undefined && error.code === "UNREACHABLE",
        schedule: Schedule.spaced(discoveryRetryMs),
        times: discoveryPatienceMs / discoveryRetryMs
      }),
      Effect.mapError(peerFailure)
    )
  })
}

/** `artifice worker`. */
export const workerCommand: CommandBody<WorkerOptions> = (options, output) =>
  Effect.gen(function* () {
    const { coordinator, discovery } = options
    if (coordinator._tag === "Invite") yield* readInvite(coordinator.token)
    // A job that is named here is checked before anybody is dialled.
    if (options.job !== undefined) yield* loadJob(options.job, [])
    const node = yield* listeningPeer(options.home, hasParentPipe() ? loopback : everywhere, { discovery })
    yield* output.emit({ event: "process", role: "worker", pid: process.pid, peer: node.identity.peerId })
    const session = yield* reach(node, options).pipe(whilePeerLives, Effect.provideService(PeerNode, node))
    yield* work({
      connect: Effect.succeed(session),
      load: description =>
        Effect.gen(function* () {
          const path = yield* moduleOf(options.job, description)
          return { job: yield* loadJob(path, description.set), jobUrl: TrainingJob.url(path) }
        })
    }).pipe(
      Effect.mapError(error =>
        error instanceof CliFailure
          ? error
          : error instanceof WorkerError
            ? workerFailure(error)
            : computeFailure(error)
      ),
      whilePeerLives,
      Effect.provideService(PeerNode, node)
    )
  })
