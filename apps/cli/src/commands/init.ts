import { displayId, fingerprint } from "artifice/identity"
import * as Effect from "effect/Effect"
import type { CommandBody, IdentityOptions } from "../Options.ts"
import { openHomeFolder } from "../Home.ts"

/** `artifice init`. */
export const initCommand: CommandBody<IdentityOptions> = ({ home }, output) =>
  Effect.gen(function* () {
    const { identity, created, isProtected } = yield* openHomeFolder(home, { protect: true })
    const { peerId, id } = identity
    yield* output.result({
      event: "init",
      peer: peerId,
      fingerprint: fingerprint(id),
      display: displayId(id),
      home,
      created,
      protected: isProtected
    })
  })
