import { hkdfSync } from "node:crypto"
import { assert, describe, it } from "vitest"
import { concat, toHex, u16, u64, u8, utf8 } from "../../src/protocol/Bytes.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import type { LocalIdentity } from "../../src/protocol/Identity.ts"
import { derivePairKeys, sha256 } from "../../src/protocol/KeySchedule.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { TagIndex } from "../../src/protocol/TagIndex.ts"
import {
  decodeTicket,
  encodeTicket,
  makeTicket,
  ticketBytes,
  ticketKeys,
  ticketPairKey,
  ticketPeer,
  type Ticket
} from "../../src/protocol/Ticket.ts"
import {
  aliceEntry,
  answering,
  dialling,
  directoryOf,
  expectSilence,
  flipped,
  frameOf,
  keys,
  mallory,
  now,
  real,
  refusalOf,
  shakeHands
} from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const job = new Uint8Array(16).fill(9)
const ticket = makeTicket(real.randomBytes, {
  job,
  peers: [alice.id, bob.id],
  notBefore: now - 60,
  expiresAt: now + 600
})
const bytes = encodeTicket(ticket)

/** Bob has taken this ticket for Alice. */
const bobHolds = (held: Ticket): TagIndex =>
  directoryOf({
    name: "introduced",
    mode: modes.introduced,
    keys: ticketKeys(held, alice.id),
    peer: alice,
    notBefore: held.notBefore,
    expiresAt: held.expiresAt
  })
const answeringWith = (held: Ticket, unixSeconds = now) => answering({ directory: bobHolds(held), unixSeconds })

/** Somebody dials Bob by a ticket, as Alice would. */
const diallingBy = (held: Ticket, identity: LocalIdentity = alice) =>
  dialling({ identity, target: { mode: modes.introduced, keys: ticketKeys(held, alice.id), peer: bob } })

const codeOf = (attempt: () => unknown): string => {
  try {
    attempt()
  } catch (error) {
    return error instanceof ProtocolError ? error.code : String(error)
  }
  return "taken"
}

describe("a ticket", () => {
  it("is job, id, both ids in order, secret and two times, in 144 bytes", () => {
    assert.strictEqual(ticketBytes, 144)
    const [first, second] = [alice.id, bob.id].toSorted(Buffer.compare)
    const { id, secret } = ticket
    const written = concat(job, id, first ?? job, second ?? job, secret, u64(now - 60), u64(now + 600))
    assert.strictEqual(toHex(bytes), toHex(written))
    assert.deepStrictEqual(encodeTicket(decodeTicket(bytes)), bytes)
    const swapped = makeTicket(real.randomBytes, { ...ticket, peers: [bob.id, alice.id] })
    assert.deepStrictEqual([swapped.first, swapped.second], [ticket.first, ticket.second])
  })

  it("gives the pair key of HKDF over its secret, bound to job, id and both peers", () => {
    const context = sha256(job, ticket.id, ticket.first, ticket.second)
    const label = utf8("artf1 intro")
    const info = concat(u16(32), u8(label.length), label, u8(32), context)
    const expected = hkdfSync("sha256", ticket.secret, utf8("artifice v1 intro"), info, 32)
    assert.strictEqual(toHex(ticketPairKey(ticket)), toHex(new Uint8Array(expected)))
    assert.deepStrictEqual(ticketKeys(ticket, bob.id), derivePairKeys(ticketPairKey(ticket), bob.id, alice.id))
    assert.deepStrictEqual(ticketKeys(ticket, alice.id), derivePairKeys(ticketPairKey(ticket), alice.id, bob.id))
  })

  it("is for its two peers and nobody else", () => {
    assert.strictEqual(ticketPeer(ticket, alice.id), bob.peerId)
    assert.strictEqual(ticketPeer(ticket, bob.id), alice.peerId)
    assert.strictEqual(
      codeOf(() => ticketPeer(ticket, mallory.id)),
      "NOT_AUTHORIZED"
    )
  })

  it("of another length, with ids out of order or equal, or times that are none, is MALFORMED", () => {
    const { first, second } = ticket
    const wrong = [
      ...Array.from(bytes, (_, length) => bytes.subarray(0, length)),
      concat(bytes, u8(0)),
      encodeTicket({ ...ticket, first: second, second: first }),
      encodeTicket({ ...ticket, second: first }),
      encodeTicket({ ...ticket, expiresAt: ticket.notBefore }),
      concat(bytes.subarray(0, 128), u64(0), u64(2n ** 53n))
    ]
    for (const each of wrong)
      assert.strictEqual(
        codeOf(() => decodeTicket(each)),
        "MALFORMED"
      )
  })
})

describe("15 the handshake by a ticket", () => {
  it("makes a session of mode 2 between the two whom it names", async () => {
    const { initiator, responder } = await shakeHands(diallingBy(ticket), answeringWith(ticket))
    assert.deepStrictEqual([initiator.mode, responder.mode], [modes.introduced, modes.introduced])
    assert.strictEqual(toHex(initiator.sendSecret), toHex(responder.receiveSecret))
    assert.deepStrictEqual([initiator.peer.peerId, responder.peer.peerId], [bob.peerId, alice.peerId])
  })

  it("meets silence where any bit of what its key depends on was altered on the way to one of them", async () => {
    // One bit of each byte of job, id, the two peers and the secret.
    const altered = Array.from({ length: 128 }, (_, byte) => flipped(bytes, byte * 8 + (byte % 8)))
    for (const each of altered) {
      const code = codeOf(() => decodeTicket(each))
      if (code === "MALFORMED") continue
      await expectSilence(answeringWith(ticket), frameOf(diallingBy(decodeTicket(each)).hello()), "UNKNOWN_PEER")
    }
  })

  it("meets silence before its time and from its expiry on, by the responder's clock", async () => {
    for (const at of [ticket.notBefore - 1, ticket.expiresAt, ticket.expiresAt + 1]) {
      await expectSilence(answeringWith(ticket, at), frameOf(diallingBy(ticket).hello()), "UNKNOWN_PEER")
    }
    for (const at of [ticket.notBefore, ticket.expiresAt - 1]) {
      const step = await answeringWith(ticket, at).receive(frameOf(diallingBy(ticket).hello()))
      assert.isUndefined(step.failure)
    }
  })

  it("of a mode that is not the entry's meets silence: a ticket is no pair key, and a pair key no ticket", async () => {
    const asPaired = dialling({ target: { mode: modes.paired, keys: ticketKeys(ticket, alice.id), peer: bob } })
    await expectSilence(answeringWith(ticket), frameOf(asPaired.hello()), "UNKNOWN_PEER")
    const asInvite = dialling({
      target: { mode: modes.invite, keys: ticketKeys(ticket, alice.id), peerId: bob.peerId }
    })
    await expectSilence(answeringWith(ticket), frameOf(asInvite.hello()), "UNKNOWN_PEER")
    const asIntroduced = dialling({ target: { mode: modes.introduced, keys, peer: bob } })
    await expectSilence(
      answering({ directory: directoryOf(aliceEntry) }),
      frameOf(asIntroduced.hello()),
      "UNKNOWN_PEER"
    )
  })

  it("is refused to its own introducer, who knows the secret: by the id, and in another's name by the signature", async () => {
    const own = await refusalOf(() => shakeHands(diallingBy(ticket, mallory), answeringWith(ticket)))
    assert.strictEqual(own, "WRONG_PEER")
    const posing = { ...mallory, id: alice.id, peerId: alice.peerId, document: alice.document }
    assert.strictEqual(await refusalOf(() => shakeHands(diallingBy(ticket, posing), answeringWith(ticket))), "BAD_SIG")
  })

  it("is refused to a third peer that has a ticket of its own with the same introducer", async () => {
    const others = makeTicket(real.randomBytes, { ...ticket, peers: [mallory.id, bob.id] })
    const dial = dialling({
      identity: mallory,
      target: { mode: modes.introduced, keys: ticketKeys(others, mallory.id), peer: bob }
    })
    await expectSilence(answeringWith(ticket), frameOf(dial.hello()), "UNKNOWN_PEER")
  })
})
