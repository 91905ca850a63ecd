/**
 * Where a command's news goes: `JsonOutput` for programs, `TerminalOutput` for people. Both read the same `JobEvent`s.
 */
import type { JobEvent } from "artifice"
import type * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { CliFailure } from "./CliFailure.ts"

/** What a command without a job prints: one object whose `event` is the command's name. */
export interface CommandResult {
  readonly event: string
  readonly [field: string]: Schema.Json
}

export interface Output {
  /** Shows an event of the job. `step` may come as often as steps are applied; what is shown of it is limited here. */
  readonly emit: (event: JobEvent) => Effect.Effect<void>
  /** Shows the result of a command without a job. */
  readonly result: (result: CommandResult) => Effect.Effect<void>
  /** Shows a text as a QR code for a camera, where the terminal can. */
  readonly qrCode: (text: string) => Effect.Effect<void>
  /** A line for the person who watches, on standard error: logs and what child processes say. */
  readonly note: (line: string) => Effect.Effect<void>
  /** Why the command failed: one line on standard error, and with `--json` an `error` event. `details` for debugging. */
  readonly failure: (failure: CliFailure, details?: string) => Effect.Effect<void>
  /** Leaves the terminal as a shell expects it. Nothing is shown afterwards. */
  readonly end: Effect.Effect<void>
}

/** A text stream that is written to and never read: standard output or standard error. */
export interface TextSink {
  readonly write: (text: string) => void
  /** True while the reader lags behind; what can be left out then should be. */
  readonly isLagging: () => boolean
}
