import { describe, expect, it } from "vitest"
import { concat, u16, u64, u8, utf8 } from "../../src/protocol/Bytes.ts"
import { encodeOpen, encodePrefix, streamClasses } from "../../src/protocol/Packets.ts"
import { recordFlags, recordTypes } from "../../src/protocol/Records.ts"
import { reachableBytes } from "../support/garbage.ts"
import { HostilePeer, Listener } from "../support/protocolSession.ts"

const { rawData, rawAck, admin, adminAck, keyUpdate, ready, goodbye, ping, pong, open, fin, reset, credit } =
  recordTypes
const { first, last, ackRequested } = recordFlags
const { bulk, rpc } = streamClasses
const { refused } = HostilePeer
const nothing = () => undefined
const prefixOf = (messageId: number, total?: number) => encodePrefix({ messageId, total })

/** The code that the victim ends with when a peer who has opened streams 1 (bulk) and 3 (rpc) says this. */
const answerTo = (say: (peer: HostilePeer) => void, own = {}): string | undefined => {
  const peer = new HostilePeer(own)
  peer.open(1, bulk)
  peer.open(3, rpc)
  const code = refused(() => say(peer))
  // What ended the session is the same for every byte that follows.
  if (code !== undefined) expect(refused(() => peer.say(ping, 0, new Uint8Array(8)))).toBe(code)
  return code
}

describe("a peer that breaks a rule is cut off", () => {
  it.each<readonly [string, string, (peer: HostilePeer) => void]>([
    ["says READY twice", "UNEXPECTED", peer => peer.say(ready, 0)],
    ["opens a stream of our parity", "UNEXPECTED", peer => peer.open(2)],
    ["opens a stream twice", "UNEXPECTED", peer => peer.open(3)],
    ["leaves a stream id out", "UNEXPECTED", peer => peer.open(7)],
    ["opens a stream beyond the last id", "UNEXPECTED", peer => peer.open(2 ** 31 + 1)],
    ["opens stream 0", "UNEXPECTED", peer => peer.open(0)],
    ["opens a stream of an unknown class", "MALFORMED", peer => peer.say(open, 5, concat(u8(3), u8(0)))],
    ["names a stream at length", "TOO_LARGE", peer => peer.say(open, 5, concat(u8(2), u8(65), new Uint8Array(65)))],
    ["names a stream in no UTF-8", "MALFORMED", peer => peer.say(open, 5, Uint8Array.of(2, 2, 0xc3, 0x28))],
    ["lies about a name's length", "MALFORMED", peer => peer.say(open, 5, Uint8Array.of(2, 3, 65))],
    ["sends data on a stream never opened", "UNEXPECTED", peer => peer.message(5, 1, utf8("x"))],
    ["sends data on a stream we never opened", "UNEXPECTED", peer => peer.message(2, 1, utf8("x"))],
    ["sends data on stream 0", "UNEXPECTED", peer => peer.message(0, 1, utf8("x"))],
    ["sends PING on a stream", "UNEXPECTED", peer => peer.say(ping, 1, new Uint8Array(8))],
    ["sends GOODBYE on a stream", "UNEXPECTED", peer => peer.say(goodbye, 1, u16(0))],
    ["sends FIN on stream 0", "UNEXPECTED", peer => peer.say(fin, 0)],
    ["sends FIN with content", "MALFORMED", peer => peer.say(fin, 1, u8(0))],
    ["sends PING of seven bytes", "MALFORMED", peer => peer.say(ping, 0, new Uint8Array(7))],
    ["sends PONG of nine bytes", "MALFORMED", peer => peer.say(pong, 0, new Uint8Array(9))],
    ["sends RESET of three bytes", "MALFORMED", peer => peer.say(reset, 1, new Uint8Array(3))],
    ["sends CREDIT of four bytes", "MALFORMED", peer => peer.say(credit, 1, new Uint8Array(4))],
    ["gives credit beyond 2⁵³", "MALFORMED", peer => peer.say(credit, 0, new Uint8Array(8).fill(255))],
    ["sends GOODBYE without a code", "MALFORMED", peer => peer.say(goodbye, 0, u8(0))],
    ["gives reasons at length", "TOO_LARGE", peer => peer.say(goodbye, 0, new Uint8Array(259))],
    ["sends data after FIN", "UNEXPECTED", peer => (peer.say(fin, 1), peer.message(1, 1, utf8("x")))],
    ["sends FIN twice", "UNEXPECTED", peer => (peer.say(fin, 1), peer.say(fin, 1))],
    ["sends data after its RESET", "UNEXPECTED", peer => (peer.reset(1), peer.message(1, 1, utf8("x")))],
    ["begins a message without FIRST", "UNEXPECTED", peer => peer.say(rawData, 1, prefixOf(1, 0), last)],
    [
      "begins a message within another",
      "UNEXPECTED",
      peer => (peer.say(rawData, 1, prefixOf(1, 1), first), peer.message(1, 2, utf8("x")))
    ],
    [
      "mixes kinds within a message",
      "UNEXPECTED",
      peer => (peer.say(rawData, 1, prefixOf(1, 1), first), peer.say(admin, 1, u8(0), last))
    ],
    [
      "asks for an acknowledgement late",
      "UNEXPECTED",
      peer => (peer.say(rawData, 1, prefixOf(1, 1), first), peer.say(rawData, 1, u8(0), last | ackRequested))
    ],
    [
      "sends records without content",
      "MALFORMED",
      peer => (peer.say(rawData, 1, prefixOf(1, 1), first), peer.say(rawData, 1))
    ],
    ["cuts the prefix short", "MALFORMED", peer => peer.say(rawData, 1, new Uint8Array(15), first | last)],
    ["numbers a message 0", "MALFORMED", peer => peer.message(1, 0, utf8("x"))],
    [
      "numbers a message beyond 2⁵³",
      "MALFORMED",
      peer => peer.say(rawData, 1, concat(new Uint8Array(8).fill(255), u64(0)), first | last)
    ],
    [
      "announces more than 2⁵³ bytes",
      "MALFORMED",
      peer => peer.say(rawData, 1, concat(u64(1), u64(2n ** 60n)), first | last)
    ],
    [
      "leaves a message number out",
      "UNEXPECTED",
      peer => (peer.message(1, 1, utf8("x")), peer.message(1, 3, utf8("x")))
    ],
    [
      "uses a message number twice",
      "UNEXPECTED",
      peer => (peer.message(1, 1, utf8("x")), peer.message(1, 1, utf8("x")))
    ],
    ["answers what nobody asked", "UNEXPECTED", peer => peer.message(1, 1, utf8("x"), 0, adminAck)],
    ["acknowledges what nobody sent", "UNEXPECTED", peer => peer.say(rawAck, 1, u64(1))],
    ["puts flags on PING", "MALFORMED", peer => peer.say(ping, 0, new Uint8Array(8), first)],
    ["puts flags on CREDIT", "MALFORMED", peer => peer.say(credit, 1, u64(5), ackRequested)],
    ["uses a flag that does not exist", "MALFORMED", peer => peer.message(1, 1, utf8("x"), 8)],
    ["changes keys twice in a row", "UNEXPECTED", peer => (peer.updateKey(), peer.updateKey())],
    [
      "says anything after GOODBYE",
      "UNEXPECTED",
      peer => (peer.say(goodbye, 0, u16(0)), peer.say(ping, 0, new Uint8Array(8)))
    ],
    ["says what will be skipped after GOODBYE", "UNEXPECTED", peer => (peer.say(goodbye, 0, u16(0)), peer.say(200, 0))]
  ])("who %s: %s", (_, code, say) => {
    expect(answerTo(say)).toBe(code)
  })

  it("who uses a type below 128 that does not exist, on any stream; above it is skipped", () => {
    for (let type = 0; type < 256; type++) {
      if (type === keyUpdate || Object.values<number>(recordTypes).includes(type)) continue
      for (const stream of [0, 1, 99]) {
        const say = (peer: HostilePeer) => peer.say(type, stream, utf8("of a later version"))
        expect(answerTo(say)).toBe(type < 128 ? "UNEXPECTED" : undefined)
      }
    }
  })

  it("who uses such a type on a stream that was given up, too", () => {
    const peer = new HostilePeer()
    peer.open(1)
    peer.victim.streams[0]?.reset("BUSY")
    peer.message(1, 1, utf8("on its way"))
    expect(refused(() => peer.say(99, 1))).toBe("UNEXPECTED")
  })

  it("who says anything before READY, or READY with content", () => {
    for (const say of [
      (peer: HostilePeer) => peer.open(1),
      (peer: HostilePeer) => peer.say(ping, 0, new Uint8Array(8)),
      (peer: HostilePeer) => peer.say(200, 0),
      (peer: HostilePeer) => peer.say(ready, 1),
      (peer: HostilePeer) => peer.say(ready, 0, u8(0)),
      (peer: HostilePeer) => peer.say(ready, 0, undefined, first)
    ]) {
      const peer = new HostilePeer({}, "initiator", false)
      expect([refused(() => say(peer)), peer.victim.readies, peer.victim.mux.take(1000)]).toEqual(["UNEXPECTED", 0, []])
    }
  })

  it("who, as responder, says READY", () => {
    expect(refused(() => new HostilePeer({}, "responder").say(ready, 0))).toBe("UNEXPECTED")
  })

  it("who sends larger records than we said that we take", () => {
    const small = { maxRecordBytes: 1000 }
    expect(answerTo(peer => peer.message(1, 1, new Uint8Array(984)), small)).toBeUndefined()
    expect(answerTo(peer => peer.message(1, 1, new Uint8Array(985)), small)).toBe("TOO_LARGE")
  })
})

describe("credit that is overrun ends the session", () => {
  const own = { streamWindowBytes: 1000, connectionWindowBytes: 1500 }

  it("on a stream, by one byte, the prefix included", () => {
    expect(answerTo(peer => peer.message(3, 1, new Uint8Array(984)), own)).toBeUndefined()
    expect(answerTo(peer => peer.message(3, 1, new Uint8Array(985)), own)).toBe("LIMIT")
  })

  it("on the connection, by bulk streams together", () => {
    const fill = (extra: number) => (peer: HostilePeer) => {
      peer.victim.reading = false
      peer.open(5, bulk)
      peer.open(7, bulk)
      peer.message(5, 1, new Uint8Array(984))
      peer.message(3, 1, new Uint8Array(484))
      peer.message(7, 1, new Uint8Array(484 + extra))
    }
    expect([answerTo(fill(0), own), answerTo(fill(1), own)]).toEqual([undefined, "LIMIT"])
  })

  it("also on a stream that was reset, of any class", () => {
    for (const id of [1, 3]) {
      const flood = (peer: HostilePeer) => {
        peer.victim.streams[(id - 1) / 2]?.reset("BUSY")
        for (let at = 1; at <= 100; at++) peer.message(id, at, new Uint8Array(84))
      }
      expect(answerTo(flood, own)).toBe("LIMIT")
    }
    const refusedStream = (peer: HostilePeer) => {
      peer.open(5)
      for (let at = 1; at <= 11; at++) peer.message(5, at, new Uint8Array(84))
    }
    expect(answerTo(refusedStream, { ...own, maxStreams: 2 })).toBe("LIMIT")
  })

  it("is never lowered by a CREDIT below an earlier one", () => {
    const peer = new HostilePeer({}, "responder")
    const { stream } = peer.victim.open(bulk)
    peer.credit(1, 3_000_000)
    peer.credit(1, 5)
    peer.credit(0, 40_000_000)
    peer.credit(0, 5)
    let done = false
    stream.send(rawData, [new Uint8Array(2_900_000)], () => (done = true))
    peer.victim.mux.take(10_000_000)
    expect(done).toBe(true)
  })
})

describe("a total that is not kept resets the stream, and only the stream", () => {
  it.each<readonly [string, (peer: HostilePeer) => void]>([
    ["less at LAST", peer => peer.say(rawData, 1, concat(prefixOf(1, 2), u8(0)), first | last)],
    ["more at LAST", peer => peer.say(rawData, 1, concat(prefixOf(1, 1), utf8("xy")), first | last)],
    ["more before LAST", peer => peer.say(rawData, 1, concat(prefixOf(1, 1), utf8("xy")), first)],
    ["FIN within the message", peer => (peer.say(rawData, 1, prefixOf(1, 5), first), peer.say(fin, 1))]
  ])("%s", (_, say) => {
    const peer = new HostilePeer()
    peer.open(1, bulk)
    peer.open(3, rpc)
    say(peer)
    const resets = new Listener("responder").read(peer.victim.mux.take(10_000))
    expect(resets.map(({ type, stream, payload }) => [type, stream, payload[1]])).toEqual([[reset, 1, 1]])
    expect([peer.victim.inbox(0).closed?.code, peer.victim.inbox(0).messages]).toEqual(["MALFORMED", []])
    peer.message(3, 1, utf8("x"))
    expect(peer.victim.inbox(1).messages.length).toBe(1)
  })

  it("and one that is not known beforehand may be anything", () => {
    const peer = new HostilePeer()
    peer.open(1)
    peer.say(rawData, 1, prefixOf(1), first)
    for (let at = 0; at < 10; at++) peer.say(rawData, 1, utf8("abc"))
    peer.say(rawData, 1, new Uint8Array(0), last)
    expect(peer.victim.inbox(0).messages[0]?.bytes.length).toBe(30)
  })
})

describe("memory in the hands of a hostile peer", () => {
  it("is not given for questions whose answers he does not read", () => {
    const peer = new HostilePeer()
    let sent = 0
    const code = refused(() => {
      for (; sent < 10_000; sent++) peer.say(ping, 0, new Uint8Array(8))
    })
    expect([code, sent, peer.victim.failures.map(({ code }) => code)]).toEqual(["LIMIT", 4097, ["LIMIT"]])
  })

  it("is not given for CREDIT that he does not read: one per open stream waits", () => {
    const peer = new HostilePeer({ streamWindowBytes: 256, connectionWindowBytes: 256 })
    for (let at = 0; at < 500; at++) {
      const id = 2 * at + 1
      peer.open(id)
      peer.message(id, 1, new Uint8Array(200))
      peer.reset(id)
    }
    const records = new Listener("responder").read(peer.victim.mux.take(10_000_000))
    expect(records.filter(({ type }) => type === credit).length).toBe(1)
  })

  it("is not given for streams that we gave up and he never confirms: 1,024 of them end the session", () => {
    const peer = new HostilePeer({ maxStreams: 1 })
    let opened = 0
    const code = refused(() => {
      for (peer.open(1); opened < 3000; opened++) {
        peer.open(2 * opened + 3)
        peer.victim.mux.take(10_000)
      }
    })
    expect([code, opened]).toEqual(["LIMIT", 1025])
  })

  it("is not given by a reset of our own either, whoever calls it", () => {
    const peer = new HostilePeer({}, "responder")
    const ends: Array<string> = []
    for (let at = 0; at < 1025; at++) {
      const { stream } = peer.victim.open(rpc)
      stream.send(rawData, [new Uint8Array(2_000_000)], error => ends.push(error?.code ?? "sent"))
      stream.reset("NORMAL")
      peer.victim.mux.take(10_000)
    }
    expect([ends.length, new Set(ends)]).toEqual([1025, new Set(["NORMAL"])])
    expect(peer.victim.failures.map(({ code }) => code)).toEqual(["LIMIT"])
  })

  it("is not given for requests without end: 1,024 wait for their answer", () => {
    let asked = 0
    const code = answerTo(peer => {
      for (; asked < 5000; asked++) peer.message(3, asked + 1, new Uint8Array(0), ackRequested, admin)
    })
    expect([code, asked]).toEqual(["LIMIT", 1024])
  })

  it("is not given for an answer of more than 1 MiB: its stream is reset", () => {
    const peer = new HostilePeer({}, "responder")
    const inbox = peer.victim.open(rpc, "", false)
    inbox.stream.send(admin, [], nothing, { ackRequested: true })
    peer.victim.mux.take(10_000)
    peer.say(adminAck, 1, prefixOf(1), first)
    for (let at = 0; at < 40; at++) peer.say(adminAck, 1, new Uint8Array(65_536))
    expect(inbox.closed?.code).toBe("TOO_LARGE")
    expect(inbox.unread.length).toBe(17)
  })

  it("is not given for records of one byte each: their number is bounded as their bytes are", () => {
    const sent = (own: { streamWindowBytes: number }): readonly [string | undefined, number] => {
      let at = 0
      const code = answerTo(peer => {
        peer.victim.inbox(1).reading = false
        peer.say(rawData, 3, prefixOf(1), first)
        for (; at < 100_000; at++) peer.say(rawData, 3, u8(0))
      }, own)
      return [code, at]
    }
    expect(sent({ streamWindowBytes: 16_000 })).toEqual(["LIMIT", 1000 + 64 - 1])
    const whole = answerTo(
      peer => {
        peer.victim.inbox(1).reading = false
        for (let at = 1; at <= 1000; at++) peer.message(3, at, new Uint8Array(0))
      },
      { streamWindowBytes: 16_000 }
    )
    expect(whole).toBeUndefined()
  })

  it("is not held for streams that nobody took when their sender resets them", () => {
    const peer = new HostilePeer()
    peer.victim.accepting = false
    const before = reachableBytes()
    for (let at = 0; at < 100; at++) {
      const id = 2 * at + 1
      peer.open(id, rpc)
      for (let part = 1; part <= 16; part++) peer.message(id, part, new Uint8Array(60_000))
      peer.reset(id)
      peer.victim.mux.take(100_000)
    }
    expect(peer.victim.streams.length).toBe(100)
    expect(reachableBytes() - before).toBeLessThan(8 * 1024 * 1024)
  })

  it("costs no work for what comes after a failure", () => {
    const peer = new HostilePeer()
    expect(refused(() => peer.victim.mux.receive(Uint8Array.of(9, 0, 0, 22)))).toBe("BAD_MAC")
    expect(refused(() => peer.open(1))).toBe("BAD_MAC")
    expect(peer.victim.streams).toEqual([])
  })
})

describe("records of a stream that is over here", () => {
  it("are dropped while they can still be on their way, and their bytes given back to the connection at once", () => {
    const own = { streamWindowBytes: 1000, connectionWindowBytes: 1000 }
    const peer = new HostilePeer(own)
    const listener = new Listener("responder")
    for (let round = 0; round < 20; round++) {
      const id = 2 * round + 1
      peer.open(id)
      peer.victim.streams.at(-1)?.reset("BUSY")
      peer.message(id, 1, new Uint8Array(584))
      peer.say(credit, id, u64(1))
      const given = listener.read(peer.victim.mux.take(10_000)).filter(({ type }) => type === credit)
      expect(given.map(({ stream }) => stream)).toEqual([0])
      if (round % 2 === 0) peer.say(fin, id)
      else peer.reset(id)
    }
    expect(refused(() => peer.say(rawData, 1, prefixOf(2, 0), first | last))).toBe("UNEXPECTED")
  })

  it("after both FINs may be CREDIT, RAW_ACK or RESET, which cross ours, and nothing else", () => {
    const peer = new HostilePeer()
    peer.open(1)
    peer.say(fin, 1)
    peer.victim.streams[0]?.finish()
    peer.victim.mux.take(1000)
    expect(peer.victim.inbox(0).closed?.code).toBe("NORMAL")
    peer.credit(1, 5)
    peer.say(rawAck, 1, u64(1))
    peer.reset(1)
    expect(refused(() => peer.say(fin, 1))).toBe("UNEXPECTED")
  })

  it("cannot be opened again", () => {
    const peer = new HostilePeer()
    peer.open(1)
    peer.reset(1)
    expect(refused(() => peer.say(open, 1, encodeOpen({ streamClass: bulk, name: "" })))).toBe("UNEXPECTED")
  })
})
