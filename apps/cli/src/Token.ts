import { decodeInvite, type Invite } from "artifice"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { type CliFailure, wrongUsage } from "./CliFailure.ts"

/** Reads a token before there is an identity and before anybody is dialled. Fails with `BAD_TOKEN`. */
export const readInvite = (token: Redacted.Redacted<string>): Effect.Effect<Invite, CliFailure> =>
  Effect.try({
    try: () => decodeInvite(Redacted.value(token)),
    catch: error =>
      wrongUsage({
        code: "BAD_TOKEN",
        message: error instanceof Error ? `This is no token: ${error.message}` : String(error),
        hint: "Copy the whole line that the other machine printed."
      })
  })
