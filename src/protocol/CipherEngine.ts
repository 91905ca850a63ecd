import { createCipheriv, createDecipheriv, type KeyObject } from "node:crypto"
import { gcmTagBytes } from "./constants.ts"

/**
 * AES-256-GCM under one key: how bytes are sealed and opened. Engines differ in speed and in nothing else. What they take is read before
 * they return and may be used again; what they give is memory of its own, which whoever is done with it may `release`.
 */
export interface CipherEngine {
  /** Ciphertext in any number of parts, then the 16-byte tag. */
  readonly seal: (
    key: KeyObject,
    nonce: Uint8Array,
    associated: Uint8Array,
    parts: ReadonlyArray<Uint8Array>
  ) => ReadonlyArray<Uint8Array>
  /** The plaintext, or undefined where the tag does not verify: nothing is released before it does. */
  readonly open: (
    key: KeyObject,
    nonce: Uint8Array,
    associated: Uint8Array,
    ciphertext: Uint8Array,
    tag: Uint8Array
  ) => Uint8Array | undefined
}

const tagOption = { authTagLength: gcmTagBytes }

/** The portable engine: OpenSSL through `node:crypto`. */
export const nodeCipherEngine: CipherEngine = {
  seal: (key, nonce, associated, parts) => {
    const cipher = createCipheriv("aes-256-gcm", key, nonce, tagOption)
    cipher.setAAD(associated)
    const sealed: Array<Uint8Array> = []
    for (const part of parts) sealed.push(cipher.update(part))
    cipher.final()
    sealed.push(cipher.getAuthTag())
    return sealed
  },
  open: (key, nonce, associated, ciphertext, tag) => {
    const decipher = createDecipheriv("aes-256-gcm", key, nonce, tagOption)
    decipher.setAAD(associated)
    decipher.setAuthTag(tag)
    const plain = decipher.update(ciphertext)
    try {
      decipher.final()
    } catch {
      return undefined
    }
    return plain
  }
}
