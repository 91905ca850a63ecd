import { describe, expect, it } from "vitest"
import { utf8 } from "../../src/protocol/Bytes.ts"
import { wireCodes } from "../../src/protocol/ProtocolError.ts"
import {
  SllpAssociation,
  sllpCloseCodeOf,
  sllpCloseNames,
  type SllpChannelOptions,
  type SllpOptions
} from "../../src/protocol/sllp/SllpAssociation.ts"
import { HostilePeer } from "../support/protocolSession.ts"
import {
  endOptions,
  initiatorAddress,
  makeConnectedPair,
  makePair,
  numberOf,
  patterned,
  responderAddress,
  type Pair
} from "../support/sllpPair.ts"

const { refused } = HostilePeer
const reliable: SllpChannelOptions = { mode: "reliable" }
const ordered: SllpChannelOptions = { mode: "ordered" }
const latest: SllpChannelOptions = { mode: "latest" }

/** Lets time pass for both ends. */
const pass = ({ network }: Pair, ms: number): void => void network.run(network.nowMs + ms)

const wholeNumbers = (host: Pair["responder"], channel = 0): ReadonlyArray<number> =>
  host.messages.flatMap(({ channel: on, message }) =>
    on === channel && message.complete ? [numberOf(message.bytes)] : []
  )

describe("the two ends find each other", () => {
  it("the initiator speaks first; the responder learns the address and has it prove itself", () => {
    const pair = makePair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    const passed: Array<string> = []
    network.onPath = passing => {
      passed.push(`${passing.from} to ${passing.to}`)
      return [passing]
    }
    expect(responder.association.poll(network.nowMs)).toEqual([])
    pass(pair, 100)
    expect(passed[0]).toBe(`${initiatorAddress} to ${responderAddress}`)
    expect(passed[1]).toBe(`${responderAddress} to ${initiatorAddress}`)
    expect(initiator.events).toEqual([{ type: "connected", address: responderAddress }])
    expect(responder.events).toEqual([{ type: "connected", address: initiatorAddress }])
  })

  it("a responder that knows no address keeps what it is to send", () => {
    const pair = makePair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    expect(responder.association.send(0, patterned(5, 50_000), network.nowMs)).toBe("queued")
    pass(pair, 500)
    expect(wholeNumbers(initiator)).toEqual([5])
  })

  it("through the loss of the first datagrams too", () => {
    const pair = makePair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    let lost = 0
    network.onPath = passing => (lost++ < 5 ? [] : [passing])
    pass(pair, 15_000)
    expect([initiator.has("connected"), responder.has("connected")]).toEqual([true, true])
  })

  it("and do nothing more than ask for a sign of life every 10 s", () => {
    const pair = makeConnectedPair({ channels: [reliable, latest] })
    const { network } = pair
    pass(pair, 1_000)
    const before = network.datagrams
    pass(pair, 100_000)
    // One side asks, the other acknowledges, and both have heard something.
    expect(network.datagrams - before).toBeLessThanOrEqual(2 * 10)
    expect(network.datagrams - before).toBeGreaterThanOrEqual(2 * 9)
    expect([pair.initiator.closed, pair.responder.closed]).toEqual([undefined, undefined])
  })
})

describe("messages", () => {
  it.each([latest, ordered, reliable])("of every size arrive whole on a channel of mode $mode", channel => {
    const pair = makeConnectedPair({ channels: [channel] })
    const { network, initiator, responder } = pair
    const sizes = [1, 2, 1_000, 1_113, 1_146, 1_147, 2_300, 65_536, 65_537, 70_000, 1_000_000]
    for (const [id, size] of sizes.entries()) {
      expect(initiator.association.send(0, patterned(id, size), network.nowMs)).toBe("queued")
      expect(network.run(network.nowMs + 20_000, () => responder.messages.length > id)).toBe(true)
      const message = responder.messages[id]?.message
      if (message?.complete !== true) return expect.fail()
      expect(Buffer.compare(message.bytes, patterned(id, size))).toBe(0)
      expect(message.messageId).toBe(id)
    }
    pass(pair, 100)
    expect(initiator.association.unfinishedBytes).toBe(0)
  })

  it("may be given in pieces", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    const whole = patterned(9, 100_000)
    const parts = [0, 1, 1, 700, 2_000, 70_000, 100_000].map((to, at, all) => whole.subarray(all[at - 1] ?? 0, to))
    initiator.association.send(0, parts, network.nowMs)
    pass(pair, 2_000)
    expect(wholeNumbers(responder)).toEqual([9])
  })

  it("go both ways at once, on all channels", () => {
    const pair = makeConnectedPair({ channels: [reliable, ordered, latest] })
    const { network, initiator, responder } = pair
    for (const host of [initiator, responder])
      for (let channel = 0; channel < 3; channel++)
        for (let id = 0; id < 20; id++) host.association.send(channel, patterned(id, 3_000), network.nowMs)
    pass(pair, 5_000)
    const all = Array.from({ length: 20 }, (_, at) => at)
    for (const host of [initiator, responder]) {
      expect(wholeNumbers(host, 0)).toEqual(all)
      expect(wholeNumbers(host, 1).length).toBeGreaterThan(0)
      expect(wholeNumbers(host, 2).at(-1)).toBe(19)
    }
  })

  it("small ones share datagrams", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    pass(pair, 100)
    const before = initiator.association.statistics(network.nowMs).sentDatagrams
    for (let id = 0; id < 100; id++) initiator.association.send(0, patterned(id, 40), network.nowMs)
    pass(pair, 1_000)
    expect(wholeNumbers(responder).length).toBe(100)
    // 61 bytes each.
    expect(initiator.association.statistics(network.nowMs).sentDatagrams - before).toBeLessThan(10)
  })

  it("of one channel do not starve those of another", () => {
    const pair = makeConnectedPair({ channels: [reliable, reliable], both: { ceilingBytesPerSecond: 1_000_000 } })
    const { network, initiator, responder } = pair
    initiator.association.send(0, patterned(0, 1_000_000), network.nowMs)
    pass(pair, 300)
    initiator.association.send(1, patterned(1, 1_000), network.nowMs)
    pass(pair, 20)
    expect(wholeNumbers(responder, 1)).toEqual([1])
    expect(wholeNumbers(responder, 0)).toEqual([])
  })

  it("that are empty, too large, or for no channel are refused where they are sent", () => {
    const { association } = makePair({ channels: [{ mode: "ordered", maxMessageBytes: 1_000 }] }).initiator
    expect(refused(() => association.send(0, new Uint8Array(0), 0))).toBe("MALFORMED")
    expect(refused(() => association.send(0, new Uint8Array(1_001), 0))).toBe("TOO_LARGE")
    expect(refused(() => association.send(1, new Uint8Array(1), 0))).toBe("LIMIT")
    expect(association.send(0, new Uint8Array(1_000), 0)).toBe("queued")
  })
})

describe("the send queue", () => {
  it("of latest keeps one message that has not begun to leave: a newer one replaces it", () => {
    const pair = makeConnectedPair({ channels: [latest] })
    const { network, initiator, responder } = pair
    for (let id = 0; id < 100; id++)
      expect(initiator.association.send(0, patterned(id, 5_000), network.nowMs)).toBe("queued")
    expect(initiator.association.unfinishedBytes).toBe(5_000)
    pass(pair, 1_000)
    expect(wholeNumbers(responder)).toEqual([99])
    expect(initiator.association.statistics(network.nowMs).replacedMessages).toBe(99)
    // The one that did arrive is the first that left.
    expect(responder.messages[0]?.message.messageId).toBe(0)
  })

  it("of latest does not break off a message that has begun to leave", () => {
    const pair = makeConnectedPair({ channels: [latest], both: { ceilingBytesPerSecond: 5_000_000 } })
    const { network, initiator, responder } = pair
    let id = 0
    for (let ms = 0; ms < 2_000; ms += 5) {
      initiator.association.send(0, patterned(id++, 200_000), network.nowMs)
      pass(pair, 5)
    }
    // 200 kB take 40 ms, and yet they come.
    expect(wholeNumbers(responder).length).toBeGreaterThan(10)
  })

  it.each([ordered, reliable])("of $mode says full, and later writable", channel => {
    const pair = makeConnectedPair({ channels: [{ ...channel, sendQueueBytes: 100_000 }] })
    const { network, initiator, responder } = pair
    let sent = 0
    for (;;) {
      const outcome = initiator.association.send(0, patterned(sent, 10_000), network.nowMs)
      if (outcome === "full") break
      sent++
    }
    expect(sent).toBe(10)
    expect(initiator.has("writable")).toBe(false)
    network.run(network.nowMs + 5_000, () => initiator.has("writable"))
    expect(initiator.has("writable")).toBe(true)
    expect(initiator.association.send(0, patterned(sent, 10_000), network.nowMs)).toBe("queued")
    pass(pair, 5_000)
    expect(wholeNumbers(responder)).toEqual(Array.from({ length: 11 }, (_, at) => at))
    expect(initiator.events.filter(({ type }) => type === "writable").length).toBe(1)
  })

  it("takes one message of any size when it is empty, and at most 4,096 of them", () => {
    const pair = makePair({ channels: [{ ...reliable, sendQueueBytes: 10 }, reliable] })
    const { network, initiator } = pair
    expect(initiator.association.send(0, patterned(0, 1_000_000), network.nowMs)).toBe("queued")
    expect(initiator.association.send(0, patterned(1, 1), network.nowMs)).toBe("full")
    for (let id = 0; id < 4_096; id++)
      expect(initiator.association.send(1, Uint8Array.of(1), network.nowMs)).toBe("queued")
    expect(initiator.association.send(1, Uint8Array.of(1), network.nowMs)).toBe("full")
  })

  it("lets go of the bytes when they are sent, on reliable when they are acknowledged", () => {
    const pair = makeConnectedPair({ channels: [ordered, reliable], line: { delayMs: 200 } })
    const { network, initiator } = pair
    pass(pair, 1_000)
    for (const channel of [0, 1]) initiator.association.send(channel, patterned(0, 1_000), network.nowMs)
    pass(pair, 1)
    expect(initiator.association.unfinishedBytes).toBe(1_000)
    pass(pair, 500)
    expect(initiator.association.unfinishedBytes).toBe(0)
  })
})

describe("a reader that does not read", () => {
  it("of reliable stops the sender, bounds what is held, and gets everything when it reads again", () => {
    const maxMessageBytes = 1_000_000
    const pair = makeConnectedPair({ channels: [{ ...reliable, maxMessageBytes, sendQueueBytes: 3_000_000 }] })
    const { network, initiator, responder } = pair
    responder.reading = false
    const messages = Array.from({ length: 40 }, (_, id) => patterned(id, 400_000))
    let sent = 0
    initiator.onTurn = () => {
      for (let next = messages[sent]; next !== undefined; next = messages[sent]) {
        if (initiator.association.send(0, next, network.nowMs) === "full") return
        sent++
      }
    }
    pass(pair, 60_000)
    const stopped = initiator.association.statistics(network.nowMs)
    // The window is a message and 4 MiB, the queue 3 MB more.
    expect(sent).toBeLessThan(22)
    expect(stopped.inFlightBytes).toBe(0)
    expect(responder.association.statistics(network.nowMs).receivedBytes).toBeLessThan(6_000_000)
    pass(pair, 60_000)
    expect(initiator.association.statistics(network.nowMs).sentMessages).toBe(stopped.sentMessages)
    expect(initiator.closed).toBeUndefined()
    responder.reading = true
    pass(pair, 60_000)
    expect(wholeNumbers(responder)).toEqual(Array.from({ length: 40 }, (_, at) => at))
  })

  it("of reliable stops nobody else", () => {
    const pair = makeConnectedPair({ channels: [{ ...reliable, maxMessageBytes: 100_000 }, ordered] })
    const { network, initiator, responder } = pair
    responder.reading = false
    for (let id = 0; id < 100; id++) initiator.association.send(0, patterned(id, 100_000), network.nowMs)
    pass(pair, 10_000)
    initiator.association.send(1, patterned(7, 50_000), network.nowMs)
    pass(pair, 1_000)
    const message = responder.association.read(1, network.nowMs)
    expect(message?.complete === true && numberOf(message.bytes)).toBe(7)
  })

  it("of ordered loses the oldest, and of latest has the newest", () => {
    const pair = makeConnectedPair({ channels: [ordered, latest] })
    const { network, initiator, responder } = pair
    responder.reading = false
    for (let id = 0; id < 30; id++) {
      for (const channel of [0, 1]) initiator.association.send(channel, patterned(id, 2_000), network.nowMs)
      pass(pair, 50)
    }
    const lost = responder.events.flatMap(event => (event.type === "lost" ? [event.messageId] : []))
    expect(lost).toEqual(Array.from({ length: 14 }, (_, at) => at))
    responder.reading = true
    pass(pair, 10)
    expect(wholeNumbers(responder, 0)).toEqual(Array.from({ length: 16 }, (_, at) => at + 14))
    expect(wholeNumbers(responder, 1)).toEqual([29])
  })
})

describe("the end", () => {
  it.each(sllpCloseNames)("%s is said to the other side, with its reason, three times", code => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    const ptoMs = 25 + 20
    const times: Array<number> = []
    network.onPath = passing => {
      times.push(network.nowMs)
      return [passing]
    }
    initiator.association.close(code, "größe und grund", network.nowMs)
    expect(initiator.association.state).toBe("closing")
    pass(pair, 5_000)
    expect(times.length).toBe(3)
    for (let at = 1; at < 3; at++) expect((times[at] ?? 0) - (times[at - 1] ?? 0)).toBeGreaterThan(ptoMs)
    expect(initiator.closed).toEqual({ type: "closed", code, reason: "größe und grund", by: "us" })
    expect(responder.closed).toEqual({ type: "closed", code, reason: "größe und grund", by: "peer" })
    for (const { association } of [initiator, responder]) {
      expect([association.state, association.nextTimeoutMs]).toEqual(["closed", Infinity])
      expect(association.poll(network.nowMs)).toEqual([])
      expect(association.send(0, Uint8Array.of(1), network.nowMs)).toBe("closed")
    }
  })

  it("has the codes of §4.6", () => {
    expect(sllpCloseNames.map(sllpCloseCodeOf)).toEqual([0, 1, 2, 3, 4, 5, 6])
    // They are not those of the session.
    expect(wireCodes.NORMAL).toBe(sllpCloseCodeOf("normal"))
  })

  it("is learnt though two of the three are lost", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    let seen = 0
    network.onPath = passing => (seen++ < 2 ? [] : [passing])
    initiator.association.close("app", "", network.nowMs)
    pass(pair, 5_000)
    expect(responder.closed?.code).toBe("app")
  })

  it("is learnt within 30 s though all of them are lost", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    network.onPath = () => []
    const startMs = network.nowMs
    initiator.association.close("normal", "", startMs)
    network.run(startMs + 60_000, () => responder.closed !== undefined)
    expect(responder.closed).toMatchObject({ code: "idle", by: "us" })
    expect(network.nowMs - startMs).toBeLessThanOrEqual(30_000)
    pass(pair, 10_000)
    expect([initiator.association.state, responder.association.state]).toEqual(["closed", "closed"])
  })

  it("is learnt by a word on the session", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, responder } = pair
    responder.association.peerClosed(5, "the session is lost", network.nowMs)
    responder.take()
    expect(responder.closed).toEqual({ type: "closed", code: "sessionLost", reason: "the session is lost", by: "peer" })
    expect(responder.association.state).toBe("closed")
    expect(responder.association.poll(network.nowMs)).toEqual([])
  })

  it("comes once, whatever is called afterwards", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator } = pair
    initiator.association.close("normal", "first", network.nowMs)
    initiator.association.close("app", "second", network.nowMs)
    initiator.association.peerClosed(3, "third", network.nowMs)
    pass(pair, 5_000)
    expect(initiator.events.filter(({ type }) => type === "closed").length).toBe(1)
    expect(initiator.closed?.reason).toBe("first")
  })

  it("cuts a long reason at a whole character", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    initiator.association.close("app", `a${"ü".repeat(300)}`, network.nowMs)
    pass(pair, 1_000)
    expect(responder.closed?.reason).toBe(`a${"ü".repeat(127)}`)
  })

  it("comes after 30 s in which nothing is heard, for whoever is left", () => {
    const pair = makeConnectedPair({ channels: [reliable] })
    const { network, initiator, responder } = pair
    const startMs = network.nowMs
    network.onPath = passing => (passing.from === responderAddress ? [] : [passing])
    initiator.association.send(0, patterned(0, 100_000), network.nowMs)
    network.run(startMs + 120_000, () => initiator.closed !== undefined)
    expect(initiator.closed).toMatchObject({ code: "idle", by: "us" })
    expect(network.nowMs - startMs).toBeLessThanOrEqual(30_010)
    // Its CLOSE still arrives.
    pass(pair, 1_000)
    expect(responder.closed).toMatchObject({ code: "idle", by: "peer" })
  })

  it("comes after 30 s for an initiator whom nobody answers, and for a responder to whom nobody speaks", () => {
    const pair = makePair({ channels: [reliable] })
    pair.network.onPath = () => []
    pass(pair, 60_000)
    for (const { closed, association } of [pair.initiator, pair.responder]) {
      expect(closed?.code).toBe("idle")
      expect(association.state).toBe("closed")
    }
  })

  it("leaves what has arrived to be read", () => {
    const pair = makeConnectedPair({ channels: [reliable, { ...ordered, holes: "deliver" }] })
    const { network, initiator, responder } = pair
    responder.reading = false
    initiator.association.send(0, patterned(3, 1_000), network.nowMs)
    initiator.association.send(1, patterned(4, 1_000), network.nowMs)
    pass(pair, 500)
    initiator.association.close("normal", "", network.nowMs)
    pass(pair, 500)
    expect(responder.closed).toBeDefined()
    responder.reading = true
    responder.take()
    expect([wholeNumbers(responder, 0), wholeNumbers(responder, 1)]).toEqual([[3], [4]])
  })
})

describe("what does not matter any more", () => {
  it("is not waited for when the association ends", () => {
    const pair = makeConnectedPair({ channels: [{ ...ordered, maxLagMs: 10_000 }] })
    const { network, initiator, responder } = pair
    let lose = true
    network.onPath = passing => (lose && passing.bytes.length > 600 ? [] : [passing])
    initiator.association.send(0, patterned(0, 1_000), network.nowMs)
    pass(pair, 1)
    lose = false
    initiator.association.send(0, patterned(1, 1_000), network.nowMs)
    pass(pair, 11)
    expect(responder.messages).toEqual([])
    initiator.association.close("normal", "", network.nowMs)
    pass(pair, 20)
    expect(wholeNumbers(responder)).toEqual([1])
    expect(responder.events).toContainEqual({ type: "lost", channel: 0, messageId: 0, count: 1 })
  })
})

describe("statistics", () => {
  it("tell rate, round trip, loss and what became of messages", () => {
    const pair = makeConnectedPair({
      channels: [{ ...reliable, sendQueueBytes: 100_000 }],
      line: { delayMs: 25, loss: 20_000 },
      both: { ceilingBytesPerSecond: 100_000 }
    })
    const { network, initiator, responder } = pair
    let id = 0
    initiator.onTurn = () => {
      while (initiator.association.send(0, patterned(id, 10_000), network.nowMs) === "queued") id++
    }
    pass(pair, 60_000)
    const sending = initiator.association.statistics(network.nowMs)
    const receiving = responder.association.statistics(network.nowMs)
    expect(sending.roundTripMs).toBeGreaterThanOrEqual(50)
    expect(sending.roundTripMs).toBeLessThan(80)
    expect(sending.minRoundTripMs).toBeCloseTo(50)
    expect(sending.lossRate).toBeGreaterThan(0.01)
    expect(sending.lossRate).toBeLessThan(0.03)
    expect(sending.sentBytesPerSecond).toBeGreaterThan(85_000)
    expect(sending.sentBytesPerSecond).toBeLessThan(110_000)
    expect(receiving.receivedBytesPerSecond).toBeGreaterThan(80_000)
    expect(receiving.deliveredMessages).toBe(responder.messages.length)
    expect(sending.sentDatagrams).toBeGreaterThan(receiving.receivedDatagrams)
    expect(sending.sentMessages).toBeLessThanOrEqual(responder.messages.length)
    expect(sending.sentMessages).toBeGreaterThan(responder.messages.length - 12)
  })
})

describe("the ceiling", () => {
  it("is kept to, though the line would take more", () => {
    const pair = makeConnectedPair({ channels: [reliable], initiator: { ceilingBytesPerSecond: 250_000 } })
    const { network, initiator, responder } = pair
    const startMs = network.nowMs
    initiator.association.send(0, patterned(0, 2_500_000), startMs)
    network.run(startMs + 60_000, () => responder.messages.length > 0)
    expect(network.nowMs - startMs).toBeGreaterThan(10_000)
    expect(network.nowMs - startMs).toBeLessThan(11_000)
  })
})

describe("options", () => {
  const make = (other: Partial<SllpOptions>) => () =>
    new SllpAssociation({ ...endOptions("initiator", [reliable], 0), ...other })

  it.each<{ readonly what: string; readonly options: Partial<SllpOptions> }>([
    { what: "no channels", options: { channels: [] } },
    { what: "257 channels", options: { channels: Array.from({ length: 257 }, () => latest) } },
    { what: "a message of 0 bytes", options: { channels: [{ ...latest, maxMessageBytes: 0 }] } },
    { what: "messages beyond 4 GiB", options: { channels: [{ ...latest, maxMessageBytes: 2 ** 32 + 1 }] } },
    { what: "messages larger than the memory", options: { channels: [latest], memoryBudgetBytes: 1_000_000 } },
    { what: "a short id", options: { cid: utf8("short") } },
    { what: "a short secret", options: { secret: utf8("short") } },
    { what: "datagrams of 1,199 bytes", options: { datagramBytes: 1_199 } },
    { what: "datagrams that UDP does not have", options: { datagramBytes: 65_508 } },
    { what: "a ceiling of nothing", options: { ceilingBytesPerSecond: 0 } }
  ])("out of range are refused: $what", ({ options }) => {
    expect(refused(make(options))).toBe("LIMIT")
  })

  it("in range are taken", () => {
    expect(refused(make({}))).toBeUndefined()
    expect(
      refused(make({ channels: Array.from({ length: 256 }, () => latest), datagramBytes: 65_507 }))
    ).toBeUndefined()
    const { address, ...lost } = endOptions("initiator", [reliable], 0)
    expect(address).toBeDefined()
    expect(refused(() => new SllpAssociation(lost))).toBe("LIMIT")
  })
})
