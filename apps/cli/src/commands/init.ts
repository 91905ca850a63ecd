import { displayId, fingerprint, openIdentity } from "artifice/identity"
import * as Effect from "effect/Effect"
import type { CommandBody, IdentityOptions } from "../Options.ts"
import { storeFailure } from "../Home.ts"

/** `artifice init`. */
export const initCommand: CommandBody<IdentityOptions> = ({ home }, output) =>
  Effect.gen(function* () {
    const { identity, created } = yield* Effect.mapError(openIdentity(home), storeFailure)
    const { peerId, id } = identity
    yield* output.result({
      event: "init",
      peer: peerId,
      fingerprint: fingerprint(id),
      display: displayId(id),
      home,
      created
    })
  })
