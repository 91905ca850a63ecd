/** The administrative messages of version 1 that hosts use among themselves (§6). Kinds from 256 on belong to applications. */
import { Schema } from "effect"
import { identityDocumentBytes, jobIdBytes } from "../protocol/constants.ts"
import {
  baseDatagramBytes,
  cidBytes,
  largestDatagramBytes,
  maxChannels,
  maxCloseReasonBytes,
  maxSllpMessageBytes
} from "../protocol/sllp/constants.ts"
import { ticketBytes } from "../protocol/Ticket.ts"
import { adminKind } from "./AdminChannel.ts"

/** Addresses that one message may name for one peer, and characters of an address. */
export const maxAddresses = 16
const maxAddressLength = 300
/** Characters of the name under which associations are served. */
const maxSllpNameLength = 64
/** Members that one ROSTER may name: with their documents and addresses it stays below the largest administrative message. */
export const maxRosterMembers = 256

const bytes = (length: number) =>
  Schema.Uint8Array.check(
    Schema.makeFilter(value => value.length === length || `${value.length} bytes where ${length} are needed`)
  )
const Addresses = Schema.Array(Schema.String.check(Schema.isMaxLength(maxAddressLength))).check(
  Schema.isMaxLength(maxAddresses)
)
const Generation = Schema.Struct({ generation: Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)) })

export const PairCommit = adminKind(1, Generation, Schema.Null)
export const PairOk = adminKind(2, Generation, Schema.Null)

/** The next generation of the pair key; 0 asks the peer that may propose one to do so. The answer says which it is. */
const NextGeneration = Schema.Struct({ generation: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)) })
export const PairRotate = adminKind(3, NextGeneration, NextGeneration)

/** Where the sender can be dialled, and the address as which the receiver appears to it. */
export const PeerUpdate = adminKind(
  4,
  Schema.Struct({ addresses: Addresses, seen: Schema.String.check(Schema.isMaxLength(maxAddressLength)) }),
  Schema.Null
)

/** Who works on a job, and where they may be dialled. The PeerID of a member is the hash of its document. */
export const Roster = adminKind(
  5,
  Schema.Struct({
    job: bytes(jobIdBytes),
    peers: Schema.Array(Schema.Struct({ document: bytes(identityDocumentBytes), addresses: Addresses })).check(
      Schema.isMaxLength(maxRosterMembers)
    )
  }),
  Schema.Null
)

/** One introduction: see `Ticket`. */
export const TicketGrant = adminKind(6, Schema.Struct({ ticket: bytes(ticketBytes) }), Schema.Null)

const Port = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))
/** Bytes of UDP payload that the sender is ready to take in one datagram. */
const DatagramBytes = Schema.Int.check(Schema.isBetween({ minimum: baseDatagramBytes, maximum: largestDatagramBytes }))

/**
 * An SLLP association to what the receiver serves under a name, and the id by which datagrams for the sender are known. The answer is what
 * SLLP_ACCEPT was to be: the receiver's id, port and size.
 */
export const SllpOpen = adminKind(
  7,
  Schema.Struct({
    name: Schema.String.check(Schema.isMaxLength(maxSllpNameLength)),
    cid: bytes(cidBytes),
    port: Port,
    mtu: DatagramBytes,
    channels: Schema.Array(
      Schema.Struct({
        mode: Schema.Literals(["latest", "ordered", "reliable"]),
        maxMessageBytes: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxSllpMessageBytes }))
      })
    ).check(Schema.isMinLength(1), Schema.isMaxLength(maxChannels))
  }),
  Schema.Struct({ cid: bytes(cidBytes), port: Port, mtu: DatagramBytes })
)

/** The association whose id at the receiver is `cid` is over at the sender: its CLOSE datagrams may all be lost. */
export const SllpClose = adminKind(
  9,
  Schema.Struct({
    cid: bytes(cidBytes),
    code: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65_535 })),
    reason: Schema.String.check(Schema.isMaxLength(maxCloseReasonBytes))
  }),
  Schema.Null
)

/** The sender has removed the receiver from its peers. Asks for no answer: the session ends with it. */
export const Revoked = adminKind(10, Schema.Struct({}), Schema.Null)

export const adminKinds = {
  pairCommit: PairCommit.kind,
  pairOk: PairOk.kind,
  pairRotate: PairRotate.kind,
  peerUpdate: PeerUpdate.kind,
  roster: Roster.kind,
  ticket: TicketGrant.kind,
  sllpOpen: SllpOpen.kind,
  sllpClose: SllpClose.kind,
  revoked: Revoked.kind
} as const
