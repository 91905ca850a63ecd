import type { JobEvent } from "artifice"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { CommandResult, Output, TextSink } from "./Output.ts"

/** At most 4 `step` events per second. */
const stepIntervalMs = 250

/**
 * One JSON object per line on `stdout`, each with `event` and `at` (ISO 8601). Steps come at most every 250 ms by the
 * Clock; those between, and steps while the reader lags behind, are left out. Nothing else is left out.
 */
export const make = (stdout: TextSink, stderr: TextSink): Output => {
  let nextStepAtMs = Number.NEGATIVE_INFINITY

  const print = (object: JobEvent | CommandResult) =>
    Clock.clockWith(clock =>
      Effect.sync(() => {
        const nowMs = clock.currentTimeMillisUnsafe()
        if (object.event === "step") {
          if (nowMs < nextStepAtMs || stdout.isLagging()) return
          nextStepAtMs = nowMs + stepIntervalMs
        }
        const { event, ...fields } = object
        stdout.write(`${JSON.stringify({ event, at: new Date(nowMs).toISOString(), ...fields })}\n`)
      })
    )

  return {
    emit: print,
    result: print,
    qrCode: () => Effect.void,
    note: line => Effect.sync(() => stderr.write(`${line}\n`)),
    failure: (failure, details) =>
      Effect.andThen(
        print({ event: "error", code: failure.code, message: failure.message, hint: failure.hint }),
        Effect.sync(() => stderr.write(details === undefined ? `${failure.line}\n` : `${failure.line}\n${details}\n`))
      ),
    end: Effect.void
  }
}
