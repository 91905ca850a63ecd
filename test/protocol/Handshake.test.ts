import { describe, expect, it } from "vitest"
import { toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { suiteX25519, suiteX25519MlKem768 } from "../../src/protocol/constants.ts"
import { FrameReader, frame, messageTypes, modes, parseAck, parseHello } from "../../src/protocol/HandshakeMessages.ts"
import { defaultParameters } from "../../src/protocol/SessionParameters.ts"
import {
  aliceEntry,
  answering,
  counting,
  dialling,
  directoryOf,
  frameOf,
  keys,
  real,
  recorded,
  refusalOf,
  shakeHands,
  type Outcome
} from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const expectSameSecrets = ({ initiator, responder }: Outcome): void => {
  expect(toHex(initiator.sendSecret)).toBe(toHex(responder.receiveSecret))
  expect(toHex(initiator.receiveSecret)).toBe(toHex(responder.sendSecret))
  expect(toHex(initiator.exporterSecret)).toBe(toHex(responder.exporterSecret))
  expect(toHex(initiator.sendSecret)).not.toBe(toHex(initiator.receiveSecret))
}

const both = [suiteX25519MlKem768, suiteX25519]

describe("a handshake", () => {
  it("gives both sides the same secrets, and each the other's identity and parameters", async () => {
    const parameters = { ...defaultParameters, streamWindowBytes: 4096, applicationVersion: 7 }
    const outcome = await shakeHands(dialling({ parameters }), answering())
    expectSameSecrets(outcome)
    expect([outcome.initiator.peer.peerId, outcome.responder.peer.peerId]).toEqual([bob.peerId, alice.peerId])
    expect([outcome.initiator.role, outcome.responder.role]).toEqual(["initiator", "responder"])
    expect(outcome.responder.peerParameters).toEqual(parameters)
    expect(outcome.initiator.peerParameters).toEqual(defaultParameters)
  })

  it("has frames of the sizes of §2.3", async () => {
    const { frames } = await shakeHands(dialling(), answering())
    expect(frames.map(bytes => [bytes[0], bytes.length])).toEqual([
      [1, 127],
      [3, 103],
      [4, 855],
      [5, 855]
    ])
  })

  it("gives other secrets every time", async () => {
    const [one, two] = [await shakeHands(dialling(), answering()), await shakeHands(dialling(), answering())]
    expect(toHex(one.initiator.sendSecret)).not.toBe(toHex(two.initiator.sendSecret))
  })

  it("exports the same key on both sides, bound to its label, context and length", async () => {
    const { initiator, responder } = await shakeHands(dialling(), answering())
    const context = utf8("a context")
    expect(toHex(initiator.exportKey("sllp", context, 64))).toBe(toHex(responder.exportKey("sllp", context, 64)))
    const others = [
      initiator.exportKey("sllp", context),
      initiator.exportKey("pair key", context),
      initiator.exportKey("sllp", utf8("another"))
    ].map(toHex)
    expect(new Set(others).size).toBe(3)
    expect(await refusalOf(() => initiator.exportKey("sllp", context, 255 * 32 + 1))).toBe("INTERNAL")
  })

  it("works for an introduced peer as for a paired one, in its own mode", async () => {
    const introduced = { ...aliceEntry, mode: modes.introduced }
    const outcome = await shakeHands(
      dialling({ target: { mode: modes.introduced, keys, peer: bob } }),
      answering({ directory: directoryOf(introduced) })
    )
    expectSameSecrets(outcome)
    expect([outcome.initiator.mode, outcome.responder.mode]).toEqual([modes.introduced, modes.introduced])
  })

  it("agrees under suite 2 too, where ML-KEM enters the secret", async () => {
    const crypto = counting()
    const outcome = await shakeHands(
      dialling({ suites: both, crypto: counting().crypto }),
      answering({ suites: both, crypto: crypto.crypto })
    )
    expectSameSecrets(outcome)
    expect([outcome.initiator.suite, outcome.responder.suite, crypto.count.kem]).toEqual([2, 2, 1])
    expect(outcome.frames[0]?.length).toBe(1313)
  })

  it("takes the first suite in the initiator's order that the responder supports, and skips what it does not", async () => {
    const { mlKem: _, ...withoutMlKem } = real
    const chosen = async (offered: ReadonlyArray<number>, supported: ReadonlyArray<number>, crypto = real) =>
      (await shakeHands(dialling({ suites: offered }), answering({ suites: supported, crypto }))).initiator.suite
    expect(await chosen([1, 2], [2, 1])).toBe(1)
    expect(await chosen([2, 1], [1])).toBe(1)
    expect(await chosen([2, 1], [2, 1], withoutMlKem)).toBe(1)
  })

  it("never offers test suites, nor one that this Node cannot compute", async () => {
    const { mlKem: _, ...withoutMlKem } = real
    const hello = dialling({ suites: [0x7f01, 2, 1], crypto: withoutMlKem }).hello()
    expect(parseHello(frameOf(hello).body).hello.suites).toEqual([1])
    expect(await refusalOf(() => dialling({ suites: [2], crypto: withoutMlKem }))).toBe("NO_SUITE")
  })

  it("begins once: a second hello is a mistake of the caller, not a second life", async () => {
    const dial = dialling()
    dial.hello()
    expect(await refusalOf(() => dial.hello())).toBe("INTERNAL")
  })
})

describe("a responder under load", () => {
  const busy = { underLoad: () => true }

  it("answers with a cookie and keeps nothing; the HELLO that brings it goes through", async () => {
    const { crypto, count } = counting()
    const outcome = await shakeHands(dialling(), answering({ ...busy, crypto }))
    expectSameSecrets(outcome)
    expect(outcome.frames.map(bytes => bytes[0])).toEqual([1, 2, 1, 3, 4, 5])
    expect(outcome.steps[0]?.entry).toBeUndefined()
    expect(count.agree).toBe(1)
    expect(outcome.frames[1]?.length).toBe(68)
    const [first, second] = [outcome.frames[0], outcome.frames[2]].map(bytes => parseHello(frameOf(bytes).body).hello)
    expect({ ...second, cookie: null }).toEqual({ ...first, cookie: null })
    expect(second?.cookie.length).toBe(32)
  })
})

describe("the cost of a caller", () => {
  it("is no key agreement before mac1 is verified", async () => {
    const { crypto, count } = counting()
    const stranger = dialling({
      target: { mode: modes.paired, keys: { ...keys, mac1: new Uint8Array(32) }, peer: bob }
    })
    const answer = answering({ crypto })
    expect((await answer.receive(frameOf(stranger.hello()))).failure?.code).toBe("UNKNOWN_PEER")
    expect(count).toEqual({ share: 0, agree: 0, kem: 0, sign: 0, verify: 0, wrap: 0, unwrap: 0 })
  })

  it("is no RSA before AUTH_I has been opened", async () => {
    const { crypto, count } = counting()
    const answer = answering({ crypto })
    const acked = await answer.receive(frameOf(dialling().hello()))
    expect([acked.failure, count.agree]).toEqual([undefined, 1])
    const step = await answer.receive(recorded.authI)
    expect(step.failure?.code).toBe("BAD_MAC")
    expect([count.sign, count.verify, count.wrap, count.unwrap]).toEqual([0, 0, 0, 0])
  })

  it("is one key agreement, one check, one signature, one wrap and one unwrap in an honest handshake", async () => {
    const { crypto, count } = counting()
    await shakeHands(dialling(), answering({ crypto }))
    expect(count).toEqual({ share: 1, agree: 1, kem: 0, sign: 1, verify: 1, wrap: 1, unwrap: 1 })
  })

  it("is no RSA at the initiator before mac2 is verified", async () => {
    const { crypto, count } = counting()
    const dial = dialling({ crypto })
    dial.hello()
    expect(await refusalOf(() => dial.receive(recorded.ack))).toBe("BAD_MAC")
    expect([count.sign, count.verify, count.wrap, count.unwrap]).toEqual([0, 0, 0, 0])
  })
})

describe("handshake frames", () => {
  it("come whole out of any chunking, and what follows the last is left", () => {
    const bytes = Uint8Array.from([...recorded.hello.bytes, ...recorded.ack.bytes, 9, 9])
    for (const size of [1, 2, 3, 5, 64, bytes.length]) {
      const reader = new FrameReader()
      const seen: Array<string> = []
      for (let at = 0; at < bytes.length && seen.length < 2; at += size) {
        reader.push(bytes.subarray(at, at + size))
        for (let next = reader.next(); next !== undefined; next = seen.length < 2 ? reader.next() : undefined)
          seen.push(toHex(next.bytes))
      }
      expect(seen).toEqual([toHex(recorded.hello.bytes), toHex(recorded.ack.bytes)])
    }
    const reader = new FrameReader()
    reader.push(bytes)
    reader.next()
    reader.next()
    expect(toHex(reader.rest())).toBe("0909")
  })

  it("do not change when the memory that they were read from is used again", () => {
    const reader = new FrameReader()
    const memory = Uint8Array.from(recorded.ack.bytes.subarray(0, 50))
    reader.push(memory)
    memory.fill(0)
    reader.push(recorded.ack.bytes.subarray(50))
    expect(toHex(reader.next()?.bytes ?? memory)).toBe(toHex(recorded.ack.bytes))
  })

  it.each(Object.entries({ hello: 2048, retry: 256, ack: 4096, authI: 4096, authR: 4096, abort: 64 }))(
    "of kind %s are refused above %d bytes, from the header alone",
    async (kind, most) => {
      const type = new Map<string, number>(Object.entries(messageTypes)).get(kind) ?? 0
      const header = (length: number) => Uint8Array.of(type, length >>> 16, (length >>> 8) & 0xff, length & 0xff)
      const read = (length: number) => {
        const reader = new FrameReader()
        reader.push(header(length))
        return reader.next()
      }
      expect(read(most)).toBeUndefined()
      expect(await refusalOf(() => read(most + 1))).toBe("TOO_LARGE")
      expect(await refusalOf(() => read(0xffffff))).toBe("TOO_LARGE")
    }
  )

  it("of an unknown kind are refused from their first byte", async () => {
    for (const type of [0, 7, 22, 71, 255]) {
      const reader = new FrameReader()
      reader.push(Uint8Array.of(type))
      expect(await refusalOf(() => reader.next())).toBe("MALFORMED")
    }
  })

  it("carry the version and suite that ACK chose", () => {
    expect(parseAck(frame(3, recorded.ack.body).body, modes.paired).ack).toMatchObject({ version: 1, suite: 1 })
  })
})
