import { createDecipheriv, createHash, createHmac } from "node:crypto"
import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex, u16, u32, utf8 } from "../../src/protocol/Bytes.ts"
import { databaseCheckBytes, databaseHeaderBytes, maxDatabaseEntries } from "../../src/protocol/constants.ts"
import {
  decodeChanges,
  encodeChange,
  encodeDatabaseHeader,
  firstPosition,
  isDatabaseKey,
  openFrame,
  parseDatabaseHeader,
  sealFrame
} from "../../src/protocol/DatabaseFormat.ts"
import {
  checkDerivation,
  defaultDerivations,
  derivePassphraseKey,
  type PassphraseDerivation
} from "../../src/protocol/DatabaseKey.ts"
import { DatabaseReader } from "../../src/protocol/DatabaseReader.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { masterKey, sampleFrames, sampleHeader, sampleParts, textOf } from "../support/protocolFuzzDatabase.ts"

const codeOf = (run: () => unknown): string => {
  try {
    run()
    return "none"
  } catch (error) {
    if (error instanceof ProtocolError) return error.code
    throw error
  }
}

const header = encodeDatabaseHeader(sampleHeader, masterKey)

describe("the header of a database", () => {
  it("comes back as it went, and tells its key from others", () => {
    expect(header).toHaveLength(databaseHeaderBytes)
    for (const derivation of [{ kdf: "raw" } as const, defaultDerivations.scrypt, defaultDerivations.argon2id]) {
      const bytes = encodeDatabaseHeader({ ...sampleHeader, derivation }, masterKey)
      expect(parseDatabaseHeader(bytes)).toEqual({ ...sampleHeader, derivation })
      expect(isDatabaseKey(masterKey, bytes)).toBe(true)
      expect(isDatabaseKey(masterKey.with(0, 1), bytes)).toBe(false)
    }
  })

  /** A header with other bytes at a place, whose digest is right: whoever writes files can do that. */
  const forged = (at: number, bytes: Uint8Array): Uint8Array => {
    const fields = header.slice(0, databaseHeaderBytes - databaseCheckBytes)
    fields.set(bytes, at)
    return concat(fields, createHash("sha256").update(fields).digest().subarray(0, databaseCheckBytes))
  }
  const kdf = (code: number, first: number, second: number, parallelism: number) =>
    forged(5, concat(Uint8Array.of(code), u32(first), Uint8Array.of(second, parallelism)))

  it.each([
    ["scrypt that takes 2 GiB", kdf(1, 2 ** 20, 16, 1), "TOO_LARGE"],
    ["scrypt that takes minutes", kdf(1, 2 ** 21, 1, 1), "TOO_LARGE"],
    ["a block of scrypt beyond the limit", kdf(1, 2 ** 10, 17, 1), "TOO_LARGE"],
    ["scrypt with more lanes than are taken", kdf(1, 2 ** 10, 8, 5), "TOO_LARGE"],
    ["scrypt at a cost that is no power of 2", kdf(1, 1000, 8, 1), "MALFORMED"],
    ["scrypt at no cost", kdf(1, 1, 8, 1), "MALFORMED"],
    ["scrypt without a block", kdf(1, 2 ** 10, 0, 1), "MALFORMED"],
    ["scrypt without a lane", kdf(1, 2 ** 10, 8, 0), "MALFORMED"],
    ["argon2id that takes over 1 GiB", kdf(2, 2 ** 20 + 1, 3, 1), "TOO_LARGE"],
    ["argon2id that takes 4 TiB", kdf(2, 2 ** 32 - 1, 3, 1), "TOO_LARGE"],
    ["argon2id with more passes than are taken", kdf(2, 2 ** 16, 11, 1), "TOO_LARGE"],
    ["argon2id with more lanes than are taken", kdf(2, 2 ** 16, 3, 5), "TOO_LARGE"],
    ["argon2id without a pass", kdf(2, 2 ** 16, 0, 1), "MALFORMED"],
    ["argon2id with less memory than it can do with", kdf(2, 7, 3, 1), "MALFORMED"],
    ["a derivation that is not known", kdf(3, 0, 0, 0), "VERSION"],
    ["a generation beyond what a number holds", forged(44, fromHex("0020000000000000")), "TOO_LARGE"],
    ["more entries than are taken", forged(84, u32(maxDatabaseEntries + 1)), "TOO_LARGE"],
    ["another version", header.with(4, 2), "VERSION"],
    ["another beginning", header.with(0, 0), "MALFORMED"],
    ["a missing byte", header.subarray(0, databaseHeaderBytes - 1), "MALFORMED"]
  ])("is refused before any key is derived: %s", (_what, bytes, code) => {
    expect(codeOf(() => parseDatabaseHeader(bytes))).toBe(code)
  })
})

describe("the key of a passphrase", () => {
  it("is that of RFC 7914 §12", async () => {
    const derivation = { kdf: "scrypt", cost: 16_384, blockSize: 8, parallelism: 1 } as const
    const key = await derivePassphraseKey(derivation, utf8("pleaseletmein"), utf8("SodiumChloride"))
    expect(toHex(key)).toBe("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
  })

  it("is not derived beyond the limits, whoever asks for it", async () => {
    const hostile: ReadonlyArray<PassphraseDerivation> = [
      { kdf: "scrypt", cost: 2 ** 24, blockSize: 8, parallelism: 1 },
      { kdf: "argon2id", memoryKiB: 2 ** 22, passes: 1, parallelism: 1 }
    ]
    for (const derivation of hostile) {
      expect(codeOf(() => checkDerivation(derivation))).toBe("TOO_LARGE")
      await expect(derivePassphraseKey(derivation, utf8("a"), new Uint8Array(16))).rejects.toThrow(ProtocolError)
    }
  })
})

describe("the changes of a frame", () => {
  it("come back as they went", () => {
    for (const changes of sampleFrames) expect(decodeChanges(concat(...changes.map(encodeChange)))).toEqual(changes)
  })

  it.each([
    ["without a key", concat(Uint8Array.of(2), u16(0)), "MALFORMED"],
    ["of an unknown kind", concat(Uint8Array.of(3), u16(1), utf8("a")), "MALFORMED"],
    ["with a key that is no text", concat(Uint8Array.of(2), u16(1), Uint8Array.of(0xff)), "MALFORMED"],
    ["with a key beyond the limit", concat(Uint8Array.of(2), u16(513), new Uint8Array(513).fill(97)), "TOO_LARGE"],
    ["whose value is longer than there are bytes", concat(Uint8Array.of(1), u16(1), utf8("a"), u32(9)), "MALFORMED"],
    ["whose value is beyond the limit", concat(Uint8Array.of(1), u16(1), utf8("a"), u32(2 ** 31)), "TOO_LARGE"]
  ])("are refused %s", (_what, bytes, code) => {
    expect(codeOf(() => decodeChanges(bytes))).toBe(code)
  })

  it("are refused at their author where a key is no text that would come back", () => {
    for (const key of ["", "\ud800"]) expect(codeOf(() => encodeChange({ kind: "remove", key }))).toBe("MALFORMED")
    expect(codeOf(() => encodeChange({ kind: "put", key: "ü".repeat(257), value: new Uint8Array(0) }))).toBe(
      "TOO_LARGE"
    )
  })
})

describe("a frame", () => {
  it("of the same place and content under another salt shares no byte of its key stream", () => {
    const position = firstPosition(header)
    const [a, b] = [1, 2].map(salt =>
      sealFrame(masterKey, position, [new Uint8Array(64)], new Uint8Array(32).fill(salt))
    )
    if (a === undefined || b === undefined) throw new Error("no frame")
    const body = (bytes: Uint8Array) => toHex(bytes.subarray(52, 52 + 64))
    expect(body(a.bytes)).not.toBe(body(b.bytes))
    expect(a.next.chain).not.toEqual(b.next.chain)
  })

  it("opens at its place alone: not after another frame, not as another number", () => {
    const position = firstPosition(header)
    const { bytes, next } = sealFrame(
      masterKey,
      position,
      [encodeChange({ kind: "remove", key: "a" })],
      new Uint8Array(32)
    )
    expect(openFrame(masterKey, position, bytes)).toMatchObject({ _tag: "Frame", bytes: bytes.length })
    for (const other of [next, { ...position, sequence: 1 }, { ...position, chain: next.chain }])
      expect(codeOf(() => openFrame(masterKey, other, bytes))).toBe("BAD_MAC")
  })
})

describe("a database file", () => {
  it("is read by what docs/protocol.md says of it, without this code", () => {
    const hmac = (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>) =>
      createHmac("sha256", key).update(Buffer.concat(parts)).digest()
    const hash = (...parts: ReadonlyArray<Uint8Array>) => createHash("sha256").update(Buffer.concat(parts)).digest()
    const expand = (key: Uint8Array, label: string, context: Uint8Array, length: number) => {
      const name = Buffer.from(`artf1 ${label}`)
      const info = Buffer.concat([
        u16(length),
        Uint8Array.of(name.length),
        name,
        Uint8Array.of(context.length),
        context
      ])
      const first = hmac(key, info, Uint8Array.of(1))
      return Buffer.concat([first, hmac(key, first, info, Uint8Array.of(2))]).subarray(0, length)
    }
    const file = Buffer.concat(sampleParts)
    const [salt, databaseId, generation, fileSalt] = [
      [12, 28],
      [28, 44],
      [44, 52],
      [52, 84]
    ].map(([from, to]) => file.subarray(from, to))
    if (!salt || !databaseId || !generation || !fileSalt) throw new Error("no header")
    expect(file.subarray(0, 6)).toEqual(Buffer.from("ARTD\x01\x01", "latin1"))
    expect([file.readUInt32BE(6), file[10], file[11], file.readUInt32BE(84)]).toEqual([2 ** 17, 8, 1, 2])
    const check = hmac(expand(masterKey, "db check", new Uint8Array(0), 32), file.subarray(0, 88)).subarray(0, 16)
    expect(file.subarray(88, 104)).toEqual(check)
    expect(file.subarray(104, 120)).toEqual(hash(file.subarray(0, 104)).subarray(0, 16))

    const generationKey = expand(masterKey, "db", Buffer.concat([databaseId, generation, fileSalt]), 32)
    let chain = hash(file.subarray(0, 120))
    const read: Array<string> = []
    for (let at = 120, sequence = 0; at < file.length; sequence++) {
      const length = file.readUInt32BE(at)
      const head = file.subarray(at, at + 52)
      const number = Buffer.from([0, 0, 0, 0, 0, 0, 0, sequence])
      const context = Buffer.concat([chain, number, head.subarray(0, 36)])
      const derived = expand(generationKey, "db frame", context, 48)
      expect(derived.subarray(32)).toEqual(head.subarray(36))
      const tag = file.subarray(at + 52 + length - 16, at + 52 + length)
      const nonce = Buffer.concat([new Uint8Array(4), number])
      const open = createDecipheriv("aes-256-gcm", derived.subarray(0, 32), nonce, { authTagLength: 16 })
      const plain = open
        .setAAD(chain)
        .setAuthTag(tag)
        .update(file.subarray(at + 52, at + 52 + length - 16))
      open.final()
      read.push(toHex(plain))
      chain = hash(chain, head, tag)
      at += 52 + length
    }
    expect(read).toEqual(sampleFrames.map(changes => toHex(concat(...changes.map(encodeChange)))))
    // Byte by byte, as an example of what is in a frame.
    expect(read[2]).toBe(["020001", "61", "010001", "62", "00000003", "010203"].join(""))
  })

  it("is the same to the reader in pieces of any size, and counts its generations", () => {
    const file = concat(...sampleParts.slice(1))
    for (const size of [1, 7, 100, file.length]) {
      const reader = new DatabaseReader(sampleHeader, header, masterKey)
      const read = []
      // One buffer for all pieces: the reader may not keep what it was given.
      const piece = new Uint8Array(size)
      for (let at = 0; at < file.length; at += size) {
        const bytes = file.subarray(at, at + size)
        piece.set(bytes)
        read.push(...reader.push(piece.subarray(0, bytes.length)))
      }
      expect(textOf(read)).toBe(textOf(sampleFrames.flat()))
      expect(reader.end()).toMatchObject({
        generation: sampleHeader.generation + 2,
        wholeBytes: databaseHeaderBytes + file.length,
        snapshotBytes: concat(...sampleParts.slice(0, 3)).length,
        tornBytes: 0
      })
    }
  })
})
