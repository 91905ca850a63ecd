/**
 * Runs a command's body with its `Output` and reports how it ended.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import type * as Scope from "effect/Scope"
import * as TerminalCapabilities from "effect/cli/TerminalCapabilities"
import { type CliFailure, fromCause } from "./CliFailure.ts"
import * as JsonOutput from "./JsonOutput.ts"
import { Reported } from "./MainProcess.ts"
import type { Output } from "./Output.ts"
import { stderrSink, takeStdout } from "./StandardStreams.ts"
import * as TerminalOutput from "./TerminalOutput.ts"

export interface Presentation {
  /** One JSON object per line instead of text for people. */
  readonly json: boolean
  /** The least level of logs that reaches standard error. At `Debug` and below a failure shows its stack. */
  readonly logLevel: LogLevel.LogLevel
}

const defaultColumns = 80

/** The output on the process's own streams; until the scope closes nothing else reaches standard output. */
const makeOutput = Effect.fnUntraced(function* (json: boolean): Effect.fn.Return<Output, never, Scope.Scope> {
  if (json) return JsonOutput.make(yield* takeStdout(text => stderrSink.write(text)), stderrSink)
  const { canAnimate, canColor } = yield* TerminalCapabilities.TerminalCapabilities
  const output: Output = TerminalOutput.make(
    yield* takeStdout(text => Effect.runSync(output.note(text.replace(/\n$/, "")))),
    stderrSink,
    {
      colors: canColor && process.stdout.isTTY,
      animate: canAnimate,
      columns: () => process.stdout.columns || defaultColumns
    }
  )
  yield* Effect.addFinalizer(() => output.end)
  return output
})

/** Fails with the first exception that nobody caught: it ends the command like any failure, with its drain and its report. */
const uncaughtException = Effect.gen(function* () {
  const thrown = yield* Deferred.make<never>()
  const onException = (error: unknown): void => void Deferred.doneUnsafe(thrown, Effect.die(error))
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("uncaughtException", onException)),
    () => Effect.sync(() => process.off("uncaughtException", onException))
  )
  return yield* Deferred.await(thrown)
})

const isDebug = (level: LogLevel.LogLevel): boolean => level === "All" || level === "Trace" || level === "Debug"

/** Reports a failure once, on standard error and with `json` also as an `error` event, and fails with its exit code. */
export const report = Effect.fnUntraced(function* (
  cause: Cause.Cause<unknown>,
  output: Output,
  { logLevel }: Presentation
): Effect.fn.Return<never, Reported> {
  const failure = fromCause(cause)
  yield* output.failure(failure, isDebug(logLevel) ? Cause.pretty(cause) : undefined)
  return yield* new Reported({ exitCode: failure.exitCode })
})

/** Reports a failure that comes before or after every output, such as wrong usage. */
export const reportAlone = (cause: Cause.Cause<unknown>, presentation: Presentation): Effect.Effect<never, Reported> =>
  Effect.scoped(Effect.flatMap(makeOutput(presentation.json), output => report(cause, output, presentation)))

/** Runs the body with the output; interruption passes, everything else is reported and becomes an exit code. */
export const present = <R>(
  presentation: Presentation,
  body: (output: Output) => Effect.Effect<void, CliFailure, R>
): Effect.Effect<void, Reported, Exclude<R, Scope.Scope>> =>
  Effect.gen(function* () {
    const output = yield* makeOutput(presentation.json)
    const logger = Logger.make<unknown, void>(options => Effect.runSync(output.note(Logger.formatLogFmt.log(options))))
    yield* Effect.raceFirst(Effect.scoped(body(output)), uncaughtException).pipe(
      Effect.provideService(References.MinimumLogLevel, presentation.logLevel),
      Effect.provideService(Logger.CurrentLoggers, new Set([logger])),
      Effect.catchCause((cause): Effect.Effect<void, Reported> =>
        Cause.hasInterruptsOnly(cause) ? Effect.interrupt : report(cause, output, presentation)
      )
    )
  }).pipe(Effect.scoped)
