import { displayId, fingerprint } from "artifice/identity"
import * as Effect from "effect/Effect"
import { failed } from "../CliFailure.ts"
import { readHomeFolder } from "../Home.ts"
import type { CommandBody, IdentityOptions } from "../Options.ts"

/** `artifice id`. */
export const idCommand: CommandBody<IdentityOptions> = ({ home }, output) =>
  Effect.gen(function* () {
    const found = yield* readHomeFolder(home)
    if (found === undefined) {
      return yield* failed({
        code: "NO_IDENTITY",
        message: `There is no identity in ${home}`,
        hint: "Make one with artifice init."
      })
    }
    const { peerId, id } = found.identity
    yield* output.result({ event: "id", peer: peerId, fingerprint: fingerprint(id), display: displayId(id), home })
  })
