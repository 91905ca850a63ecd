import { concat, equal, toHex } from "./Bytes.ts"
import { hashBytes, peerIdBytes } from "./constants.ts"
import { isPeerId, type PeerId } from "./Identity.ts"
import { derivePairKeys, sha256, type PairKeys } from "./KeySchedule.ts"
import { decodeMsgpack, encodeMsgpack } from "./Msgpack.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** The one-time token of §2.6: who invites, where, and a secret that makes the first handshake. */
export interface Invite {
  readonly id: Uint8Array
  readonly peerId: PeerId
  /** `host:port`, IPv6 in brackets; tried in order. */
  readonly addresses: ReadonlyArray<string>
  readonly secret: Uint8Array
  /** Unix seconds. The inviting host keeps its own copy and believes only that. */
  readonly expiresAt: number
  /** A sum of `inviteFlags`. */
  readonly flags: number
  /** For people: what this invitation is to. */
  readonly name: string
}

/** `confirm`: the operator of the inviting host compares the guest's fingerprint with the guest's screen before he lets it in. */
export const inviteFlags = { confirm: 1 } as const

const prefix = "artf1."
const inviteIdBytes = 16
const checkBytes = 4
const maxTokenLength = 4096
export const maxInviteAddresses = 16
const maxNameLength = 64
const maxAddressLength = 300

export const encodeInvite = (invite: Invite): string => {
  const map = encodeMsgpack({
    id: invite.id,
    peer: Buffer.from(invite.peerId, "hex"),
    addrs: [...invite.addresses],
    secret: invite.secret,
    exp: invite.expiresAt,
    flags: invite.flags,
    name: invite.name
  })
  return prefix + Buffer.from(concat(map, sha256(map).subarray(0, checkBytes))).toString("base64url")
}

const refuse = (what: string): never => {
  throw new ProtocolError("MALFORMED", `the token ${what}`)
}

const bytesOf = (value: unknown, length: number, field: string): Uint8Array =>
  value instanceof Uint8Array && value.length === length ? value : refuse(`has no ${field} of ${length} bytes`)

const textOf = (value: unknown, maxLength: number, field: string): string =>
  typeof value === "string" && value.length <= maxLength
    ? value
    : refuse(`has no ${field} of at most ${maxLength} characters`)

const numberOf = (value: unknown, field: string): number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : refuse(`has no valid ${field}`)

/** Reads a token: MALFORMED with a sentence that says what is wrong (not a token, damaged in copying, a field missing). */
export const decodeInvite = (token: string): Invite => {
  const text = token.trim()
  if (!text.startsWith(prefix)) return refuse(`does not begin with ${prefix}`)
  if (text.length > maxTokenLength) return refuse(`is longer than ${maxTokenLength} characters`)
  const encoded = text.slice(prefix.length)
  const bytes = Buffer.from(encoded, "base64url")
  if (!/^[A-Za-z0-9_-]+$/.test(encoded) || bytes.length <= checkBytes) return refuse("is not whole: copy it again")
  const map = bytes.subarray(0, bytes.length - checkBytes)
  if (!equal(sha256(map).subarray(0, checkBytes), bytes.subarray(map.length)))
    return refuse("was damaged: copy it again")
  const value = decodeMsgpack(map)
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array)
    return refuse("holds no map")
  const fields = new Map<string, unknown>(Object.entries(value))
  const peerId = toHex(bytesOf(fields.get("peer"), peerIdBytes, "peer id"))
  const addresses = fields.get("addrs")
  if (!Array.isArray(addresses) || addresses.length > maxInviteAddresses)
    return refuse(`has no list of at most ${maxInviteAddresses} addresses`)
  return {
    id: bytesOf(fields.get("id"), inviteIdBytes, "id"),
    peerId: isPeerId(peerId) ? peerId : refuse("has no peer id"),
    addresses: addresses.map(address => textOf(address, maxAddressLength, "address")),
    secret: bytesOf(fields.get("secret"), hashBytes, "secret"),
    expiresAt: numberOf(fields.get("exp"), "expiry"),
    flags: numberOf(fields.get("flags"), "flags"),
    name: textOf(fields.get("name"), maxNameLength, "name")
  }
}

/** Makes an invitation of this host; `random` gives secret bytes. */
export const makeInvite = (
  random: (length: number) => Uint8Array,
  options: Pick<Invite, "peerId" | "addresses" | "expiresAt" | "name"> & { readonly flags?: number }
): Invite => ({ flags: 0, ...options, id: random(inviteIdBytes), secret: random(hashBytes) })

/** The keys of a token's handshake: nobody's id stands for the initiator's, as the token is for whoever holds it. */
export const inviteKeys = (secret: Uint8Array, inviter: Uint8Array): PairKeys =>
  derivePairKeys(secret, new Uint8Array(peerIdBytes), inviter)
