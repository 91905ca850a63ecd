/**
 * By what a worker finds its coordinator: a one-time invite, or a peer it is paired with.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { type CliFailure, wrongUsage } from "./CliFailure.ts"
import { readToken } from "./ParentPipe.ts"
import { parsePeerPrefix } from "./PeerChoice.ts"

/** `peer` is the beginning of a peer id, in lower-case hex digits. */
export type CoordinatorChoice =
  | { readonly _tag: "Invite"; readonly token: Redacted.Redacted<string> }
  | { readonly _tag: "Peer"; readonly peer: string }

const hint = "Give --join TOKEN with the invite the coordinator printed, or --peer ID of a paired coordinator."

const usage = (message: string): CliFailure => wrongUsage({ code: "USAGE", message, hint })

interface Named {
  readonly join: string | undefined
  readonly peer: string | undefined
}

const fromEnvironment = (): Named => ({
  join: process.env["ARTIFICE_JOIN"] || undefined,
  peer: process.env["ARTIFICE_PEER"] || undefined
})

/**
 * The one that `--join` or `--peer` names, else `ARTIFICE_JOIN` or `ARTIFICE_PEER`. The token `-` is read from standard
 * input. Fails with `USAGE` for none, both or a malformed peer id, with `NO_TOKEN` for an empty standard input.
 */
export const chooseCoordinator = Effect.fnUntraced(function* (
  flags: Named
): Effect.fn.Return<CoordinatorChoice, CliFailure> {
  const { join, peer } = flags.join === undefined && flags.peer === undefined ? fromEnvironment() : flags
  if (join !== undefined && peer !== undefined) return yield* usage("Both an invite and a peer id are given")
  if (peer !== undefined) {
    const parsed = parsePeerPrefix(peer)
    if (Result.isFailure(parsed)) return yield* usage(`The peer id "${peer}" is not ${parsed.failure}`)
    return { _tag: "Peer", peer: parsed.success }
  }
  if (join === undefined) return yield* usage("No coordinator is named")
  return { _tag: "Invite", token: yield* tokenOf(join) }
})

/** The token itself, or for `-` the one on standard input. Fails with `NO_TOKEN` where that is empty. */
const tokenOf = (text: string): Effect.Effect<Redacted.Redacted<string>, CliFailure> =>
  Effect.map(text === "-" ? readToken : Effect.succeed(text), Redacted.make)

/** The token that is given, else `ARTIFICE_JOIN`. Fails with `USAGE` where there is none, with `NO_TOKEN` for an empty standard input. */
export const chooseToken = (given: string | undefined): Effect.Effect<Redacted.Redacted<string>, CliFailure> => {
  const text = given ?? fromEnvironment().join
  return text === undefined
    ? Effect.fail(
        wrongUsage({
          code: "USAGE",
          message: "No token is given",
          hint: "Give the token that artifice invite printed on the other machine, or - to read it from standard input."
        })
      )
    : tokenOf(text)
}
