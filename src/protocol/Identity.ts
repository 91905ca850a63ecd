import { createPrivateKey, createPublicKey, generateKeyPair, type KeyObject } from "node:crypto"
import { promisify } from "node:util"
import { ByteReader, concat, equal, toHex, u16, u8 } from "./Bytes.ts"
import { identityDocumentVersion, rsaModulusBits, rsaPublicExponent } from "./constants.ts"
import { sha256 } from "./KeySchedule.ts"
import { ProtocolError } from "./ProtocolError.ts"

declare const peerIdBrand: unique symbol

/** 64 hexadecimal digits: the SHA-256 of an identity document. It proves itself: nobody assigns it. */
export type PeerId = string & { readonly [peerIdBrand]: true }

export const isPeerId = (text: string): text is PeerId => /^[0-9a-f]{64}$/.test(text)

/** Who a peer is, for everybody: §2.1. */
export interface PublicIdentity {
  readonly peerId: PeerId
  /** The same id as 32 bytes. */
  readonly id: Uint8Array
  /** `0x01 ‖ u16 ‖ SPKI ‖ u16 ‖ SPKI`. */
  readonly document: Uint8Array
  /** Verifies signatures (RSA-PSS). */
  readonly verifyKey: KeyObject
  /** Wraps secrets for this peer (RSA-OAEP). */
  readonly wrapKey: KeyObject
}

/** Who this machine is: the two private keys stay here. One key never both signs and decrypts (NIST SP 800-57). */
export interface LocalIdentity extends PublicIdentity {
  readonly signKey: KeyObject
  readonly unwrapKey: KeyObject
}

const spki = (key: KeyObject): Uint8Array => key.export({ type: "spki", format: "der" })

const readKey = (der: Uint8Array, use: string): KeyObject => {
  let key: KeyObject
  try {
    key = createPublicKey({ key: Buffer.from(der), format: "der", type: "spki" })
  } catch {
    throw new ProtocolError("MALFORMED", `identity document: the ${use} key is no public key`)
  }
  const details = key.asymmetricKeyDetails
  if (key.asymmetricKeyType !== "rsa" || details?.modulusLength !== rsaModulusBits) {
    throw new ProtocolError("MALFORMED", `identity document: the ${use} key is not RSA-${rsaModulusBits}`)
  }
  if (details.publicExponent !== rsaPublicExponent) {
    throw new ProtocolError("MALFORMED", `identity document: the ${use} key's exponent is not ${rsaPublicExponent}`)
  }
  if (!equal(spki(key), der))
    throw new ProtocolError("MALFORMED", `identity document: the ${use} key is not in canonical DER`)
  return key
}

const describe = (document: Uint8Array, verifyKey: KeyObject, wrapKey: KeyObject): PublicIdentity => {
  const id = sha256(document)
  const peerId = toHex(id)
  if (!isPeerId(peerId)) throw new ProtocolError("INTERNAL", "a SHA-256 did not give 64 digits")
  return { peerId, id, document, verifyKey, wrapKey }
}

/** Reads an identity document. Refuses other key sizes or exponents, one key used twice, other encodings, trailing bytes: MALFORMED. */
export const parseIdentity = (document: Uint8Array): PublicIdentity => {
  const reader = new ByteReader(document)
  const version = reader.u8("identity version")
  if (version !== identityDocumentVersion)
    throw new ProtocolError("MALFORMED", `identity document of version ${version}`)
  const sign = reader.bytes(reader.u16("sign key length"), "sign key")
  const wrap = reader.bytes(reader.u16("encryption key length"), "encryption key")
  reader.end("identity document")
  if (equal(sign, wrap))
    throw new ProtocolError("MALFORMED", "identity document: one key for signing and for encryption")
  return describe(Uint8Array.from(document), readKey(sign, "signing"), readKey(wrap, "encryption"))
}

/** The identity of two RSA-3072 private keys. */
export const identityOf = (signKey: KeyObject, unwrapKey: KeyObject): LocalIdentity => {
  const sign = spki(createPublicKey(signKey))
  const wrap = spki(createPublicKey(unwrapKey))
  const document = concat(u8(identityDocumentVersion), u16(sign.length), sign, u16(wrap.length), wrap)
  return { ...parseIdentity(document), signKey, unwrapKey }
}

const generate = promisify(generateKeyPair)

/** Makes a new identity: two RSA-3072 keys, about half a second of work in the thread pool. */
export const generateIdentity = async (): Promise<LocalIdentity> => {
  const options = { modulusLength: rsaModulusBits, publicExponent: Number(rsaPublicExponent) }
  const [sign, wrap] = await Promise.all([generate("rsa", options), generate("rsa", options)])
  return identityOf(sign.privateKey, wrap.privateKey)
}

/** The two private keys as PKCS #8 PEM. Secret. */
export const exportIdentity = (identity: LocalIdentity): { readonly sign: string; readonly unwrap: string } => ({
  sign: identity.signKey.export({ type: "pkcs8", format: "pem" }).toString(),
  unwrap: identity.unwrapKey.export({ type: "pkcs8", format: "pem" }).toString()
})

/** Reads what `exportIdentity` wrote; MALFORMED where it is something else. */
export const importIdentity = (keys: { readonly sign: string; readonly unwrap: string }): LocalIdentity => {
  let sign: KeyObject
  let unwrap: KeyObject
  try {
    sign = createPrivateKey(keys.sign)
    unwrap = createPrivateKey(keys.unwrap)
  } catch {
    throw new ProtocolError("MALFORMED", "the private keys are not PKCS #8 PEM")
  }
  return identityOf(sign, unwrap)
}

const base32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

/** What two people compare: the first 80 bits of the id in base32, `XXXX-XXXX-XXXX-XXXX`. */
export const fingerprint = (id: Uint8Array): string => {
  let bits = 0n
  for (const byte of id.subarray(0, 10)) bits = (bits << 8n) | BigInt(byte)
  let text = ""
  for (let at = 75n; at >= 0n; at -= 5n) text += base32.charAt(Number((bits >> at) & 31n))
  return text.replace(/(.{4})(?=.)/g, "$1-")
}

/** The look that the origin had: the first 16 bytes as eight groups of hexadecimal digits. */
export const displayId = (id: Uint8Array): string => toHex(id.subarray(0, 16)).replace(/(.{4})(?=.)/g, "$1:")
