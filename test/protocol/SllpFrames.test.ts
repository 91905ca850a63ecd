import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { AckRanges } from "../../src/protocol/sllp/AckRanges.ts"
import { FrameReader, frameTypes, FrameWriter } from "../../src/protocol/sllp/Frames.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { HostilePeer } from "../support/protocolSession.ts"

const { refused } = HostilePeer

/** What a datagram says, as a list that can be compared. */
const read = (plain: Uint8Array): { readonly said: ReadonlyArray<unknown>; readonly eliciting: boolean } => {
  const said: Array<unknown> = []
  const eliciting = new FrameReader().read(plain, {
    onChunk: (channel, messageId, total, offset, bytes, from, to) =>
      said.push(["chunk", channel, messageId, total, offset, toHex(bytes.subarray(from, to))]),
    onAck: ranges =>
      said.push([
        "ack",
        Array.from({ length: ranges.count }, (_, at) => [ranges.low[at], ranges.high[at]]),
        ranges.delayMs
      ]),
    onClose: (code, reason) => said.push(["close", code, reason]),
    onPathChallenge: data => said.push(["challenge", toHex(data)]),
    onPathResponse: data => said.push(["response", toHex(data)]),
    onDrop: (channel, messageId) => said.push(["drop", channel, messageId]),
    onCredit: (channel, limit) => said.push(["credit", channel, limit])
  })
  return { said, eliciting }
}

const said = (hex: string) => read(fromHex(hex.replaceAll(" ", "")))

const written = (write: (writer: FrameWriter) => void, limit = 1_200): Uint8Array => {
  const writer = new FrameWriter(1_400)
  writer.start(limit)
  write(writer)
  return Uint8Array.from(writer.written)
}

const acked = (delayMs: number, ...ranges: ReadonlyArray<readonly [number, number]>): AckRanges => {
  const filled = new AckRanges()
  filled.delayMs = delayMs
  for (const [low, high] of ranges) filled.add(low, high)
  return filled
}

describe("frames have the bytes that §4.3 says", () => {
  const chunk = "40 0102 03040506 0000000f4240 000000000010 0003 aabbcc"

  it.each([
    { name: "CHUNK", hex: chunk, is: ["chunk", 0x0102, 0x03040506, 1_000_000, 16, "aabbcc"], eliciting: true },
    {
      name: "CHUNK far into a message of many GB",
      hex: "40 0000 00000001 ffffffffffff fffffffffffe 0001 77",
      is: ["chunk", 0, 1, 2 ** 48 - 1, 2 ** 48 - 2, "77"],
      eliciting: true
    },
    {
      name: "ACK of one run",
      hex: "41 0000000000000007 000003e8 00 0007",
      is: ["ack", [[0, 7]], 1],
      eliciting: false
    },
    {
      name: "ACK with gaps",
      hex: "41 0000000100000064 00000001 02 0002 0001 0003 0005 0001",
      is: [
        "ack",
        [
          [2 ** 32 + 98, 2 ** 32 + 100],
          [2 ** 32 + 94, 2 ** 32 + 96],
          [2 ** 32 + 88, 2 ** 32 + 88]
        ],
        0.001
      ],
      eliciting: false
    },
    { name: "CLOSE", hex: `42 0005 ${toHex(utf8("größe"))}`, is: ["close", 5, "größe"], eliciting: false },
    { name: "CLOSE without a reason", hex: "42 0000", is: ["close", 0, ""], eliciting: false },
    {
      name: "PATH_CHALLENGE",
      hex: "44 0102030405060708",
      is: ["challenge", "0102030405060708"],
      eliciting: true
    },
    { name: "PATH_RESPONSE", hex: "45 0102030405060708", is: ["response", "0102030405060708"], eliciting: true },
    { name: "DROP", hex: "46 0001 000000ff", is: ["drop", 1, 255], eliciting: true },
    { name: "CREDIT", hex: "47 0003 0000000100000000", is: ["credit", 3, 2 ** 32], eliciting: true }
  ])("$name", ({ hex, is, eliciting }) => {
    expect(said(hex)).toEqual({ said: [is], eliciting })
  })

  it("PING and PAD say nothing; PING asks for an acknowledgement", () => {
    expect(said("43")).toEqual({ said: [], eliciting: true })
    expect(said("00 00 00")).toEqual({ said: [], eliciting: false })
    expect(said("")).toEqual({ said: [], eliciting: false })
  })

  it("several stand in one datagram, in their order", () => {
    const { said: all } = said(`41 0000000000000001 00000000 00 0000 00 43 ${chunk} 46 0001 00000002 00 42 0001`)
    expect(all.map(frame => (Array.isArray(frame) ? frame[0] : frame))).toEqual(["ack", "chunk", "drop", "close"])
  })

  it.each([
    ["a type that is unknown", "48"],
    ["a type that is unknown, after one that is known", "43 01"],
    ["CHUNK cut in its header", "40 0102 030405"],
    ["CHUNK cut in its bytes", "40 0102 03040506 0000000f4240 000000000010 0003 aabb"],
    ["CHUNK without bytes", "40 0102 03040506 0000000f4240 000000000010 0000"],
    ["CHUNK beyond its total", "40 0102 03040506 000000000012 000000000010 0003 aabbcc"],
    ["CHUNK of an empty message", "40 0102 03040506 000000000000 000000000000 0001 aa"],
    ["ACK cut", "41 0000000000000007 000003e8 00"],
    ["ACK with fewer ranges than it says", "41 0000000000000017 000003e8 02 0007 0001 0001"],
    ["ACK with 33 ranges", `41 0000000000000777 000003e8 21 0000 ${"00010001".repeat(33)}`],
    ["ACK with an empty gap", "41 0000000000000017 00000000 01 0001 0000 0001"],
    ["ACK with an empty range", "41 0000000000000017 00000000 01 0001 0001 0000"],
    ["ACK below 0", "41 0000000000000007 00000000 00 0008"],
    ["ACK with a range below 0", "41 0000000000000007 00000000 01 0001 0003 0004"],
    ["ACK beyond what a number holds", "41 ffffffffffffffff 00000000 00 0000"],
    ["CREDIT beyond what a number holds", "47 0000 0020000000000000"],
    ["PATH_CHALLENGE cut", "44 01020304050607"],
    ["DROP cut", "46 0001 0000"],
    ["CREDIT cut", "47 0001 0000"],
    ["CLOSE cut", "42 00"],
    ["CLOSE with a reason that is no UTF-8", "42 0000 ff"],
    ["CLOSE with too long a reason", `42 0000 ${"61".repeat(257)}`]
  ])("%s is refused", (_, hex) => {
    expect(refused(() => said(hex))).toBe("MALFORMED")
  })
})

describe("what is written is read again", () => {
  it("every frame", () => {
    const plain = written(writer => {
      writer.ack(acked(2.5, [90, 100], [80, 85], [0, 7]))
      writer.credit(9, 2 ** 40 + 1)
      writer.drop(2, 2 ** 32 - 1)
      writer.ping()
      writer.path(frameTypes.pathChallenge, fromHex("0011223344556677"))
      writer.path(frameTypes.pathResponse, fromHex("8899aabbccddeeff"))
      const at = writer.chunk(1, 2 ** 32 - 2, 2 ** 40 + 5, 2 ** 40, 5)
      writer.buffer.set(fromHex("0102030405"), at)
      writer.close(6, "ende")
    })
    expect(read(plain).said).toEqual([
      [
        "ack",
        [
          [90, 100],
          [80, 85],
          [0, 7]
        ],
        2.5
      ],
      ["credit", 9, 2 ** 40 + 1],
      ["drop", 2, 2 ** 32 - 1],
      ["challenge", "0011223344556677"],
      ["response", "8899aabbccddeeff"],
      ["chunk", 1, 2 ** 32 - 2, 2 ** 40 + 5, 2 ** 40, "0102030405"],
      ["close", 6, "ende"]
    ])
  })

  it("ACKs of random ranges, as many of them as there is room for", () => {
    const random = new SeededRandom(5)
    for (let run = 0; run < 500; run++) {
      const ranges: Array<[number, number]> = []
      let high = 2 ** 33 + random.below(1_000_000)
      for (let count = 1 + random.below(33); count > 0; count--) {
        const low = high - random.below(60)
        ranges.push([low, high])
        high = low - 2 - random.below(60)
      }
      const limit = 17 + random.below(140)
      const plain = written(writer => writer.ack(acked(0, ...ranges)), limit)
      expect(plain.length).toBeLessThan(limit)
      const fits = Math.min(ranges.length, 1 + Math.floor((limit - 17) / 4))
      expect(read(plain).said).toEqual([["ack", ranges.slice(0, fits), 0]])
    }
  })

  it("what does not fit is not begun, and padding fills the datagram to its end", () => {
    const plain = written(writer => {
      expect(writer.ping()).toBe(true)
      expect(writer.drop(0, 0)).toBe(false)
      expect(writer.credit(0, 0)).toBe(false)
      expect(writer.path(frameTypes.pathChallenge, new Uint8Array(8))).toBe(false)
      expect(writer.close(0, "too long a reason")).toBe(false)
      expect(writer.ack(acked(0, [0, 0]))).toBe(false)
      writer.pad()
      expect(writer.ping()).toBe(false)
    }, 5)
    expect(plain).toEqual(concat(Uint8Array.of(frameTypes.ping), new Uint8Array(4)))
  })
})
