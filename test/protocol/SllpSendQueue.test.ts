import { describe, expect, it } from "vitest"
import { FrameReader, FrameWriter } from "../../src/protocol/sllp/Frames.ts"
import { SendQueue } from "../../src/protocol/sllp/SendQueue.ts"
import { SentDatagram } from "../../src/protocol/sllp/SentDatagrams.ts"
import { resolveChannel, type SllpChannelOptions } from "../../src/protocol/sllp/SllpOptions.ts"
import { patterned } from "../support/sllpPair.ts"

/** A queue whose datagrams carry 1,000 bytes, and what it says. */
class Sending {
  readonly dropped: Array<number> = []
  readonly queue: SendQueue
  nowMs = 0

  constructor(options: SllpChannelOptions) {
    this.queue = new SendQueue(4, resolveChannel(options), {
      onDrop: (_, messageId) => void this.dropped.push(messageId),
      onWritable: () => undefined
    })
  }

  add(bytes: number): this {
    this.queue.add([patterned(1, bytes)], this.nowMs)
    return this
  }

  /** The next datagram, and the ranges in it. */
  next(): { readonly datagram: SentDatagram; readonly ranges: ReadonlyArray<string> } {
    const writer = new FrameWriter(1_021)
    writer.start(1_021)
    const datagram = new SentDatagram()
    while (this.queue.write(writer, datagram, this.nowMs));
    const ranges: Array<string> = []
    new FrameReader().read(writer.written, {
      onChunk: (_channel, messageId, _total, offset, _bytes, from, to) =>
        void ranges.push(`${messageId}: ${offset}-${offset + to - from}`),
      onAck: () => undefined,
      onClose: () => undefined,
      onPathChallenge: () => undefined,
      onPathResponse: () => undefined,
      onDrop: () => undefined,
      onCredit: () => undefined
    })
    return { datagram, ranges }
  }

  /** All datagrams that there are. */
  all(): ReadonlyArray<ReturnType<Sending["next"]>> {
    const all: Array<ReturnType<Sending["next"]>> = []
    for (let next = this.next(); next.ranges.length > 0; next = this.next()) all.push(next)
    return all
  }
}

const rangesOf = (sent: ReadonlyArray<ReturnType<Sending["next"]>>) => sent.flatMap(({ ranges }) => ranges)
const reliable: SllpChannelOptions = { mode: "reliable" }

describe("the sending side of a reliable channel", () => {
  it("cuts messages into chunks that fill datagrams", () => {
    const sending = new Sending(reliable).add(2_500).add(300)
    expect(rangesOf(sending.all())).toEqual(["0: 0-1000", "0: 1000-2000", "0: 2000-2500", "1: 0-300"])
  })

  it("sends lost ranges again, before anything new, until they are acknowledged", () => {
    const sending = new Sending(reliable).add(3_000)
    const [a, b, c] = sending.all()
    b?.datagram.lost(0)
    sending.add(500)
    const again = sending.all()
    expect(rangesOf(again)).toEqual(["0: 1000-2000", "1: 0-500"])
    again[0]?.datagram.lost(0)
    const third = sending.all()
    expect(rangesOf(third)).toEqual(["0: 1000-2000"])
    for (const sent of [a, c, third[0], again[1]]) sent?.datagram.acknowledged()
    expect([sending.queue.heldBytes, sending.queue.counters.sent]).toEqual([0, 2])
  })

  it("may send them in other pieces", () => {
    const sending = new Sending(reliable).add(2_000)
    for (const { datagram } of sending.all()) datagram.lost(0)
    const writer = new FrameWriter(521)
    writer.start(521)
    expect(sending.queue.write(writer, new SentDatagram(), 0)).toBe(true)
    expect(rangesOf(sending.all())).toEqual(["0: 500-1500", "0: 1500-2000"])
  })

  it("does not send again what a probe carries already, when the first copy is lost", () => {
    const sending = new Sending(reliable).add(1_000)
    const [first] = sending.all()
    first?.datagram.probe(0)
    first?.datagram.probe(0)
    const [copy, ...more] = sending.all()
    expect(rangesOf(more)).toEqual([])
    first?.datagram.probe(0)
    first?.datagram.lost(0)
    expect(sending.all()).toEqual([])
    // The copy may be lost as well.
    copy?.datagram.lost(0)
    expect(rangesOf(sending.all())).toEqual(["0: 0-1000"])
  })

  it("does not send again what is acknowledged before its turn comes", () => {
    const sending = new Sending(reliable).add(2_000)
    const [first, second] = sending.all()
    first?.datagram.probe(0)
    first?.datagram.acknowledged()
    expect(sending.queue.ready).toBe(false)
    expect(sending.all()).toEqual([])
    second?.datagram.acknowledged()
    expect(sending.queue.heldBytes).toBe(0)
  })

  it("counts a message once, though copies of its pieces are acknowledged later", () => {
    const sending = new Sending(reliable).add(1_000)
    const [first] = sending.all()
    first?.datagram.probe(0)
    const [copy] = sending.all()
    first?.datagram.acknowledged()
    copy?.datagram.acknowledged()
    expect(sending.queue.counters.sent).toBe(1)
    expect(sending.queue.heldBytes).toBe(0)
  })

  it("begins no message beyond its credit", () => {
    const sending = new Sending({ ...reliable, maxMessageBytes: 1_000, sendQueueBytes: 100_000_000 })
    // 1,000 + 1,024 + 4 MiB, of which each message takes 2,024.
    for (let id = 0; id < 4_000; id++) sending.add(1_000)
    const begun = Math.floor((1_000 + 1_024 + 4 * 1024 * 1024) / 2_024)
    expect(sending.all().length).toBe(begun)
    sending.queue.allow(2_024 * (begun + 3))
    sending.queue.allow(5)
    expect(sending.all().length).toBe(3)
  })
})

describe("the sending side of a channel that may lose", () => {
  it("sends nothing again, and says DROP when all is known of a message that lost something", () => {
    const sending = new Sending({ mode: "ordered" }).add(2_500).add(500)
    const [a, b, c, d] = sending.all()
    expect(sending.queue.heldBytes).toBe(0)
    b?.datagram.lost(0)
    a?.datagram.acknowledged()
    expect(sending.all()).toEqual([])
    expect(sending.dropped).toEqual([])
    c?.datagram.acknowledged()
    expect(sending.dropped).toEqual([0])
    d?.datagram.acknowledged()
    expect(sending.dropped).toEqual([0])
    expect(sending.queue.counters).toEqual({ sent: 1, replaced: 0, incomplete: 1 })
  })

  it("repairs while the message is young, and gives up after that", () => {
    const sending = new Sending({ mode: "latest", repairMs: 100 }).add(2_000)
    const [a, b] = sending.all()
    sending.nowMs = 99
    a?.datagram.lost(99)
    const [repair] = sending.all()
    expect(repair?.ranges).toEqual(["0: 0-1000"])
    b?.datagram.acknowledged()
    repair?.datagram.lost(100)
    expect(sending.dropped).toEqual([0])
    expect([sending.queue.heldBytes, sending.all()]).toEqual([0, []])
  })

  it("does not repair what has grown too old while it waited", () => {
    const sending = new Sending({ mode: "latest", repairMs: 100 }).add(1_000)
    const [a] = sending.all()
    a?.datagram.lost(50)
    sending.nowMs = 100
    expect(sending.all()).toEqual([])
    expect(sending.dropped).toEqual([0])
  })

  it("numbers what leaves, not what is replaced", () => {
    const sending = new Sending({ mode: "latest" }).add(10).add(20).add(30)
    expect(rangesOf(sending.all())).toEqual(["0: 0-30"])
    expect(rangesOf(sending.add(40).all())).toEqual(["1: 0-40"])
    expect(sending.queue.counters.replaced).toBe(2)
  })
})
