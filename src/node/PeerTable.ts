import { fromHex, toHex } from "../protocol/Bytes.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { isPeerId, parseIdentity, type PeerId, type PublicIdentity } from "../protocol/Identity.ts"
import { derivePairKeys, LazyPairKeys, sha256, type PairKeys } from "../protocol/KeySchedule.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { TagIndex, type Directory, type DirectoryEntry } from "../protocol/TagIndex.ts"
import type { InviteRecord, PeerChange, PeerRecord, StoredPeers } from "../store/PeerStore.ts"

/** Open invitations at once: each costs a tag per hour. */
export const maxOpenInvites = 1_024

/**
 * The registry's knowledge in memory: who is paired, with which keys, and the index by which a caller's tag is found. Plain and
 * synchronous, so that a handshake can look into it without waiting; only the registry actor changes it.
 */
export class PeerTable implements Directory {
  readonly #self: PublicIdentity
  readonly #tags = new TagIndex()
  readonly #peers = new Map<PeerId, KnownPeer>()
  readonly #invites = new Map<string, InviteRecord>()

  constructor(self: PublicIdentity, stored: StoredPeers) {
    this.#self = self
    this.fill(stored.peers)
    for (const invite of stored.invites) this.putInvite(invite)
  }

  /** Adds peers as they are stored: their documents were checked then, and are read when they are needed. */
  fill(records: Iterable<PeerRecord>): void {
    for (const record of records) this.#add(new KnownPeer(record))
  }

  get stored(): StoredPeers {
    return {
      format: 1,
      peers: [...this.#peers.values()].map(({ record }) => record),
      invites: this.invites
    }
  }

  lookup(tag: Uint8Array, unixSeconds: number): DirectoryEntry | undefined {
    return this.#tags.lookup(tag, unixSeconds)
  }

  /** Computes up to `budget` tags of these hours and of the one to come; true when all are ready. */
  prepareTags(unixSeconds: number, budget: number): boolean {
    return this.#tags.prepare(unixSeconds, budget)
  }

  peer(peerId: PeerId): PeerRecord | undefined {
    return this.#peers.get(peerId)?.record
  }

  identity(peerId: PeerId): PublicIdentity | undefined {
    return this.#peers.get(peerId)?.identity
  }

  invite(id: string): InviteRecord | undefined {
    return this.#invites.get(id)
  }

  get invites(): ReadonlyArray<InviteRecord> {
    return [...this.#invites.values()]
  }

  /**
   * The keys for dialling a peer, in the order to try them: a key that the other side does not know meets silence. The newest generation
   * first, a pending key before the active one that it is to replace.
   */
  dialKeys(peerId: PeerId): ReadonlyArray<{ readonly keys: PairKeys; readonly keyId: string }> {
    const known = this.#peers.get(peerId)
    if (known === undefined || known.record.revokedAt !== undefined) return []
    return known.record.pairKeys
      .toSorted((a, b) => b.generation - a.generation || Number(b.state === "pending") - Number(a.state === "pending"))
      .map(({ key }) => ({ keys: derivePairKeys(key, this.#self.id, known.id), keyId: keyIdOf(key) }))
  }

  /** Adds or replaces a peer. Throws ProtocolError MALFORMED where its document is not an identity document. */
  putPeer(record: PeerRecord): void {
    this.#add(new KnownPeer(record, parseIdentity(record.document)))
  }

  #add(known: KnownPeer): void {
    const { record, peerId } = known
    this.removePeer(peerId)
    this.#peers.set(peerId, known)
    if (record.revokedAt !== undefined) return
    for (const { key } of record.pairKeys) {
      this.#tags.set({
        name: pairName(peerId, key),
        mode: modes.paired,
        keys: new LazyPairKeys(key, known.id, this.#self.id),
        get peer() {
          return known.identity
        },
        minimumVersion: record.minimumVersion,
        ...(record.minimumSuite === undefined ? {} : { minimumSuite: record.minimumSuite })
      })
    }
  }

  removePeer(peerId: string): boolean {
    const known = isPeerId(peerId) ? this.#peers.get(peerId) : undefined
    if (known === undefined) return false
    for (const { key } of known.record.pairKeys) this.#tags.delete(pairName(known.peerId, key))
    return this.#peers.delete(known.peerId)
  }

  putInvite(invite: InviteRecord): void {
    this.#invites.set(invite.id, invite)
    const claimedBy = invite.claimedBy === undefined ? {} : { peer: parseIdentity(invite.claimedBy) }
    this.#tags.set({
      name: inviteName(invite.id),
      mode: modes.invite,
      keys: invite.keys,
      expiresAt: invite.expiresAt,
      used: invite.usedAt !== undefined,
      ...claimedBy
    })
  }

  removeInvite(id: string): void {
    this.#tags.delete(inviteName(id))
    this.#invites.delete(id)
  }

  /** Makes a change, and gives the one that undoes it. Throws as `putPeer`, and then has changed nothing. */
  apply({ putPeers = [], removePeers = [], putInvites = [], removeInvites = [] }: PeerChange): PeerChange {
    const peerIds = new Set([...removePeers, ...putPeers.map(({ peerId }) => peerId)])
    const inviteIds = new Set([...removeInvites, ...putInvites.map(({ id }) => id)])
    const undo = {
      removePeers: [...peerIds],
      putPeers: [...peerIds].flatMap(id => (isPeerId(id) ? (this.peer(id) ?? []) : [])),
      removeInvites: [...inviteIds],
      putInvites: [...inviteIds].flatMap(id => this.invite(id) ?? [])
    }
    try {
      for (const id of removePeers) this.removePeer(id)
      for (const id of removeInvites) this.removeInvite(id)
      for (const peer of putPeers) this.putPeer(peer)
      for (const invite of putInvites) this.putInvite(invite)
      return undo
    } catch (error) {
      this.apply(undo)
      throw error
    }
  }
}

/**
 * A peer as it is stored. Its document was checked before it was stored, so it is read only when the peer comes: two RSA keys take longer to
 * read than everything else about it.
 */
class KnownPeer {
  readonly record: PeerRecord
  readonly peerId: PeerId
  readonly id: Uint8Array
  #identity: PublicIdentity | undefined

  constructor(record: PeerRecord, identity?: PublicIdentity) {
    const peerId = identity?.peerId ?? record.peerId
    if (!isPeerId(peerId)) throw new ProtocolError("MALFORMED", "a stored peer has no peer id")
    this.record = record
    this.peerId = peerId
    this.id = identity?.id ?? fromHex(peerId)
    this.#identity = identity
  }

  get identity(): PublicIdentity {
    return (this.#identity ??= parseIdentity(this.record.document))
  }
}

/** Names a pair key on this machine. */
export const keyIdOf = (key: Uint8Array): string => toHex(sha256(key)).slice(0, 16)
const pairName = (peerId: PeerId, key: Uint8Array): string => `${peerId}/${keyIdOf(key)}`

/** The pair key that a directory entry of mode 0 stands for. */
export const keyIdOfEntry = (entry: DirectoryEntry): string | undefined =>
  entry.mode === modes.paired ? entry.name.split("/")[1] : undefined

const invitePrefix = "invite/"
const inviteName = (id: string): string => invitePrefix + id

/** The invitation that a directory entry stands for. */
export const inviteIdOf = (entry: DirectoryEntry): string | undefined =>
  entry.name.startsWith(invitePrefix) ? entry.name.slice(invitePrefix.length) : undefined
