import { describe, expect, it } from "vitest"
import { concat, u16, utf8 } from "../../src/protocol/Bytes.ts"
import type { SllpChannelOptions } from "../../src/protocol/sllp/SllpAssociation.ts"
import { reachableBytes } from "../support/garbage.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { HostileEnd, rawFrames } from "../support/sllpHostile.ts"
import { numberOf, patterned } from "../support/sllpPair.ts"

const { ack, challenge, chunk, close, credit, drop, ping, response } = rawFrames
const channels: ReadonlyArray<SllpChannelOptions> = [
  { mode: "latest", maxMessageBytes: 1_000_000 },
  { mode: "ordered", maxMessageBytes: 1_000_000 },
  { mode: "reliable", maxMessageBytes: 1_000_000 }
]
const hostile = () => new HostileEnd(channels).connect()
const bytes = (length: number) => new Uint8Array(length)

describe("a peer that has the keys and breaks a rule ends the association, and nothing else", () => {
  it.each<{ readonly what: string; readonly frames: ReadonlyArray<Uint8Array>; readonly code?: "limit" }>([
    { what: "an unknown frame", frames: [Uint8Array.of(0x50)] },
    { what: "a frame cut off", frames: [chunk(0, 0, 10, 0, bytes(5)).subarray(0, 12)] },
    { what: "an empty chunk", frames: [chunk(0, 0, 10, 0, bytes(0))] },
    { what: "a chunk beyond its message", frames: [chunk(0, 0, 10, 8, bytes(3))] },
    { what: "a chunk for a channel that is not there", frames: [chunk(3, 0, 10, 0, bytes(3))] },
    { what: "a message larger than agreed", frames: [chunk(0, 0, 1_000_001, 0, bytes(3))], code: "limit" },
    { what: "a message of 2⁴⁸ − 1 bytes", frames: [chunk(1, 0, 2 ** 48 - 1, 2 ** 48 - 9, bytes(3))], code: "limit" },
    { what: "two totals", frames: [chunk(1, 0, 10, 0, bytes(3)), chunk(1, 0, 11, 3, bytes(3))] },
    { what: "two totals of a reliable message", frames: [chunk(2, 5, 10, 0, bytes(3)), chunk(2, 5, 9, 3, bytes(3))] },
    { what: "an acknowledgement of what was not sent", frames: [ack(1_000_000, 0)] },
    { what: "an acknowledgement below 0", frames: [ack(0, 1)] },
    { what: "DROP on a reliable channel", frames: [drop(2, 0)] },
    { what: "DROP on a channel that is not there", frames: [drop(3, 0)] },
    { what: "CREDIT on a channel that is not reliable", frames: [credit(0, 5)] },
    { what: "CREDIT on a channel that is not there", frames: [credit(9, 5)] }
  ])("$what", ({ frames, code = "protocol" }) => {
    const end = hostile()
    end.say(...frames)
    expect(end.closed).toMatchObject({ code, by: "us" })
    expect(end.victim.state).not.toBe("open")
    end.wait(5_000)
    end.wait(5_000)
    expect(end.victim.state).toBe("closed")
    // Whatever it says now meets silence.
    expect(end.say(ping)).toEqual([])
  })

  it("the other side is told why", () => {
    const [plain] = hostile().say(Uint8Array.of(0x50))
    expect(plain?.subarray(0, 3)).toEqual(concat(Uint8Array.of(0x42), u16(3)))
  })
})

describe("a peer that has the keys and keeps to the letter of the rules", () => {
  it("is acknowledged in the bytes that §4.3 says", () => {
    const end = hostile()
    // Numbers 0 and 1 were used to connect, and their acknowledgements sent.
    end.say(ping)
    const [plain] = end.say(ping)
    expect(plain).toEqual(ack(3, 3))
  })

  it("cannot fill memory with incomplete messages", () => {
    const end = new HostileEnd(channels, { memoryBudgetBytes: 2_000_000 }).connect()
    const random = new SeededRandom(4)
    for (let step = 0; step < 20_000; step++) {
      const offset = random.below(999_000)
      end.say(chunk(random.below(2), Math.floor(step / 8) + random.below(50), 1_000_000, offset, bytes(1)))
      const { memoryBytes } = end.victim.statistics(end.nowMs)
      if (memoryBytes > 2_000_000) expect.fail(`${memoryBytes} bytes`)
    }
    expect(end.closed).toBeUndefined()
  })

  it("cannot fill memory with messages of one byte on any channel, read or not", () => {
    const before = reachableBytes()
    const end = hostile()
    for (let id = 0; id < 60_000; id++) {
      end.say(chunk(0, id, 1, 0, bytes(1)), chunk(1, id, 1, 0, bytes(1)))
      if (id < 4_000) end.say(chunk(2, id + 1, 1, 0, bytes(1)))
    }
    expect(end.closed).toBeUndefined()
    expect(end.events.length).toBeGreaterThan(10_000)
    end.events.length = 0
    expect(reachableBytes() - before).toBeLessThan(16 * 1024 * 1024)
    for (let id = 4_000; id < 40_000; id++) end.say(chunk(2, id + 1, 1, 0, bytes(1)))
    expect(end.closed).toMatchObject({ code: "limit" })
  })

  it("cannot fill memory with events that nobody takes, or with DROPs", () => {
    const before = reachableBytes()
    const end = hostile()
    const take = end.victim.takeEvents.bind(end.victim)
    end.victim.takeEvents = () => []
    for (let id = 0; id < 30_000; id++) end.say(drop(1, 2 * id), drop(1, 2 * id + 40), drop(0, id))
    for (let id = 70_000; id < 200_000; id += 7) end.say(chunk(1, id, 1, 0, bytes(1)))
    // 1,024 events, and what is known of 16,384 datagrams that are never acknowledged.
    expect(reachableBytes() - before).toBeLessThan(8 * 1024 * 1024)
    expect(take().length).toBeLessThan(1_100)
  })

  it("may number its messages as it likes", () => {
    const end = hostile()
    for (const id of [0, 5, 2 ** 32 - 1, 7])
      end.say(chunk(1, id, 4, 0, patterned(1, 4)), chunk(0, id, 4, 0, patterned(1, 4)))
    end.wait(200)
    end.wait(200)
    const read = []
    for (let message = end.victim.read(1, end.nowMs); message !== undefined; message = end.victim.read(1, end.nowMs))
      read.push(message.messageId)
    expect(read).toEqual([0, 5, 7, 2 ** 32 - 1])
    expect(end.victim.read(0, end.nowMs)?.messageId).toBe(2 ** 32 - 1)
    expect(end.victim.statistics(end.nowMs).lostMessages).toBe(2 ** 32 - 1 - 3)
    expect(end.closed).toBeUndefined()
  })

  it("gets one answer to many challenges in a datagram, and none larger than what it sent", () => {
    const end = hostile()
    const before = end.sentBytes
    const many = Array.from({ length: 100 }, (_, at) => challenge(new Uint8Array(8).fill(at)))
    const answers = end.say(...many)
    expect(answers.filter(plain => plain[0] === 0x45).length).toBeLessThanOrEqual(4)
    expect(end.sentBytes - before).toBeLessThan(900)
  })

  it("gets no more than three times its bytes at an address that it has not proven", () => {
    const end = new HostileEnd(channels)
    for (const channel of [0, 1, 2]) end.victim.send(channel, patterned(1, 100_000), end.nowMs)
    let said = 0
    for (let at = 0; at < 50; at++) {
      said += 33 + 1 + 9 * 8
      end.say(ping, ...Array.from({ length: 8 }, () => challenge(bytes(8))))
      end.wait(200)
      expect(end.sentBytes).toBeLessThanOrEqual(3 * said)
    }
    expect(end.sentBytes).toBeGreaterThan(0)
  })

  it("is not led elsewhere by an answer that was not asked for", () => {
    const end = hostile()
    end.address = "198.51.100.1:1"
    end.say(response(bytes(8)))
    end.wait(10_000)
    expect(end.events.some(({ type }) => type === "path")).toBe(false)
  })

  it("cannot lower a credit, or make the sender exceed what is allowed", () => {
    const end = hostile()
    end.say(credit(2, 0), credit(2, 2 ** 50), credit(2, 1))
    for (let id = 0; id < 8; id++) end.victim.send(2, patterned(id, 400_000), end.nowMs)
    expect(end.closed).toBeUndefined()
  })

  it("that acknowledges everything before it can have arrived gets a flood no faster than the pace", () => {
    const end = new HostileEnd([{ mode: "reliable" }], { initialRttMs: 50 }).connect()
    end.victim.send(0, patterned(1, 3_000_000), end.nowMs)
    let sent = 0
    for (let ms = 0; ms < 100; ms++) {
      sent += end.wait(1).length
      end.say(ack(end.victim.statistics(end.nowMs).sentDatagrams - 1, 0))
    }
    expect(end.closed).toBeUndefined()
    expect(sent).toBeGreaterThan(10)
  })

  it("closes with any code and any reason", () => {
    for (const [code, name] of [
      [0, "normal"],
      [5, "sessionLost"],
      [77, "app"]
    ] as const) {
      const end = hostile()
      end.say(chunk(2, 0, 100, 0, patterned(8, 100)), close(code, utf8("grund")))
      expect(end.closed).toEqual({ type: "closed", code: name, reason: "grund", by: "peer" })
      const message = end.victim.read(2, end.nowMs)
      expect(message?.complete === true && numberOf(message.bytes)).toBe(8)
    }
  })
})
