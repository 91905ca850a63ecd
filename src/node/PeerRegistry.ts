import { Clock, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import { protocolVersion } from "../protocol/constants.ts"
import { isPeerId, parseIdentity, type PublicIdentity } from "../protocol/Identity.ts"
import { InviteRecord, PeerRecord, PeerStore, StoreError } from "../store/PeerStore.ts"
import { maxOpenInvites, PeerTable } from "./PeerTable.ts"

/** Addresses remembered per peer; the most recent one is tried first. */
export const maxAddressesPeer = 8

/** The registry cannot do as asked: too many open invitations, a document that is none, a peer that nobody knows. */
export class RegistryRefusal extends Schema.TaggedError<RegistryRefusal>()("RegistryRefusal", {
  reason: Schema.String
}) {
  override get message() {
    return this.reason
  }
}

const errors = Schema.Union([StoreError, RegistryRefusal])

/** Who this host knows (§2.6): every change is durable before it is answered. */
export const RegistryProtocol = RpcGroup.make(
  Rpc.make("PutInvite", { payload: { invite: InviteRecord }, error: errors }),
  /** False where another identity has claimed the invitation, or where it has run out. */
  Rpc.make("Claim", {
    payload: { inviteId: Schema.String, document: Schema.Uint8Array },
    success: Schema.Boolean,
    error: errors
  }),
  /** Stores a pair key; `closesInvite` ends the invitation by which it was made. */
  Rpc.make("PutPairKey", {
    payload: {
      document: Schema.Uint8Array,
      generation: Schema.Int,
      key: Schema.Uint8Array,
      state: Schema.Literals(["active", "pending"]),
      addresses: Schema.Array(Schema.String),
      closesInvite: Schema.optionalKey(Schema.String)
    },
    error: errors
  }),
  /** A session with this peer exists, reached at `address`. `activates`: the other side holds the pending key, which replaces the others. */
  Rpc.make("Seen", {
    payload: {
      peerId: Schema.String,
      address: Schema.optionalKey(Schema.String),
      activates: Schema.optionalKey(Schema.Boolean)
    },
    error: errors
  }),
  Rpc.make("Remove", { payload: { peerId: Schema.String }, success: Schema.Boolean, error: errors }),
  Rpc.make("List", { success: Schema.Array(PeerRecord) })
)
export type RegistryRpcs = RpcGroup.Rpcs<typeof RegistryProtocol>

/** What handshakes look into; the registry fills it anew at each of its starts. */
export interface RegistryView {
  table: PeerTable
}

/**
 * The registry actor. Its state is in the store, so a crash loses no peer: the next incarnation reads it again.
 */
export const peerRegistry = (self: PublicIdentity, view: RegistryView) =>
  Actor.make(RegistryProtocol, () =>
    Effect.gen(function* () {
      const store = yield* PeerStore
      view.table = new PeerTable(self, yield* store.load)
      const now = Effect.map(Clock.currentTimeMillis, ms => Math.floor(ms / 1000))

      /** Changes the table and makes the change durable; where that fails the old state is put back. */
      const change = <A>(apply: (table: PeerTable) => A): Effect.Effect<A, StoreError | RegistryRefusal> =>
        Effect.gen(function* () {
          const { table } = view
          const before = table.stored
          const result = yield* Effect.try({
            try: () => apply(table),
            catch: error =>
              error instanceof RegistryRefusal
                ? error
                : new RegistryRefusal({ reason: error instanceof Error ? error.message : String(error) })
          })
          yield* store
            .save(table.stored)
            .pipe(Effect.tapError(() => Effect.sync(() => (view.table = new PeerTable(self, before)))))
          return result
        })

      const handlers: Actor.Handlers<RegistryRpcs> = {
        PutInvite: ({ invite }) =>
          Effect.flatMap(now, seconds =>
            change(table => {
              table.expireInvites(seconds)
              if (table.openInvites >= maxOpenInvites) {
                throw new RegistryRefusal({
                  reason: `${maxOpenInvites} invitations are open; wait until some have run out`
                })
              }
              table.putInvite(invite)
            })
          ),
        Claim: ({ inviteId, document }) =>
          Effect.gen(function* () {
            const invite = view.table.invite(inviteId)
            if (invite === undefined || invite.expiresAt <= (yield* now)) return false
            if (invite.claimedBy !== undefined) return Buffer.compare(invite.claimedBy, document) === 0
            yield* change(table => table.putInvite({ ...invite, claimedBy: document }))
            return true
          }),
        PutPairKey: ({ document, generation, key, state, addresses, closesInvite }) =>
          change(table => {
            const { peerId } = parseIdentity(document)
            const known = table.peer(peerId)
            const others = state === "active" ? [] : (known?.pairKeys ?? []).filter(old => old.state === "active")
            table.putPeer({
              peerId,
              document,
              pairKeys: [...others, { generation, key, state }],
              addresses: addresses.length > 0 ? addresses.slice(0, maxAddressesPeer) : (known?.addresses ?? []),
              minimumVersion: known?.minimumVersion ?? protocolVersion,
              lastSeen: known?.lastSeen ?? 0
            })
            if (closesInvite !== undefined) table.removeInvite(closesInvite)
          }),
        Seen: ({ peerId, address, activates }) =>
          Effect.gen(function* () {
            const known = isPeerId(peerId) ? view.table.peer(peerId) : undefined
            if (known === undefined) return yield* new RegistryRefusal({ reason: `no peer ${peerId} is known here` })
            const seconds = yield* now
            const others = known.addresses.filter(other => other !== address)
            const addresses = address === undefined ? others : [address, ...others].slice(0, maxAddressesPeer)
            const pending = activates === true ? known.pairKeys.findLast(({ state }) => state === "pending") : undefined
            const pairKeys = pending === undefined ? known.pairKeys : [{ ...pending, state: "active" as const }]
            yield* change(table =>
              table.putPeer({ ...known, addresses, pairKeys, lastSeen: seconds, minimumVersion: protocolVersion })
            )
          }),
        Remove: ({ peerId }) => change(table => table.removePeer(peerId)),
        List: () => Effect.sync(() => view.table.stored.peers)
      }
      return handlers
    })
  )
