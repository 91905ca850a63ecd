import { ByteReader, concat, u16, u8, utf8 } from "./Bytes.ts"
import {
  cookieBytes,
  frameHeaderBytes,
  macBytes,
  maxAbortBytes,
  maxAckBytes,
  maxAuthBytes,
  maxHelloBytes,
  maxOffered,
  maxParametersBytes,
  maxRetryBytes,
  mlKemCiphertextBytes,
  mlKemPublicBytes,
  nonceBytes,
  peerIdBytes,
  rsaBytes,
  shareBytes,
  suiteX25519,
  suiteX25519MlKem768,
  tagBytes
} from "./constants.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** The layouts of §2.3: what each handshake frame holds, without a word about when it may come. */

export const messageTypes = { hello: 1, retry: 2, ack: 3, authI: 4, authR: 5, abort: 6 } as const

const maxBodyBytes = new Map<number, number>([
  [messageTypes.hello, maxHelloBytes],
  [messageTypes.retry, maxRetryBytes],
  [messageTypes.ack, maxAckBytes],
  [messageTypes.authI, maxAuthBytes],
  [messageTypes.authR, maxAuthBytes],
  [messageTypes.abort, maxAbortBytes]
])

/** How the two sides come to share a key: paired before, by a one-time token, or introduced by a third peer. */
export const modes = { paired: 0, invite: 1, introduced: 2 } as const
export type Mode = (typeof modes)[keyof typeof modes]
const isMode = (value: number): value is Mode => value === 0 || value === 1 || value === 2

/** One frame of the handshake: `bytes` is the whole of it, as hashes take it; `body` is the part after the four header bytes. */
export interface Frame {
  readonly type: number
  readonly body: Uint8Array
  readonly bytes: Uint8Array
}

export const frame = (type: number, body: Uint8Array): Frame => {
  const bytes = concat(u8(type), u8(body.length >>> 16), u16(body.length & 0xffff), body)
  return { type, body: bytes.subarray(frameHeaderBytes), bytes }
}

/**
 * Cuts a stream of bytes into handshake frames. A length is refused from the four header bytes alone, so at most
 * one frame of the largest kind is ever held.
 */
export class FrameReader {
  #held: Uint8Array = new Uint8Array(0)

  push(chunk: Uint8Array): void {
    // A copy always: the caller may read into the same memory again.
    this.#held = concat(this.#held, chunk)
  }

  /** Bytes that wait here: of an unfinished frame, or what followed the last frame taken. */
  get held(): number {
    return this.#held.length
  }

  /** The next whole frame, or undefined when more bytes are needed. Throws MALFORMED or TOO_LARGE from the header. */
  next(): Frame | undefined {
    const held = this.#held
    if (held.length === 0) return undefined
    const type = held[0] ?? 0
    const limit = maxBodyBytes.get(type)
    if (limit === undefined) throw new ProtocolError("MALFORMED", `handshake frame of type ${type}`)
    if (held.length < frameHeaderBytes) return undefined
    const reader = new ByteReader(held.subarray(1, frameHeaderBytes))
    const length = (reader.u8("length") << 16) | reader.u16("length")
    if (length > limit)
      throw new ProtocolError("TOO_LARGE", `handshake frame of ${length} bytes, at most ${limit} are allowed`)
    const end = frameHeaderBytes + length
    if (held.length < end) return undefined
    const bytes = Uint8Array.from(held.subarray(0, end))
    this.#held = held.subarray(end)
    return { type, body: bytes.subarray(frameHeaderBytes), bytes }
  }

  /** Takes what follows the last frame: the first records. */
  rest(): Uint8Array {
    const rest = this.#held
    this.#held = new Uint8Array(0)
    return rest
  }
}

const magic = utf8("ARTF")

export interface Hello {
  readonly versions: ReadonlyArray<number>
  readonly suites: ReadonlyArray<number>
  readonly mode: Mode
  readonly nonce: Uint8Array
  readonly share: Uint8Array
  /** Present exactly when suite 2 is offered. */
  readonly encapsulationKey?: Uint8Array
  readonly tag: Uint8Array
  /** Empty, or the 32 bytes of a RETRY. */
  readonly cookie: Uint8Array
}

/** HELLO before its mac1. */
export const helloPrefix = (hello: Hello): Uint8Array =>
  concat(
    magic,
    u8(hello.versions.length),
    ...hello.versions.map(u8),
    u8(hello.suites.length),
    ...hello.suites.map(u16),
    u8(hello.mode),
    hello.nonce,
    hello.share,
    hello.encapsulationKey ?? new Uint8Array(0),
    hello.tag,
    u8(hello.cookie.length),
    hello.cookie
  )

const count = (value: number, what: string): number => {
  if (value < 1 || value > maxOffered) throw new ProtocolError("MALFORMED", `HELLO offers ${value} ${what}`)
  return value
}

/** Reads a HELLO body; `covered` is what its mac1 covers. */
export const parseHello = (body: Uint8Array): { hello: Hello; covered: Uint8Array; mac1: Uint8Array } => {
  const reader = new ByteReader(body)
  const start = reader.bytes(magic.length, "magic")
  if (Buffer.compare(start, magic) !== 0) throw new ProtocolError("MALFORMED", "HELLO without its magic")
  const versions = Array.from(reader.bytes(count(reader.u8("versions"), "versions"), "versions"))
  const suites = Array.from({ length: count(reader.u8("suites"), "suites") }, () => reader.u16("suite"))
  const mode = reader.u8("mode")
  if (!isMode(mode)) throw new ProtocolError("MALFORMED", `HELLO of mode ${mode}`)
  const nonce = reader.bytes(nonceBytes, "nonce")
  const share = reader.bytes(shareBytes, "share")
  const kem = suites.includes(suiteX25519MlKem768) ? reader.bytes(mlKemPublicBytes, "encapsulation key") : undefined
  const tag = reader.bytes(tagBytes, "tag")
  const cookieLength = reader.u8("cookie length")
  if (cookieLength !== 0 && cookieLength !== cookieBytes)
    throw new ProtocolError("MALFORMED", `a cookie of ${cookieLength} bytes`)
  const cookie = reader.bytes(cookieLength, "cookie")
  const covered = body.subarray(0, reader.offset)
  const mac1 = reader.bytes(macBytes, "mac1")
  reader.end("HELLO")
  const hello = { versions, suites, mode, nonce, share, tag, cookie }
  return { hello: kem === undefined ? hello : { ...hello, encapsulationKey: kem }, covered, mac1 }
}

export const parseRetry = (body: Uint8Array): { cookie: Uint8Array; mac: Uint8Array } => {
  const reader = new ByteReader(body)
  const cookie = reader.bytes(cookieBytes, "cookie")
  const mac = reader.bytes(macBytes, "RETRY mac")
  reader.end("RETRY")
  return { cookie, mac }
}

export interface Ack {
  readonly version: number
  readonly suite: number
  readonly nonce: Uint8Array
  readonly share: Uint8Array
  readonly kemCiphertext?: Uint8Array
  /** Invite mode: the responder's identity document, sealed. */
  readonly sealedIdentity?: Uint8Array
}

/** ACK up to and without the length of the sealed identity. */
export const ackPrefix = (ack: Ack): Uint8Array =>
  concat(u8(ack.version), u16(ack.suite), ack.nonce, ack.share, ack.kemCiphertext ?? new Uint8Array(0))

/** Reads an ACK body; the offsets tell which prefixes the keys and mac2 cover. */
export const parseAck = (body: Uint8Array, mode: Mode): { ack: Ack; prefixBytes: number; mac2: Uint8Array } => {
  const reader = new ByteReader(body)
  const version = reader.u8("version")
  const suite = reader.u16("suite")
  const nonce = reader.bytes(nonceBytes, "nonce")
  const share = reader.bytes(shareBytes, "share")
  if (suite !== suiteX25519 && suite !== suiteX25519MlKem768)
    throw new ProtocolError("DOWNGRADE", `ACK chooses suite ${suite}`)
  const kem = suite === suiteX25519MlKem768 ? reader.bytes(mlKemCiphertextBytes, "ML-KEM ciphertext") : undefined
  const prefixBytes = reader.offset
  const sealed = mode === modes.invite ? reader.bytes(reader.u16("identity length"), "identity") : undefined
  const mac2 = reader.bytes(macBytes, "mac2")
  reader.end("ACK")
  return {
    ack: {
      version,
      suite,
      nonce,
      share,
      ...(kem === undefined ? {} : { kemCiphertext: kem }),
      ...(sealed === undefined ? {} : { sealedIdentity: sealed })
    },
    prefixBytes,
    mac2
  }
}

/** The opened body of AUTH_I or AUTH_R. The ids are those of the session's roles, whoever sends. */
export interface Auth {
  readonly initiator: Uint8Array
  readonly responder: Uint8Array
  /** 32 bytes wrapped under the receiver's RSA key. */
  readonly wrapped: Uint8Array
  readonly parameters: Uint8Array
  /** The initiator's identity document: AUTH_I of invite mode only. */
  readonly document?: Uint8Array
}

/** What the signature covers. */
export const authBody = (auth: Auth): Uint8Array =>
  concat(
    auth.initiator,
    auth.responder,
    auth.wrapped,
    u16(auth.parameters.length),
    auth.parameters,
    ...(auth.document === undefined ? [] : [u16(auth.document.length), auth.document])
  )

export const parseAuth = (
  plain: Uint8Array,
  withDocument: boolean
): { auth: Auth; signed: Uint8Array; signature: Uint8Array } => {
  const reader = new ByteReader(plain)
  const initiator = reader.bytes(peerIdBytes, "initiator")
  const responder = reader.bytes(peerIdBytes, "responder")
  const wrapped = reader.bytes(rsaBytes, "wrapped secret")
  const length = reader.u16("parameters length")
  if (length > maxParametersBytes)
    throw new ProtocolError("TOO_LARGE", `${length} bytes of parameters, at most ${maxParametersBytes}`)
  const parameters = reader.bytes(length, "parameters")
  const document = withDocument ? reader.bytes(reader.u16("identity length"), "identity") : undefined
  const signed = plain.subarray(0, reader.offset)
  const signature = reader.bytes(rsaBytes, "signature")
  reader.end("AUTH")
  const auth = { initiator, responder, wrapped, parameters }
  return { auth: document === undefined ? auth : { ...auth, document }, signed, signature }
}

export const parseAbort = (body: Uint8Array): { code: number; mac: Uint8Array } => {
  const reader = new ByteReader(body)
  const code = reader.u16("code")
  const mac = reader.bytes(macBytes, "ABORT mac")
  reader.end("ABORT")
  return { code, mac }
}
