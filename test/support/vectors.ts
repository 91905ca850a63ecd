import { createPrivateKey } from "node:crypto"
import { readFileSync } from "node:fs"
import { fromHex, toHex } from "../../src/protocol/Bytes.ts"
import { x25519Share, type HandshakeCrypto, type KeyShare } from "../../src/protocol/HandshakeCrypto.ts"
import { identityOf, type LocalIdentity } from "../../src/protocol/Identity.ts"

interface VectorFile {
  readonly now: number
  readonly pair_key: string
  readonly A: { readonly sig: string; readonly enc: string; readonly doc: string; readonly id: string }
  readonly B: { readonly sig: string; readonly enc: string; readonly doc: string; readonly id: string }
  readonly prk_pair: string
  readonly pair_keys_A_to_B: {
    readonly tag: string
    readonly mac1: string
    readonly retry: string
    readonly psk: string
  }
  readonly x_seed_I: string
  readonly m1: string
  readonly m2: string
  readonly m3: string
  readonly m4: string
  readonly hs: string
  readonly th2: string
  readonly th3: string
  readonly th4: string
  readonly k_hs_i2r: string
  readonly k_hs_r2i: string
  readonly r_I: string
  readonly traffic_i2r: string
  readonly traffic_r2i: string
  readonly exporter: string
  readonly rec_key_i2r: string
  readonly rec_iv_i2r: string
  readonly records_i2r: ReadonlyArray<string>
}

/** Known answers of the protocol; the RSA keys in it are test keys. */
export const vectors: VectorFile = JSON.parse(
  readFileSync(new URL("../fixtures/vectors.json", import.meta.url), "utf8")
)

const identity = (keys: VectorFile["A"]): LocalIdentity =>
  identityOf(createPrivateKey(keys.sig), createPrivateKey(keys.enc))

export const alice = identity(vectors.A)
export const bob = identity(vectors.B)
export const pairKey = fromHex(vectors.pair_key)

const x25519Pkcs8 = "302e020100300506032b656e04220420"

export const x25519FromSeed = (seed: Uint8Array): KeyShare =>
  x25519Share(createPrivateKey({ key: Buffer.from(x25519Pkcs8 + toHex(seed), "hex"), format: "der", type: "pkcs8" }))

/** A crypto that answers from a script: what was random when the vectors were made. */
export const scripted = (real: HandshakeCrypto, script: Partial<HandshakeCrypto>): HandshakeCrypto => ({
  ...real,
  ...script
})
