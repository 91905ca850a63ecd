import { Clock, Effect, Schema } from "effect"
import { isIP } from "node:net"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import { protocolVersion } from "../protocol/constants.ts"
import { isPeerId, parseIdentity, type PublicIdentity } from "../protocol/Identity.ts"
import { InviteRecord, PeerRecord, PeerStore, StoreError, type PeerChange } from "../store/PeerStore.ts"
import { parseAddress } from "../transport/Network.ts"
import { keyIdOf, maxOpenInvites, PeerTable } from "./PeerTable.ts"

/** Addresses remembered per peer; the most recent one is tried first. */
export const maxAddressesPeer = 8
/** Of these, how many the peer may name itself. */
const maxAnnounced = 5
const isName = (address: string): boolean => isIP(parseAddress(address)?.host ?? "") === 0

/** Seconds that an invitation is kept after it has run out, so that who comes too late with its token is told so. */
const keptInviteSeconds = 24 * 3_600

/** The registry cannot do as asked: too many open invitations, a document that is none, a peer that nobody knows. */
export class RegistryRefusal extends Schema.TaggedError<RegistryRefusal>()("RegistryRefusal", {
  reason: Schema.String
}) {
  override get message() {
    return this.reason
  }
}

const errors = Schema.Union([StoreError, RegistryRefusal])

/** What became of a claim: `used` says that another identity has claimed the invitation, or that it has paired its guest. */
export const Claimed = Schema.Literals(["claimed", "used", "expired"])

const ofPeer = { peerId: Schema.String }

/** Who this host knows (§2.6): every change is durable before it is answered. */
export const RegistryProtocol = RpcGroup.make(
  Rpc.make("PutInvite", { payload: { invite: InviteRecord }, error: errors }),
  Rpc.make("Claim", {
    payload: { inviteId: Schema.String, document: Schema.Uint8Array },
    success: Claimed,
    error: errors
  }),
  /** From now on the invitation pairs nobody. */
  Rpc.make("CloseInvite", { payload: { inviteId: Schema.String }, error: errors }),
  /**
   * Stores a pair key. An active one replaces all others; a pending one stands beside the active ones until a session shows that the other
   * side has it. `closesInvite` ends the invitation by which it was made, in the same step.
   */
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
  /** Stores the key of the next generation of a known peer, pending, in place of any other pending one. */
  Rpc.make("PutNextKey", {
    payload: { ...ofPeer, generation: Schema.Int, key: Schema.Uint8Array },
    error: errors
  }),
  /** Forgets a pending key that the other side has refused, and the peer where that was its only one. */
  Rpc.make("DropPairKey", { payload: { ...ofPeer, keyId: Schema.String }, error: errors }),
  /** A session with this peer exists, reached at `address`, made with the key `keyId`: where that was pending it replaces all others. */
  Rpc.make("Seen", {
    payload: { ...ofPeer, address: Schema.optionalKey(Schema.String), keyId: Schema.optionalKey(Schema.String) },
    error: errors
  }),
  /** The peer says where it can be dialled, the likeliest first: these go before what was known, of which names are kept longest. */
  Rpc.make("Announced", { payload: { ...ofPeer, addresses: Schema.Array(Schema.String) }, error: errors }),
  /** The least handshake suite that this host takes in sessions with the peer, whoever dials. */
  Rpc.make("Pin", { payload: { ...ofPeer, minimumSuite: Schema.Int }, error: errors }),
  /** The peer says that it has removed this host. */
  Rpc.make("Revoked", { payload: ofPeer, error: errors }),
  /** False where there is no such peer. */
  Rpc.make("Remove", { payload: ofPeer, success: Schema.Boolean, error: errors }),
  Rpc.make("List", { success: Schema.Array(PeerRecord) })
)
export type RegistryRpcs = RpcGroup.Rpcs<typeof RegistryProtocol>

/** Tags that are computed, and peers that are taken from the store, in one turn of the event loop. */
export const tagsPerTurn = 500
const peersPerTurn = 1_000
const nextTurn = Effect.promise(() => new Promise(resolve => setImmediate(resolve)))

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
      const now = Effect.map(Clock.currentTimeMillis, ms => Math.floor(ms / 1000))
      const { peers, ...stored } = yield* store.load
      const table = new PeerTable(self, { ...stored, peers: [] })
      // Of many peers this takes a while. Who comes meanwhile is looked for in the table before, and the event loop goes on turning.
      for (let at = 0; at < peers.length; at += peersPerTurn) {
        if (at > 0) yield* nextTurn
        table.fill(peers.slice(at, at + peersPerTurn))
      }
      while (!table.prepareTags(yield* now, tagsPerTurn)) yield* nextTurn
      view.table = table

      /** Changes the table and makes the change durable; where that fails the old state is put back. */
      const change = (wanted: PeerChange): Effect.Effect<void, StoreError | RegistryRefusal> =>
        Effect.gen(function* () {
          const { table } = view
          const undo = yield* Effect.try({
            try: () => table.apply(wanted),
            catch: error => new RegistryRefusal({ reason: error instanceof Error ? error.message : String(error) })
          })
          yield* store.apply(wanted).pipe(Effect.tapError(() => Effect.sync(() => table.apply(undo))))
        })

      const peerOf = (peerId: string): Effect.Effect<PeerRecord, RegistryRefusal> => {
        const known = isPeerId(peerId) ? view.table.peer(peerId) : undefined
        return known === undefined
          ? Effect.fail(new RegistryRefusal({ reason: `no peer ${peerId} is known here` }))
          : Effect.succeed(known)
      }

      const handlers: Actor.Handlers<RegistryRpcs> = {
        PutInvite: ({ invite }) =>
          Effect.gen(function* () {
            const seconds = yield* now
            const forgotten = forgettable(view.table.invites, seconds)
            if (view.table.invites.length - forgotten.length >= maxOpenInvites) {
              return yield* new RegistryRefusal({
                reason: `${maxOpenInvites} invitations are open; wait until some have run out`
              })
            }
            yield* change({ removeInvites: forgotten, putInvites: [invite] })
            return undefined
          }),
        Claim: ({ inviteId, document }) =>
          Effect.gen(function* () {
            const invite = view.table.invite(inviteId)
            if (invite === undefined || invite.usedAt !== undefined) return "used"
            if (invite.expiresAt <= (yield* now)) return "expired"
            if (invite.claimedBy !== undefined)
              return Buffer.compare(invite.claimedBy, document) === 0 ? "claimed" : "used"
            yield* change({ putInvites: [{ ...invite, claimedBy: document }] })
            return "claimed"
          }),
        CloseInvite: ({ inviteId }) =>
          Effect.gen(function* () {
            const invite = view.table.invite(inviteId)
            if (invite !== undefined) yield* change({ putInvites: [{ ...invite, usedAt: yield* now }] })
          }),
        PutPairKey: ({ document, generation, key, state, addresses, closesInvite }) =>
          Effect.gen(function* () {
            const { peerId } = yield* Effect.try({
              try: () => parseIdentity(document),
              catch: error => new RegistryRefusal({ reason: error instanceof Error ? error.message : String(error) })
            })
            const seconds = yield* now
            const { revokedAt: _, ...known } = view.table.peer(peerId) ?? {
              pairKeys: [],
              addresses: [],
              minimumVersion: protocolVersion,
              lastSeen: 0
            }
            const others = state === "active" ? [] : known.pairKeys.filter(old => old.state === "active")
            const closed = closesInvite === undefined ? undefined : view.table.invite(closesInvite)
            yield* change({
              putPeers: [
                {
                  ...known,
                  peerId,
                  document,
                  pairKeys: [...others, { generation, key, state, madeAt: seconds }],
                  addresses: addresses.length > 0 ? addresses.slice(0, maxAddressesPeer) : known.addresses
                }
              ],
              putInvites: closed === undefined ? [] : [{ ...closed, usedAt: seconds }]
            })
          }),
        PutNextKey: ({ peerId, generation, key }) =>
          Effect.gen(function* () {
            const known = yield* peerOf(peerId)
            const active = known.pairKeys.filter(({ state }) => state === "active")
            const next = { generation, key, state: "pending" as const, madeAt: yield* now }
            yield* change({ putPeers: [{ ...known, pairKeys: [...active, next] }] })
          }),
        DropPairKey: ({ peerId, keyId }) =>
          Effect.gen(function* () {
            const known = yield* peerOf(peerId)
            const pairKeys = known.pairKeys.filter(({ key, state }) => state === "active" || keyIdOf(key) !== keyId)
            yield* change(pairKeys.length === 0 ? { removePeers: [peerId] } : { putPeers: [{ ...known, pairKeys }] })
          }),
        Seen: ({ peerId, address, keyId }) =>
          Effect.gen(function* () {
            const known = yield* peerOf(peerId)
            const others = known.addresses.filter(other => other !== address)
            const addresses = address === undefined ? others : [address, ...others].slice(0, maxAddressesPeer)
            const used = known.pairKeys.find(({ key, state }) => state === "pending" && keyIdOf(key) === keyId)
            const pairKeys = used === undefined ? known.pairKeys : [{ ...used, state: "active" as const }]
            const lastSeen = yield* now
            yield* change({ putPeers: [{ ...known, addresses, pairKeys, lastSeen, minimumVersion: protocolVersion }] })
          }),
        Announced: ({ peerId, addresses: announced }) =>
          Effect.gen(function* () {
            const known = yield* peerOf(peerId)
            // Names outlive the addresses that they stand for.
            const older = known.addresses.toSorted((a, b) => Number(isName(b)) - Number(isName(a)))
            const addresses = [...new Set([...announced.slice(0, maxAnnounced), ...older])].slice(0, maxAddressesPeer)
            if (addresses.join() !== known.addresses.join()) yield* change({ putPeers: [{ ...known, addresses }] })
          }),
        Pin: ({ peerId, minimumSuite }) =>
          Effect.gen(function* () {
            yield* change({ putPeers: [{ ...(yield* peerOf(peerId)), minimumSuite }] })
          }),
        Revoked: ({ peerId }) =>
          Effect.gen(function* () {
            yield* change({ putPeers: [{ ...(yield* peerOf(peerId)), revokedAt: yield* now }] })
          }),
        Remove: ({ peerId }) =>
          Effect.suspend(() =>
            isPeerId(peerId) && view.table.peer(peerId) !== undefined
              ? Effect.as(change({ removePeers: [peerId] }), true)
              : Effect.succeed(false)
          ),
        List: () => Effect.sync(() => view.table.stored.peers)
      }
      return handlers
    })
  )

/**
 * The invitations that make room for a new one: those that nobody can ask about any more, and, of the ones kept to tell a late comer why,
 * as many as have to go.
 */
const forgettable = (invites: ReadonlyArray<InviteRecord>, seconds: number): ReadonlyArray<string> => {
  const over = invites.filter(({ expiresAt, usedAt }) => expiresAt <= seconds || usedAt !== undefined)
  const old = over.filter(({ expiresAt }) => expiresAt + keptInviteSeconds <= seconds)
  const surplus = Math.max(0, invites.length - old.length - maxOpenInvites + 1)
  const next = over.filter(invite => !old.includes(invite)).toSorted((a, b) => a.expiresAt - b.expiresAt)
  return [...old, ...next.slice(0, surplus)].map(({ id }) => id)
}
