import { modes } from "../protocol/HandshakeMessages.ts"
import { isPeerId, parseIdentity, type PeerId, type PublicIdentity } from "../protocol/Identity.ts"
import { derivePairKeys, type PairKeys } from "../protocol/KeySchedule.ts"
import { TagIndex, type Directory, type DirectoryEntry } from "../protocol/TagIndex.ts"
import type { InviteRecord, PeerRecord, StoredPeers } from "../store/PeerStore.ts"

/** Open invitations at once: each costs a tag per hour. */
export const maxOpenInvites = 1_024

/**
 * The registry's knowledge in memory: who is paired, with which keys, and the index by which a caller's tag is found. Plain and
 * synchronous, so that a handshake can look into it without waiting; only the registry actor changes it.
 */
export class PeerTable implements Directory {
  readonly #self: PublicIdentity
  readonly #tags = new TagIndex()
  readonly #peers = new Map<PeerId, { readonly record: PeerRecord; readonly identity: PublicIdentity }>()
  readonly #invites = new Map<string, InviteRecord>()

  constructor(self: PublicIdentity, stored: StoredPeers) {
    this.#self = self
    for (const record of stored.peers) this.putPeer(record)
    for (const invite of stored.invites) this.putInvite(invite)
  }

  get stored(): StoredPeers {
    return {
      format: 1,
      peers: [...this.#peers.values()].map(({ record }) => record),
      invites: [...this.#invites.values()]
    }
  }

  lookup(tag: Uint8Array, unixSeconds: number): DirectoryEntry | undefined {
    return this.#tags.lookup(tag, unixSeconds)
  }

  /** Computes up to `budget` tags of the hour to come; true when all are ready. */
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

  /**
   * The keys for dialling a peer, in the order to try them: a key that the other side does not know meets silence. The newest generation
   * first, a pending key before the active one that it is to replace.
   */
  dialKeys(peerId: PeerId): ReadonlyArray<{ readonly keys: PairKeys; readonly pending: boolean }> {
    const known = this.#peers.get(peerId)
    if (known === undefined) return []
    return known.record.pairKeys
      .toSorted((a, b) => b.generation - a.generation || Number(b.state === "pending") - Number(a.state === "pending"))
      .map(({ key, state }) => ({
        keys: derivePairKeys(key, this.#self.id, known.identity.id),
        pending: state === "pending"
      }))
  }

  /** Adds or replaces a peer. Throws ProtocolError MALFORMED where its document is not an identity document. */
  putPeer(record: PeerRecord): void {
    const identity = parseIdentity(record.document)
    this.removePeer(identity.peerId)
    this.#peers.set(identity.peerId, { record, identity })
    for (const [index, { key }] of record.pairKeys.entries()) {
      this.#tags.set({
        name: `${identity.peerId}/${index}`,
        mode: modes.paired,
        keys: derivePairKeys(key, identity.id, this.#self.id),
        peer: identity,
        minimumVersion: record.minimumVersion
      })
    }
  }

  removePeer(peerId: string): boolean {
    const known = isPeerId(peerId) ? this.#peers.get(peerId) : undefined
    if (known === undefined) return false
    for (const index of known.record.pairKeys.keys()) this.#tags.delete(`${known.identity.peerId}/${index}`)
    return this.#peers.delete(known.identity.peerId)
  }

  putInvite(invite: InviteRecord): void {
    this.#invites.set(invite.id, invite)
    const claimedBy = invite.claimedBy === undefined ? {} : { peer: parseIdentity(invite.claimedBy) }
    this.#tags.set({
      name: inviteName(invite.id),
      mode: modes.invite,
      keys: invite.keys,
      expiresAt: invite.expiresAt,
      ...claimedBy
    })
  }

  removeInvite(id: string): void {
    this.#tags.delete(inviteName(id))
    this.#invites.delete(id)
  }

  /** Forgets the invitations that have run out. */
  expireInvites(unixSeconds: number): void {
    for (const { id, expiresAt } of [...this.#invites.values()]) if (expiresAt <= unixSeconds) this.removeInvite(id)
  }

  get openInvites(): number {
    return this.#invites.size
  }
}

const invitePrefix = "invite/"
const inviteName = (id: string): string => invitePrefix + id

/** The invitation that a directory entry stands for. */
export const inviteIdOf = (entry: DirectoryEntry): string | undefined =>
  entry.name.startsWith(invitePrefix) ? entry.name.slice(invitePrefix.length) : undefined
