import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex } from "../../src/protocol/Bytes.ts"
import { nodeCipherEngine, type CipherEngine } from "../../src/protocol/CipherEngine.ts"
import { RecordOpener, RecordSealer, recordTypes, type KeyLimits, type Record } from "../../src/protocol/Records.ts"
import { flipped } from "../support/protocolHandshake.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { HostilePeer } from "../support/protocolSession.ts"
import { vectors } from "../support/vectors.ts"

const secret = fromHex(vectors.traffic_i2r)
const otherWay = fromHex(vectors.traffic_r2i)
const { refused } = HostilePeer

const seal = (sealer: RecordSealer, payload: Uint8Array, type = 0, stream = 1): Uint8Array =>
  concat(...sealer.seal(type, 0, stream, [payload]))

/** Records 0 … n−1 of a direction; the payload of each names its place. */
const records = (count: number): ReadonlyArray<Uint8Array> => {
  const sealer = new RecordSealer(secret)
  return Array.from({ length: count }, (_, at) => seal(sealer, Uint8Array.of(at)))
}

const opened = (
  ...chunks: ReadonlyArray<Uint8Array>
): { readonly places: ReadonlyArray<number>; readonly error: string | undefined } => {
  const opener = new RecordOpener(secret)
  const places: Array<number> = []
  const error = refused(() => {
    for (const chunk of chunks) opener.push(chunk, record => places.push(record.payload[0] ?? -1))
  })
  return { places, error }
}

const [r0, r1, r2] = records(3)
if (r0 === undefined || r1 === undefined || r2 === undefined) throw new Error("three records")

describe("a record", () => {
  it("is a header of 4 bytes, 6 inner bytes and the payload under AES-GCM, and its tag", () => {
    expect(r0.length).toBe(4 + 6 + 1 + 16)
    expect([...r0.subarray(0, 4)]).toEqual([0, 0, 0, 23])
  })

  it("with any bit turned does not open, whatever follows", () => {
    const later = concat(r1, r2, new Uint8Array(65_600))
    for (let bit = 0; bit < r0.length * 8; bit++) {
      const { places, error } = opened(flipped(r0, bit), later)
      expect(places).toEqual([])
      expect(["BAD_MAC", "TOO_LARGE"]).toContain(error)
    }
  })

  it("opens from any chunking: byte by byte, coalesced, at random", () => {
    const all = records(60)
    const stream = concat(...all)
    const places = all.map((_, at) => at)
    expect(opened(stream)).toEqual({ places, error: undefined })
    expect(opened(...Array.from(stream, byte => Uint8Array.of(byte)))).toEqual({ places, error: undefined })
    const random = new SeededRandom(1)
    for (let run = 0; run < 200; run++) {
      const chunks: Array<Uint8Array> = []
      for (let at = 0; at < stream.length;) {
        const size = random.chance(50) ? random.below(6) : random.below(200)
        chunks.push(stream.slice(at, at + size))
        at += size
      }
      expect(opened(...chunks)).toEqual({ places, error: undefined })
    }
  })

  it("of the largest size opens from pieces too, and gives memory of its own", () => {
    const sealer = new RecordSealer(secret)
    const payload = new SeededRandom(2).bytes(65_536)
    const bytes = seal(sealer, payload)
    const opener = new RecordOpener(secret)
    const seen: Array<Record> = []
    for (let at = 0; at < bytes.length; at += 1000) {
      const chunk = bytes.slice(at, at + 1000)
      opener.push(chunk, record => seen.push(record))
      chunk.fill(0)
    }
    bytes.fill(0)
    expect(Buffer.compare(seen[0]?.payload ?? bytes, payload)).toBe(0)
    expect(refused(() => sealer.seal(0, 0, 1, [payload, Uint8Array.of(1)]))).toBe("INTERNAL")
  })

  it("replayed, out of order, after a lost one, or sent back to its sender does not open", () => {
    expect(opened(r0, r0)).toEqual({ places: [0], error: "BAD_MAC" })
    expect(opened(r0, r1, r0)).toEqual({ places: [0, 1], error: "BAD_MAC" })
    expect(opened(r1, r0)).toEqual({ places: [], error: "BAD_MAC" })
    expect(opened(r0, r2)).toEqual({ places: [0], error: "BAD_MAC" })
    expect(opened(seal(new RecordSealer(otherWay), Uint8Array.of(0)))).toEqual({ places: [], error: "BAD_MAC" })
  })

  it("is refused by its header alone: too long, too short, of another epoch", () => {
    const ofHeader = (...header: ReadonlyArray<number>) => opened(Uint8Array.from(header)).error
    expect(ofHeader(0, 0xff, 0xff, 0xff)).toBe("TOO_LARGE")
    expect(ofHeader(0, 1, 0, 23)).toBe("TOO_LARGE")
    expect(ofHeader(0, 1, 0, 22)).toBeUndefined()
    expect(ofHeader(0, 0, 0, 21)).toBe("TOO_LARGE")
    expect(ofHeader(0, 0, 0, 22)).toBeUndefined()
    for (const epoch of [1, 2, 255]) expect(ofHeader(epoch, 0, 0, 22)).toBe("BAD_MAC")
    const byBytes = Array.from([0, 1, 0, 23], byte => Uint8Array.of(byte))
    expect(opened(...byBytes).error).toBe("TOO_LARGE")
  })

  it("with flags that this version does not know is refused", () => {
    for (const flag of [8, 16, 128]) {
      const opener = new RecordOpener(secret)
      const bytes = concat(...new RecordSealer(secret).seal(0, flag, 1, []))
      expect(refused(() => opener.push(bytes, () => undefined))).toBe("MALFORMED")
    }
  })

  it("that fails ends its direction for good: the true record is not taken afterwards", () => {
    const opener = new RecordOpener(secret)
    const seen: Array<Record> = []
    const push = (bytes: Uint8Array) => refused(() => opener.push(bytes, record => seen.push(record)))
    expect(push(concat(r0, flipped(r1, 100)))).toBe("BAD_MAC")
    expect([push(r1), push(r0), push(new Uint8Array(0))]).toEqual(["BAD_MAC", "BAD_MAC", "BAD_MAC"])
    expect(seen.length).toBe(1)
  })

  it("may not bring down the opener by what its receiver throws", () => {
    const opener = new RecordOpener(secret)
    expect(() =>
      opener.push(r0, () => {
        throw new RangeError("of the application")
      })
    ).toThrow("of the application")
    expect(refused(() => opener.push(concat(r1, r2), () => undefined))).toBeUndefined()
  })
})

describe("a change of keys", () => {
  const limits = (records: number, bytes = Infinity): KeyLimits => ({ records, bytes })

  it("comes before the bound of records, and the records go on, through 256 epochs and around", () => {
    const sealer = new RecordSealer(secret, nodeCipherEngine, limits(20))
    const opener = new RecordOpener(secret, nodeCipherEngine, limits(20))
    let next = 0
    for (let at = 0; at < 20 * 300; at++) {
      opener.push(seal(sealer, Uint8Array.of(at >>> 8, at & 0xff)), ({ payload }) => {
        expect(((payload[0] ?? 0) << 8) | (payload[1] ?? 0)).toBe(next++)
      })
    }
    expect(next).toBe(6000)
    // 19 records and the KEY_UPDATE per key.
    expect([sealer.epoch, opener.epoch]).toEqual([Math.floor(5999 / 19) & 0xff, Math.floor(5999 / 19) & 0xff])
  })

  it("comes before the bound of bytes", () => {
    const sealer = new RecordSealer(secret, nodeCipherEngine, limits(1000, 64_000))
    const opener = new RecordOpener(secret, nodeCipherEngine, limits(1000, 64_000))
    for (let at = 0; at < 200; at++) opener.push(seal(sealer, new Uint8Array(1000)), () => undefined)
    expect([sealer.epoch, opener.epoch]).toEqual([3, 3])
  })

  it("is demanded of the other side at the same bounds", () => {
    for (const bound of [limits(20), limits(1000, 20)]) {
      const sealer = new RecordSealer(secret)
      const opener = new RecordOpener(secret, nodeCipherEngine, bound)
      const send = () => opener.push(seal(sealer, Uint8Array.of(1)), () => undefined)
      for (let at = 0; at < 20; at++) send()
      expect(refused(send)).toBe("UNEXPECTED")
    }
  })

  it("is taken the first time at once, and later only after 16 records under the key that it ends", () => {
    const run = (between: number): string | undefined => {
      const sealer = new RecordSealer(secret)
      const opener = new RecordOpener(secret)
      const push = (bytes: Uint8Array) => opener.push(bytes, () => undefined)
      push(concat(...sealer.updateKey()))
      for (let at = 0; at < between; at++) push(seal(sealer, Uint8Array.of(1)))
      return refused(() => push(concat(...sealer.updateKey())))
    }
    // The KEY_UPDATE is opened under the key that it ends: it is the sixteenth.
    expect([run(0), run(14), run(15), run(16)]).toEqual(["UNEXPECTED", "UNEXPECTED", undefined, undefined])
  })

  it("carries nothing", () => {
    for (const [flags, stream, payload] of [
      [1, 0, []],
      [0, 1, []],
      [0, 0, [Uint8Array.of(0)]]
    ] as const) {
      const opener = new RecordOpener(secret)
      const bytes = concat(...new RecordSealer(secret).seal(recordTypes.keyUpdate, flags, stream, payload))
      expect(refused(() => opener.push(bytes, () => undefined))).toBe("MALFORMED")
    }
  })

  it("leaves no record of the old epoch, and none of the new one before it", () => {
    const sealer = new RecordSealer(secret)
    const before = seal(sealer, Uint8Array.of(0))
    const update = concat(...sealer.updateKey())
    const after = seal(sealer, Uint8Array.of(1))
    expect(opened(before, update, after)).toEqual({ places: [0, 1], error: undefined })
    expect(opened(before, after).error).toBe("BAD_MAC")
    expect(opened(before, update, before).error).toBe("BAD_MAC")
    // Under the old key with the new epoch in the header, which is authenticated.
    expect(opened(before, update, concat(Uint8Array.of(1), r1.subarray(1))).error).toBe("BAD_MAC")
  })

  it("means that no nonce serves twice under one key", () => {
    const used = new Set<string>()
    let sealed = 0
    const engine: CipherEngine = {
      ...nodeCipherEngine,
      seal: (key, nonce, associated, parts) => {
        sealed++
        used.add(`${toHex(key.export())} ${toHex(nonce)}`)
        return nodeCipherEngine.seal(key, nonce, associated, parts)
      }
    }
    for (const direction of [secret, otherWay]) {
      const sealer = new RecordSealer(direction, engine, limits(50))
      for (let at = 0; at < 1000; at++) sealer.seal(0, 0, 1, [])
    }
    expect([sealed, used.size]).toEqual([2 * 1020, 2 * 1020])
  })
})
