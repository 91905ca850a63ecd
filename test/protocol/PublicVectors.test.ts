import { createPrivateKey, createSecretKey } from "node:crypto"
import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex } from "../../src/protocol/Bytes.ts"
import { x25519Share } from "../../src/protocol/HandshakeCrypto.ts"
import { extract, hkdfExpand } from "../../src/protocol/KeySchedule.ts"
import { nodeCipherEngine } from "../../src/protocol/CipherEngine.ts"
import { flipped } from "../support/protocolHandshake.ts"
import { x25519FromSeed } from "../support/vectors.ts"

/** `range(from, to)` of RFC 5869: bytes from, from + 1, … to. */
const range = (from: number, to: number): Uint8Array => Uint8Array.from({ length: to - from + 1 }, (_, at) => from + at)
const none = new Uint8Array(0)

describe("HKDF-SHA-256 of RFC 5869, appendix A", () => {
  it.each([
    {
      name: "A.1, the basic case",
      inputKey: new Uint8Array(22).fill(0x0b),
      salt: range(0x00, 0x0c),
      info: range(0xf0, 0xf9),
      prk: "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
      okm: "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    },
    {
      name: "A.2, longer inputs and outputs",
      inputKey: range(0x00, 0x4f),
      salt: range(0x60, 0xaf),
      info: range(0xb0, 0xff),
      prk: "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
      okm: "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    },
    {
      name: "A.3, no salt and no info",
      inputKey: new Uint8Array(22).fill(0x0b),
      salt: none,
      info: none,
      prk: "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
      okm: "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    }
  ])("$name", ({ inputKey, salt, info, prk, okm }) => {
    expect(toHex(extract(salt, inputKey))).toBe(prk)
    expect(toHex(hkdfExpand(fromHex(prk), info, okm.length / 2))).toBe(okm)
  })
})

describe("X25519 of RFC 7748", () => {
  const multiply = (scalar: Uint8Array, point: Uint8Array): Uint8Array => x25519FromSeed(scalar).agree(point)

  it.each([
    [
      "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
      "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
      "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    ],
    [
      "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
      "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
      "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"
    ]
  ])("§5.2, scalar %s", (scalar, point, product) => {
    expect(toHex(multiply(fromHex(scalar), fromHex(point)))).toBe(product)
  })

  it("§5.2, applied 1,000 times over", () => {
    let scalar: Uint8Array = concat(Uint8Array.of(9), new Uint8Array(31))
    let point = scalar
    for (let times = 1; times <= 1000; times++) {
      const product = multiply(scalar, point)
      point = scalar
      scalar = product
      if (times === 1) expect(toHex(product)).toBe("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    }
    expect(toHex(scalar)).toBe("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")
  })

  it("§6.1, two sides agree", () => {
    const one = x25519FromSeed(fromHex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    const other = x25519FromSeed(fromHex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    expect(toHex(one.share)).toBe("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    expect(toHex(other.share)).toBe("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    const shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    expect([toHex(one.agree(other.share)), toHex(other.agree(one.share))]).toEqual([shared, shared])
  })

  it("comes from a private key in PKCS #8", () => {
    const der = Buffer.from(`302e020100300506032b656e04220420${"11".repeat(32)}`, "hex")
    expect(x25519Share(createPrivateKey({ key: der, format: "der", type: "pkcs8" })).share.length).toBe(32)
  })
})

/** McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, as submitted to NIST. */
describe("AES-256-GCM, the submission's test cases of 256-bit keys and 96-bit nonces", () => {
  const key = "feffe9928665731c6d6a8f9467308308".repeat(2)
  const text =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
  const ciphertext =
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
  it.each([
    {
      name: "13",
      key: "00".repeat(32),
      nonce: "00".repeat(12),
      data: "",
      plain: "",
      sealed: "",
      tag: "530f8afbc74536b9a963b4f1c4cb738b"
    },
    {
      name: "14",
      key: "00".repeat(32),
      nonce: "00".repeat(12),
      data: "",
      plain: "00".repeat(16),
      sealed: "cea7403d4d606b6e074ec5d3baf39d18",
      tag: "d0d1c8a799996bf0265b98b5d48ab919"
    },
    {
      name: "15",
      key,
      nonce: "cafebabefacedbaddecaf888",
      data: "",
      plain: text,
      sealed: ciphertext,
      tag: "b094dac5d93471bdec1a502270e3cc6c"
    },
    {
      name: "16",
      key,
      nonce: "cafebabefacedbaddecaf888",
      data: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
      plain: text.slice(0, 120),
      sealed: ciphertext.slice(0, 120),
      tag: "76fc6ece0f4e1768cddf8853bb2d551b"
    }
  ])("case $name", ({ key, nonce, data, plain, sealed, tag }) => {
    const engine = nodeCipherEngine
    const [secret, iv, associated, bytes] = [
      createSecretKey(fromHex(key)),
      fromHex(nonce),
      fromHex(data),
      fromHex(plain)
    ]
    // However the plaintext is cut into parts.
    for (const cut of [0, 7, bytes.length])
      expect(toHex(concat(...engine.seal(secret, iv, associated, [bytes.subarray(0, cut), bytes.subarray(cut)])))).toBe(
        sealed + tag
      )
    const open = (ciphertext: Uint8Array, tag: Uint8Array, data = associated) =>
      engine.open(secret, iv, data, ciphertext, tag)
    expect(toHex(open(fromHex(sealed), fromHex(tag)) ?? fromHex("ff"))).toBe(plain)
    expect(open(fromHex(sealed), flipped(fromHex(tag), 127))).toBeUndefined()
    expect(open(fromHex(sealed), fromHex(tag), concat(associated, Uint8Array.of(0)))).toBeUndefined()
    if (sealed.length > 0) expect(open(flipped(fromHex(sealed), 3), fromHex(tag))).toBeUndefined()
  })
})
