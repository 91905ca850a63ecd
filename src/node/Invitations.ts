import { Clock, Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { toHex } from "../protocol/Bytes.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { PeerId, PublicIdentity } from "../protocol/Identity.ts"
import {
  decodeInvite,
  encodeInvite,
  inviteFlags,
  inviteKeys,
  makeInvite,
  maxInviteAddresses,
  type Invite
} from "../protocol/Invite.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, type SessionError } from "../transport/SessionError.ts"
import { DialRequest } from "./HandshakeActor.ts"
import type { Confirm } from "./Pairing.ts"
import type { PeerDials } from "./PeerDials.ts"
import type { RegistryRpcs, RegistryView } from "./PeerRegistry.ts"

/** How long an invitation works unless told otherwise. */
export const defaultInviteTtlMs = 10 * 60_000

export interface InviteOptions {
  /** For people: what this invitation is to. */
  readonly name: string
  readonly ttlMs?: number
  /** Where the guest should dial. Default: where this host listens. */
  readonly addresses?: ReadonlyArray<string>
  /** Asked before the guest is let in, in two minutes at most: whether its fingerprint is the one on the guest's own screen. */
  readonly confirm?: Confirm
  /** Told when the invitation has paired its guest, whose session this is. Must not throw. */
  readonly paired?: (session: Session) => void
}

export interface Invitations {
  readonly invite: (
    options: InviteOptions
  ) => Effect.Effect<{ readonly token: string; readonly expiresAt: number }, SessionError>
  readonly join: (token: string) => Effect.Effect<Session, SessionError>
  /** Who decides on the guests of an invitation. */
  readonly confirm: (inviteId: string) => Confirm | undefined
  /** An invitation has paired its guest. */
  readonly paired: (inviteId: string, session: Session) => void
}

export const makeInvitations = Effect.fnUntraced(function* (options: {
  readonly identity: PublicIdentity
  readonly randomBytes: (length: number) => Uint8Array
  readonly registry: ActorRef<RegistryRpcs>
  readonly view: RegistryView
  readonly dial: PeerDials["dial"]
  readonly connect: (peerId: PeerId, addresses: ReadonlyArray<string>) => Effect.Effect<Session, SessionError>
  /** Where this host listens. */
  readonly addresses: () => ReadonlyArray<string>
  /** Decides on the guests of invitations that an earlier process of this host has made. */
  readonly confirm: Confirm | undefined
}): Effect.fn.Return<Invitations> {
  const { identity, registry, view } = options
  const clock = yield* Clock.Clock
  const unixSeconds = () => Math.floor(clock.currentTimeMillisUnsafe() / 1000)
  /** What was said with each invitation of this process, until it has run out. */
  const hooks = new Map<string, Pick<InviteOptions, "confirm" | "paired"> & { readonly expiresAt: number }>()

  const invite: Invitations["invite"] = ({
    name,
    ttlMs = defaultInviteTtlMs,
    addresses = options.addresses().slice(0, maxInviteAddresses),
    confirm,
    paired
  }) =>
    Effect.gen(function* () {
      const expiresAt = Math.floor((clock.currentTimeMillisUnsafe() + ttlMs) / 1000)
      if (addresses.length === 0) return yield* failure("INTERNAL", "this peer does not listen, so it cannot invite")
      const flags = confirm === undefined ? 0 : inviteFlags.confirm
      const made = makeInvite(options.randomBytes, { peerId: identity.peerId, addresses, expiresAt, name, flags })
      const id = toHex(made.id)
      // What the guest could not read is an error here: a name or a list of addresses that is too long.
      const token = yield* Effect.try({ try: () => readable(made), catch: error => sessionError(error) })
      const record = { id, keys: inviteKeys(made.secret, identity.id), expiresAt, flags }
      yield* Effect.mapError(registry.client.PutInvite({ invite: record }), error => sessionError(error))
      for (const [old, { expiresAt }] of hooks) if (expiresAt <= unixSeconds()) hooks.delete(old)
      hooks.set(id, {
        expiresAt,
        ...(confirm === undefined ? {} : { confirm }),
        ...(paired === undefined ? {} : { paired })
      })
      return { token, expiresAt }
    })

  const join: Invitations["join"] = token =>
    Effect.gen(function* () {
      const invitation = yield* Effect.try({ try: () => decodeInvite(token), catch: error => sessionError(error) })
      const { peerId, addresses, flags } = invitation
      if (peerId === identity.peerId)
        return yield* failure("WRONG_PEER", "the token was made by this very machine: use it on the other one", peerId)
      // Paired before, or cut off while pairing: the key that is here may work, and then the token is not needed.
      if (view.table.identity(peerId) !== undefined) {
        const known = yield* Effect.result(options.connect(peerId, addresses))
        if (known._tag === "Success") return known.success
      }
      if (invitation.expiresAt <= unixSeconds()) {
        const when = new Date(invitation.expiresAt * 1000).toISOString()
        return yield* failure("INVITE_EXPIRED", `the token ran out at ${when}: ask for a new one`, peerId)
      }
      const keys = inviteKeys(invitation.secret, Buffer.from(peerId, "hex"))
      const confirms = (flags & inviteFlags.confirm) !== 0
      return yield* Effect.mapError(
        options.dial(new DialRequest({ mode: modes.invite, keys, peerId }, addresses, { confirms })),
        error => explained(error, invitation)
      )
    })

  return {
    invite,
    join,
    confirm: inviteId => hooks.get(inviteId)?.confirm ?? options.confirm,
    paired: (inviteId, session) => hooks.get(inviteId)?.paired?.(session)
  }
})

const readable = (invite: Invite): string => {
  const token = encodeInvite(invite)
  decodeInvite(token)
  return token
}

/** What a refusal means to someone who holds a token. */
const explained = (error: SessionError, { peerId, addresses }: Invite): SessionError => {
  switch (error.code) {
    case "INVITE_USED":
      return failure(error.code, "the token has been used: it pairs one machine, once. Ask for a new one", peerId)
    case "INVITE_EXPIRED":
      return failure(error.code, "the token has run out by the inviting machine's clock: ask for a new one", peerId)
    case "TRUNCATED": {
      // Who does not know a token says nothing, so that a lost connection looks the same.
      const where = addresses.join(", ")
      const detail = `whoever answers at ${where} hung up without a word: it is another machine than the one that made this token, or has forgotten it, or the connection was lost (${error.detail})`
      return failure(error.code, detail, peerId)
    }
    default:
      return error
  }
}
