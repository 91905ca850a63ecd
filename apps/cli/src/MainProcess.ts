/**
 * A command as a whole process: signals, the drain, the exit code.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { exitCodes } from "./CliFailure.ts"
import { hasParentPipe } from "./ParentPipe.ts"
import { flush, survivePipeLoss } from "./StandardStreams.ts"

/** The command failed and has said so; what is left is the exit code. */
export class Reported extends Schema.TaggedError<Reported>()("Reported", { exitCode: Schema.Int }) {}

/**
 * One Ctrl-C often arrives twice: the terminal signals every process of the group, and npm and the launcher pass theirs
 * on. Signals within this time of the first are its echo. Nobody presses the key twice this fast.
 */
const signalEchoMs = 100
/** A drain is bounded by its own parts; this ends the process where one of them is broken and nobody is there to press again. */
const maxDrainMs = 120_000
/** A reader that neither reads nor goes away does not keep the process. */
const maxFlushMs = 2_000
/** Longest delay of a Node timer, 2³¹ − 1 ms: keeps the event loop alive while the command only waits. */
const keepAliveIntervalMs = 2_147_483_647

const drainSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const
const stopNow = (): never => process.exit(exitCodes.stopped)

const exitCodeOf = (exit: Exit.Exit<void, Reported>): number => {
  if (Exit.isSuccess(exit)) return exitCodes.done
  if (Cause.hasInterruptsOnly(exit.cause)) return exitCodes.interrupted
  const error = Cause.squash(exit.cause)
  return error instanceof Reported ? error.exitCode : exitCodes.failed
}

/**
 * Runs the command and ends the process with its exit code.
 *
 * The first SIGINT, SIGTERM or SIGHUP interrupts the command and waits until its finalizers are done (130); the second
 * ends the process at once (137). A child of `artifice run` leaves SIGINT to its parent, which a Ctrl-C reaches as well.
 */
export const runProcess = (command: Effect.Effect<void, Reported>): void => {
  survivePipeLoss()
  const keepAlive = setInterval(() => {}, keepAliveIntervalMs)
  let interrupt = (): void => process.exit(exitCodes.interrupted)
  let firstSignalAtMs: number | undefined

  const onSignal = (signal: NodeJS.Signals): void => {
    if (signal === "SIGINT" && hasParentPipe()) return
    const nowMs = performance.now()
    if (firstSignalAtMs === undefined) {
      firstSignalAtMs = nowMs
      setTimeout(stopNow, maxDrainMs)
      interrupt()
    } else if (nowMs - firstSignalAtMs > signalEchoMs) {
      stopNow()
    }
  }
  // Before the command starts: what it prints first may already be answered by a signal.
  for (const signal of drainSignals) process.on(signal, onSignal)
  const fiber = Effect.runFork(command)
  interrupt = () => fiber.interruptUnsafe()

  fiber.addObserver(exit => {
    clearInterval(keepAlive)
    Effect.runFork(Effect.timeoutOption(flush, maxFlushMs)).addObserver(() => process.exit(exitCodeOf(exit)))
  })
}
