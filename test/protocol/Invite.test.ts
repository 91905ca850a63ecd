import { describe, expect, it } from "vitest"
import { concat, toHex, u16, u8 } from "../../src/protocol/Bytes.ts"
import { frame, messageTypes, modes, parseAck } from "../../src/protocol/HandshakeMessages.ts"
import { parseIdentity, type LocalIdentity, type PeerId } from "../../src/protocol/Identity.ts"
import { decodeInvite, encodeInvite, inviteKeys, makeInvite } from "../../src/protocol/Invite.ts"
import { sha256 } from "../../src/protocol/KeySchedule.ts"
import { encodeMsgpack } from "../../src/protocol/Msgpack.ts"
import type { ResponderConfig } from "../../src/protocol/Responder.ts"
import type { DirectoryEntry } from "../../src/protocol/TagIndex.ts"
import {
  answering,
  counting,
  dialling,
  directoryOf,
  flipped,
  frameOf,
  mallory,
  now,
  real,
  refusalOf,
  shakeHands
} from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const invite = makeInvite(real.randomBytes, {
  peerId: bob.peerId,
  addresses: ["192.0.2.1:7000", "[2001:db8::1]:7000"],
  expiresAt: now + 600,
  name: "Bob's laboratory"
})
const keys = inviteKeys(invite.secret, bob.id)
const entry: DirectoryEntry = { name: "invite", mode: modes.invite, keys, expiresAt: invite.expiresAt }

/** Whoever holds the token dials Bob, who is pinned by the token. */
const joining = (identity: LocalIdentity = alice, peerId: PeerId = bob.peerId, crypto = real) =>
  dialling({ identity, crypto, target: { mode: modes.invite, keys, peerId } })

/** Bob invites; the claims are kept as his store would. */
const inviting = (change: Partial<ResponderConfig> = {}, claimed: { by?: PeerId } = {}) =>
  answering({
    directory: directoryOf(entry),
    claim: async (_, initiator) => {
      claimed.by ??= initiator.peerId
      return claimed.by === initiator.peerId ? "claimed" : "used"
    },
    ...change
  })

const fail = async (dial: ReturnType<typeof joining>, answer: ReturnType<typeof inviting>) => {
  const acked = await answer.receive(frameOf(dial.hello()))
  return answer.receive(frameOf((await dial.receive(frameOf(acked.send[0]))).send))
}

describe("an invitation's handshake", () => {
  it("makes each known to the other, though neither had the other's document", async () => {
    const { initiator, responder, frames } = await shakeHands(joining(), inviting())
    expect(toHex(initiator.sendSecret)).toBe(toHex(responder.receiveSecret))
    expect([initiator.peer.peerId, responder.peer.peerId]).toEqual([bob.peerId, alice.peerId])
    expect(toHex(responder.peer.document)).toBe(toHex(alice.document))
    expect([initiator.mode, responder.mode]).toEqual([modes.invite, modes.invite])
    const { ack } = parseAck(frameOf(frames[1]).body, modes.invite)
    expect(ack.sealedIdentity?.length).toBe(849 + 16)
    expect(Buffer.from(frames[1] ?? []).includes(Buffer.from(bob.document))).toBe(false)
  })

  it("gives both the same pair key for the next time", async () => {
    const { initiator, responder } = await shakeHands(joining(), inviting())
    const context = concat(alice.id, bob.id, Uint8Array.of(0, 0, 0, 1))
    expect(toHex(initiator.exportKey("pair key", context))).toBe(toHex(responder.exportKey("pair key", context)))
  })

  it("goes through RETRY and under suite 2 as well", async () => {
    const outcome = await shakeHands(joining(), inviting({ underLoad: () => true }))
    expect(outcome.frames.map(bytes => bytes[0])).toEqual([1, 2, 1, 3, 4, 5])
    const dial = dialling({ suites: [2], target: { mode: modes.invite, keys, peerId: bob.peerId } })
    expect((await shakeHands(dial, inviting({ suites: [2, 1] }))).responder.suite).toBe(2)
  })

  it("records the claim before AUTH_R, and sends no AUTH_R where that fails", async () => {
    const order: Array<string> = []
    const crypto = {
      ...real,
      sign: (identity: LocalIdentity, message: Uint8Array) => {
        order.push("sign")
        return real.sign(identity, message)
      }
    }
    const claim: ResponderConfig["claim"] = async () => {
      order.push("claim")
      return "claimed"
    }
    await shakeHands(joining(), inviting({ crypto, claim }))
    expect(order).toEqual(["claim", "sign"])
    const crash = inviting({ claim: () => Promise.reject(new Error("the disk is full")) })
    await expect(fail(joining(), crash)).rejects.toThrow("the disk is full")
  })

  it("lets the identity that claimed the token come again, and no other", async () => {
    const claimed: { by?: PeerId } = {}
    await shakeHands(joining(), inviting({}, claimed))
    expect(claimed.by).toBe(alice.peerId)
    await shakeHands(joining(), inviting({}, claimed))
    const second = joining(mallory)
    const step = await fail(second, inviting({}, claimed))
    expect(step.failure?.code).toBe("INVITE_USED")
    expect(await refusalOf(() => second.receive(frameOf(step.send[0])))).toBe("INVITE_USED")
    const known = inviting({ directory: directoryOf({ ...entry, peer: alice }) })
    expect((await fail(joining(mallory), known)).failure?.code).toBe("INVITE_USED")
    expect(
      (await fail(joining(), inviting({ directory: directoryOf({ ...entry, peer: alice }) }))).failure
    ).toBeUndefined()
  })

  it("tells who holds the token that it has run out, or was used, before any key agreement", async () => {
    const { crypto, count } = counting()
    const used = directoryOf({ ...entry, used: true })
    for (const [change, code] of [
      [{ unixSeconds: now + 600 }, "INVITE_EXPIRED"],
      [{ directory: used }, "INVITE_USED"],
      [{ directory: used, unixSeconds: now + 600 }, "INVITE_USED"]
    ] as const) {
      const dial = joining()
      const step = await inviting({ ...change, crypto }).receive(frameOf(dial.hello()))
      expect(step.failure?.code).toBe(code)
      expect(await refusalOf(() => dial.receive(frameOf(step.send[0])))).toBe(code)
    }
    expect([count.share, count.agree]).toEqual([0, 0])
    expect((await inviting({ unixSeconds: now + 599 }).receive(frameOf(joining().hello()))).failure).toBeUndefined()
  })

  it("tells who was too slow that the token has run out during the handshake", async () => {
    const step = await fail(joining(), inviting({ claim: async () => "expired" }))
    expect(step.failure?.code).toBe("INVITE_EXPIRED")
  })

  it("does not accept another host than the one in the token, before any RSA", async () => {
    const { crypto, count } = counting()
    expect(await refusalOf(() => shakeHands(joining(alice, bob.peerId, crypto), inviting({ identity: mallory })))).toBe(
      "WRONG_PEER"
    )
    expect([count.sign, count.wrap, count.verify, count.unwrap]).toEqual([0, 0, 0, 0])
  })

  it("does not accept a document that was changed in ACK", async () => {
    const answer = await inviting().receive(frameOf(joining().hello()))
    for (const bit of [70 * 8, 80 * 8, 500 * 8, 67 * 8]) {
      const dial = joining()
      dial.hello()
      const changed = frame(messageTypes.ack, flipped(frameOf(answer.send[0]).body, bit))
      expect(["BAD_MAC", "MALFORMED"]).toContain(await refusalOf(() => dial.receive(changed)))
    }
  })

  it("does not accept the document of another than who signs, or of another than who is named", async () => {
    const liar = { ...alice, document: mallory.document }
    expect((await fail(joining(liar), inviting())).failure?.code).toBe("WRONG_PEER")
    const thief = { ...alice, signKey: mallory.signKey }
    expect((await fail(joining(thief), inviting())).failure?.code).toBe("BAD_SIG")
  })

  it("refuses a joiner whose encryption key is no key, without a fault of its own", async () => {
    const even = Uint8Array.from(alice.document)
    // The last byte of the second modulus, in front of the exponent's five bytes.
    even[even.length - 6] = 0
    const joiner = { ...parseIdentity(even), signKey: alice.signKey, unwrapKey: alice.unwrapKey }
    expect((await fail(joining(joiner), inviting())).failure?.code).toBe("MALFORMED")
  })

  it("does not open a paired entry, nor a pair key an invitation", async () => {
    const step = await inviting({ directory: directoryOf({ ...entry, mode: modes.paired, peer: alice }) }).receive(
      frameOf(joining().hello())
    )
    expect([step.send, step.failure?.code]).toEqual([[], "UNKNOWN_PEER"])
  })
})

describe("a token", () => {
  const token = encodeInvite(invite)

  it("carries who, where, the secret, until when and a name", () => {
    expect(token).toMatch(/^artf1\.[A-Za-z0-9_-]+$/)
    const read = decodeInvite(`  ${token}\n`)
    expect({ ...read, id: toHex(read.id), secret: toHex(read.secret) }).toEqual({
      ...invite,
      id: toHex(invite.id),
      secret: toHex(invite.secret)
    })
  })

  it("that was damaged in copying says so", async () => {
    for (let at = 6; at < token.length - 1; at++) {
      const other = token[at] === "A" ? "B" : "A"
      expect(await refusalOf(() => decodeInvite(token.slice(0, at) + other + token.slice(at + 1)))).toBe("MALFORMED")
      expect(await refusalOf(() => decodeInvite(token.slice(0, at)))).toBe("MALFORMED")
    }
  })

  it.each([
    ["is another text", "hello"],
    ["has another version", token.replace("artf1", "artf2")],
    ["holds nothing", "artf1."],
    ["is a book", `artf1.${"A".repeat(10_000)}`]
  ])("that %s is refused", async (_, text) => {
    expect(await refusalOf(() => decodeInvite(text))).toBe("MALFORMED")
  })

  it("whose fields are not what they should be is refused, though its check is right", async () => {
    const fields = { id: invite.id, peer: bob.id, addrs: ["a:1"], secret: invite.secret, exp: 1, flags: 0, name: "n" }
    const tokenOf = (value: unknown) => {
      const map = encodeMsgpack(value)
      return `artf1.${Buffer.from(concat(map, sha256(map).subarray(0, 4))).toString("base64url")}`
    }
    expect(decodeInvite(tokenOf(fields)).name).toBe("n")
    const wrong: ReadonlyArray<readonly [string, unknown]> = [
      ["id", bob.id],
      ["peer", "bob"],
      ["addrs", "a:1"],
      ["addrs", Array(17).fill("a:1")],
      ["addrs", [1]],
      ["addrs", ["a".repeat(301)]],
      ["secret", new Uint8Array(31)],
      ["exp", -1],
      ["exp", 1.5],
      ["flags", "0"],
      ["name", "n".repeat(65)],
      ["name", undefined]
    ]
    for (const [key, value] of wrong)
      expect(await refusalOf(() => decodeInvite(tokenOf({ ...fields, [key]: value })))).toBe("MALFORMED")
    for (const value of [[], null, 7, "map"])
      expect(await refusalOf(() => decodeInvite(tokenOf(value)))).toBe("MALFORMED")
  })
})

describe("an identity document", () => {
  const spki = (identity: LocalIdentity, use: "verifyKey" | "wrapKey"): Uint8Array =>
    Uint8Array.from(identity[use].export({ type: "spki", format: "der" }))
  const documentOf = (sign: Uint8Array, wrap: Uint8Array, version = 1) =>
    concat(u8(version), u16(sign.length), sign, u16(wrap.length), wrap)
  const [sign, wrap] = [spki(alice, "verifyKey"), spki(alice, "wrapKey")]

  it("is 849 bytes, and its hash is the id", () => {
    expect(parseIdentity(documentOf(sign, wrap)).peerId).toBe(alice.peerId)
    expect(alice.document.length).toBe(849)
    expect(toHex(sha256(alice.document))).toBe(alice.peerId)
  })

  it("with one key twice, another version, bytes after its end, or cut at any length is refused", async () => {
    const bad = [documentOf(sign, sign), documentOf(sign, wrap, 2), concat(alice.document, u8(0))]
    for (let length = 0; length < alice.document.length; length += 7) bad.push(alice.document.subarray(0, length))
    for (const document of bad) expect(await refusalOf(() => parseIdentity(document))).toBe("MALFORMED")
  })

  it("with a key of another kind, size, exponent or encoding is refused", async () => {
    const ed25519 = Buffer.from(`302a300506032b6570032100${"11".repeat(32)}`, "hex")
    const exponent = Uint8Array.from(sign)
    exponent[exponent.length - 1] = 3
    const smaller = concat(
      Buffer.from("30820121300d06092a864886f70d01010105000382010e003082010902820100", "hex"),
      Buffer.alloc(256, 0x77),
      Buffer.from("0203010001", "hex")
    )
    const padded = concat(sign, u8(0))
    const noParameters = concat(Buffer.from("308201a0300b06092a864886f70d010101", "hex"), sign.subarray(19))
    for (const key of [ed25519, exponent, smaller, padded, noParameters, new Uint8Array(0)])
      expect(await refusalOf(() => parseIdentity(documentOf(key, wrap)))).toBe("MALFORMED")
  })
})
