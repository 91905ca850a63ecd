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
import { parseDuration } from "./Duration.ts"
import { formatHostPort, type HostPort, parseHostPort } from "./HostPort.ts"
import { parseOverride } from "./Override.ts"
import { parsePeerPrefix } from "./PeerChoice.ts"

const defaultWorkers = 2
const defaultMinWorkers = 1
const defaultRunListen: HostPort = { host: "127.0.0.1", port: 0 }
const defaultInviteListen: HostPort = { host: "0.0.0.0", port: 0 }
const defaultTtl = { text: "10m", ms: 10 * 60_000 }

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

/** For every command, as every command that opens the home may need it. */
export const passphraseFile = GlobalFlag.Setting("passphrase-file")({
  flag: Flag.String("passphrase-file").pipe(
    Flag.withMetavar("FILE"),
    Flag.withDescription("A file whose first line is the passphrase of the home [ARTIFICE_PASSPHRASE_FILE]"),
    Flag.withDefault(Effect.sync(() => process.env["ARTIFICE_PASSPHRASE_FILE"] || undefined))
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
  Flag.withDescription(
    "Where the other machines reach this one; port 0 chooses one, once for this home [ARTIFICE_LISTEN]"
  ),
  orElse("ARTIFICE_LISTEN", parseHostPort, Effect.fail(new CliError.MissingOption({ option: "listen" })))
)

export const listenToPair = listen.pipe(
  Flag.withDescription(
    `Where the other machine reaches this one, default ${formatHostPort(defaultInviteListen)} [ARTIFICE_LISTEN]`
  ),
  orElse("ARTIFICE_LISTEN", parseHostPort, Effect.succeed(defaultInviteListen))
)

export const ttl = Flag.String("ttl").pipe(
  Flag.withMetavar("DURATION"),
  Flag.withDescription(`How long the token works, such as 90s or 2h, default ${defaultTtl.text} [ARTIFICE_TTL]`),
  parsedBy("ttl", parseDuration),
  orElse("ARTIFICE_TTL", parseDuration, Effect.succeed(defaultTtl.ms))
)

export const confirm = Flag.Boolean("confirm").pipe(
  Flag.withDescription("Ask here whether the other machine's fingerprint is the right one [ARTIFICE_CONFIRM]"),
  orElse("ARTIFICE_CONFIRM", parseBoolean, Effect.succeed(false))
)

export const token = Argument.String("TOKEN").pipe(
  Argument.withDescription(
    "What artifice invite printed on the other machine; - reads it from standard input [ARTIFICE_JOIN]"
  ),
  Argument.withDefault(undefined)
)

export const knownPeer = Argument.String("ID").pipe(
  Argument.withDescription("A peer's id, or as much of its beginning as no other peer shares"),
  Argument.mapEffect(value =>
    Result.match(parsePeerPrefix(value), {
      onSuccess: parsed => Effect.succeed(parsed),
      onFailure: expected => Effect.fail(new CliError.InvalidValue({ option: "ID", value, expected, kind: "argument" }))
    })
  )
)

export const discover = Flag.Boolean("discover").pipe(
  Flag.withDescription("Find paired peers on the local network by broadcast [ARTIFICE_DISCOVER]"),
  orElse("ARTIFICE_DISCOVER", parseBoolean, Effect.succeed(false))
)

export const discoveryKeyFile = Flag.String("discovery-key-file").pipe(
  Flag.withMetavar("FILE"),
  Flag.withDescription("The key of --discover, 64 hex digits, the same on all machines [ARTIFICE_DISCOVERY_KEY_FILE]"),
  orElse("ARTIFICE_DISCOVERY_KEY_FILE", text => Result.succeed(text), Effect.succeed(undefined))
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

export const resume = Flag.Boolean("resume").pipe(
  Flag.withDescription("Go on from the newest good checkpoint, or begin where there is none [ARTIFICE_RESUME]"),
  orElse("ARTIFICE_RESUME", parseBoolean, Effect.succeed(false))
)

export const checkpointDir = Flag.String("checkpoint-dir").pipe(
  Flag.withMetavar("DIR"),
  Flag.withDescription("Where checkpoints are kept, default ./.artifice/<job name> [ARTIFICE_CHECKPOINT_DIR]"),
  orElse("ARTIFICE_CHECKPOINT_DIR", text => Result.succeed(text), Effect.succeed(undefined))
)

export const checkpoint = Argument.Path("CHECKPOINT", { mustExist: true }).pipe(
  Argument.withDescription("The .json file of a checkpoint, or a folder, whose newest is taken")
)

export const out = Flag.String("out").pipe(
  Flag.withMetavar("FILE"),
  Flag.withDescription("Where to write the parameters, as safetensors [ARTIFICE_OUT]"),
  orElse("ARTIFICE_OUT", text => Result.succeed(text), Effect.fail(new CliError.MissingOption({ option: "out" })))
)

export const join = Flag.String("join").pipe(
  Flag.withMetavar("TOKEN"),
  Flag.withDescription("The invite that the coordinator printed; - reads it from standard input [ARTIFICE_JOIN]"),
  Flag.withDefault(undefined)
)

export const peer = Flag.String("peer").pipe(
  Flag.withMetavar("ID"),
  Flag.withDescription(
    "The coordinator's peer id or its beginning, once this machine is paired with it [ARTIFICE_PEER]"
  ),
  Flag.withDefault(undefined)
)
