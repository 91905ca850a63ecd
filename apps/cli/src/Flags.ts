/**
 * The flags and arguments of `artifice`. Each falls back to its environment variable, then to its default.
 */
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import * as Result from "effect/Result"
import * as Argument from "effect/cli/Argument"
import * as CliError from "effect/cli/CliError"
import * as Flag from "effect/cli/Flag"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import { formatHostPort, type HostPort, parseHostPort } from "./HostPort.ts"
import { parseOverride } from "./Override.ts"

const defaultWorkers = 2
const defaultMinWorkers = 1
const defaultRunListen: HostPort = { host: "127.0.0.1", port: 0 }

const logLevels = [
  ["all", "All"],
  ["trace", "Trace"],
  ["debug", "Debug"],
  ["info", "Info"],
  ["warn", "Warn"],
  ["error", "Error"],
  ["fatal", "Fatal"],
  ["none", "None"]
] as const satisfies ReadonlyArray<readonly [string, LogLevel.LogLevel]>

type Parse<A> = (text: string) => Result.Result<A, string>

const parseCount: Parse<number> = text =>
  /^\d{1,9}$/.test(text) && Number(text) >= 1 ? Result.succeed(Number(text)) : Result.fail("a whole number from 1 on")

const parseBoolean: Parse<boolean> = text => {
  if (/^(1|true|yes|on)$/i.test(text)) return Result.succeed(true)
  return /^(0|false|no|off)$/i.test(text) ? Result.succeed(false) : Result.fail("true or false")
}

const parseLogLevel: Parse<LogLevel.LogLevel> = text => {
  const level = logLevels.find(([name]) => name === text.toLowerCase())
  return level === undefined ? Result.fail(logLevels.map(([name]) => name).join(", ")) : Result.succeed(level[1])
}

/** Lets a parser that answers in words judge the text of a flag. */
const parsedBy = <A>(option: string, parse: Parse<A>) =>
  Flag.mapEffect((value: string) =>
    Result.match(parse(value), {
      onSuccess: parsed => Effect.succeed(parsed),
      onFailure: expected => Effect.fail(new CliError.InvalidValue({ option, value, expected, kind: "flag" }))
    })
  )

/** Where the flag is absent: its environment variable, read by the same parser, and where that is unset the default. */
const orElse = <A, B>(variable: string, parse: Parse<A>, otherwise: Effect.Effect<B, CliError.CliError>) =>
  Flag.withDefault(
    Effect.suspend((): Effect.Effect<A | B, CliError.CliError> => {
      const text = process.env[variable]
      if (text === undefined || text === "") return otherwise
      return Result.match(parse(text), {
        onSuccess: parsed => Effect.succeed(parsed),
        onFailure: expected =>
          Effect.fail(new CliError.ValidationError({ message: `${variable} is "${text}", expected: ${expected}` }))
      })
    })
  )

/** `undefined` where the command is to decide by whether standard output is a terminal. */
export const json = GlobalFlag.Setting("json")({
  flag: Flag.Boolean("json").pipe(
    Flag.withDescription("One JSON object per line; the default where standard output is no terminal [ARTIFICE_JSON]"),
    orElse("ARTIFICE_JSON", parseBoolean, Effect.succeed(undefined))
  )
})

export const logLevel = GlobalFlag.Setting("log-level")({
  flag: Flag.ChoiceWithValue("log-level", logLevels).pipe(
    Flag.withDescription("Least level of the logs on standard error, default warn [ARTIFICE_LOG_LEVEL]"),
    orElse("ARTIFICE_LOG_LEVEL", parseLogLevel, Effect.succeed<LogLevel.LogLevel>("Warn"))
  )
})

export const job = Argument.File("JOB", { mustExist: true }).pipe(
  Argument.withDescription("A module whose default export is a TrainingJob")
)

const listen = Flag.String("listen").pipe(Flag.withMetavar("HOST:PORT"), parsedBy("listen", parseHostPort))

export const listenHere = listen.pipe(
  Flag.withDescription(`Where to listen, default ${formatHostPort(defaultRunListen)} [ARTIFICE_LISTEN]`),
  orElse("ARTIFICE_LISTEN", parseHostPort, Effect.succeed(defaultRunListen))
)

export const listenForOthers = listen.pipe(
  Flag.withDescription("Where the other machines reach this one; port 0 chooses one [ARTIFICE_LISTEN]"),
  orElse("ARTIFICE_LISTEN", parseHostPort, Effect.fail(new CliError.MissingOption({ option: "listen" })))
)

const count = (name: string) => Flag.String(name).pipe(Flag.withMetavar("N"), parsedBy(name, parseCount))

export const workers = count("workers").pipe(
  Flag.withDescription(`Worker processes to start, default ${defaultWorkers} [ARTIFICE_WORKERS]`),
  orElse("ARTIFICE_WORKERS", parseCount, Effect.succeed(defaultWorkers))
)

/** `undefined` where the number of workers is meant. */
export const minWorkersOfRun = count("min-workers").pipe(
  Flag.withDescription("Workers to wait for before the first step, default all of them [ARTIFICE_MIN_WORKERS]"),
  orElse("ARTIFICE_MIN_WORKERS", parseCount, Effect.succeed(undefined))
)

export const minWorkersOfCoordinator = count("min-workers").pipe(
  Flag.withDescription(
    `Workers to wait for before the first step, default ${defaultMinWorkers} [ARTIFICE_MIN_WORKERS]`
  ),
  orElse("ARTIFICE_MIN_WORKERS", parseCount, Effect.succeed(defaultMinWorkers))
)

export const set = Flag.String("set").pipe(
  Flag.withMetavar("path=value"),
  Flag.withDescription("Override an option of the job, such as epochs=5; may be repeated, enters the fingerprint"),
  parsedBy("set", parseOverride),
  Flag.atLeast(0)
)

export const join = Flag.String("join").pipe(
  Flag.withMetavar("TOKEN"),
  Flag.withDescription("The invite that the coordinator printed; - reads it from standard input [ARTIFICE_JOIN]"),
  Flag.withDefault(undefined)
)

export const peer = Flag.String("peer").pipe(
  Flag.withMetavar("ID"),
  Flag.withDescription("The coordinator's peer id, when this machine is paired with it [ARTIFICE_PEER]"),
  Flag.withDefault(undefined)
)
