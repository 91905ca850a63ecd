import { Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { sessionError, type SessionError } from "../transport/SessionError.ts"
import { Revoked } from "./AdminKinds.ts"
import type { IntroducedPeers } from "./IntroducedPeers.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import type { RegistryRpcs } from "./PeerRegistry.ts"
import { answerAdmin, type StreamServices } from "./SessionRouter.ts"

/** How long the message to a removed peer may take to leave. */
const tellTimeoutMs = 1_000

/**
 * Removes a peer: it is gone from the registry when this returns, what it has introduced and its own introduction too, and every session
 * with it has ended. A handshake with it that is under way is refused. Where there is a session, the peer is told. False where there was
 * no such peer.
 */
export type Remove = (peerId: PeerId) => Effect.Effect<boolean, SessionError>

export const makeRemove = (options: {
  readonly services: StreamServices
  readonly registry: ActorRef<RegistryRpcs>
  readonly introduced: IntroducedPeers
  readonly live: LiveSessions
}): Remove => {
  const { services, registry, introduced, live } = options

  answerAdmin(services, Revoked, (_, session) => {
    const { peerId } = session.peer
    return Effect.as(
      Effect.mapError(registry.client.Revoked({ peerId }), error => sessionError(error, peerId)),
      null
    )
  })

  return Effect.fn("PeerNode.remove")(function* (peerId) {
    const removed = yield* Effect.mapError(registry.client.Remove({ peerId }), error => sessionError(error, peerId))
    for (const stranger of introduced.remove(peerId)) {
      const session = live.get(stranger)
      if (session?.mode === modes.introduced && stranger !== peerId)
        yield* live.end(session, "NOT_AUTHORIZED", "whoever introduced these peers was removed")
    }
    const router = live.router(peerId)
    if (router === undefined) return removed
    // From here on nothing of it is read, so that no call of it runs any more.
    router.session.pause()
    const tell = Effect.flatMap(router.admin, admin => admin.send(Revoked, {}))
    yield* Effect.ignore(Effect.timeoutOption(tell, tellTimeoutMs))
    yield* live.end(router.session, "NOT_AUTHORIZED", "this peer was removed")
    return removed
  })
}
