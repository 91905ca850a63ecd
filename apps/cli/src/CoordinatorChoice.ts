/**
 * By what a worker finds its coordinator: a one-time invite, or a peer it is paired with.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { type CliFailure, wrongUsage } from "./CliFailure.ts"
import { readToken } from "./ParentPipe.ts"

/** `peer` is 64 lower-case hex digits. */
export type CoordinatorChoice =
  | { readonly _tag: "Invite"; readonly token: Redacted.Redacted<string> }
  | { readonly _tag: "Peer"; readonly peer: string }

const peerIdPattern = /^[0-9a-fA-F]{64}$/
const hint = "Give --join TOKEN with the invite the coordinator printed, or --peer ID of a paired coordinator."

/** A peer id in hex, to lower case. Fails with what is expected, in words. */
export const parsePeerId = (text: string): Result.Result<string, string> =>
  peerIdPattern.test(text) ? Result.succeed(text.toLowerCase()) : Result.fail("a peer id: 64 hex digits")

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
    const parsed = parsePeerId(peer)
    if (Result.isFailure(parsed)) return yield* usage(`The peer id "${peer}" is not ${parsed.failure}`)
    return { _tag: "Peer", peer: parsed.success }
  }
  if (join === undefined) return yield* usage("No coordinator is named")
  return { _tag: "Invite", token: Redacted.make(join === "-" ? yield* readToken : join) }
})
