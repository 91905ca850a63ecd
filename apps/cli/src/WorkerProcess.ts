/**
 * A worker process on this machine, as `artifice run` starts it: it gets its invite on standard input, speaks JSON lines
 * on standard output, and ends when its scope closes or when this process ends, however that happens.
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"
import { type JobEvent, JobEventLine } from "artifice"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type CliFailure, failed } from "./CliFailure.ts"
import { LineSplitter } from "./LineSplitter.ts"
import { parentIsStdin, parentVariable } from "./ParentPipe.ts"

/** Longest line read from a child, standard output and standard error alike. */
const maxLineChars = 256 * 1024
/** From SIGTERM to SIGKILL: a worker drains within a step. */
const terminateGraceMs = 10_000

const mainModule = fileURLToPath(new URL("./main.ts", import.meta.url))

export interface WorkerSpec {
  /** The invite, written to the child's standard input. */
  readonly token: Redacted.Redacted<string>
  /** Absolute path of the job's module. */
  readonly job: string
  /** `ARTIFICE_HOME` of the child. */
  readonly home: string
  /** What the child says on standard error, line by line; its logs and, when it fails, why. */
  readonly onStderrLine: (line: string) => Effect.Effect<void>
  /** More arguments, such as `["--log-level", "debug"]`. */
  readonly args?: ReadonlyArray<string>
  /** The module to run instead of the command's own. */
  readonly entry?: string
  /** From SIGTERM to SIGKILL when the scope closes; 10 s by default. */
  readonly terminateGraceMs?: number
}

/** How a child ended: one of the two is set. */
export interface WorkerExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface WorkerProcess {
  readonly pid: number
  /**
   * The child's events in order, to be read once; ends when the child closes its standard output. Lines that are no event
   * are skipped. Must be read: a child whose output nobody takes stands still when the pipe is full.
   */
  readonly events: Stream.Stream<JobEvent>
  /** Waits for the end of the child. */
  readonly exit: Effect.Effect<WorkerExit>
}

const decodeLine = Schema.decodeUnknownOption(JobEventLine)

const cannotStart = (error: unknown): CliFailure =>
  failed({
    code: "WORKER_NOT_STARTED",
    message: `A worker process could not be started: ${error instanceof Error ? error.message : String(error)}`,
    hint: "Check the limits on processes and memory of this machine.",
    cause: error
  })

const start = (
  spec: WorkerSpec,
  exited: Deferred.Deferred<WorkerExit>
): Effect.Effect<ChildProcessWithoutNullStreams, CliFailure> =>
  Effect.callback<ChildProcessWithoutNullStreams, CliFailure>(resume => {
    const args = [spec.entry ?? mainModule, "worker", "--join", "-", spec.job, "--json", ...(spec.args ?? [])]
    const child = spawn(process.execPath, args, {
      stdio: ["pipe", "pipe", "pipe"],
      // An empty variable counts as unset: the passphrase of another home is none of this one's.
      env: {
        ...process.env,
        ARTIFICE_PASSPHRASE: "",
        ARTIFICE_PASSPHRASE_FILE: "",
        ARTIFICE_HOME: spec.home,
        [parentVariable]: parentIsStdin
      }
    })
    child.on("error", error => resume(Effect.fail(cannotStart(error))))
    child.on("spawn", () => resume(Effect.succeed(child)))
    child.on("exit", (code, signal) => Deferred.doneUnsafe(exited, Effect.succeed({ code, signal })))
    // The child may end before it has read its invite.
    child.stdin.on("error", () => {})
  })

const linesOf = (readable: Readable): Stream.Stream<string> =>
  Stream.suspend(() => {
    const splitter = new LineSplitter(maxLineChars)
    const decoder = new TextDecoder()
    return Stream.fromAsyncIterable<Buffer, unknown>(readable, error => error).pipe(
      Stream.map(chunk => splitter.push(decoder.decode(chunk, { stream: true }))),
      Stream.concat(Stream.sync(() => splitter.end())),
      Stream.flattenIterable,
      // A pipe breaks only when the child is gone, which `exit` tells.
      Stream.catchCause(() => Stream.empty)
    )
  })

const terminate = (child: ChildProcess, exit: Effect.Effect<WorkerExit>, graceMs: number): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (child.exitCode !== null || child.signalCode !== null) return Effect.void
    child.kill("SIGTERM")
    return exit.pipe(
      Effect.timeoutOption(graceMs),
      Effect.flatMap(ended => {
        if (Option.isSome(ended)) return Effect.void
        child.kill("SIGKILL")
        return exit
      })
    )
  })

/**
 * Starts a worker process and gives it its invite. The child ends with the scope: SIGTERM, and SIGKILL when it has not
 * ended after the grace. It also ends when this process dies without closing the scope, since its standard input ends then.
 * Fails with `WORKER_NOT_STARTED`.
 */
export const spawnWorker = Effect.fn("spawnWorker")(function* (
  spec: WorkerSpec
): Effect.fn.Return<WorkerProcess, CliFailure, Scope.Scope> {
  const exited = yield* Deferred.make<WorkerExit>()
  const exit = Deferred.await(exited)
  const child = yield* Effect.acquireRelease(start(spec, exited), child =>
    terminate(child, exit, spec.terminateGraceMs ?? terminateGraceMs)
  )
  child.stdin.write(`${Redacted.value(spec.token)}\n`)
  yield* Effect.forkScoped(Stream.runForEach(linesOf(child.stderr), spec.onStderrLine))
  return {
    pid: child.pid ?? 0,
    exit,
    events: linesOf(child.stdout).pipe(
      Stream.map(line => decodeLine(line)),
      Stream.filter(Option.isSome),
      Stream.map(event => event.value)
    )
  }
})
