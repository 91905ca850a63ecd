import { createCipheriv, createSecretKey } from "node:crypto"
import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex, u64, u8, utf8 } from "../../src/protocol/Bytes.ts"
import { nodeCipherEngine, type CipherEngine } from "../../src/protocol/CipherEngine.ts"
import { expand, exportKey, hkdfExpand, sha256 } from "../../src/protocol/KeySchedule.ts"
import {
  DatagramOpener,
  DatagramSealer,
  directionSecrets,
  sllpSecret,
  specifiedKeyLimits,
  type SllpKeyLimits
} from "../../src/protocol/sllp/Datagrams.ts"
import { flipped } from "../support/protocolHandshake.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { associationSecret } from "../support/sllpPair.ts"

const { initiatorToResponder: secret, responderToInitiator: otherWay } = directionSecrets(associationSecret)
const cid = utf8("its name")
const keptMs = 300

const sealing = (limits: Partial<SllpKeyLimits> = {}, nowMs = 0) =>
  new DatagramSealer(secret, cid, nowMs, nodeCipherEngine, { ...specifiedKeyLimits, ...limits })
const opening = (limits: Partial<SllpKeyLimits> = {}, engine: CipherEngine = nodeCipherEngine) =>
  new DatagramOpener(secret, cid, engine, { ...specifiedKeyLimits, ...limits })

/** Datagrams 0 … n−1; the bytes of each are its number. */
const datagrams = (count: number, sealer = sealing()): ReadonlyArray<Uint8Array> =>
  Array.from({ length: count }, (_, number) => sealer.seal(u64(number), 0))

/** The number in an opened datagram, or why it was not opened. */
const openedBy = (opener: DatagramOpener, datagram: Uint8Array | undefined, nowMs = 0): number | string => {
  if (datagram === undefined) throw new Error("no such datagram")
  const plain = opener.open(datagram, nowMs, keptMs)
  return typeof plain === "string" ? plain : Number(Buffer.from(plain).readBigUInt64BE())
}

describe("a datagram", () => {
  it("is 0x40, the receiver's id, the number in clear, AES-GCM of the frames with these 17 bytes, and its tag", () => {
    const key = createSecretKey(expand(secret, "key"))
    const iv = expand(secret, "iv", new Uint8Array(0), 12)
    const sealer = sealing()
    for (let number = 0; number < 3; number++) {
      const frames = utf8(`frames of ${number}`)
      const datagram = sealer.seal(frames, 0)
      const header = concat(u8(0x40), cid, u64(number))
      const nonce = iv.map((byte, at) => byte ^ (at < 4 ? 0 : (u64(number)[at - 4] ?? 0)))
      const cipher = createCipheriv("aes-256-gcm", key, nonce)
      cipher.setAAD(header)
      expect(toHex(datagram)).toBe(toHex(concat(header, cipher.update(frames), cipher.final(), cipher.getAuthTag())))
      expect(datagram.length).toBe(frames.length + 33)
    }
  })

  it("has keys from the session's exporter and both ids, one for each direction", () => {
    const exporter = sha256(utf8("exporter secret"))
    const [cidI, cidR] = [utf8("12345678"), utf8("abcdefgh")]
    const made = sllpSecret((label, context, length) => exportKey(exporter, label, context, length), cidI, cidR)
    const labelled = (label: string, context: Uint8Array) => {
      const name = utf8(`artf1 ${label}`)
      return concat(Uint8Array.of(0, 32, name.length), name, u8(context.length), context)
    }
    const inner = hkdfExpand(exporter, labelled("sllp", sha256(new Uint8Array(0))), 32)
    const expected = hkdfExpand(inner, labelled("exporter", sha256(concat(cidI, cidR))), 32)
    expect(toHex(made)).toBe(toHex(expected))
    const both = directionSecrets(made)
    expect(toHex(both.initiatorToResponder)).toBe(toHex(expand(made, "sllp i2r")))
    expect(toHex(both.responderToInitiator)).toBe(toHex(expand(made, "sllp r2i")))
  })

  it("with any bit turned does not open, and the true one still does", () => {
    const [datagram] = datagrams(1)
    if (datagram === undefined) return expect.fail()
    const opener = opening()
    for (let bit = 0; bit < datagram.length * 8; bit++)
      expect(["malformed", "forged", "replayed"]).toContain(openedBy(opener, flipped(datagram, bit)))
    expect(openedBy(opener, datagram)).toBe(0)
  })

  it("cut at any length, or longer, does not open", () => {
    const [datagram] = datagrams(1)
    if (datagram === undefined) return expect.fail()
    const opener = opening()
    for (let length = 0; length < datagram.length; length++)
      expect(["malformed", "forged"]).toContain(openedBy(opener, datagram.subarray(0, length)))
    expect(openedBy(opener, concat(datagram, u8(0)))).toBe("forged")
    expect(openedBy(opener, datagram)).toBe(0)
  })

  it("of another association, or sent back to its sender, does not open", () => {
    const [datagram] = datagrams(1)
    expect(openedBy(new DatagramOpener(otherWay, cid), datagram)).toBe("forged")
    expect(openedBy(new DatagramOpener(secret, utf8("not this")), datagram)).toBe("malformed")
  })

  it("is not written again when later ones are sealed", () => {
    const sealer = sealing()
    const first = sealer.seal(utf8("the first"), 0)
    const before = toHex(first)
    for (let count = 0; count < 200; count++) sealer.seal(new Uint8Array(1_100), 0)
    expect(toHex(first)).toBe(before)
  })

  it("may be as large as UDP takes", () => {
    const frames = new SeededRandom(3).bytes(65_507 - 33)
    const plain = opening().open(sealing().seal(frames, 0), 0, keptMs)
    expect(typeof plain === "string" ? plain : Buffer.compare(plain, frames)).toBe(0)
  })
})

describe("replay", () => {
  const all = datagrams(4_100)

  it("each datagram opens once, in any order", () => {
    const opener = opening()
    expect([2, 0, 1, 2, 0, 3, 1].map(number => openedBy(opener, all[number]))).toEqual([
      2,
      0,
      1,
      "replayed",
      "replayed",
      3,
      "replayed"
    ])
  })

  it("2,047 behind the highest opens, 2,048 behind does not", () => {
    const opener = opening()
    expect(openedBy(opener, all[2_048])).toBe(2_048)
    expect(openedBy(opener, all[1])).toBe(1)
    expect(openedBy(opener, all[0])).toBe("replayed")
  })

  it("a forged number far ahead moves nothing", () => {
    const opener = opening()
    expect(openedBy(opener, all[0])).toBe(0)
    for (const ahead of [1n, 2_048n, 2n ** 32n, 2n ** 52n - 1n]) {
      const forged = Uint8Array.from(all[1] ?? [])
      forged.set(u64(1n + ahead), 9)
      expect(openedBy(opener, forged)).toBe("forged")
    }
    const beyond = Uint8Array.from(all[1] ?? [])
    beyond.set(u64(2n ** 63n), 9)
    expect(openedBy(opener, beyond)).toBe("replayed")
    expect(openedBy(opener, all[1])).toBe(1)
  })

  it("is seen before anything is decrypted", () => {
    let opens = 0
    const counting: CipherEngine = {
      ...nodeCipherEngine,
      open: (...of) => {
        opens++
        return nodeCipherEngine.open(...of)
      }
    }
    const opener = opening({}, counting)
    openedBy(opener, all[3_000])
    for (const number of [3_000, 900, 0]) expect(openedBy(opener, all[number])).toBe("replayed")
    expect(opens).toBe(1)
  })
})

describe("the key phase", () => {
  const each = 10
  /** Datagrams of four phases, each acknowledged at once. */
  const phases = (): ReadonlyArray<Uint8Array> => {
    const sealer = sealing({ datagrams: each })
    return Array.from({ length: 4 * each }, (_, number) => {
      const datagram = sealer.seal(u64(number), 0)
      sealer.acknowledged(number)
      return datagram
    })
  }
  const phaseOf = (datagram: Uint8Array | undefined): number => ((datagram?.[0] ?? 0) & 0x04) >>> 2

  it("turns after so many datagrams, with the secret that 'upd' gives, and the numbers go on", () => {
    const all = phases()
    expect(all.map(phaseOf)).toEqual(all.map((_, number) => Math.floor(number / each) % 2))
    const next = expand(secret, "upd")
    const opener = new DatagramOpener(next, cid)
    const eleventh = Uint8Array.from(all[each] ?? [])
    // The flag is under the tag: only the true key with the true flag opens it.
    expect(openedBy(opener, eleventh)).toBe("forged")
    const key = createSecretKey(expand(next, "key"))
    const nonce = expand(next, "iv", new Uint8Array(0), 12).map((byte, at) => byte ^ (at === 11 ? each : 0))
    const cipher = createCipheriv("aes-256-gcm", key, nonce)
    cipher.setAAD(concat(u8(0x44), cid, u64(each)))
    expect(toHex(eleventh.subarray(17))).toBe(
      toHex(concat(cipher.update(u64(each)), cipher.final(), cipher.getAuthTag()))
    )
  })

  it("turns after an hour", () => {
    const sealer = sealing({}, 1_000)
    expect(phaseOf(sealer.seal(u64(0), 3_600_999))).toBe(0)
    sealer.acknowledged(0)
    expect(phaseOf(sealer.seal(u64(1), 3_600_999))).toBe(0)
    expect(phaseOf(sealer.seal(u64(2), 3_601_000))).toBe(1)
    sealer.acknowledged(2)
    expect(phaseOf(sealer.seal(u64(3), 3_601_001))).toBe(1)
  })

  it("is understood in any order within a window, and each datagram opens once", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const random = new SeededRandom(seed)
      const opener = opening()
      // Displaced by less than a phase.
      const order = phases()
        .map((datagram, number) => ({ datagram, place: number + random.below(9) }))
        .toSorted((a, b) => a.place - b.place)
      const numbers = order.map(({ datagram }) => openedBy(opener, datagram))
      expect(numbers.toSorted((a, b) => Number(a) - Number(b))).toEqual(Array.from({ length: 4 * each }, (_, at) => at))
      for (const { datagram } of order) expect(openedBy(opener, datagram)).toBe("replayed")
    }
  })

  it("keeps the previous key for 3 PTOs and no longer", () => {
    const all = phases()
    const opener = opening()
    openedBy(opener, all[0])
    expect(openedBy(opener, all[each], 5_000)).toBe(each)
    expect(openedBy(opener, all[1], 5_000 + keptMs - 1)).toBe(1)
    expect(openedBy(opener, all[2], 5_000 + keptMs)).toBe("forged")
    // What the present key sealed is not touched by that.
    expect(openedBy(opener, all[each + 1], 6_000)).toBe(each + 1)
  })

  it("does not turn before something of it has been acknowledged, so that no two turns can be taken for none", () => {
    const sealer = sealing({ datagrams: each, maxDatagrams: 3 * each })
    const phaseOfNext = () => phaseOf(sealer.seal(u64(0), 0))
    for (let number = 0; number < each; number++) phaseOfNext()
    expect(sealer.awaitsProof(0)).toBe(true)
    expect(phaseOfNext()).toBe(0)
    sealer.acknowledged(0)
    expect(sealer.awaitsProof(0)).toBe(false)
    expect(phaseOfNext()).toBe(1)
    for (let number = 1; number < each; number++) expect(phaseOfNext()).toBe(1)
    // An acknowledgement of the phase before proves nothing.
    sealer.acknowledged(3)
    expect(phaseOfNext()).toBe(1)
    expect(sealer.wornOut).toBe(false)
    for (let number = 0; number < 2 * each; number++) phaseOfNext()
    expect(sealer.wornOut).toBe(true)
  })

  it("forged by an attacker turns nothing", () => {
    const all = phases()
    const opener = opening()
    openedBy(opener, all[0])
    for (let number = 1; number < 5; number++) {
      const forged = Uint8Array.from(all[number] ?? [])
      forged[0] = 0x44
      expect(openedBy(opener, forged)).toBe("forged")
      expect(openedBy(opener, all[number])).toBe(number)
    }
  })
})

describe("forgeries", () => {
  it("are counted under each key, and end it at the bound", () => {
    const opener = opening({ failedOpens: 3 })
    const [datagram] = datagrams(1)
    if (datagram === undefined) return expect.fail()
    for (const [turned, worn] of [
      [200, false],
      [210, false],
      [220, true]
    ] as const) {
      expect(openedBy(opener, flipped(datagram, turned))).toBe("forged")
      expect(opener.wornOut).toBe(worn)
    }
    const next = opening({ failedOpens: 1 })
    expect(openedBy(next, datagrams(1)[0])).toBe(0)
    const forged = concat(fromHex("44"), cid, u64(5), new Uint8Array(30))
    expect(openedBy(next, forged)).toBe("forged")
    expect(next.wornOut).toBe(true)
  })

  it("that are not even of this association cost nothing", () => {
    const opener = opening({ failedOpens: 1 })
    for (const bytes of [new Uint8Array(0), new Uint8Array(33), concat(u8(0x40), utf8("another!"), new Uint8Array(60))])
      expect(openedBy(opener, bytes)).toBe("malformed")
    expect(opener.wornOut).toBe(false)
  })
})
