import { displayId, fingerprint, formatAddress, inviteFlags, PeerNode } from "artifice"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { whilePeerLives } from "../Job.ts"
import type { CommandBody, JoinOptions } from "../Options.ts"
import { peerOfHome } from "../Peer.ts"
import { peerFailure } from "../PeerFailure.ts"
import { readInvite } from "../Token.ts"

/** `artifice join`: pairs with the machine that made the token. */
export const joinCommand: CommandBody<JoinOptions> = ({ home, token }, output) =>
  Effect.gen(function* () {
    const invitation = yield* readInvite(token)
    const node = yield* peerOfHome(home)
    if ((invitation.flags & inviteFlags.confirm) !== 0) {
      yield* output.note(
        `This machine's fingerprint is ${fingerprint(node.identity.id)}. The other machine asks whether it sees the same.`
      )
    }
    const session = yield* node
      .join(Redacted.value(token))
      .pipe(Effect.mapError(peerFailure), whilePeerLives, Effect.provideService(PeerNode, node))
    const { peerId, id } = session.peer
    yield* output.result({
      event: "join",
      peer: peerId,
      fingerprint: fingerprint(id),
      display: displayId(id),
      address: formatAddress(session.remote)
    })
  })
