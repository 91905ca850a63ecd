/**
 * Standard input of a worker: the invite that `--join -` reads, and the pipe by which a worker that `artifice run` started
 * notices its parent's end, however it ends.
 */
import * as Effect from "effect/Effect"
import { type CliFailure, exitCodes, wrongUsage } from "./CliFailure.ts"

/** In the environment of a child: its standard input stays open exactly as long as its parent lives. */
export const parentVariable = "ARTIFICE_PARENT"
export const parentIsStdin = "stdin"

/** An invite is a few hundred characters. */
const maxTokenChars = 16 * 1024

export const hasParentPipe = (): boolean => process.env[parentVariable] === parentIsStdin

/** The first line of standard input, without spaces around it. Fails with `NO_TOKEN` when there is none. */
export const readToken: Effect.Effect<string, CliFailure> = Effect.callback<string, CliFailure>(resume => {
  let held = ""
  const stop = (): void => {
    process.stdin.off("data", onData).off("end", onEnd).off("error", onEnd)
    process.stdin.pause()
  }
  const noToken = (message: string): void => {
    stop()
    const hint = "Write the token that the coordinator printed to standard input, or give it to --join."
    resume(Effect.fail(wrongUsage({ code: "NO_TOKEN", message, hint })))
  }
  const finish = (line: string): void => {
    if (line.trim() === "") return noToken("No token came on standard input")
    stop()
    resume(Effect.succeed(line.trim()))
  }
  const onData = (chunk: Buffer): void => {
    held += chunk.toString("utf8")
    const end = held.indexOf("\n")
    if (end >= 0) finish(held.slice(0, end))
    else if (held.length > maxTokenChars) noToken(`No line end within ${maxTokenChars} characters of standard input`)
  }
  const onEnd = (): void => finish(held)
  process.stdin.on("data", onData).on("end", onEnd).on("error", onEnd)
  return Effect.sync(stop)
})

/** From now on this process ends at once when its parent closes the pipe, which the system does even after SIGKILL. */
export const endWithParent: Effect.Effect<void> = Effect.sync(() => {
  const end = (): never => process.exit(exitCodes.failed)
  if (process.stdin.readableEnded || process.stdin.destroyed) end()
  process.stdin.on("end", end).on("close", end).on("error", end).resume()
})
