import { describe, expect, it } from "vitest"
import { concat, toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { carry, HostilePeer, Listener, session } from "../support/protocolSession.ts"

const { rawData, admin, adminAck } = recordTypes
const { bulk, rpc } = streamClasses
const { refused } = HostilePeer
const nothing = () => undefined
const random = new SeededRandom(7)

describe("a session", () => {
  it("begins with READY, and a responder says nothing before it has come", () => {
    const { initiator, responder } = session()
    responder.open(rpc, "early")
    expect(responder.mux.take(1_000_000)).toEqual([])
    const first = initiator.mux.take(1_000_000)
    expect(new Listener("initiator").read(first).map(({ type }) => type)).toEqual([recordTypes.ready])
    const wakes = responder.wakes
    responder.mux.receive(concat(...first))
    expect([responder.readies, responder.wakes > wakes]).toEqual([1, true])
    expect(responder.mux.take(1_000_000).length).toBeGreaterThan(0)
  })

  it("opens streams of both sides, with their class and name", () => {
    const { initiator, responder } = session()
    const name = "ä".repeat(32)
    initiator.open(bulk, name)
    initiator.open(rpc)
    responder.open(streamClasses.admin, "from the other side")
    carry(initiator, responder)
    expect(responder.streams.map(({ id, streamClass, name }) => [id, streamClass, name])).toEqual([
      [1, 2, name],
      [3, 1, ""]
    ])
    expect(initiator.streams.map(({ id, name }) => [id, name])).toEqual([[2, "from the other side"]])
    expect(refused(() => initiator.open(bulk, `${name}a`))).toBe("TOO_LARGE")
  })

  it("answers a PING with the same eight bytes", () => {
    const { initiator, responder } = session()
    initiator.mux.ping(random.bytes(8))
    responder.mux.ping(utf8("12345678"))
    carry(initiator, responder)
    expect([initiator.pongs.length, responder.pongs.map(toHex)]).toEqual([1, [toHex(utf8("12345678"))]])
  })

  it("lets what the first records of a read brought about be taken before the rest of the read is opened", () => {
    const { initiator, responder } = session()
    carry(initiator, responder)
    for (let pings = 0; pings < 3; pings++) initiator.mux.ping(random.bytes(8))
    const read = concat(...initiator.mux.take(1_000_000))
    const answers: Array<Uint8Array> = []
    responder.onRecord = () => answers.push(concat(...responder.mux.take(1_000_000)))
    responder.mux.receive(read)
    expect(answers.map(({ length }) => length > 0)).toEqual([true, true, true])
    for (const answer of answers) initiator.mux.receive(answer)
    expect(initiator.pongs).toHaveLength(3)
  })

  it("ends with a GOODBYE of each side; streams end with its code, and nothing is opened or sent after", () => {
    const { initiator, responder } = session()
    const stream = initiator.open(bulk)
    carry(initiator, responder)
    let unsent: ProtocolError | undefined
    stream.stream.send(rawData, [new Uint8Array(2_000_000)], error => (unsent = error))
    initiator.mux.goodbye("SUPERSEDED", "another session ".repeat(50))
    initiator.mux.goodbye("NORMAL", "twice")
    carry(initiator, responder)
    expect(responder.goodbye?.code).toBe(14)
    expect(utf8(responder.goodbye?.reason ?? "").length).toBe(256)
    expect([stream.closed?.code, unsent?.code, responder.inbox(0).closed?.code]).toEqual([
      "SUPERSEDED",
      "SUPERSEDED",
      "SUPERSEDED"
    ])
    expect([initiator.mux.goodbyeReceived, responder.mux.goodbyeReceived]).toEqual([true, true])
    expect(refused(() => initiator.mux.openStream(bulk, ""))).toBe("UNEXPECTED")
    initiator.mux.ping(new Uint8Array(8))
    expect([initiator.mux.take(1000), responder.mux.take(1000)]).toEqual([[], []])
  })

  it("discards what was on its way when it had said goodbye", () => {
    const { initiator, responder } = session()
    const up = initiator.open(bulk)
    carry(initiator, responder)
    up.stream.send(rawData, [new Uint8Array(1000)], nothing)
    const onTheWay = concat(...initiator.mux.take(10_000))
    responder.mux.goodbye("NORMAL", "")
    responder.mux.receive(onTheWay)
    expect(responder.inbox(0).messages).toEqual([])
    carry(initiator, responder)
    expect([responder.goodbye?.code, initiator.goodbye?.code]).toEqual([0, 0])
  })

  it("that ends without GOODBYE fails its streams as TRUNCATED, once", () => {
    const { initiator, responder } = session()
    const streams = [initiator.open(bulk), initiator.open(rpc)]
    carry(initiator, responder)
    const codes: Array<string | undefined> = []
    streams[0]?.stream.send(rawData, [new Uint8Array(2_000_000)], error => codes.push(error?.code))
    expect(initiator.mux.goodbyeReceived).toBe(false)
    initiator.mux.closeStreams(new ProtocolError("TRUNCATED", "the connection ended"))
    expect([...codes, ...streams.map(({ closed }) => closed?.code)]).toEqual(["TRUNCATED", "TRUNCATED", "TRUNCATED"])
    expect(streams.map(({ callbacksAfterClose }) => callbacksAfterClose)).toEqual([0, 0])
  })

  it("changes its keys when told to, once enough records went out under them", () => {
    const { initiator, responder } = session()
    const up = initiator.open(rpc)
    const epochs = new Set<number>()
    for (let message = 0; message < 100; message++) {
      up.stream.send(rawData, [utf8("x")], nothing)
      initiator.mux.updateKey()
      const bytes = concat(...initiator.mux.take(10_000))
      epochs.add(bytes[0] ?? 0)
      responder.mux.receive(bytes)
    }
    expect([responder.inbox(0).messages.length, epochs.size]).toEqual([100, 7])
  })
})

describe("a message", () => {
  const limit = 65_536
  const sizes = [
    0,
    1,
    15,
    16,
    17,
    limit - 17,
    limit - 16,
    limit - 15,
    limit - 1,
    limit,
    limit + 1,
    2 * limit - 16,
    2 * limit
  ]

  it.each(sizes.map(size => [size]))("of %d bytes arrives whole, in order, in as few records as it fits", size => {
    const { initiator, responder } = session()
    const sent = [random.bytes(size), utf8("next")]
    const up = initiator.open(bulk)
    const done: Array<number> = []
    for (const [at, bytes] of sent.entries()) up.stream.send(rawData, [bytes], () => done.push(at))
    const taken = initiator.mux.take(10_000_000)
    const data = new Listener("initiator").read(taken).filter(({ type }) => type === rawData)
    expect(data.length).toBe(Math.max(1, Math.ceil((size + 16) / limit)) + 1)
    responder.mux.receive(concat(...taken))
    const { messages } = responder.inbox(0)
    expect(
      messages.map(({ messageId, bytes }) => [messageId, Buffer.compare(bytes, sent[messageId - 1] ?? bytes)])
    ).toEqual([
      [1, 0],
      [2, 0]
    ])
    expect(done).toEqual([0, 1])
  })

  it("in many parts, some of them empty, is their sum", () => {
    const { initiator, responder } = session()
    const parts = Array.from({ length: 200 }, (_, at) => random.bytes(at % 3 === 0 ? 0 : random.below(1000)))
    initiator.open(bulk).stream.send(rawData, parts, nothing)
    carry(initiator, responder)
    expect(Buffer.compare(responder.inbox(0).messages[0]?.bytes ?? new Uint8Array(0), concat(...parts))).toBe(0)
  })

  it("may change its memory as soon as it is done, and not before it has been sealed", () => {
    const { initiator, responder } = session()
    const up = initiator.open(rpc)
    const memory = utf8("the text")
    up.stream.send(rawData, [memory], () => memory.fill(0))
    carry(initiator, responder)
    expect(toHex(memory)).toBe("0".repeat(16))
    expect(Buffer.from(responder.inbox(0).messages[0]?.bytes ?? []).toString()).toBe("the text")
  })

  it("sent from the end of the one before is not sent twice, nor out of turn", () => {
    const { initiator, responder } = session()
    const [one, other] = [initiator.open(rpc), initiator.open(rpc)]
    let left = 50
    const chain = () => {
      // What a callback takes would overtake the records that are being sealed.
      expect(initiator.mux.take(10_000)).toEqual([])
      if (--left > 0) one.stream.send(rawData, [utf8(`one ${left}`)], chain)
    }
    one.stream.send(rawData, [utf8("the first")], chain)
    for (let at = 0; at < 50; at++) other.stream.send(rawData, [utf8("other")], nothing)
    const streams = new Listener("initiator")
      .read(initiator.mux.take(1_000_000))
      .filter(({ type }) => type === rawData)
      .map(({ stream }) => stream)
    expect(streams.length).toBe(100)
    expect(streams.slice(0, 10)).toEqual([1, 3, 1, 3, 1, 3, 1, 3, 1, 3])
    expect(responder.failures).toEqual([])
  })

  it("of 20 MB flows through windows of 10 kB, both ways at once, and nobody holds more than a window", () => {
    const small = { streamWindowBytes: 10_000, connectionWindowBytes: 15_000, maxRecordBytes: 4096 }
    const { initiator, responder } = session(small, small)
    const sent = random.bytes(20_000_000)
    const up = initiator.open(bulk)
    carry(initiator, responder)
    let most = 0
    let received = 0
    let equal = true
    const [up2, down] = [up.stream, responder.inbox(0).stream]
    up2.send(rawData, [sent], nothing)
    down.send(rawData, [sent.subarray(0, 1_000_000)], nothing)
    // A reader that keeps nothing: the inbox would keep 20 MB of pieces.
    const inbox = responder.inbox(0)
    inbox.onChunk = chunk => {
      equal &&= Buffer.compare(chunk.bytes, sent.subarray(received, received + chunk.bytes.length)) === 0
      received += chunk.bytes.length
      most = Math.max(most, down.unread)
      down.consumed(chunk)
    }
    carry(initiator, responder)
    expect([received, equal, most <= 10_000]).toEqual([20_000_000, true, true])
    expect(up.messages.map(({ bytes }) => bytes.length)).toEqual([1_000_000])
  })

  it("with ACK_REQ is acknowledged when the application says so", () => {
    const { initiator, responder } = session()
    const up = initiator.open(bulk)
    up.stream.send(rawData, [utf8("a")], nothing, { ackRequested: true })
    up.stream.send(rawData, [utf8("b")], nothing)
    up.stream.send(rawData, [utf8("c")], nothing, { ackRequested: true })
    carry(initiator, responder)
    const inbox = responder.inbox(0)
    expect(inbox.messages.map(({ ackRequested }) => ackRequested)).toEqual([true, false, true])
    expect(up.acks).toEqual([])
    inbox.stream.acknowledge(3)
    inbox.stream.acknowledge(1)
    carry(initiator, responder)
    expect(up.acks).toEqual([3, 1])
  })

  it("beyond 1,024 that wait for their acknowledgement is not sent; others are", () => {
    const { initiator, responder } = session()
    const up = initiator.open(rpc)
    let refusal: ProtocolError | undefined
    for (let at = 0; at < 1025; at++) up.stream.send(admin, [], error => (refusal = error), { ackRequested: true })
    expect(refusal?.code).toBe("LIMIT")
    up.stream.send(rawData, [utf8("free")], nothing)
    carry(initiator, responder)
    expect(responder.inbox(0).messages.length).toBe(1025)
  })
})

describe("a request", () => {
  it("is answered once, on the other direction of its stream, under its own number", () => {
    const { initiator, responder } = session()
    const up = initiator.open(rpc)
    const ids = ["one", "two", "three"].map(text =>
      up.stream.send(admin, [utf8(text)], nothing, { ackRequested: true })
    )
    carry(initiator, responder)
    const { stream, messages } = responder.inbox(0)
    expect(messages.map(({ type, messageId }) => [type, messageId])).toEqual(ids.map(id => [admin, id]))
    for (const id of [3, 1, 2]) stream.send(adminAck, [utf8(`answer ${id}`)], nothing, { answers: id })
    stream.send(rawData, [utf8("of its own")], nothing)
    const errors: Array<string | undefined> = []
    const note = (error?: ProtocolError) => errors.push(error?.code)
    stream.send(adminAck, [], note, { answers: 3 })
    stream.send(adminAck, [], note, { answers: 9 })
    stream.send(adminAck, [], note)
    stream.send(rawData, [], note, { answers: 1 })
    expect(errors).toEqual(["INTERNAL", "INTERNAL", "INTERNAL", "INTERNAL"])
    carry(initiator, responder)
    expect(up.messages.map(({ type, messageId, bytes }) => [type, messageId, Buffer.from(bytes).toString()])).toEqual([
      [adminAck, 3, "answer 3"],
      [adminAck, 1, "answer 1"],
      [adminAck, 2, "answer 2"],
      [rawData, 1, "of its own"]
    ])
  })

  it("is answered though the window of its stream is full", () => {
    const { initiator, responder } = session({ streamWindowBytes: 256 })
    const up = initiator.open(rpc, "", false)
    up.stream.send(admin, [], nothing, { ackRequested: true })
    carry(initiator, responder)
    const { stream } = responder.inbox(0)
    stream.send(rawData, [new Uint8Array(240)], nothing)
    carry(initiator, responder)
    stream.send(adminAck, [new Uint8Array(100_000)], nothing, { answers: 1 })
    carry(initiator, responder)
    expect(up.messages.map(({ type, bytes }) => [type, bytes.length])).toEqual([
      [rawData, 240],
      [adminAck, 100_000]
    ])
  })

  it("has an answer of 1 MiB at most", () => {
    const { initiator, responder } = session()
    const up = initiator.open(rpc)
    up.stream.send(admin, [], nothing, { ackRequested: true })
    carry(initiator, responder)
    const { stream } = responder.inbox(0)
    let refusal: ProtocolError | undefined
    stream.send(adminAck, [new Uint8Array(1024 * 1024 + 1)], error => (refusal = error), { answers: 1 })
    expect(refusal?.code).toBe("TOO_LARGE")
    stream.send(adminAck, [new Uint8Array(1024 * 1024)], nothing, { answers: 1 })
    carry(initiator, responder)
    expect(up.messages[0]?.bytes.length).toBe(1024 * 1024)
  })
})
