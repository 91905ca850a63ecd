import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex } from "../../src/protocol/Bytes.ts"
import { CookieJar } from "../../src/protocol/CookieJar.ts"
import { sealAuth } from "../../src/protocol/Handshake.ts"
import { frame, messageTypes, modes, type Auth, type Frame } from "../../src/protocol/HandshakeMessages.ts"
import { derivePairKeys } from "../../src/protocol/KeySchedule.ts"
import { RecordOpener, RecordSealer } from "../../src/protocol/Records.ts"
import { defaultParameters } from "../../src/protocol/SessionParameters.ts"
import { ReplayCache } from "../../src/protocol/ReplayCache.ts"
import { TagIndex } from "../../src/protocol/TagIndex.ts"
import {
  aliceEntry,
  answering,
  counting,
  dialling,
  directoryOf,
  flipped,
  frameOf,
  hours,
  keys,
  mallory,
  now,
  real,
  recorded,
  recordedInitiator,
  recordedResponder,
  refusalOf,
  shakeHands,
  helloWith,
  expectSilence
} from "../support/protocolHandshake.ts"
import { alice, bob, pairKey, vectors } from "../support/vectors.ts"

const hex = (bytes: Uint8Array | undefined): string => toHex(bytes ?? new Uint8Array(0))

const everyBit = (bytes: Uint8Array): ReadonlyArray<number> => Array.from({ length: bytes.length * 8 }, (_, bit) => bit)
/** One bit of each byte, another one in each next byte. */
const oneBitPerByte = (bytes: Uint8Array): ReadonlyArray<number> =>
  Array.from(bytes, (_, byte) => byte * 8 + ((byte * 5) % 8))

const flips = (bytes: Uint8Array, bits: ReadonlyArray<number>): ReadonlyArray<Uint8Array> =>
  bits.map(bit => flipped(bytes, bit))
const truncations = (bytes: Uint8Array): ReadonlyArray<Uint8Array> => [
  ...Array.from(bytes, (_, length) => bytes.subarray(0, length)),
  concat(bytes, Uint8Array.of(0))
]
/** The same body cut at each length or with a byte too many, in a frame that says so. */
const reframed = ({ type, body }: Frame): ReadonlyArray<Uint8Array> => [
  ...Array.from(body, (_, length) => frame(type, body.subarray(0, length)).bytes),
  frame(type, concat(body, Uint8Array.of(0))).bytes
]

describe("1–2 a changed frame", () => {
  it("HELLO with any bit turned, cut at any length or made longer meets silence, and no key agreement", async () => {
    const { crypto, count } = counting()
    const { bytes } = recorded.hello
    for (const changed of [...flips(bytes, everyBit(bytes)), ...truncations(bytes), ...reframed(recorded.hello)]) {
      const answer = answering({ crypto })
      const code = await refusalOf(async () => {
        const step = await answer.receive(frameOf(changed))
        expect(step.send).toEqual([])
        throw step.failure ?? new Error("a changed HELLO was accepted")
      })
      expect(["UNKNOWN_PEER", "MALFORMED", "TRUNCATED", "TOO_LARGE", "UNEXPECTED"]).toContain(code)
    }
    expect(count.agree).toBe(0)
  })

  it("ACK with any bit turned, cut at any length or made longer ends the dial before any RSA", async () => {
    const { bytes } = recorded.ack
    for (const changed of [...flips(bytes, everyBit(bytes)), ...truncations(bytes), ...reframed(recorded.ack)]) {
      const dial = recordedInitiator()
      dial.hello()
      const code = await refusalOf(async () => dial.receive(frameOf(changed)))
      expect(["BAD_MAC", "BAD_DH", "DOWNGRADE", "MALFORMED", "TRUNCATED", "TOO_LARGE", "UNEXPECTED"]).toContain(code)
    }
    const dial = recordedInitiator()
    dial.hello()
    expect(hex((await dial.receive(recorded.ack)).send)).toBe(toHex(recorded.authI.bytes))
  })

  it("AUTH_I with a bit turned in any byte, cut or made longer is met with silence", async () => {
    const { bytes } = recorded.authI
    for (const changed of [...flips(bytes, oneBitPerByte(bytes)), ...truncations(bytes), ...reframed(recorded.authI)]) {
      const answer = recordedResponder()
      await answer.receive(recorded.hello)
      const code = await refusalOf(async () => {
        const step = await answer.receive(frameOf(changed))
        if (step.failure?.code === "BAD_MAC") expect(step.send).toEqual([])
        throw step.failure ?? new Error("a changed AUTH_I was accepted")
      })
      expect(["BAD_MAC", "MALFORMED", "TRUNCATED", "TOO_LARGE", "UNEXPECTED"]).toContain(code)
    }
    const answer = recordedResponder()
    await answer.receive(recorded.hello)
    expect(hex((await answer.receive(recorded.authI)).send[0])).toBe(toHex(recorded.authR.bytes))
  })

  it("AUTH_R with a bit turned in any byte, cut or made longer gives no session", async () => {
    const { bytes } = recorded.authR
    for (const changed of [...flips(bytes, oneBitPerByte(bytes)), ...truncations(bytes), ...reframed(recorded.authR)]) {
      const dial = recordedInitiator()
      dial.hello()
      await dial.receive(recorded.ack)
      const code = await refusalOf(async () => dial.receive(frameOf(changed)))
      expect(["BAD_MAC", "MALFORMED", "TRUNCATED", "TOO_LARGE", "UNEXPECTED"]).toContain(code)
    }
  })
})

describe("3 a stranger", () => {
  it("with another pair key or another identity's gets no byte", async () => {
    const keysOf = (key: Uint8Array, dialler: Uint8Array) => derivePairKeys(key, dialler, bob.id)
    for (const wrong of [
      keysOf(new Uint8Array(32), alice.id),
      keysOf(pairKey, mallory.id),
      derivePairKeys(pairKey, bob.id, alice.id)
    ]) {
      const dial = dialling({ target: { mode: modes.paired, keys: wrong, peer: bob } })
      await expectSilence(answering(), frameOf(dial.hello()), "UNKNOWN_PEER")
    }
  })

  it("who has seen a tag, but has no key for mac1, gets no byte", async () => {
    const dial = dialling({ target: { mode: modes.paired, keys: { ...keys, mac1: mallory.id }, peer: bob } })
    await expectSilence(answering(), frameOf(dial.hello()), "UNKNOWN_PEER")
  })

  it("gets no byte in a mode other than his entry's, nor before or after its time", async () => {
    const hello = frameOf(dialling({ target: { mode: modes.introduced, keys, peer: bob } }).hello())
    await expectSilence(answering(), hello, "UNKNOWN_PEER")
    for (const times of [{ expiresAt: now }, { notBefore: now + 1 }]) {
      const answer = answering({ directory: directoryOf({ ...aliceEntry, ...times }) })
      await expectSilence(answer, frameOf(dialling().hello()), "UNKNOWN_PEER")
    }
  })
})

describe("4 a stolen pair key without the RSA keys", () => {
  it("does not make an initiator: the signature is not Alice's", async () => {
    const thief = { ...alice, signKey: mallory.signKey, unwrapKey: mallory.unwrapKey }
    const [dial, answer] = [dialling({ identity: thief }), answering()]
    const acked = await answer.receive(frameOf(dial.hello()))
    const step = await answer.receive(frameOf((await dial.receive(frameOf(acked.send[0]))).send))
    expect(step.failure?.code).toBe("BAD_SIG")
    expect(step.secrets).toBeUndefined()
    // By the pair key the thief may learn why.
    expect(await refusalOf(() => dial.receive(frameOf(step.send[0])))).toBe("BAD_SIG")
  })

  it("does not make a responder: the signature is not Bob's", async () => {
    const thief = { ...bob, signKey: mallory.signKey, unwrapKey: mallory.unwrapKey }
    expect(await refusalOf(() => shakeHands(dialling(), answering({ identity: thief })))).toBe("BAD_SIG")
  })

  it("does not help a thief who can sign but not unwrap: no record of the other side opens", async () => {
    const thief = { ...bob, unwrapKey: mallory.unwrapKey }
    const { initiator, responder } = await shakeHands(dialling(), answering({ identity: thief }))
    const opener = new RecordOpener(responder.receiveSecret)
    const ready = concat(...new RecordSealer(initiator.sendSecret).seal(17, 0, 0, []))
    expect(await refusalOf(() => opener.push(ready, () => undefined))).toBe("BAD_MAC")
  })

  it("does not let a peer speak for another: both ids are compared", async () => {
    const other = dialling({ identity: mallory })
    const answer = answering()
    const acked = await answer.receive(frameOf(other.hello()))
    const step = await answer.receive(frameOf((await other.receive(frameOf(acked.send[0]))).send))
    expect(step.failure?.code).toBe("WRONG_PEER")
    const elsewhere = dialling({ target: { mode: modes.paired, keys, peer: mallory } })
    const bobs = answering()
    const ack = await bobs.receive(frameOf(elsewhere.hello()))
    const forMallory = await bobs.receive(frameOf((await elsewhere.receive(frameOf(ack.send[0]))).send))
    expect(forMallory.failure?.code).toBe("WRONG_PEER")
  })

  it("does not let Bob sign for a session between others", async () => {
    const th3 = fromHex(vectors.th3)
    const config = { identity: bob, crypto: real, parameters: defaultParameters }
    const auth = {
      initiator: alice.id,
      responder: bob.id,
      wrapped: real.wrap(alice, bob.id),
      parameters: Uint8Array.of(0x80)
    }
    const answerOf = async (change: Partial<Auth>) => {
      const dial = recordedInitiator()
      dial.hello()
      await dial.receive(recorded.ack)
      const sealed = await sealAuth("responder", config, fromHex(vectors.k_hs_r2i), th3, { ...auth, ...change })
      return refusalOf(() => dial.receive(frame(messageTypes.authR, sealed)))
    }
    expect(await answerOf({})).toBeUndefined()
    expect(await answerOf({ initiator: mallory.id })).toBe("WRONG_PEER")
    expect(await answerOf({ responder: mallory.id })).toBe("WRONG_PEER")
    expect(await answerOf({ parameters: Uint8Array.of(0x90) })).toBe("MALFORMED")
  })
})

describe("5 reflection", () => {
  it("of a HELLO to its own sender meets silence", async () => {
    const aliceAnswers = answering({
      identity: alice,
      directory: directoryOf({
        name: "bob",
        mode: modes.paired,
        keys: derivePairKeys(pairKey, bob.id, alice.id),
        peer: bob
      })
    })
    await expectSilence(aliceAnswers, frameOf(dialling().hello()), "UNKNOWN_PEER")
  })

  it("of AUTH_I as AUTH_R is not authentic", async () => {
    const dial = recordedInitiator()
    dial.hello()
    await dial.receive(recorded.ack)
    expect(await refusalOf(() => dial.receive(frame(messageTypes.authR, recorded.authI.body)))).toBe("BAD_MAC")
  })
})

describe("6 replay", () => {
  it("of a HELLO meets silence, and no second key agreement", async () => {
    const { crypto, count } = counting()
    const replay = new ReplayCache()
    const hello = frameOf(dialling().hello())
    expect((await answering({ replay, crypto }).receive(hello)).send.length).toBe(1)
    const again = answering({ replay, crypto })
    await expectSilence(again, hello, "REPLAY")
    expect(again.abort("TIMEOUT")).toEqual([])
    expect(count.agree).toBe(1)
  })

  it("of a HELLO at another process under load brings nothing but a cookie for its first sender", async () => {
    const { crypto, count } = counting()
    const step = await answering({ underLoad: () => true, crypto }).receive(frameOf(dialling().hello()))
    expect(step.send.map(bytes => bytes[0])).toEqual([messageTypes.retry])
    expect(count.agree).toBe(0)
  })

  it("of a HELLO with its cookie meets silence where it has been answered, and from another address", async () => {
    const [replay, cookies] = [new ReplayCache(), new CookieJar(real.randomBytes)]
    const load = { underLoad: () => true, replay, cookies }
    const dial = dialling()
    const retry = await answering(load).receive(frameOf(dial.hello()))
    const hello = frameOf((await dial.receive(frameOf(retry.send[0]))).send)
    await expectSilence(answering({ ...load, source: Uint8Array.of(192, 0, 2, 2) }), hello, "BAD_MAC")
    expect((await answering(load).receive(hello)).send.length).toBe(1)
    await expectSilence(answering(load), hello, "REPLAY")
  })

  it("of AUTH_I into another session, or a second time into its own, is refused", async () => {
    const other = answering()
    await other.receive(recorded.hello)
    expect((await other.receive(recorded.authI)).failure?.code).toBe("BAD_MAC")
    const own = recordedResponder()
    await own.receive(recorded.hello)
    expect((await own.receive(recorded.authI)).failure).toBeUndefined()
    await expectSilence(own, recorded.authI, "UNEXPECTED")
  })

  it("cannot use up a nonce that belongs to another peer", () => {
    const replay = new ReplayCache()
    const nonce = real.randomBytes(32)
    expect(replay.accept("insider", nonce, now)).toBe(true)
    expect([replay.accept("alice", nonce, now), replay.accept("alice", nonce, now)]).toEqual([true, false])
  })
})

describe("7 clocks", () => {
  const helloAt = (seconds: number) => frameOf(dialling({ unixSeconds: seconds }).hello())

  it("that differ by 55 minutes do not matter, either way, at any time of the hour", async () => {
    for (let minute = 0; minute < 60; minute += 7) {
      for (const skew of [-55 * 60, 55 * 60]) {
        const at = now + minute * 60
        expect((await answering({ unixSeconds: at }).receive(helloAt(at + skew))).failure).toBeUndefined()
      }
    }
  })

  it("that differ by three hours meet silence", async () => {
    for (const skew of [-hours(3), hours(3)]) await expectSilence(answering(), helloAt(now + skew), "UNKNOWN_PEER")
  })

  it("may differ by more where the operator says so", async () => {
    const directory = new TagIndex(3)
    directory.set(aliceEntry)
    expect((await answering({ directory }).receive(helloAt(now - hours(3)))).failure).toBeUndefined()
  })
})

describe("11 key shares of small order", () => {
  // RFC 7748 §6.1 and the points of order 2, 4 and 8, in both encodings where there are two.
  const points = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080"
  ].map(point => Uint8Array.from(Buffer.from(point, "hex")))

  it("end the handshake on both sides without a word", async () => {
    for (const share of points) {
      await expectSilence(answering(), helloWith({ share }), "BAD_DH")
      const dial = dialling()
      dial.hello()
      const ack = concat(recorded.ack.body.subarray(0, 35), share, recorded.ack.body.subarray(67))
      expect(await refusalOf(() => dial.receive(frame(messageTypes.ack, ack)))).toBe("BAD_DH")
    }
  })
})

describe("12 simultaneous open", () => {
  it("gives two sessions that share no key", async () => {
    const back = derivePairKeys(pairKey, bob.id, alice.id)
    const [there, home] = await Promise.all([
      shakeHands(dialling(), answering()),
      shakeHands(
        dialling({ identity: bob, target: { mode: modes.paired, keys: back, peer: alice } }),
        answering({
          identity: alice,
          directory: directoryOf({ name: "bob", mode: modes.paired, keys: back, peer: bob })
        })
      )
    ])
    const secrets = [there.initiator, home.initiator].flatMap(({ sendSecret, receiveSecret }) => [
      sendSecret,
      receiveSecret
    ])
    expect(new Set(secrets.map(toHex)).size).toBe(4)
  })
})

describe("13 a peer that is revoked", () => {
  it("between two dials meets silence", async () => {
    const directory = directoryOf(aliceEntry)
    expect((await answering({ directory }).receive(frameOf(dialling().hello()))).failure).toBeUndefined()
    directory.delete("alice")
    await expectSilence(answering({ directory }), frameOf(dialling().hello()), "UNKNOWN_PEER")
  })
})

describe("18 a wrapped secret that does not open, under a valid signature", () => {
  it("looks like any other until READY does not open", async () => {
    const garbage = { ...real, wrap: () => Uint8Array.from(real.randomBytes(384)).fill(0, 0, 1) }
    const { initiator, responder, frames } = await shakeHands(dialling({ crypto: garbage }), answering())
    expect(frames.map(bytes => bytes[0])).toEqual([1, 3, 4, 5])
    const opener = new RecordOpener(responder.receiveSecret)
    const ready = concat(...new RecordSealer(initiator.sendSecret).seal(17, 0, 0, []))
    expect(await refusalOf(() => opener.push(ready, () => undefined))).toBe("BAD_MAC")
  })

  it("gives another session each time: the substitute is random", async () => {
    const garbage = { ...real, wrap: () => new Uint8Array(384) }
    const secrets = [
      await shakeHands(dialling({ crypto: garbage }), answering()),
      await shakeHands(dialling({ crypto: garbage }), answering())
    ]
    expect(new Set(secrets.map(({ responder }) => toHex(responder.receiveSecret))).size).toBe(2)
  })

  it("of another length than 32 bytes is no secret either", async () => {
    const short = { ...real, wrap: () => real.wrap(bob, new Uint8Array(31)) }
    const { initiator, responder } = await shakeHands(dialling({ crypto: short }), answering())
    expect(toHex(initiator.sendSecret)).not.toBe(toHex(responder.receiveSecret))
    expect(await real.unwrap(bob, short.wrap())).toBeUndefined()
  })
})
