import { decodeInvite, isPeerId, PeerNode, TrainingJob, work, WorkerError, type JobDescription } from "artifice"
import { isAbsolute, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { CliFailure, failed, refused, wrongUsage } from "../CliFailure.ts"
import { computeFailure, loadJob, whilePeerLives } from "../Job.ts"
import type { CommandBody, WorkerOptions } from "../Options.ts"
import { peerOfHome } from "../Peer.ts"

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

/** `artifice worker`. */
export const workerCommand: CommandBody<WorkerOptions> = (options, output) =>
  Effect.gen(function* () {
    const { coordinator } = options
    if (coordinator._tag === "Invite") {
      yield* Effect.try({
        try: () => decodeInvite(Redacted.value(coordinator.token)),
        catch: error =>
          wrongUsage({
            code: "BAD_TOKEN",
            message: error instanceof Error ? `This is no token: ${error.message}` : String(error),
            hint: "Copy the whole line that the coordinator printed."
          })
      })
    }
    // A job that is named here is checked before anybody is dialled.
    if (options.job !== undefined) yield* loadJob(options.job, [])
    const node = yield* peerOfHome(options.home)
    yield* output.emit({ event: "process", role: "worker", pid: process.pid, peer: node.identity.peerId })
    const connect =
      coordinator._tag === "Invite"
        ? node.join(Redacted.value(coordinator.token))
        : isPeerId(coordinator.peer)
          ? node.connect(coordinator.peer)
          : Effect.die(new Error("a peer id that the flags let through is none"))
    yield* work({
      connect,
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
