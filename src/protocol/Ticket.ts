/** Introductions (§2.7): the secret by which two peers meet who both trust a third. */
import { ByteReader, compare, concat, equal, toHex, u64, utf8 } from "./Bytes.ts"
import { hashBytes, jobIdBytes, peerIdBytes, ticketIdBytes } from "./constants.ts"
import { isPeerId, type PeerId } from "./Identity.ts"
import { derivePairKeys, expand, extract, sha256, type PairKeys } from "./KeySchedule.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** What an introducer gives to both of two peers, in its session with each and nowhere else. Secret. */
export interface Ticket {
  /** 16 bytes: the job for whose time the two may meet. */
  readonly job: Uint8Array
  /** 16 random bytes. */
  readonly id: Uint8Array
  /** The 32-byte PeerIDs; `first` is the smaller one, bytewise. */
  readonly first: Uint8Array
  readonly second: Uint8Array
  /** 32 random bytes, of this pair alone. */
  readonly secret: Uint8Array
  /** Unix seconds from which, and before which, a handshake may begin. */
  readonly notBefore: number
  readonly expiresAt: number
}

/** `job ‖ id ‖ first ‖ second ‖ secret ‖ u64 notBefore ‖ u64 expiresAt` */
export const ticketBytes = jobIdBytes + ticketIdBytes + 2 * peerIdBytes + hashBytes + 2 * 8

export const encodeTicket = (ticket: Ticket): Uint8Array => {
  const { job, id, first, second, secret, notBefore, expiresAt } = ticket
  return concat(job, id, first, second, secret, u64(notBefore), u64(expiresAt))
}

const seconds = (reader: ByteReader, field: string): number => {
  const value = reader.u64(field)
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new ProtocolError("MALFORMED", `ticket: ${field} is no time`)
  return Number(value)
}

/** Reads a ticket: MALFORMED where it has another length, its ids are not in order, or it is never valid. */
export const decodeTicket = (bytes: Uint8Array): Ticket => {
  const reader = new ByteReader(Uint8Array.from(bytes))
  const ticket = {
    job: reader.bytes(jobIdBytes, "job"),
    id: reader.bytes(ticketIdBytes, "ticket id"),
    first: reader.bytes(peerIdBytes, "first peer"),
    second: reader.bytes(peerIdBytes, "second peer"),
    secret: reader.bytes(hashBytes, "ticket secret"),
    notBefore: seconds(reader, "not before"),
    expiresAt: seconds(reader, "expiry")
  }
  reader.end("ticket")
  if (compare(ticket.first, ticket.second) >= 0)
    throw new ProtocolError("MALFORMED", "ticket: the smaller of two different peer ids must come first")
  if (ticket.notBefore >= ticket.expiresAt) throw new ProtocolError("MALFORMED", "ticket: it ends before it begins")
  return ticket
}

/** A ticket for two peers in whatever order; `random` gives secret bytes. */
export const makeTicket = (
  random: (length: number) => Uint8Array,
  options: Pick<Ticket, "job" | "notBefore" | "expiresAt"> & { readonly peers: readonly [Uint8Array, Uint8Array] }
): Ticket => {
  const { job, notBefore, expiresAt, peers } = options
  const [first, second] = compare(peers[0], peers[1]) < 0 ? peers : [peers[1], peers[0]]
  return { job, id: random(ticketIdBytes), first, second, secret: random(hashBytes), notBefore, expiresAt }
}

/** The peer that a ticket introduces to `self`: NOT_AUTHORIZED where it is for two others. */
export const ticketPeer = (ticket: Ticket, self: Uint8Array): PeerId => {
  const other = equal(ticket.first, self) ? ticket.second : ticket.first
  const peerId = toHex(other)
  if ((other === ticket.first && !equal(ticket.second, self)) || !isPeerId(peerId))
    throw new ProtocolError("NOT_AUTHORIZED", "a ticket between two other peers")
  return peerId
}

/** The pair key of an introduction. It is not replaced: it dies with the job. */
export const ticketPairKey = ({ job, id, first, second, secret }: Ticket): Uint8Array =>
  expand(extract(utf8("artifice v1 intro"), secret), "intro", sha256(job, id, first, second))

/** The keys by which `initiator`, one of the two, dials the other. */
export const ticketKeys = (ticket: Ticket, initiator: Uint8Array): PairKeys =>
  derivePairKeys(ticketPairKey(ticket), initiator, equal(initiator, ticket.first) ? ticket.second : ticket.first)
