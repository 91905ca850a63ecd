import { compare, toHex } from "../protocol/Bytes.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { parseIdentity, type PeerId, type PublicIdentity } from "../protocol/Identity.ts"
import type { PairKeys } from "../protocol/KeySchedule.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { TagIndex, type Directory, type DirectoryEntry } from "../protocol/TagIndex.ts"
import { ticketKeys, ticketPeer, type Ticket } from "../protocol/Ticket.ts"

/** Peers that one introducer may introduce to this host for one job: each costs two tags per hour. */
export const maxIntroducedPeers = 256
/**
 * Tickets kept of one pair in one job. The two peers take a new one at different moments, so that each tries the newest and then the one
 * before it.
 */
const ticketsPerPeer = 2

/** One peer as one introducer has introduced it for one job. */
interface Introduced {
  readonly identity: PublicIdentity
  addresses: ReadonlyArray<string>
  /** Newest first. */
  tickets: ReadonlyArray<Ticket>
}

/** What this host has allowed one peer for one job, and what that peer has made of it. */
interface Trust {
  readonly introducer: PeerId
  readonly job: string
  readonly peers: Map<PeerId, Introduced>
  /** Calls of `trust` that have not ended. */
  holders: number
}

/**
 * The peers that others have introduced to this host (§2.7): in memory alone, each for the time of one job. Plain and synchronous, so that
 * a handshake can look into it without waiting.
 */
export class IntroducedPeers implements Directory {
  readonly #self: PublicIdentity
  readonly #tags = new TagIndex()
  readonly #trusts = new Map<string, Trust>()

  constructor(self: PublicIdentity) {
    this.#self = self
  }

  /** Lets a peer introduce others for a job until the returned function is called. That gives the peers that nobody introduces any more. */
  trust(introducer: PeerId, job: Uint8Array): () => ReadonlyArray<PeerId> {
    const key = trustKey(introducer, job)
    const trust = this.#trusts.get(key) ?? { introducer, job: toHex(job), peers: new Map(), holders: 0 }
    this.#trusts.set(key, trust)
    trust.holders++
    let ended = false
    return () => {
      if (ended) return []
      ended = true
      if (--trust.holders > 0) return []
      this.#trusts.delete(key)
      for (const [peerId, { tickets }] of trust.peers)
        for (const ticket of tickets) this.#tags.delete(entryName(trust, peerId, ticket))
      return [...trust.peers.keys()].filter(peerId => !this.has(peerId))
    }
  }

  #trusted(introducer: PeerId, job: Uint8Array): Trust {
    const trust = this.#trusts.get(trustKey(introducer, job))
    if (trust === undefined)
      throw new ProtocolError("NOT_AUTHORIZED", "this host takes no introductions by you for this job")
    return trust
  }

  /** Learns who works on a job: NOT_AUTHORIZED by another than its introducer, LIMIT above `maxIntroducedPeers`, MALFORMED documents. */
  roster(
    introducer: PeerId,
    job: Uint8Array,
    members: ReadonlyArray<{ readonly document: Uint8Array; readonly addresses: ReadonlyArray<string> }>
  ): void {
    const { peers } = this.#trusted(introducer, job)
    for (const { document, addresses } of members) {
      const identity = parseIdentity(document)
      if (identity.peerId === this.#self.peerId) continue
      const known = peers.get(identity.peerId)
      if (known !== undefined) known.addresses = addresses
      else if (peers.size < maxIntroducedPeers) peers.set(identity.peerId, { identity, addresses, tickets: [] })
      else throw new ProtocolError("LIMIT", `${maxIntroducedPeers} peers are introduced for this job`)
    }
  }

  /** Takes a ticket: NOT_AUTHORIZED by another than the job's introducer, for two others, or for a peer that no roster has named. */
  ticket(introducer: PeerId, ticket: Ticket): void {
    const trust = this.#trusted(introducer, ticket.job)
    const peerId = ticketPeer(ticket, this.#self.id)
    const peer = trust.peers.get(peerId)
    if (peer === undefined) throw new ProtocolError("NOT_AUTHORIZED", "a ticket for a peer that no roster has named")
    if (peer.tickets.some(({ id }) => compare(id, ticket.id) === 0)) return
    const kept = [ticket, ...peer.tickets]
    for (const old of kept.splice(ticketsPerPeer)) this.#tags.delete(entryName(trust, peerId, old))
    peer.tickets = kept
    this.#tags.set({
      name: entryName(trust, peerId, ticket),
      mode: modes.introduced,
      keys: ticketKeys(ticket, peer.identity.id),
      peer: peer.identity,
      notBefore: ticket.notBefore,
      expiresAt: ticket.expiresAt
    })
  }

  lookup(tag: Uint8Array, unixSeconds: number): DirectoryEntry | undefined {
    return this.#tags.lookup(tag, unixSeconds)
  }

  /** Computes up to `budget` tags of the hour to come; true when all are ready. */
  prepareTags(unixSeconds: number, budget: number): boolean {
    return this.#tags.prepare(unixSeconds, budget)
  }

  #of(peerId: PeerId): ReadonlyArray<Introduced & { readonly introducer: PeerId }> {
    return [...this.#trusts.values()].flatMap(({ introducer, peers }) => {
      const peer = peers.get(peerId)
      return peer === undefined ? [] : [{ ...peer, introducer }]
    })
  }

  /** Whether somebody's introduction of this peer, ticket included, is in force. */
  has(peerId: PeerId): boolean {
    return this.#of(peerId).some(({ tickets }) => tickets.length > 0)
  }

  identity(peerId: PeerId): PublicIdentity | undefined {
    return this.#of(peerId)[0]?.identity
  }

  /** Where it can be dialled, as its introducers say. */
  addresses(peerId: PeerId): ReadonlyArray<string> {
    return [...new Set(this.#of(peerId).flatMap(({ addresses }) => addresses))]
  }

  /** Forgets a peer, as introduced and as introducer. Gives the peers that nobody introduces any more. */
  remove(peerId: PeerId): ReadonlyArray<PeerId> {
    const forgotten = [...this.#trusts.values()].flatMap(trust => {
      const gone = trust.introducer === peerId ? [...trust.peers.keys()] : trust.peers.has(peerId) ? [peerId] : []
      for (const each of gone) {
        for (const ticket of trust.peers.get(each)?.tickets ?? []) this.#tags.delete(entryName(trust, each, ticket))
        trust.peers.delete(each)
      }
      return gone
    })
    return [...new Set(forgotten)].filter(each => !this.has(each))
  }

  /** It says itself where it can be dialled; where it names nothing of use, what its introducers say stands. */
  learn(peerId: PeerId, addresses: ReadonlyArray<string>): void {
    if (addresses.length === 0) return
    for (const { peers } of this.#trusts.values()) {
      const peer = peers.get(peerId)
      if (peer !== undefined) peer.addresses = addresses
    }
  }

  /** Who has introduced it: those that may carry its packets. */
  introducers(peerId: PeerId): ReadonlyArray<PeerId> {
    return this.#of(peerId).map(({ introducer }) => introducer)
  }

  /** The keys for dialling a peer now, the newest ticket first. */
  dialKeys(peerId: PeerId, unixSeconds: number): ReadonlyArray<PairKeys> {
    return this.#of(peerId).flatMap(({ tickets }) =>
      tickets
        .filter(({ notBefore, expiresAt }) => notBefore <= unixSeconds && unixSeconds < expiresAt)
        .map(ticket => ticketKeys(ticket, this.#self.id))
    )
  }
}

const trustKey = (introducer: PeerId, job: Uint8Array): string => `${introducer}/${toHex(job)}`
const entryName = ({ introducer, job }: Trust, peerId: PeerId, { id }: Ticket): string =>
  `introduced/${introducer}/${job}/${peerId}/${toHex(id)}`
