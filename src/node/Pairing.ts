import { Deferred, Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { concat, u32 } from "../protocol/Bytes.ts"
import { confirmTimeoutMs } from "../protocol/constants.ts"
import { fingerprint, type PeerId } from "../protocol/Identity.ts"
import { inviteFlags } from "../protocol/Invite.ts"
import type { InviteRecord } from "../store/PeerStore.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, type SessionError } from "../transport/SessionError.ts"
import type { AdminChannel } from "./AdminChannel.ts"
import { PairCommit, PairOk } from "./AdminKinds.ts"
import type { RegistryRpcs } from "./PeerRegistry.ts"
import { keyIdOf } from "./PeerTable.ts"

/** Pairing is the first generation of a pair's key; rotation makes the next ones. */
const firstGeneration = 1
/** How long the other side may take to store the pair key. */
export const commitTimeoutMs = 10_000

/** Who wants to be paired: for a person, who compares `fingerprint` with what the other screen shows. */
export interface Guest {
  readonly peerId: PeerId
  /** `XXXX-XXXX-XXXX-XXXX` */
  readonly fingerprint: string
}

/** Whether this is the machine that was meant: asked before the pairing is stored, for two minutes at most, then interrupted. */
export type Confirm = (guest: Guest) => Effect.Effect<boolean>

/** The key that both ends of a session compute and nobody sends (§2.6). */
export const pairKeyOf = (session: Session, generation: number): Uint8Array => {
  const [initiator, responder] =
    session.role === "initiator" ? [session.self, session.peer.id] : [session.peer.id, session.self]
  return session.exportKey("pair key", concat(initiator, responder, u32(generation)))
}

const stored = <A, E>(effect: Effect.Effect<A, E>, peer: string): Effect.Effect<A, SessionError> =>
  Effect.mapError(effect, error => sessionError(error, peer))

/**
 * The joining side: stores the key as pending, asks the other side to store it, turns it active. A crash in between leaves a pending key
 * (the other side may have it) or the token (it has not): one of the two works. `confirms`: a person decides on the other side.
 */
export const commitPairing = Effect.fn("Pairing.commit")(function* (
  session: Session,
  admin: AdminChannel,
  registry: ActorRef<RegistryRpcs>,
  options: { readonly addresses: ReadonlyArray<string>; readonly confirms: boolean }
) {
  const { document, peerId } = session.peer
  const generation = firstGeneration
  const key = pairKeyOf(session, generation)
  const keyId = keyIdOf(key)
  const { addresses, confirms } = options
  yield* stored(registry.client.PutPairKey({ document, generation, key, state: "pending", addresses }), peerId)
  yield* admin.send(PairCommit, { generation })
  yield* admin.expect(PairOk, commitTimeoutMs + (confirms ? confirmTimeoutMs : 0)).pipe(
    // A refusal says that the key was not stored; every other end leaves that open.
    Effect.tapError(({ code }) =>
      code === "NOT_AUTHORIZED" ? Effect.ignore(registry.client.DropPairKey({ peerId, keyId })) : Effect.void
    )
  )
  yield* stored(registry.client.Seen({ peerId, keyId }), peerId)
})

/** The inviting side: asks its operator where the invitation says so, stores the key as active, which ends the invitation, and says so. */
export const acceptPairing = Effect.fn("Pairing.accept")(function* (
  session: Session,
  admin: AdminChannel,
  registry: ActorRef<RegistryRpcs>,
  options: { readonly invite: InviteRecord; readonly confirm: Confirm | undefined }
) {
  const { document, id, peerId } = session.peer
  const { invite, confirm } = options
  const { generation } = yield* admin.expect(PairCommit, commitTimeoutMs)
  if (generation !== firstGeneration)
    return yield* failure("MALFORMED", `pairing with generation ${String(generation)}`, peerId)
  if (((invite.flags ?? 0) & inviteFlags.confirm) !== 0) {
    if (confirm === undefined)
      return yield* failure("NOT_AUTHORIZED", "nobody is here to confirm your fingerprint", peerId)
    const accepted = yield* confirm({ peerId, fingerprint: fingerprint(id) }).pipe(
      Effect.raceFirst(Effect.flatMap(Deferred.await(session.closed), reason => Effect.fail(reason))),
      Effect.timeoutOrElse({
        duration: confirmTimeoutMs,
        orElse: () => Effect.fail(failure("TIMEOUT", `nobody confirmed within ${confirmTimeoutMs / 1000} s`, peerId))
      })
    )
    if (!accepted) {
      yield* stored(registry.client.CloseInvite({ inviteId: invite.id }), peerId)
      return yield* failure("NOT_AUTHORIZED", "the other side's operator did not confirm your fingerprint", peerId)
    }
  }
  const key = pairKeyOf(session, generation)
  yield* stored(
    registry.client.PutPairKey({
      document,
      generation,
      key,
      state: "active",
      addresses: [],
      closesInvite: invite.id
    }),
    peerId
  )
  yield* admin.send(PairOk, { generation })
  return undefined
})
