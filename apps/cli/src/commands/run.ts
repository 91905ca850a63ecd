import { formatAddress, generateIdentity, PeerNode, PeerStore } from "artifice"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { type CliFailure, failed, oneLine } from "../CliFailure.ts"
import { coordinateJob, loadJob } from "../Job.ts"
import type { CommandBody, RunOptions } from "../Options.ts"
import { startPeer } from "../Peer.ts"
import { spawnWorker, type WorkerProcess } from "../WorkerProcess.ts"

/** A folder that is gone when the command ends: the workers' identities live no longer than the job. */
const temporaryHome = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "artifice-run-"))),
  path => Effect.promise(() => rm(path, { recursive: true, force: true }))
)

/** `artifice run`: the coordinator in this process, each worker in one of its own, paired with one token each. */
export const runCommand: CommandBody<RunOptions> = (options, output) =>
  Effect.gen(function* () {
    const job = yield* loadJob(options.job, options.set)
    const home = yield* temporaryHome
    const identity = yield* Effect.promise(generateIdentity)
    const node = yield* startPeer(identity, PeerStore.memory, { listen: options.listen })
    const { peerId } = identity
    yield* output.emit({ event: "process", role: "coordinator", pid: process.pid, peer: peerId })
    yield* output.emit({ event: "listening", peer: peerId, address: formatAddress(node.address ?? options.listen) })

    const deserted = yield* Deferred.make<never, CliFailure>()
    let alive = options.workers
    let started = false
    let lastWords = ""
    let ending = false

    const onExit = (worker: WorkerProcess) =>
      Effect.flatMap(worker.exit, ({ code, signal }) => {
        alive--
        if (started ? alive > 0 : alive >= options.minWorkers) return Effect.void
        const ended = signal === null ? `exit code ${code}` : signal
        return Deferred.fail(
          deserted,
          failed({
            code: "WORKERS_ENDED",
            message: `${alive} of ${options.workers} workers are left, the last one ended with ${ended}${lastWords === "" ? "" : `: ${lastWords}`}`,
            hint: "Run it again with --log-level debug to see what they say."
          })
        )
      })

    const startWorker = (index: number) =>
      Effect.gen(function* () {
        const { token } = yield* Effect.orDie(node.invite({ name: job.name }))
        const worker = yield* spawnWorker({
          token: Redacted.make(token),
          job: options.job,
          home: join(home, `worker-${index}`),
          onStderrLine: line => {
            // When this command is interrupted its workers are stopped with it: that they say so is no news.
            if (ending) return Effect.void
            lastWords = oneLine(line)
            return output.note(`worker ${index}: ${lastWords}`)
          }
        })
        yield* Effect.forkScoped(
          Stream.runForEach(worker.events, event => (event.event === "process" ? output.emit(event) : Effect.void))
        )
        yield* Effect.forkScoped(onExit(worker))
      })

    const watched = {
      ...output,
      emit: (event: Parameters<typeof output.emit>[0]) => {
        if (event.event === "view") started = true
        return output.emit(event)
      }
    }
    yield* Effect.forEach(
      Array.from({ length: options.workers }, (_, index) => index + 1),
      startWorker,
      { discard: true }
    )
    yield* coordinateJob(job, options, watched).pipe(
      Effect.provideService(PeerNode, node),
      Effect.raceFirst(Deferred.await(deserted)),
      Effect.onInterrupt(() => Effect.sync(() => (ending = true)))
    )
  })
