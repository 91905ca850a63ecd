import { createCipheriv, createDecipheriv } from "node:crypto"
import { concat, u16, utf8, wipe } from "./Bytes.ts"
import { gcmNonceBytes, gcmTagBytes, suiteX25519, suiteX25519MlKem768 } from "./constants.ts"
import { authBody, parseAuth, type Auth, type Mode } from "./HandshakeMessages.ts"
import type { LocalIdentity, PublicIdentity } from "./Identity.ts"
import { exportKey, expand, extract, hmac, sha256, type PairKeys } from "./KeySchedule.ts"
import type { HandshakeCrypto } from "./HandshakeCrypto.ts"
import { ProtocolError } from "./ProtocolError.ts"
import type { SessionParameters } from "./SessionParameters.ts"

/** What both roles of the handshake compute in the same way: §2.3 and §2.4. */

const protocolName = utf8("artifice handshake v1\0")
const zeroNonce = new Uint8Array(gcmNonceBytes)
const empty = new Uint8Array(0)

export type Role = "initiator" | "responder"

/** What each side brings to a handshake. */
export interface HandshakeConfig {
  readonly identity: LocalIdentity
  readonly crypto: HandshakeCrypto
  /** What this side is ready to receive. */
  readonly parameters: SessionParameters
  /** Suites in order of preference; default: X25519 alone. Those that this Node cannot compute are left out. */
  readonly suites?: ReadonlyArray<number>
}

/** The result of a handshake: who is there, and the secrets of the session. Not confirmed until READY has been opened. */
export interface SessionSecrets {
  readonly role: Role
  readonly mode: Mode
  readonly version: number
  readonly suite: number
  readonly initiator: PublicIdentity
  readonly responder: PublicIdentity
  readonly peer: PublicIdentity
  readonly sendSecret: Uint8Array
  readonly receiveSecret: Uint8Array
  readonly exporterSecret: Uint8Array
  /** Exporter (§2.4): a key for another use, bound to this session. */
  readonly exportKey: (label: string, context: Uint8Array, length?: number) => Uint8Array
  readonly peerParameters: SessionParameters
}

/** The suites of a configuration that this Node can compute. */
export const usableSuites = (config: HandshakeConfig): ReadonlyArray<number> =>
  (config.suites ?? [suiteX25519]).filter(
    suite => suite === suiteX25519 || (suite === suiteX25519MlKem768 && config.crypto.mlKem !== undefined)
  )

export const transcript = (...frames: ReadonlyArray<Uint8Array>): Uint8Array => sha256(protocolName, ...frames)

/** The secret after the key agreement; `shared` is overwritten. */
export const handshakeSecret = (keys: PairKeys, shared: Uint8Array): Uint8Array => {
  const secret = extract(keys.psk, shared)
  wipe(shared)
  return secret
}

/** Proves that the responder holds the pair key and took part in this key agreement. `ackWithoutMac` carries the final length in its header. */
export const confirmation = (hs: Uint8Array, hello: Uint8Array, ackWithoutMac: Uint8Array): Uint8Array =>
  hmac(expand(hs, "conf", transcript(hello, ackWithoutMac)), utf8("ack"))

export const cookieReply = (keys: PairKeys, hello: Uint8Array, cookie: Uint8Array): Uint8Array =>
  hmac(keys.retry, hello, cookie)

export const abortMac = (keys: PairKeys, hello: Uint8Array, code: number): Uint8Array =>
  hmac(keys.abort, transcript(hello), u16(code))

/** AES-256-GCM with the fixed nonce: each of these keys seals exactly one message. */
export const sealOnce = (key: Uint8Array, associated: Uint8Array, plain: Uint8Array): Uint8Array => {
  const cipher = createCipheriv("aes-256-gcm", key, zeroNonce)
  cipher.setAAD(associated)
  return concat(cipher.update(plain), cipher.final(), cipher.getAuthTag())
}

/** Opens what `sealOnce` sealed; BAD_MAC where it is anything else. */
export const openOnce = (key: Uint8Array, associated: Uint8Array, sealed: Uint8Array, what: string): Uint8Array => {
  if (sealed.length < gcmTagBytes) throw new ProtocolError("BAD_MAC", `${what} is too short to be authentic`)
  const decipher = createDecipheriv("aes-256-gcm", key, zeroNonce)
  decipher.setAAD(associated)
  decipher.setAuthTag(sealed.subarray(sealed.length - gcmTagBytes))
  const plain = decipher.update(sealed.subarray(0, sealed.length - gcmTagBytes))
  try {
    decipher.final()
  } catch {
    throw new ProtocolError("BAD_MAC", `${what} is not authentic`)
  }
  return plain
}

/** The key under which an inviting responder seals its identity document into ACK. */
export const inviteIdentityKey = (hs: Uint8Array, hello: Uint8Array, ackPrefix: Uint8Array): Uint8Array =>
  expand(hs, "hs inv", transcript(hello, ackPrefix))
export const sealIdentity = (key: Uint8Array, document: Uint8Array): Uint8Array => sealOnce(key, empty, document)
export const openIdentity = (key: Uint8Array, sealed: Uint8Array): Uint8Array =>
  openOnce(key, empty, sealed, "the sealed identity")

const signaturePad = new Uint8Array(64).fill(0x20)
const signatureLabels = {
  initiator: utf8("artifice v1, initiator auth"),
  responder: utf8("artifice v1, responder auth")
}

const signedMessage = (role: Role, transcriptHash: Uint8Array, body: Uint8Array): Uint8Array =>
  concat(signaturePad, signatureLabels[role], Uint8Array.of(0), sha256(transcriptHash, body))

/** Builds the sealed body of AUTH_I or AUTH_R. */
export const sealAuth = async (
  role: Role,
  config: HandshakeConfig,
  key: Uint8Array,
  transcriptHash: Uint8Array,
  auth: Auth
): Promise<Uint8Array> => {
  const body = authBody(auth)
  const signature = await config.crypto.sign(config.identity, signedMessage(role, transcriptHash, body))
  return sealOnce(key, transcriptHash, concat(body, signature))
}

/** Opens the sealed body of AUTH_I or AUTH_R; the signature is not checked yet, as the signer may be named inside. */
export const openAuth = (
  key: Uint8Array,
  transcriptHash: Uint8Array,
  sealed: Uint8Array,
  withDocument: boolean
): { auth: Auth; signed: Uint8Array; signature: Uint8Array } =>
  parseAuth(openOnce(key, transcriptHash, sealed, "AUTH"), withDocument)

/** Checks the signature of `signer` over an opened AUTH: BAD_SIG. */
export const checkSignature = (
  role: Role,
  crypto: HandshakeCrypto,
  signer: PublicIdentity,
  transcriptHash: Uint8Array,
  opened: { readonly signed: Uint8Array; readonly signature: Uint8Array }
): void => {
  if (!crypto.verify(signer, signedMessage(role, transcriptHash, opened.signed), opened.signature)) {
    throw new ProtocolError("BAD_SIG", `the ${role}'s signature is not by the key of ${signer.peerId.slice(0, 16)}…`)
  }
}

/** The traffic and exporter secrets. Overwrites `hs` and both wrapped secrets. */
export const sessionSecrets = (
  hs: Uint8Array,
  secretOfInitiator: Uint8Array,
  secretOfResponder: Uint8Array,
  th4: Uint8Array
): { initiatorToResponder: Uint8Array; responderToInitiator: Uint8Array; exporterSecret: Uint8Array } => {
  const derived = expand(hs, "derived")
  const both = concat(secretOfInitiator, secretOfResponder)
  const master = extract(derived, both)
  const secrets = {
    initiatorToResponder: expand(master, "traffic i2r", th4),
    responderToInitiator: expand(master, "traffic r2i", th4),
    exporterSecret: expand(master, "exporter", th4)
  }
  wipe(hs, derived, both, master, secretOfInitiator, secretOfResponder)
  return secrets
}

export const makeExporter =
  (exporterSecret: Uint8Array): SessionSecrets["exportKey"] =>
  (label, context, length) =>
    exportKey(exporterSecret, label, context, length)
