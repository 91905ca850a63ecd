import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as CliError from "effect/cli/CliError"

/** The command's exit codes that a failure can have; 0, 130 and 137 belong to success and to signals. */
export const exitCodes = { done: 0, failed: 1, usage: 2, refused: 3, interrupted: 130, stopped: 137 } as const

/**
 * Why a command ends without having done its work: what the person or program at the other end needs to act.
 *
 * `code` is stable and SCREAMING_SNAKE, `message` says what happened, `hint` what to do. `exitCode` is 1 when the command
 * failed, 2 for wrong usage, 3 when a peer refused (not paired, wrong identity, different job).
 */
export class CliFailure extends Schema.TaggedError<CliFailure>()("CliFailure", {
  code: Schema.String,
  message: Schema.String,
  hint: Schema.String,
  exitCode: Schema.Literals([exitCodes.failed, exitCodes.usage, exitCodes.refused]),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  /** The one line for standard error. */
  get line(): string {
    return oneLine(this.hint === "" ? `artifice: ${this.message}` : `artifice: ${sentence(this.message)} ${this.hint}`)
  }
}

interface FailureFields {
  readonly code: string
  readonly message: string
  readonly hint: string
  readonly cause?: unknown
}

/** The command failed: exit code 1. */
export const failed = (fields: FailureFields): CliFailure => new CliFailure({ ...fields, exitCode: exitCodes.failed })

/** The command was called wrongly: exit code 2. */
export const wrongUsage = (fields: FailureFields): CliFailure =>
  new CliFailure({ ...fields, exitCode: exitCodes.usage })

/** A peer refused this one: exit code 3. */
export const refused = (fields: FailureFields): CliFailure => new CliFailure({ ...fields, exitCode: exitCodes.refused })

// Control characters could come from a peer or a file name and would otherwise reach the terminal.
// oxlint-disable-next-line no-control-regex
const controlCharacters = /[\u0000-\u001f\u007f-\u009f]+/g

/** The text without line breaks and control characters. */
export const oneLine = (text: string): string => text.replace(controlCharacters, " ").replace(/ {2,}/g, " ").trim()

const sentence = (text: string): string => (/[.!?]$/.test(text) ? text : `${text}.`)

const screamingSnake = (tag: string): string =>
  tag
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .replace(/[^A-Za-z0-9]+/g, "_")
    .toUpperCase()

const stringField = (value: object, key: string): string | undefined => {
  const field: unknown = Reflect.get(value, key)
  return typeof field === "string" && field !== "" ? field : undefined
}

/** Wrong usage as `effect/cli` reports it, with the way to the help of that very command. */
const fromUsage = (error: CliError.CliError): CliFailure => {
  if (error._tag !== "ShowHelp") {
    return wrongUsage({ code: "USAGE", message: oneLine(error.message), hint: "See artifice --help." })
  }
  const hint = `See ${error.commandPath.join(" ")} --help.`
  return error.errors.length === 0
    ? wrongUsage({ code: "USAGE", message: "No command given", hint })
    : wrongUsage({ code: "USAGE", message: error.errors.map(each => oneLine(each.message)).join("; "), hint })
}

/**
 * Whatever ended a command, as a `CliFailure`: its own kind unchanged, wrong usage with code `USAGE`, a tagged error of
 * the library under its tag, and anything else (a defect) as `INTERNAL`.
 */
export const fromCause = (cause: Cause.Cause<unknown>): CliFailure => {
  const error: unknown = Option.getOrElse(Cause.findErrorOption(cause), () => Cause.squash(cause))
  if (error instanceof CliFailure) return error
  if (CliError.isCliError(error)) return fromUsage(error)
  const debugHint = "Run it again with --log-level debug for the details."
  if (typeof error === "object" && error !== null && !(Cause.hasDies(cause) && !Cause.hasFails(cause))) {
    const tag = stringField(error, "_tag")
    const message = stringField(error, "message")
    if (tag !== undefined) {
      return failed({
        code: screamingSnake(tag),
        message: oneLine(message ?? tag),
        hint: stringField(error, "hint") ?? debugHint,
        cause: error
      })
    }
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  return failed({ code: "INTERNAL", message: oneLine(message), hint: debugHint, cause: error })
}
