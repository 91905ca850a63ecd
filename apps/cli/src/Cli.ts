/**
 * The `artifice` command: its sub-commands and their help. What a command does is in `commands/`, loaded when it is called.
 */
import { readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join, resolve } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Argument from "effect/cli/Argument"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import { type CliFailure, wrongUsage } from "./CliFailure.ts"
import { chooseCoordinator, chooseToken } from "./CoordinatorChoice.ts"
import { chooseDiscovery } from "./DiscoveryKey.ts"
import * as Flags from "./Flags.ts"
import { PassphraseFile } from "./PassphraseFile.ts"
import { Reported } from "./MainProcess.ts"
import type { CommandBody } from "./Options.ts"
import { endWithParent, hasParentPipe } from "./ParentPipe.ts"
import { present, reportAlone } from "./Presentation.ts"

/** `ARTIFICE_HOME`, or `~/.artifice`. */
const home = (): string => resolve(process.env["ARTIFICE_HOME"] || join(homedir(), ".artifice"))

/** Runs a command's body, loaded only now: the start of `artifice id` does not pay for the compute backend. */
const execute = Effect.fnUntraced(function* <Options>(
  load: () => Promise<CommandBody<Options>>,
  options: Effect.Effect<Options, CliFailure>
) {
  const presentation = { json: (yield* Flags.json) ?? !process.stdout.isTTY, logLevel: yield* Flags.logLevel }
  const passphraseFile = yield* Flags.passphraseFile
  return yield* present(presentation, output =>
    Effect.gen(function* () {
      const parsed = yield* options
      const body = yield* Effect.promise(load)
      return yield* body(parsed, output)
    }).pipe(Effect.provideService(PassphraseFile, passphraseFile))
  )
})

const run = Command.make(
  "run",
  {
    job: Flags.job,
    workers: Flags.workers,
    listen: Flags.listenHere,
    minWorkers: Flags.minWorkersOfRun,
    set: Flags.set,
    resume: Flags.resume,
    checkpointDir: Flags.checkpointDir
  },
  flags =>
    execute(
      () => import("./commands/run.ts").then(module => module.runCommand),
      flags.minWorkers !== undefined && flags.minWorkers > flags.workers
        ? Effect.fail(
            wrongUsage({
              code: "USAGE",
              message: `--min-workers ${flags.minWorkers} is more than the ${flags.workers} workers that are started`,
              hint: `Give at most ${flags.workers}, or a larger --workers.`
            })
          )
        : Effect.succeed({ ...flags, minWorkers: flags.minWorkers ?? flags.workers })
    )
).pipe(
  Command.withDescription("Train a job on this machine: a coordinator and worker processes over the real transport"),
  Command.withExamples([
    { command: "artifice run examples/mnist/job.ts --workers 4", description: "Train on four worker processes" },
    { command: "artifice run job.ts --set epochs=5 --json", description: "Override an option, print JSON lines" },
    { command: "artifice run job.ts --resume", description: "Go on where it was stopped" }
  ])
)

const discoveryFlags = { discover: Flags.discover, discoveryKeyFile: Flags.discoveryKeyFile }

const coordinator = Command.make(
  "coordinator",
  {
    job: Flags.job,
    listen: Flags.listenForOthers,
    minWorkers: Flags.minWorkersOfCoordinator,
    set: Flags.set,
    resume: Flags.resume,
    checkpointDir: Flags.checkpointDir,
    ...discoveryFlags
  },
  flags =>
    execute(
      () => import("./commands/coordinator.ts").then(module => module.coordinatorCommand),
      Effect.map(chooseDiscovery(flags), discovery => ({ ...flags, discovery, home: home() }))
    )
).pipe(
  Command.withDescription("Coordinate a job; prints an invite and the command to run on the other machines"),
  Command.withExamples([
    {
      command: "artifice coordinator examples/mnist/job.ts --listen 192.168.1.10:7000 --min-workers 2",
      description: "Wait for two machines, then train"
    }
  ])
)

const worker = Command.make(
  "worker",
  { job: Flags.job.pipe(Argument.withDefault(undefined)), join: Flags.join, peer: Flags.peer, ...discoveryFlags },
  flags =>
    execute(
      () => import("./commands/worker.ts").then(module => module.workerCommand),
      Effect.gen(function* () {
        const found = yield* chooseCoordinator(flags)
        if (hasParentPipe()) yield* endWithParent
        return { home: home(), job: flags.job, coordinator: found, discovery: yield* chooseDiscovery(flags) }
      })
    )
).pipe(
  Command.withDescription("Join a coordinator, pair if needed, and train until the job ends"),
  Command.withExamples([
    { command: "artifice worker --join artf1.… job.ts", description: "Pair by an invite, then train" },
    { command: "artifice worker --join - job.ts < invite.txt", description: "Keep the invite out of the process list" }
  ])
)

const exported = Command.make("export", { checkpoint: Flags.checkpoint, out: Flags.out }, flags =>
  execute(
    () => import("./commands/export.ts").then(module => module.exportCommand),
    Effect.sync(() => flags)
  )
).pipe(
  Command.withDescription("Write the parameters of a checkpoint to a file of their own, as safetensors"),
  Command.withExamples([
    { command: "artifice export .artifice/mnist --out mnist.safetensors", description: "Of the newest checkpoint" }
  ])
)

const init = Command.make("init", {}, () =>
  execute(
    () => import("./commands/init.ts").then(module => module.initCommand),
    Effect.sync(() => ({ home: home() }))
  )
).pipe(
  Command.withDescription("Create this machine's identity, if it has none"),
  Command.withExamples([
    { command: "ARTIFICE_HOME=/srv/artifice artifice init", description: "Keep the identity elsewhere" }
  ])
)

const id = Command.make("id", {}, () =>
  execute(
    () => import("./commands/id.ts").then(module => module.idCommand),
    Effect.sync(() => ({ home: home() }))
  )
).pipe(
  Command.withDescription("Show this machine's peer id and fingerprint"),
  Command.withExamples([{ command: "artifice id --json", description: "The same as one JSON object" }])
)

const invite = Command.make(
  "invite",
  { ttl: Flags.ttl, confirm: Flags.confirm, listen: Flags.listenToPair, ...discoveryFlags },
  flags =>
    execute(
      () => import("./commands/invite.ts").then(module => module.inviteCommand),
      Effect.map(chooseDiscovery(flags), discovery => {
        const { listen, ttl: ttlMs, confirm } = flags
        return { home: home(), listen, ttlMs, confirm, discovery }
      })
    )
).pipe(
  Command.withDescription("Make a one-time token for another machine, and wait until it has paired"),
  Command.withExamples([
    { command: "artifice invite", description: "Print a token; there, run artifice join TOKEN" },
    { command: "artifice invite --ttl 1h --confirm", description: "Compare fingerprints before it is let in" }
  ])
)

const pairByToken = Command.make("join", { token: Flags.token }, flags =>
  execute(
    () => import("./commands/join.ts").then(module => module.joinCommand),
    Effect.map(chooseToken(flags.token), token => ({ home: home(), token }))
  )
).pipe(
  Command.withDescription("Pair with the machine that made a token"),
  Command.withExamples([
    { command: "artifice join artf1.…", description: "Pair; from then on the two find each other by their ids" },
    { command: "artifice join - < token.txt", description: "Keep the token out of the process list" }
  ])
)

const peersList = Command.make("list", {}, () =>
  execute(
    () => import("./commands/peers.ts").then(module => module.peersListCommand),
    Effect.sync(() => ({ home: home() }))
  )
).pipe(
  Command.withDescription("List the peers that this machine is paired with"),
  Command.withExamples([{ command: "artifice peers list --json", description: "The same as one JSON object" }])
)

const peersShow = Command.make("show", { peer: Flags.knownPeer }, ({ peer }) =>
  execute(
    () => import("./commands/peers.ts").then(module => module.peersShowCommand),
    Effect.sync(() => ({ home: home(), peer }))
  )
).pipe(
  Command.withDescription("Show what is known of a peer: addresses, keys, when it was met"),
  Command.withExamples([{ command: "artifice peers show 3f9a", description: "Name it by the beginning of its id" }])
)

const peersRemove = Command.make("remove", { peer: Flags.knownPeer }, ({ peer }) =>
  execute(
    () => import("./commands/peers.ts").then(module => module.peersRemoveCommand),
    Effect.sync(() => ({ home: home(), peer }))
  )
).pipe(
  Command.withDescription("End the pairing with a peer, and tell it where it can be reached"),
  Command.withExamples([{ command: "artifice peers remove 3f9a", description: "It is a stranger from now on" }])
)

const peersVerify = Command.make("verify", { peer: Flags.knownPeer }, ({ peer }) =>
  execute(
    () => import("./commands/peers.ts").then(module => module.peersVerifyCommand),
    Effect.sync(() => ({ home: home(), peer }))
  )
).pipe(
  Command.withDescription("Dial a peer, which proves who answers, and show both fingerprints to compare"),
  Command.withExamples([{ command: "artifice peers verify 3f9a", description: "Compare with the other screen" }])
)

const peers = Command.make("peers").pipe(
  Command.withDescription("The peers that this machine is paired with"),
  Command.withExamples([{ command: "artifice peers list", description: "All of them" }]),
  Command.withSubcommands([peersList, peersShow, peersRemove, peersVerify])
)

const artifice = Command.make("artifice").pipe(
  Command.withDescription("Train models on machines that do not trust the network between them"),
  Command.withExamples([{ command: "artifice run examples/mnist/job.ts", description: "The whole cluster, here" }]),
  Command.withSubcommands([run, coordinator, worker, exported, init, id, invite, pairByToken, peers]),
  Command.withGlobalFlags([Flags.json, Flags.logLevel, Flags.passphraseFile])
)

const version = (): string => {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))
  const found = typeof manifest === "object" && manifest !== null ? Reflect.get(manifest, "version") : undefined
  return typeof found === "string" ? found : "unknown"
}

/** Help that was asked for goes to standard output; wrong usage is one line on standard error, told by the report. */
const presenter: CliOutput.Presenter = {
  present: event =>
    event._tag === "InvalidInvocation" || (event._tag === "Help" && event.reason === "Implicit")
      ? Effect.void
      : CliOutput.defaultPresenter.present(event)
}

/** The whole command, given its arguments. Fails only with an exit code: what went wrong is already told. */
export const cli = (args: ReadonlyArray<string>): Effect.Effect<void, Reported> =>
  Command.runWith(artifice, { version: version() })(args).pipe(
    Effect.catchCause((cause): Effect.Effect<void, Reported> => {
      const error = Cause.squash(cause)
      if (error instanceof Reported) return Effect.fail(error)
      if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
      const asJson = args.includes("--json") || (!process.stdout.isTTY && !args.includes("--no-json"))
      return reportAlone(cause, { json: asJson, logLevel: "Warn" })
    }),
    Effect.provide(NodeServices.layer),
    Effect.provideService(CliOutput.Presenter, presenter),
    Effect.provideService(
      CliConfig.CliConfig,
      CliConfig.make({ builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions] })
    )
  )
