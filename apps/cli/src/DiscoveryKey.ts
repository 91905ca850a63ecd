/**
 * Discovery on the local network: on by a flag, with a key that the machines of one operator share.
 */
import { readFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import { type CliFailure, wrongUsage } from "./CliFailure.ts"

const keyPattern = /^[0-9a-fA-F]{64}$/
const keyVariable = "ARTIFICE_DISCOVERY_KEY"

const noKey = (message: string): CliFailure =>
  wrongUsage({
    code: "NO_DISCOVERY_KEY",
    message,
    hint: `Give the same 64 hexadecimal digits to all of your machines, by --discovery-key-file or ${keyVariable}; openssl rand -hex 32 makes them.`
  })

const textOf = (file: string | undefined): Effect.Effect<string, CliFailure> =>
  file === undefined
    ? Effect.succeed(process.env[keyVariable] ?? "")
    : Effect.tryPromise({
        try: () => readFile(file, "utf8"),
        catch: error =>
          noKey(
            `The key of the local network cannot be read: ${error instanceof Error ? error.message : String(error)}`
          )
      })

/** What the flags ask for: undefined where discovery is off. Fails with `NO_DISCOVERY_KEY` where it is on and there is no key. */
export const chooseDiscovery = Effect.fnUntraced(function* (flags: {
  readonly discover: boolean
  readonly discoveryKeyFile: string | undefined
}): Effect.fn.Return<{ readonly key: Uint8Array } | undefined, CliFailure> {
  if (!flags.discover) return undefined
  const text = (yield* textOf(flags.discoveryKeyFile)).trim()
  if (text === "") return yield* noKey("Discovery is on, but there is no key of the local network")
  if (!keyPattern.test(text)) return yield* noKey("The key of the local network is not 64 hexadecimal digits")
  return { key: Buffer.from(text, "hex") }
})
