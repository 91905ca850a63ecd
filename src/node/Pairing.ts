import { Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { concat, u32 } from "../protocol/Bytes.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, type SessionError } from "../transport/SessionError.ts"
import { PairCommit, PairOk, type AdminChannel } from "./AdminChannel.ts"
import type { RegistryRpcs } from "./PeerRegistry.ts"

/** Pairing is the first generation of a pair's key; rotation makes the next ones. */
const firstGeneration = 1
/** How long the other side may take to store the pair key. */
const commitTimeoutMs = 10_000

/** The key that both ends of a session compute and nobody sends (§2.6). */
const pairKeyOf = (session: Session, initiator: Uint8Array, responder: Uint8Array): Uint8Array =>
  session.exportKey("pair key", concat(initiator, responder, u32(firstGeneration)))

const stored = <A, E>(effect: Effect.Effect<A, E>, peer: string): Effect.Effect<A, SessionError> =>
  Effect.mapError(effect, error => sessionError(error, peer))

/**
 * The joining side: stores the key as pending, asks the other side to store it, turns it active. A crash in between leaves a pending key
 * (the other side may have it) or the token (it has not): one of the two works.
 */
export const commitPairing = Effect.fn("Pairing.commit")(function* (
  session: Session,
  admin: AdminChannel,
  registry: ActorRef<RegistryRpcs>,
  self: Uint8Array,
  addresses: ReadonlyArray<string>
) {
  const { document, id, peerId } = session.peer
  const key = pairKeyOf(session, self, id)
  yield* stored(
    registry.client.PutPairKey({ document, generation: firstGeneration, key, state: "pending", addresses }),
    peerId
  )
  yield* admin.send(PairCommit, { generation: firstGeneration })
  yield* admin.expect(PairOk, commitTimeoutMs)
  yield* stored(registry.client.Seen({ peerId, activates: true }), peerId)
})

/** The inviting side: stores the key as active, which ends the invitation, and says so. */
export const acceptPairing = Effect.fn("Pairing.accept")(function* (
  session: Session,
  admin: AdminChannel,
  registry: ActorRef<RegistryRpcs>,
  self: Uint8Array,
  inviteId: string
) {
  const { document, id, peerId } = session.peer
  const { generation } = yield* admin.expect(PairCommit, commitTimeoutMs)
  if (generation !== firstGeneration)
    return yield* failure("MALFORMED", `pairing with generation ${String(generation)}`, peerId)
  const key = pairKeyOf(session, id, self)
  yield* stored(
    registry.client.PutPairKey({ document, generation, key, state: "active", addresses: [], closesInvite: inviteId }),
    peerId
  )
  yield* admin.send(PairOk, { generation })
})
