import { describe, expect, it } from "vitest"
import { concat, u16, u64 } from "../../src/protocol/Bytes.ts"
import { CookieJar } from "../../src/protocol/CookieJar.ts"
import { abortMac } from "../../src/protocol/Handshake.ts"
import {
  frame,
  helloPrefix,
  messageTypes,
  modes,
  parseHello,
  type Frame
} from "../../src/protocol/HandshakeMessages.ts"
import { derivePairKeys } from "../../src/protocol/KeySchedule.ts"
import { wireCodes } from "../../src/protocol/ProtocolError.ts"
import { ReplayCache } from "../../src/protocol/ReplayCache.ts"
import {
  aliceEntry,
  answering,
  counting,
  dialling,
  directoryOf,
  flipped,
  frameOf,
  keys,
  mallory,
  now,
  real,
  recorded,
  recordedResponder,
  refusalOf,
  helloWith,
  expectSilence
} from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

describe("8 cookies", () => {
  const load = { underLoad: () => true }

  it("that are stale, foreign or forged meet silence, and cost no key agreement", async () => {
    const { crypto, count } = counting()
    const cookies = new CookieJar(real.randomBytes)
    const dial = dialling()
    const retry = await answering({ ...load, cookies }).receive(frameOf(dial.hello()))
    const hello = frameOf((await dial.receive(frameOf(retry.send[0]))).send)
    const forged = helloWith({ cookie: new Uint8Array(32).fill(1) })
    const cases = [
      answering({ ...load, crypto, cookies, unixSeconds: now + 121 }).receive(hello),
      answering({ ...load, crypto, cookies: new CookieJar(real.randomBytes) }).receive(hello),
      answering({ ...load, crypto, cookies }).receive(forged),
      answering({ crypto, cookies }).receive(forged)
    ]
    for (const step of await Promise.all(cases)) expect([step.send, step.failure?.code]).toEqual([[], "BAD_MAC"])
    expect(count.agree).toBe(0)
    expect((await answering({ ...load, cookies, unixSeconds: now + 60 }).receive(hello)).failure).toBeUndefined()
  })

  it("are given once per connection: a second HELLO without one meets silence", async () => {
    const answer = answering(load)
    expect((await answer.receive(frameOf(dialling().hello()))).send[0]?.[0]).toBe(messageTypes.retry)
    await expectSilence(answer, frameOf(dialling().hello()), "BAD_MAC")
  })

  it("are taken once: a second RETRY ends the dial", async () => {
    const dial = dialling()
    const first = await answering(load).receive(frameOf(dial.hello()))
    const again = (await dial.receive(frameOf(first.send[0]))).send
    const second = await answering({ ...load, cookies: new CookieJar(real.randomBytes) }).receive(helloWith({}))
    expect([again?.[0], second.send[0]?.[0]]).toEqual([messageTypes.hello, messageTypes.retry])
    expect(await refusalOf(() => dial.receive(frameOf(second.send[0])))).toBe("UNEXPECTED")
  })

  it("come only from a holder of the pair key, for this HELLO", async () => {
    const retry = frameOf((await answering(load).receive(frameOf(dialling().hello()))).send[0])
    for (const bit of [0, 255, 256, 511]) {
      const dial = dialling()
      dial.hello()
      expect(await refusalOf(() => dial.receive(frame(messageTypes.retry, flipped(retry.body, bit))))).toBe("BAD_MAC")
    }
    const dial = dialling()
    dial.hello()
    expect(await refusalOf(() => dial.receive(retry))).toBe("BAD_MAC")
  })

  it("are asked of one who has used his share of the replay cache, and of nobody else", async () => {
    const replay = new ReplayCache()
    for (let at = 0; at < 256; at++) replay.accept("alice", u64(at), now)
    const step = await answering({ replay }).receive(frameOf(dialling().hello()))
    expect(step.send[0]?.[0]).toBe(messageTypes.retry)
    const carol = derivePairKeys(mallory.id, alice.id, bob.id)
    const directory = directoryOf({ ...aliceEntry, name: "carol", keys: carol })
    const dial = dialling({ target: { mode: modes.paired, keys: carol, peer: bob } })
    expect((await answering({ replay, directory }).receive(frameOf(dial.hello()))).send[0]?.[0]).toBe(messageTypes.ack)
  })
})

describe("9 suites and versions", () => {
  const both = { suites: [2, 1] }

  it("stripped from HELLO on the way fail at mac1; there is no second offer", async () => {
    const { hello, mac1 } = parseHello(frameOf(dialling(both).hello()).body)
    const { encapsulationKey: _, ...rest } = hello
    const stripped = frame(messageTypes.hello, concat(helloPrefix({ ...rest, suites: [1] }), mac1))
    await expectSilence(answering(both), stripped, "UNKNOWN_PEER")
  })

  it("stripped by one who has the pair key fail at mac2: the two HELLOs differ", async () => {
    const [dial, answer] = [dialling(both), answering(both)]
    const { encapsulationKey: _, ...hello } = parseHello(frameOf(dial.hello()).body).hello
    const step = await answer.receive(helloWith({ ...hello, suites: [1] }))
    expect(await refusalOf(() => dial.receive(frameOf(step.send[0])))).toBe("BAD_MAC")
  })

  it("that were not offered, or changed in ACK, are a downgrade or not authentic", async () => {
    const answer = await answering(both).receive(frameOf(dialling(both).hello()))
    const ack = frameOf(answer.send[0])
    const dial = dialling()
    dial.hello()
    expect(await refusalOf(() => dial.receive(ack))).toBe("DOWNGRADE")
    for (const suite of [0, 3, 0x7f00, 0xffff]) {
      const other = dialling(both)
      other.hello()
      const changed = concat(ack.body.subarray(0, 1), u16(suite), ack.body.subarray(3))
      expect(await refusalOf(() => other.receive(frame(messageTypes.ack, changed)))).toBe("DOWNGRADE")
    }
    const swapped = dialling(both)
    const second = frameOf((await answering(both).receive(frameOf(swapped.hello()))).send[0]).body
    const asSuite1 = concat(second.subarray(0, 1), u16(1), second.subarray(3, 67), second.subarray(-32))
    expect(await refusalOf(() => swapped.receive(frame(messageTypes.ack, asSuite1)))).toBe("BAD_MAC")
  })

  it("below the peer's pinned minimum are refused, in words that only the peer can believe", async () => {
    const pinned = answering({ ...both, directory: directoryOf({ ...aliceEntry, minimumSuite: 2 }) })
    const dial = dialling()
    const step = await pinned.receive(frameOf(dial.hello()))
    expect(step.failure?.code).toBe("DOWNGRADE")
    expect(await refusalOf(() => dial.receive(frameOf(step.send[0])))).toBe("DOWNGRADE")
    expect((await pinnedTo(2).receive(frameOf(dialling(both).hello()))).failure).toBeUndefined()
    expect(
      (await answering({ directory: directoryOf({ ...aliceEntry, minimumVersion: 2 }) }).receive(helloWith({}))).failure
        ?.code
    ).toBe("DOWNGRADE")
  })

  const pinnedTo = (minimumSuite: number) =>
    answering({ ...both, directory: directoryOf({ ...aliceEntry, minimumSuite }) })

  it("that the responder does not know are refused by name", async () => {
    expect((await answering().receive(helloWith({ suites: [0x7f00, 9] }))).failure?.code).toBe("NO_SUITE")
    expect((await answering().receive(helloWith({ versions: [2, 3] }))).failure?.code).toBe("VERSION")
    expect((await answering().receive(helloWith({ versions: [2, 1], suites: [0x7f00, 1] }))).failure).toBeUndefined()
  })

  it("are 1 to 8 of each", async () => {
    for (const change of [
      { versions: [] },
      { suites: [] },
      { versions: Array(9).fill(1) },
      { suites: Array(9).fill(1) }
    ])
      await expectSilence(answering(), helloWith(change), "MALFORMED")
  })

  it("of ML-KEM with a key that is none give no secret", async () => {
    const step = await answering(both).receive(
      helloWith({ suites: [2], encapsulationKey: new Uint8Array(1184).fill(0xff) })
    )
    expect([step.send, step.failure?.code]).toEqual([[], "BAD_DH"])
  })
})

describe("ABORT", () => {
  const aborted = async (abort: (hello: Frame) => Frame, afterAck = false): Promise<string | undefined> => {
    const dial = dialling()
    const hello = frameOf(dial.hello())
    if (afterAck) await dial.receive(frameOf((await answering().receive(hello)).send[0]))
    return refusalOf(() => dial.receive(abort(hello)))
  }
  const abortWith = (code: number, hello: Frame, macKeys = keys) =>
    frame(messageTypes.abort, concat(u16(code), abortMac(macKeys, hello.bytes, code)))

  it("is believed with its MAC, and tells the reason", async () => {
    expect(await aborted(hello => abortWith(wireCodes.BUSY, hello))).toBe("BUSY")
    expect(await aborted(hello => abortWith(wireCodes.NOT_AUTHORIZED, hello), true)).toBe("NOT_AUTHORIZED")
    expect(await aborted(hello => abortWith(999, hello))).toBe("UNKNOWN_CODE")
  })

  it("is no more than a lost connection with a bit turned, another key or another HELLO's MAC", async () => {
    for (let bit = 0; bit < 34 * 8; bit++)
      expect(await aborted(hello => frame(messageTypes.abort, flipped(abortWith(13, hello).body, bit)))).toBe(
        "TRUNCATED"
      )
    expect(await aborted(hello => abortWith(13, hello, { ...keys, abort: keys.retry }))).toBe("TRUNCATED")
    expect(await aborted(() => abortWith(13, recorded.hello))).toBe("TRUNCATED")
  })

  it("is sent at most once, to nobody before mac1 and to nobody after AUTH_R", async () => {
    expect(answering().abort("BUSY")).toEqual([])
    const full = answering({ admit: () => false })
    expect((await full.receive(helloWith({}))).send.map(bytes => bytes[0])).toEqual([messageTypes.abort])
    expect(full.abort("BUSY")).toEqual([])
    const answer = recordedResponder()
    await answer.receive(recorded.hello)
    await answer.receive(recorded.authI)
    expect(answer.abort("TIMEOUT")).toEqual([])
  })

  it("never carries a code that tells which secret was wrong", async () => {
    const answer = answering()
    await answer.receive(helloWith({}))
    expect(answer.abort("BAD_MAC")).toEqual([])
  })

  it("is the last word: an AUTH_R that was being signed is not sent after it", async () => {
    const answer = recordedResponder()
    await answer.receive(recorded.hello)
    const late = answer.receive(recorded.authI)
    expect(answer.abort("TIMEOUT").length).toBe(1)
    const step = await late
    expect([step.send, step.secrets, step.failure?.code]).toEqual([[], undefined, "UNEXPECTED"])
  })
})

describe("frames out of turn", () => {
  it("end the dial for good, also while it is still signing", async () => {
    const dial = dialling()
    const ack = frameOf((await answering().receive(frameOf(dial.hello()))).send[0])
    const signing = dial.receive(ack)
    expect(await refusalOf(() => dial.receive(recorded.authR))).toBe("UNEXPECTED")
    expect(await refusalOf(() => signing)).toBe("UNEXPECTED")
    expect(await refusalOf(() => dial.receive(recorded.authR))).toBe("UNEXPECTED")
  })

  it("of any kind are refused before the dial has begun", async () => {
    for (const received of [recorded.hello, recorded.ack, recorded.authI, recorded.authR])
      expect(await refusalOf(() => dialling().receive(received))).toBe("UNEXPECTED")
  })
})
