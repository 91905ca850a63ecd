import * as crypto from "node:crypto"
import { promisify } from "node:util"
import { utf8 } from "./Bytes.ts"
import {
  defaultArgon2MemoryBytes,
  defaultArgon2Passes,
  defaultDerivationParallelism,
  defaultScryptBlockSize,
  defaultScryptCost,
  hashBytes,
  maxArgon2Passes,
  maxDerivationMemoryBytes,
  maxDerivationParallelism,
  maxScryptBlockSize,
  maxScryptCost
} from "./constants.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** How a database's master key comes to be (§5): it is given, or a passphrase gives it (RFC 7914, RFC 9106). */
export type KeyDerivation =
  | { readonly kdf: "raw" }
  | { readonly kdf: "scrypt"; readonly cost: number; readonly blockSize: number; readonly parallelism: number }
  | { readonly kdf: "argon2id"; readonly memoryKiB: number; readonly passes: number; readonly parallelism: number }

export type PassphraseDerivation = Exclude<KeyDerivation, { readonly kdf: "raw" }>

const kibi = 1024

/** What a new database is made with: a quarter to half a second of one core. */
export const defaultDerivations = {
  scrypt: {
    kdf: "scrypt",
    cost: defaultScryptCost,
    blockSize: defaultScryptBlockSize,
    parallelism: defaultDerivationParallelism
  },
  argon2id: {
    kdf: "argon2id",
    memoryKiB: defaultArgon2MemoryBytes / kibi,
    passes: defaultArgon2Passes,
    parallelism: defaultDerivationParallelism
  }
} as const satisfies Record<PassphraseDerivation["kdf"], PassphraseDerivation>

const atMost = (what: string, value: number, least: number, most: number): void => {
  if (value < least) throw new ProtocolError("MALFORMED", `key derivation: ${what} is ${value}, the least is ${least}`)
  if (value > most)
    throw new ProtocolError("TOO_LARGE", `key derivation: ${what} is ${value}, at most ${most} is taken`)
}

/** Refuses what no derivation can be (MALFORMED), and what would take the machine's memory or minutes of its time (TOO_LARGE). */
export const checkDerivation = (derivation: KeyDerivation): void => {
  switch (derivation.kdf) {
    case "raw":
      return
    case "scrypt": {
      const { cost, blockSize, parallelism } = derivation
      atMost("the cost of scrypt", cost, 2, maxScryptCost)
      if (!Number.isInteger(Math.log2(cost)))
        throw new ProtocolError("MALFORMED", `key derivation: the cost of scrypt, ${cost}, is no power of 2`)
      atMost("the block size of scrypt", blockSize, 1, maxScryptBlockSize)
      atMost("the parallelism", parallelism, 1, maxDerivationParallelism)
      return atMost("the memory", scryptBytes(cost, blockSize), 0, maxDerivationMemoryBytes)
    }
    case "argon2id": {
      const { memoryKiB, passes, parallelism } = derivation
      atMost("the parallelism", parallelism, 1, maxDerivationParallelism)
      atMost("the passes of argon2id", passes, 1, maxArgon2Passes)
      return atMost("the memory", memoryKiB * kibi, 8 * parallelism * kibi, maxDerivationMemoryBytes)
    }
  }
}

const scryptBytes = (cost: number, blockSize: number): number => 128 * cost * blockSize

/** Whether this Node has argon2id: it came with 24.7. */
export const hasArgon2 = (): boolean => typeof crypto.argon2 === "function"

/** The bytes of a passphrase: Unicode NFC (RFC 8265 §4.2.2), so that it is the same from every keyboard. */
export const passphraseBytes = (passphrase: string): Uint8Array => utf8(passphrase.normalize("NFC"))

const scrypt = promisify<crypto.BinaryLike, crypto.BinaryLike, number, crypto.ScryptOptions, Buffer>(crypto.scrypt)

/**
 * The 32 bytes that a passphrase gives, computed in the thread pool. Rejects with ProtocolError: as `checkDerivation`, before any work;
 * VERSION for argon2id where this Node has none.
 */
export const derivePassphraseKey = async (
  derivation: PassphraseDerivation,
  passphrase: Uint8Array,
  salt: Uint8Array
): Promise<Uint8Array> => {
  checkDerivation(derivation)
  if (derivation.kdf === "scrypt") {
    const { cost, blockSize, parallelism } = derivation
    // What OpenSSL counts beside the table itself is far below as much again.
    const maxmem = 2 * scryptBytes(cost, blockSize) + 128 * blockSize * parallelism
    return scrypt(passphrase, salt, hashBytes, { N: cost, r: blockSize, p: parallelism, maxmem })
  }
  if (!hasArgon2()) throw new ProtocolError("VERSION", "argon2id needs Node 24.7 or later")
  return promisify(crypto.argon2)("argon2id", {
    message: passphrase,
    nonce: salt,
    parallelism: derivation.parallelism,
    memory: derivation.memoryKiB,
    passes: derivation.passes,
    tagLength: hashBytes
  })
}
