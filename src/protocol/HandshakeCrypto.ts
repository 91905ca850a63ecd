import {
  constants,
  createPublicKey,
  decapsulate,
  diffieHellman,
  encapsulate,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
  sign,
  verify,
  webcrypto,
  type KeyObject
} from "node:crypto"
import { concat, fromHex, utf8 } from "./Bytes.ts"
import { hashBytes, pssSaltBytes, rsaBytes } from "./constants.ts"
import type { LocalIdentity, PublicIdentity } from "./Identity.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** One side's ephemeral key. `agree` raises BAD_DH where the other share gives no secret (small-order points). */
export interface KeyShare {
  readonly share: Uint8Array
  readonly agree: (otherShare: Uint8Array) => Uint8Array
}

/** An ephemeral ML-KEM-768 key pair of an initiator. */
export interface Decapsulator {
  readonly encapsulationKey: Uint8Array
  readonly open: (ciphertext: Uint8Array) => Uint8Array
}

/**
 * All that the handshake draws, computes with a private key or leaves to chance. Everything else in it is a function of bytes,
 * so a test that replays these calls replays the handshake to the byte.
 */
export interface HandshakeCrypto {
  readonly randomBytes: (length: number) => Uint8Array
  readonly keyShare: () => KeyShare
  /** Absent where this Node has no ML-KEM: suite 2 is then never offered nor chosen. */
  readonly mlKem?: {
    readonly keyPair: () => Decapsulator
    readonly encapsulate: (encapsulationKey: Uint8Array) => {
      readonly secret: Uint8Array
      readonly ciphertext: Uint8Array
    }
  }
  /** RSA-PSS, SHA-256, salt of 32 bytes; runs in the thread pool. */
  readonly sign: (identity: LocalIdentity, message: Uint8Array) => Promise<Uint8Array>
  readonly verify: (identity: PublicIdentity, message: Uint8Array, signature: Uint8Array) => boolean
  /** RSA-OAEP, SHA-256. MALFORMED where the peer's document names a number that is no RSA modulus. */
  readonly wrap: (identity: PublicIdentity, secret: Uint8Array) => Uint8Array
  /** Opens what `wrap` sealed for us; undefined where it does not open. Runs in the thread pool. */
  readonly unwrap: (identity: LocalIdentity, ciphertext: Uint8Array) => Promise<Uint8Array | undefined>
}

const oaepLabel = utf8("artifice v1 key transport")

/** `SubjectPublicKeyInfo` of an X25519 or ML-KEM-768 key before its raw bytes. */
const x25519Prefix = fromHex("302a300506032b656e032100")
const mlKem768Prefix = fromHex("308204b2300b0609608648016503040402038204a100")

const publicKeyFromRaw = (prefix: Uint8Array, raw: Uint8Array): KeyObject =>
  createPublicKey({ key: Buffer.from(concat(prefix, raw)), format: "der", type: "spki" })

const rawOf = (key: KeyObject, prefix: Uint8Array): Uint8Array =>
  Uint8Array.from(key.export({ type: "spki", format: "der" }).subarray(prefix.length))

/** The X25519 share of a given private key. */
export const x25519Share = (privateKey: KeyObject): KeyShare => ({
  share: rawOf(createPublicKey(privateKey), x25519Prefix),
  agree: otherShare => {
    try {
      // OpenSSL refuses an all-zero result, which is what every small-order point gives.
      return diffieHellman({ privateKey, publicKey: publicKeyFromRaw(x25519Prefix, otherShare) })
    } catch {
      throw new ProtocolError("BAD_DH", "the other side's key share gives no secret")
    }
  }
})

const mlKem: NonNullable<HandshakeCrypto["mlKem"]> = {
  keyPair: () => {
    const { publicKey, privateKey } = generateKeyPairSync("ml-kem-768")
    return {
      encapsulationKey: rawOf(publicKey, mlKem768Prefix),
      open: ciphertext => decapsulate(privateKey, ciphertext)
    }
  },
  encapsulate: encapsulationKey => {
    try {
      const { sharedKey, ciphertext } = encapsulate(publicKeyFromRaw(mlKem768Prefix, encapsulationKey))
      return { secret: sharedKey, ciphertext }
    } catch {
      throw new ProtocolError("BAD_DH", "the ML-KEM encapsulation key is not one")
    }
  }
}

const hasMlKem = (): boolean => {
  try {
    const pair = mlKem.keyPair()
    const { secret, ciphertext } = mlKem.encapsulate(pair.encapsulationKey)
    return Buffer.compare(pair.open(ciphertext), secret) === 0
  } catch {
    return false
  }
}

const unwrapKeys = new WeakMap<KeyObject, webcrypto.CryptoKey>()

const unwrapKeyOf = (identity: LocalIdentity): webcrypto.CryptoKey => {
  let key = unwrapKeys.get(identity.unwrapKey)
  if (key === undefined) {
    key = identity.unwrapKey.toCryptoKey({ name: "RSA-OAEP", hash: "SHA-256" }, false, ["decrypt"])
    unwrapKeys.set(identity.unwrapKey, key)
  }
  return key
}

const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: pssSaltBytes }

/** The portable implementation: OpenSSL through `node:crypto`. */
export const nodeCrypto = (): HandshakeCrypto => ({
  randomBytes: length => randomBytes(length),
  keyShare: () => x25519Share(generateKeyPairSync("x25519").privateKey),
  ...(hasMlKem() ? { mlKem } : {}),
  sign: (identity, message) =>
    new Promise((resolve, reject) => {
      sign("sha256", message, { key: identity.signKey, ...pss }, (error, signature) =>
        error === null ? resolve(signature) : reject(error)
      )
    }),
  verify: (identity, message, signature) =>
    signature.length === rsaBytes && verify("sha256", message, { key: identity.verifyKey, ...pss }, signature),
  wrap: (identity, secret) => {
    const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256", oaepLabel: Buffer.from(oaepLabel) }
    try {
      return publicEncrypt({ key: identity.wrapKey, ...oaep }, secret)
    } catch {
      // A document may name a modulus that is none, an even number for instance: only its use shows that.
      throw new ProtocolError("MALFORMED", `the encryption key of ${identity.peerId.slice(0, 16)}… cannot encrypt`)
    }
  },
  // WebCrypto decrypts in the thread pool; `privateDecrypt` would hold this thread for over a millisecond.
  unwrap: async (identity, ciphertext) => {
    try {
      const algorithm = { name: "RSA-OAEP", label: oaepLabel }
      const secret = new Uint8Array(
        await webcrypto.subtle.decrypt(algorithm, unwrapKeyOf(identity), Uint8Array.from(ciphertext))
      )
      return secret.length === hashBytes ? secret : undefined
    } catch {
      return undefined
    }
  }
})
