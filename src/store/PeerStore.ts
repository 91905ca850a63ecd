import { Context, Effect, Layer, Schema } from "effect"
import type { DatabaseChanges, HashDatabaseOptions } from "./HashDatabase.ts"
import * as HashDatabase from "./HashDatabase.ts"
import type { StoreError } from "./StoreError.ts"

export { StoreError } from "./StoreError.ts"

/** What this host keeps about others: peers that it is paired with, and invitations that are still open. */

const Bytes32 = Schema.Uint8Array.check(
  Schema.makeFilter(bytes => bytes.length === 32 || `${bytes.length} bytes where 32 are needed`)
)
const PeerIdText = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))

/** A pair key of one generation. Pending: the other side may not have stored it yet. Secret. */
export const PairKeyRecord = Schema.Struct({
  generation: Schema.Int,
  key: Bytes32,
  state: Schema.Literals(["active", "pending"]),
  /** Unix seconds; absent: nobody knows, so it is old. */
  madeAt: Schema.optionalKey(Schema.Int)
})
export interface PairKeyRecord extends Schema.Schema.Type<typeof PairKeyRecord> {}

/** A peer that this host is paired with. */
export const PeerRecord = Schema.Struct({
  peerId: PeerIdText,
  /** Its identity document. */
  document: Schema.Uint8Array,
  /** Newest last. */
  pairKeys: Schema.Array(PairKeyRecord),
  /** Where it can be dialled, `host:port`; the best first. */
  addresses: Schema.Array(Schema.String),
  /** The lowest protocol version ever agreed with it. */
  minimumVersion: Schema.Int,
  /** The least handshake suite that the operator allows for it; absent: any. */
  minimumSuite: Schema.optionalKey(Schema.Int),
  /** Unix seconds of the last session; 0: never. */
  lastSeen: Schema.Int,
  /** Unix seconds when it said that it has removed this host: its keys work no more. */
  revokedAt: Schema.optionalKey(Schema.Int)
})
export interface PeerRecord extends Schema.Schema.Type<typeof PeerRecord> {}

/** An open invitation: not its secret, only the keys that descend from it (PROTOCOL §2.6). */
export const InviteRecord = Schema.Struct({
  id: Schema.String,
  keys: Schema.Struct({ tag: Bytes32, mac1: Bytes32, retry: Bytes32, abort: Bytes32, psk: Bytes32 }),
  expiresAt: Schema.Int,
  /** As in the token, which is not believed; absent: 0. */
  flags: Schema.optionalKey(Schema.Int),
  /** Whoever came first with the token, an identity document: from then on it works for no other identity. */
  claimedBy: Schema.optionalKey(Schema.Uint8Array),
  /** Unix seconds since when it pairs nobody any more: it has, or its guest was turned away. Kept to say so to whoever comes with it. */
  usedAt: Schema.optionalKey(Schema.Int)
})
export interface InviteRecord extends Schema.Schema.Type<typeof InviteRecord> {}

export const StoredPeers = Schema.Struct({
  format: Schema.Literal(1),
  peers: Schema.Array(PeerRecord),
  invites: Schema.Array(InviteRecord)
})
export interface StoredPeers extends Schema.Schema.Type<typeof StoredPeers> {}

export const noPeers: StoredPeers = { format: 1, peers: [], invites: [] }

/** What becomes different in one durable step: all of it, or, after a crash, nothing. Removals come first. */
export interface PeerChange {
  readonly putPeers?: ReadonlyArray<PeerRecord>
  /** Ids of peers. */
  readonly removePeers?: ReadonlyArray<string>
  readonly putInvites?: ReadonlyArray<InviteRecord>
  /** Ids of invitations. */
  readonly removeInvites?: ReadonlyArray<string>
}

/** The state after a change. */
export const applyChange = (state: StoredPeers, change: PeerChange): StoredPeers => {
  const peers = new Map(state.peers.map(peer => [peer.peerId, peer]))
  const invites = new Map(state.invites.map(invite => [invite.id, invite]))
  for (const peerId of change.removePeers ?? []) peers.delete(peerId)
  for (const id of change.removeInvites ?? []) invites.delete(id)
  for (const peer of change.putPeers ?? []) peers.set(peer.peerId, peer)
  for (const invite of change.putInvites ?? []) invites.set(invite.id, invite)
  return { format: 1, peers: [...peers.values()], invites: [...invites.values()] }
}

/** What the file of a home holds: who this machine is, whom it is paired with, and the invitations that are open. */
export const HomeEntry = Schema.Union([
  /** The two private keys as PKCS #8 PEM. */
  Schema.Struct({ kind: Schema.Literal("self"), sign: Schema.String, unwrap: Schema.String }),
  Schema.Struct({ kind: Schema.Literal("peer"), peer: PeerRecord }),
  Schema.Struct({ kind: Schema.Literal("invite"), invite: InviteRecord })
])
export type HomeEntry = Schema.Schema.Type<typeof HomeEntry>

const peerKey = (peerId: string): string => `peer/${peerId}`
const inviteKey = (id: string): string => `invite/${id}`

/** A change of peers as one of the database that holds them. */
export const homeChanges = (change: PeerChange): DatabaseChanges<HomeEntry> => ({
  remove: [...(change.removePeers ?? []).map(peerKey), ...(change.removeInvites ?? []).map(inviteKey)],
  put: [
    ...(change.putPeers ?? []).map(peer => [peerKey(peer.peerId), { kind: "peer", peer }] as const),
    ...(change.putInvites ?? []).map(invite => [inviteKey(invite.id), { kind: "invite", invite }] as const)
  ]
})

/** The peers and invitations among the entries of a home. */
export const peersOf = (entries: Iterable<readonly [key: string, entry: HomeEntry]>): StoredPeers => {
  const peers: Array<PeerRecord> = []
  const invites: Array<InviteRecord> = []
  for (const [, entry] of entries) {
    if (entry.kind === "peer") peers.push(entry.peer)
    else if (entry.kind === "invite") invites.push(entry.invite)
  }
  return { format: 1, peers, invites }
}

/** Where the registry keeps what must survive it. */
export class PeerStore extends Context.Service<
  PeerStore,
  {
    readonly load: Effect.Effect<StoredPeers, StoreError>
    /** Durable when it returns, and all of it or nothing. */
    readonly apply: (change: PeerChange) => Effect.Effect<void, StoreError>
  }
>()("artifice/store/PeerStore") {
  /** Lives as long as the process: for peers that are paired anew each time, and for tests. */
  static readonly memory: Layer.Layer<PeerStore> = Layer.sync(PeerStore, () => {
    let held = noPeers
    return {
      load: Effect.sync(() => held),
      apply: change => Effect.sync(() => void (held = applyChange(held, change)))
    }
  })

  /** An encrypted database: §5. It is open, and its lock held, as long as the layer. */
  static readonly database = (
    options: Omit<HashDatabaseOptions<HomeEntry>, "schema">
  ): Layer.Layer<PeerStore, StoreError> =>
    Layer.effect(
      PeerStore,
      Effect.map(HashDatabase.make({ ...options, schema: HomeEntry }), database => PeerStore.over(database))
    )

  /** The store over a database that is open. */
  static readonly over = (database: HashDatabase.HashDatabase<HomeEntry>): PeerStore["Service"] => ({
    load: Effect.map(database.entries, peersOf),
    apply: change => database.change(homeChanges(change))
  })
}
