import { describe, expect, it } from "vitest"
import { concat, fromHex, toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { CookieJar } from "../../src/protocol/CookieJar.ts"
import { handshakeSecret, openAuth, transcript } from "../../src/protocol/Handshake.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { FrameReader, modes, parseHello, parseAck, type Frame } from "../../src/protocol/HandshakeMessages.ts"
import { Initiator } from "../../src/protocol/Initiator.ts"
import {
  derivePairKeys,
  extract,
  sha256,
  tagEpoch,
  tagFor,
  trafficIv,
  trafficKey
} from "../../src/protocol/KeySchedule.ts"
import { RecordOpener, RecordSealer, type Record } from "../../src/protocol/Records.ts"
import { ReplayCache } from "../../src/protocol/ReplayCache.ts"
import { Responder } from "../../src/protocol/Responder.ts"
import { decodeParameters } from "../../src/protocol/SessionParameters.ts"
import { TagIndex } from "../../src/protocol/TagIndex.ts"
import { alice, bob, pairKey, scripted, vectors, x25519FromSeed } from "../support/vectors.ts"

const frameOf = (hex: string): Frame => {
  const reader = new FrameReader()
  reader.push(fromHex(hex))
  const frame = reader.next()
  if (frame === undefined) throw new Error("not one whole frame")
  return frame
}

const real = nodeCrypto()
const keys = derivePairKeys(pairKey, alice.id, bob.id)
const m1 = frameOf(vectors.m1)
const m2 = frameOf(vectors.m2)
const m3 = frameOf(vectors.m3)
const m4 = frameOf(vectors.m4)
const hello = parseHello(m1.body).hello
const ack = parseAck(m2.body, modes.paired).ack
const authI = openAuth(fromHex(vectors.k_hs_i2r), fromHex(vectors.th2), m3.body, false)
const authR = openAuth(fromHex(vectors.k_hs_r2i), fromHex(vectors.th3), m4.body, false)
const secretOfResponder = await real.unwrap(alice, authR.auth.wrapped)
if (secretOfResponder === undefined) throw new Error("the vectors' ct_I does not open")

/** Answers `randomBytes` from a list; the substitute that is drawn beside a decryption may be anything. */
const draws = (...values: ReadonlyArray<Uint8Array>) => {
  const left = [...values]
  return (length: number) => left.shift() ?? new Uint8Array(length).fill(0xee)
}

describe("identities", () => {
  it("have the recorded documents and ids", () => {
    expect([toHex(alice.document), alice.peerId]).toEqual([vectors.A.doc, vectors.A.id])
    expect([toHex(bob.document), bob.peerId]).toEqual([vectors.B.doc, vectors.B.id])
  })
})

describe("pair keys", () => {
  it("descend from the pair key as recorded", () => {
    expect(toHex(extract(utf8("artifice v1 pair"), pairKey))).toBe(vectors.prk_pair)
    expect({ tag: toHex(keys.tag), mac1: toHex(keys.mac1), retry: toHex(keys.retry), psk: toHex(keys.psk) }).toEqual(
      vectors.pair_keys_A_to_B
    )
    expect(toHex(tagFor(keys.tag, tagEpoch(vectors.now)))).toBe(toHex(hello.tag))
  })
})

describe("the handshake, replayed with what was random then", () => {
  const share = x25519FromSeed(fromHex(vectors.x_seed_I))
  const initiator = () =>
    new Initiator({
      identity: alice,
      parameters: decodeParameters(authI.auth.parameters),
      target: { mode: modes.paired, keys, peer: bob },
      unixSeconds: vectors.now,
      crypto: scripted(real, {
        randomBytes: draws(hello.nonce, fromHex(vectors.r_I)),
        keyShare: () => share,
        wrap: () => authI.auth.wrapped,
        sign: async () => authI.signature
      })
    })

  it("gives the recorded HELLO, AUTH_I, transcript hashes and secrets at the initiator", async () => {
    const dial = initiator()
    expect(toHex(dial.hello())).toBe(vectors.m1)
    const sent = (await dial.receive(m2)).send ?? new Uint8Array(0)
    expect(toHex(transcript(m1.bytes, m2.bytes))).toBe(vectors.th2)
    expect(toHex(sha256(fromHex(vectors.th2), m3.bytes))).toBe(vectors.th3)
    expect(toHex(sha256(fromHex(vectors.th3), m4.bytes))).toBe(vectors.th4)
    expect(toHex(sent)).toBe(vectors.m3)
    const { secrets } = await dial.receive(m4)
    expect(secrets?.peer.peerId).toBe(bob.peerId)
    expect(toHex(secrets?.sendSecret ?? sent)).toBe(vectors.traffic_i2r)
    expect(toHex(secrets?.receiveSecret ?? sent)).toBe(vectors.traffic_r2i)
    expect(toHex(secrets?.exporterSecret ?? sent)).toBe(vectors.exporter)
  })

  it("agrees on the recorded handshake secret", () => {
    expect(toHex(handshakeSecret(keys, share.agree(ack.share)))).toBe(vectors.hs)
  })

  it("gives the recorded ACK, AUTH_R and secrets at the responder", async () => {
    const directory = new TagIndex()
    directory.set({ name: "alice", mode: modes.paired, keys, peer: alice })
    const answer = new Responder({
      identity: bob,
      parameters: decodeParameters(authR.auth.parameters),
      directory,
      replay: new ReplayCache(),
      cookies: new CookieJar(real.randomBytes),
      unixSeconds: vectors.now,
      source: new Uint8Array(4),
      underLoad: () => false,
      admit: () => true,
      claim: async () => "used",
      crypto: scripted(real, {
        randomBytes: draws(ack.nonce, Uint8Array.from(secretOfResponder)),
        keyShare: () => ({ share: ack.share, agree: () => share.agree(ack.share) }),
        wrap: () => authR.auth.wrapped,
        sign: async () => authR.signature
      })
    })
    const acked = await answer.receive(m1)
    expect(acked.failure).toBeUndefined()
    expect(acked.send.map(toHex)).toEqual([vectors.m2])
    const done = await answer.receive(m3)
    expect(done.failure).toBeUndefined()
    expect(done.send.map(toHex)).toEqual([vectors.m4])
    const secrets = await done.secrets
    expect(secrets?.peer.peerId).toBe(alice.peerId)
    expect(toHex(secrets?.receiveSecret ?? m4.bytes)).toBe(vectors.traffic_i2r)
    expect(toHex(secrets?.sendSecret ?? m4.bytes)).toBe(vectors.traffic_r2i)
  })
})

describe("records", () => {
  it("have the recorded keys and bytes, across a change of keys", () => {
    const secret = fromHex(vectors.traffic_i2r)
    expect([toHex(trafficKey(secret)), toHex(trafficIv(secret))]).toEqual([vectors.rec_key_i2r, vectors.rec_iv_i2r])
    const opener = new RecordOpener(secret)
    const opened: Array<Record> = []
    opener.push(fromHex(vectors.records_i2r.join("")), record =>
      opened.push({ ...record, payload: Uint8Array.from(record.payload) })
    )
    expect(opened.length).toBe(4)
    expect(opener.epoch).toBe(1)
    const sealer = new RecordSealer(secret)
    const sealed = opened.map(({ type, flags, stream, payload }, index) => {
      const before = index === 3 ? toHex(concat(...sealer.updateKey())) : ""
      return before + toHex(concat(...sealer.seal(type, flags, stream, [payload])))
    })
    expect(sealed.join("")).toBe(vectors.records_i2r.join(""))
  })
})
