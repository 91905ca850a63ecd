import { describe, expect, it } from "vitest"
import { concat, utf8 } from "../../src/protocol/Bytes.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import type { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import { carry, HostilePeer, Listener, session, type End } from "../support/protocolSession.ts"

const { rawData } = recordTypes
const { admin, bulk, rpc } = streamClasses
const nothing = () => undefined
const mebibyte = 1024 * 1024

/** Messages of this size, without end: always more of them than the stream may send in its turn. */
const endless = (end: End, streamClass: 0 | 1 | 2, size: number) => {
  const { stream } = end.open(streamClass)
  const again = (error?: ProtocolError) => {
    if (error === undefined) stream.send(rawData, [new Uint8Array(size)], again)
  }
  for (let queued = 0; queued < 200_000; queued += size) again()
  return stream
}

describe("the order of sending", () => {
  it("puts a call into the very next record while bulk streams are saturated, and administration before it", () => {
    const { initiator, responder } = session()
    for (let at = 0; at < 4; at++) endless(initiator, bulk, 500_000)
    const [call, administration] = [initiator.open(rpc), initiator.open(admin)]
    const listener = new Listener("initiator")
    const take = () => {
      const taken = initiator.mux.take(128 * 1024)
      responder.mux.receive(concat(...taken))
      return listener.read(taken).map(({ stream }) => stream)
    }
    take()
    for (let round = 0; round < 10; round++) {
      expect(take().every(stream => stream < call.stream.id)).toBe(true)
      call.stream.send(rawData, [utf8("call")], nothing)
      administration.stream.send(rawData, [utf8("administration")], nothing)
      expect(take().slice(0, 2)).toEqual([administration.stream.id, call.stream.id])
    }
  })

  it("keeps a call out of the way of bulk data that has used up the connection's credit", () => {
    const { initiator, responder } = session({}, { connectionWindowBytes: 100_000 })
    const call = initiator.open(rpc)
    initiator.open(bulk).stream.send(rawData, [new Uint8Array(500_000)], nothing)
    responder.reading = false
    carry(initiator, responder)
    expect(responder.inbox(1).stream.unread).toBe(100_000)
    call.stream.send(rawData, [utf8("call")], nothing)
    carry(initiator, responder)
    expect(responder.inbox(0).messages.length).toBe(1)
  })

  it.each([
    ["messages of one size", [60_000, 60_000, 60_000]],
    ["small and large messages", [300, 5_000, 1_000_000]],
    ["records that just miss their share", [65_519, 65_520, 65_519]],
    ["records of little more than half", [33_000, 65_520, 700]]
  ])("gives bulk streams equal shares of bytes: %s", (_, sizes) => {
    const { initiator, responder } = session()
    const streams = sizes.map(size => endless(initiator, bulk, size))
    const listener = new Listener("initiator")
    const sent = new Map<number, number>()
    for (let total = 0; total < 6_000_000;) {
      const taken = initiator.mux.take(128 * 1024)
      responder.mux.receive(concat(...taken))
      initiator.mux.receive(concat(...responder.mux.take(mebibyte)))
      for (const { type, stream, payload } of listener.read(taken)) {
        if (type !== rawData) continue
        sent.set(stream, (sent.get(stream) ?? 0) + payload.length)
        total += payload.length
      }
    }
    const shares = streams.map(({ id }) => sent.get(id) ?? 0)
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThan(3 * 65_536)
  })

  it("lets streams of one class take turns, record by record", () => {
    const { initiator } = session()
    for (const at of [0, 1, 2]) endless(initiator, rpc, 10 + at)
    const order = new Listener("initiator")
      .read(initiator.mux.take(4000))
      .filter(({ type }) => type === rawData)
      .map(({ stream }) => stream)
    expect(order.slice(0, 9)).toEqual([1, 3, 5, 1, 3, 5, 1, 3, 5])
  })
})

describe("credit", () => {
  it("stops the writer while the reader pauses, and lets it go on when half of the window is consumed", () => {
    const { initiator, responder } = session({}, { streamWindowBytes: 100_000, maxRecordBytes: 10_000 })
    responder.reading = false
    const up = initiator.open(bulk)
    let done = false
    up.stream.send(rawData, [new Uint8Array(150_000)], () => (done = true))
    carry(initiator, responder)
    const inbox = responder.inbox(0)
    expect([inbox.stream.unread, done, initiator.mux.take(1000)]).toEqual([100_000, false, []])
    inbox.read(4)
    expect(carry(initiator, responder)).toBe(0)
    inbox.read(1)
    carry(initiator, responder)
    expect([inbox.stream.unread, done]).toEqual([100_000, false])
    inbox.read()
    carry(initiator, responder)
    expect([inbox.stream.unread, done]).toEqual([150_016 - 150_000, true])
  })

  it("counts messages without content too: a paused reader is not flooded by them", () => {
    const { initiator, responder } = session({}, { streamWindowBytes: 1600 })
    responder.reading = false
    const up = initiator.open(rpc)
    for (let at = 0; at < 1000; at++) up.stream.send(rawData, [], nothing)
    carry(initiator, responder)
    const inbox = responder.inbox(0)
    expect([inbox.messages.length, inbox.stream.unread]).toEqual([100, 1600])
    for (let rounds = 0; rounds < 20; rounds++) {
      inbox.read()
      carry(initiator, responder)
    }
    expect(inbox.messages.length).toBe(1000)
  })

  it("of the connection is shared by bulk streams and given back when one is reset in the middle", () => {
    const { initiator, responder } = session({}, { connectionWindowBytes: 200_000 })
    responder.reading = false
    const [one, other] = [initiator.open(bulk), initiator.open(bulk)]
    one.stream.send(rawData, [new Uint8Array(1_000_000)], nothing)
    carry(initiator, responder)
    other.stream.send(rawData, [new Uint8Array(100_000)], nothing)
    carry(initiator, responder)
    expect([responder.inbox(0).stream.unread, responder.inbox(1).messages.length]).toEqual([200_000, 0])
    one.stream.reset("INTERNAL")
    carry(initiator, responder)
    expect([responder.inbox(0).closed?.code, responder.inbox(1).messages.length]).toEqual(["INTERNAL", 1])
  })

  it("of the connection does not leak, however streams end", () => {
    const { initiator, responder } = session({}, { connectionWindowBytes: 100_000, streamWindowBytes: 50_000 })
    for (let round = 0; round < 200; round++) {
      responder.reading = round % 3 === 0
      const up = initiator.open(bulk)
      up.stream.send(rawData, [new Uint8Array(40_000)], nothing)
      if (round % 5 !== 0) carry(initiator, responder)
      else responder.mux.receive(concat(...initiator.mux.take(20_000)))
      if (round % 2 === 0) up.stream.reset("INTERNAL")
      else responder.streams.at(-1)?.reset("LIMIT")
      carry(initiator, responder)
      // What the paused application still holds was given back by the reset: it has no more to say.
      responder.inboxes.at(-1)?.read()
    }
    responder.reading = true
    const last = initiator.open(bulk)
    last.stream.send(rawData, [new Uint8Array(1_000_000)], nothing)
    carry(initiator, responder)
    expect(responder.inboxes.at(-1)?.messages[0]?.bytes.length).toBe(1_000_000)
    expect([initiator.mux.openStreams, responder.mux.openStreams]).toEqual([1, 1])
  })

  it("on the way when a stream ends does no harm", () => {
    const { initiator, responder } = session({}, { streamWindowBytes: 1000 })
    const up = initiator.open(bulk)
    up.stream.send(rawData, [new Uint8Array(900)], nothing)
    const data = concat(...initiator.mux.take(10_000))
    responder.mux.receive(data)
    up.stream.reset("NORMAL")
    carry(initiator, responder)
    expect([initiator.mux.openStreams, responder.mux.openStreams]).toEqual([0, 0])
  })

  it("is not asked for by answers, nor by PING", () => {
    const { initiator, responder } = session({}, { streamWindowBytes: 256 })
    responder.reading = false
    initiator.open(rpc).stream.send(rawData, [new Uint8Array(1000)], nothing)
    carry(initiator, responder)
    initiator.mux.ping(new Uint8Array(8))
    carry(initiator, responder)
    expect(initiator.pongs.length).toBe(1)
  })
})

describe("the end of a stream", () => {
  it("is FIN of each side after all that was sent, and comes once", () => {
    const { initiator, responder } = session()
    const up = initiator.open(bulk)
    up.stream.send(rawData, [new Uint8Array(3_000_000)], nothing)
    up.stream.finish()
    up.stream.finish()
    carry(initiator, responder)
    const down = responder.inbox(0)
    expect([down.messages.length, down.ends, down.closed]).toEqual([1, 1, undefined])
    let refusal: string | undefined
    up.stream.send(rawData, [], error => (refusal = error?.code))
    expect(refusal).toBe("UNEXPECTED")
    down.stream.send(rawData, [utf8("the answer")], nothing)
    down.stream.finish()
    carry(initiator, responder)
    expect([up.messages.length, up.ends, up.closed?.code, down.closed?.code]).toEqual([1, 1, "NORMAL", "NORMAL"])
    expect([initiator.mux.openStreams, responder.mux.openStreams]).toEqual([0, 0])
    expect(up.callbacksAfterClose + down.callbacksAfterClose).toBe(0)
  })

  it("waits for a reader that has bytes left: ended streams cannot pile up unread", () => {
    const { initiator, responder } = session({}, { maxStreams: 4 })
    responder.reading = false
    const finishBoth = () => {
      const up = initiator.open(bulk)
      up.stream.send(rawData, [new Uint8Array(1000)], nothing)
      up.stream.finish()
      carry(initiator, responder)
      responder.streams.at(-1)?.finish()
      carry(initiator, responder)
      return up
    }
    const ended = Array.from({ length: 6 }, finishBoth)
    expect(ended.map(({ closed }) => closed?.code)).toEqual(["NORMAL", "NORMAL", "NORMAL", "NORMAL", "BUSY", "BUSY"])
    expect(responder.mux.openStreams).toBe(4)
    for (const inbox of responder.inboxes) inbox.read()
    expect(responder.inboxes.map(({ closed }) => closed?.code)).toEqual(Array(4).fill("NORMAL"))
    expect([responder.mux.openStreams, finishBoth().closed?.code]).toEqual([0, "NORMAL"])
  })

  it("comes to a receiver that was set late, after all that came before", () => {
    const { initiator, responder } = session()
    responder.accepting = false
    const up = initiator.open(bulk)
    for (const text of ["one", "two"]) up.stream.send(rawData, [utf8(text)], nothing)
    up.stream.finish()
    carry(initiator, responder)
    const [stream] = responder.streams
    if (stream === undefined) throw new Error("no stream has come")
    stream.finish()
    carry(initiator, responder)
    const events: Array<string> = []
    stream.receive({
      onChunk: chunk => {
        stream.consumed(chunk)
        events.push(Buffer.from(chunk.bytes).toString())
      },
      onEnd: () => events.push("end"),
      onClose: ({ code }) => events.push(code)
    })
    expect(events).toEqual(["one", "two", "end", "NORMAL"])
    expect(HostilePeer.refused(() => stream.receive({ onChunk: nothing }))).toBe("INTERNAL")
  })

  it("by RESET leaves nothing to a receiver that was set late, but the reason", () => {
    const { initiator, responder } = session()
    responder.accepting = false
    const up = initiator.open(bulk)
    up.stream.send(rawData, [new Uint8Array(100_000)], nothing)
    carry(initiator, responder)
    up.stream.reset("BUSY")
    carry(initiator, responder)
    const events: Array<string> = []
    responder.streams[0]?.receive({ onChunk: () => events.push("chunk"), onClose: ({ code }) => events.push(code) })
    expect(events).toEqual(["BUSY"])
  })

  it("by RESET, of either side or both at once, at any time, settles on both", () => {
    const moments: ReadonlyArray<(up: End, down: End) => void> = [
      up => up.inbox(0).stream.reset("INTERNAL"),
      (_, down) => down.inbox(0).stream.reset("INTERNAL"),
      (up, down) => {
        up.inbox(0).stream.reset("INTERNAL")
        down.inbox(0).stream.reset("INTERNAL")
      },
      (up, down) => {
        up.inbox(0).stream.finish()
        carry(up, down)
        down.inbox(0).stream.reset("INTERNAL")
      },
      (up, down) => {
        up.inbox(0).stream.finish()
        down.mux.receive(concat(...up.mux.take(mebibyte)))
        up.inbox(0).stream.reset("INTERNAL")
        down.inbox(0).stream.reset("INTERNAL")
      },
      (up, down) => {
        up.inbox(0).stream.finish()
        down.inbox(0).stream.finish()
        const [there, back] = [concat(...up.mux.take(mebibyte)), concat(...down.mux.take(mebibyte))]
        up.inbox(0).stream.reset("INTERNAL")
        up.mux.receive(back)
        down.mux.receive(there)
      }
    ]
    for (const end of moments) {
      const { initiator, responder } = session()
      // More than may be unsettled at once: none may be left over.
      for (let round = 0; round < 1200; round++) {
        initiator.inboxes.length = responder.inboxes.length = 0
        const up = initiator.open(bulk)
        up.stream.send(rawData, [new Uint8Array(10)], nothing)
        carry(initiator, responder)
        end(initiator, responder)
        carry(initiator, responder)
      }
      expect([initiator.mux.openStreams, responder.mux.openStreams]).toEqual([0, 0])
      expect([initiator.failures, responder.failures]).toEqual([[], []])
    }
  }, 60_000)

  it("by the application inside a callback of the stream does not send FIN after RESET", () => {
    const { initiator, responder } = session()
    const up = initiator.open(bulk)
    up.stream.send(rawData, [new Uint8Array(10)], () => up.stream.reset("NORMAL"))
    up.stream.finish()
    carry(initiator, responder)
    expect([up.closed?.code, responder.inbox(0).closed?.code, responder.failures]).toEqual(["NORMAL", "NORMAL", []])
    initiator.mux.ping(new Uint8Array(8))
    carry(initiator, responder)
    expect(initiator.pongs.length).toBe(1)
  })
})

describe("too many streams", () => {
  it("are not opened here: LIMIT, until one has ended", () => {
    const { initiator, responder } = session({}, { maxStreams: 2 })
    const first = initiator.open(bulk)
    initiator.open(rpc)
    expect(HostilePeer.refused(() => initiator.open(bulk))).toBe("LIMIT")
    first.stream.reset("NORMAL")
    initiator.open(bulk)
    carry(initiator, responder)
    expect([responder.streams.length, responder.mux.openStreams]).toEqual([3, 2])
  })

  it("of the other side are answered by RESET with BUSY; the others live on", () => {
    const peer = new HostilePeer({ maxStreams: 2 })
    for (const id of [1, 3, 5, 7]) peer.open(id)
    const resets = new Listener("responder").read(peer.victim.mux.take(10_000))
    expect(resets.map(({ type, stream, payload }) => [type, stream, payload[1]])).toEqual([
      [recordTypes.reset, 5, 13],
      [recordTypes.reset, 7, 13]
    ])
    // Data that crossed the RESET.
    peer.message(5, 1, utf8("lost"))
    peer.message(1, 1, utf8("taken"))
    peer.reset(5)
    peer.reset(1)
    peer.open(9)
    expect([peer.victim.inbox(0).messages.length, peer.victim.mux.openStreams]).toEqual([1, 2])
  })
})
