import { assert, describe, it } from "vitest"
import { IntroducedPeers, maxIntroducedPeers } from "../../src/node/IntroducedPeers.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { tagEpoch, tagFor } from "../../src/protocol/KeySchedule.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { makeTicket, ticketKeys, type Ticket } from "../../src/protocol/Ticket.ts"
import { mallory, now, real } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const carol = mallory
const job = new Uint8Array(16).fill(1)
const otherJob = new Uint8Array(16).fill(2)
const member = { document: bob.document, addresses: ["192.0.2.1:7000"] }

const ticketOf = (change: Partial<Ticket> = {}): Ticket => ({
  ...makeTicket(real.randomBytes, { job, peers: [alice.id, bob.id], notBefore: now - 60, expiresAt: now + 60 }),
  ...change
})

const codeOf = (attempt: () => unknown): string => {
  try {
    attempt()
  } catch (error) {
    return error instanceof ProtocolError ? error.code : String(error)
  }
  return "taken"
}

/** Alice, who takes introductions by Carol for one job. */
const trusting = () => {
  const peers = new IntroducedPeers(alice)
  const end = peers.trust(carol.peerId, job)
  peers.roster(carol.peerId, job, [member])
  return { peers, end }
}

/** Whether Bob's HELLO by this ticket would be answered. */
const answers = (peers: IntroducedPeers, ticket: Ticket): boolean =>
  peers.lookup(tagFor(ticketKeys(ticket, bob.id).tag, tagEpoch(now)), now)?.mode === modes.introduced

describe("15 what a worker takes of a ticket", () => {
  it("is one that its introducer gives for the job, between itself and a member of the roster", () => {
    const { peers } = trusting()
    const ticket = ticketOf()
    assert.isFalse(peers.has(bob.peerId))
    peers.ticket(carol.peerId, ticket)
    assert.isTrue(peers.has(bob.peerId))
    assert.isTrue(answers(peers, ticket))
    assert.deepStrictEqual(peers.addresses(bob.peerId), ["192.0.2.1:7000"])
    assert.deepStrictEqual(peers.introducers(bob.peerId), [carol.peerId])
    assert.deepStrictEqual(peers.dialKeys(bob.peerId, now), [ticketKeys(ticket, alice.id)])
  })

  it.each([
    ["by a peer that is no introducer", bob.peerId, ticketOf()],
    ["for another job", carol.peerId, ticketOf({ job: otherJob })],
    [
      "between two others",
      carol.peerId,
      makeTicket(real.randomBytes, { job, peers: [bob.id, carol.id], notBefore: 0, expiresAt: now + 60 })
    ],
    [
      "with a peer that no roster has named",
      carol.peerId,
      makeTicket(real.randomBytes, { job, peers: [alice.id, carol.id], notBefore: 0, expiresAt: now + 60 })
    ]
  ])("is none %s", (_, from, ticket) => {
    const { peers } = trusting()
    assert.strictEqual(
      codeOf(() => peers.ticket(from, ticket)),
      "NOT_AUTHORIZED"
    )
    assert.isFalse(peers.has(bob.peerId))
    assert.isFalse(answers(peers, ticket))
  })

  it("opens a dial only within its time", () => {
    const { peers } = trusting()
    peers.ticket(carol.peerId, ticketOf())
    assert.lengthOf(peers.dialKeys(bob.peerId, now - 61), 0)
    assert.lengthOf(peers.dialKeys(bob.peerId, now + 60), 0)
    assert.lengthOf(peers.dialKeys(bob.peerId, now + 59), 1)
  })

  it("is the newest two of a pair, the newest tried first, and each once", () => {
    const { peers } = trusting()
    const [first, second, third] = [ticketOf(), ticketOf(), ticketOf()]
    for (const ticket of [first, second, second, third]) peers.ticket(carol.peerId, ticket)
    assert.deepStrictEqual(
      peers.dialKeys(bob.peerId, now),
      [third, second].map(ticket => ticketKeys(ticket, alice.id))
    )
    assert.deepStrictEqual(
      [first, second, third].map(ticket => answers(peers, ticket)),
      [false, true, true]
    )
  })

  it("is forgotten with its job, unless another job or another introducer holds it", () => {
    const { peers, end } = trusting()
    const ticket = ticketOf()
    peers.ticket(carol.peerId, ticket)
    const endOther = peers.trust(carol.peerId, otherJob)
    peers.roster(carol.peerId, otherJob, [member])
    peers.ticket(carol.peerId, ticketOf({ job: otherJob }))
    assert.deepStrictEqual(end(), [])
    assert.isFalse(answers(peers, ticket))
    assert.isTrue(peers.has(bob.peerId))
    assert.deepStrictEqual(endOther(), [bob.peerId])
    assert.deepStrictEqual(endOther(), [])
    assert.isFalse(peers.has(bob.peerId))
    assert.isUndefined(peers.identity(bob.peerId))
    assert.strictEqual(
      codeOf(() => peers.ticket(carol.peerId, ticketOf())),
      "NOT_AUTHORIZED"
    )
  })

  it("lasts until everyone who marked the introducer for the job is done with it", () => {
    const { peers, end } = trusting()
    const again = peers.trust(carol.peerId, job)
    peers.ticket(carol.peerId, ticketOf())
    assert.deepStrictEqual([end(), end()], [[], []])
    assert.isTrue(peers.has(bob.peerId))
    assert.deepStrictEqual(again(), [bob.peerId])
  })
})

describe("what a worker takes of a roster", () => {
  it("is nothing from a peer that is no introducer for this job, and no document that is none", () => {
    const { peers } = trusting()
    for (const [from, of] of [
      [bob.peerId, job],
      [carol.peerId, otherJob]
    ] as const)
      assert.strictEqual(
        codeOf(() => peers.roster(from, of, [member])),
        "NOT_AUTHORIZED"
      )
    assert.strictEqual(
      codeOf(() => peers.roster(carol.peerId, job, [{ document: bob.document.subarray(1), addresses: [] }])),
      "MALFORMED"
    )
  })

  it("does not make a worker its own peer, and brings new addresses", () => {
    const { peers } = trusting()
    peers.roster(carol.peerId, job, [
      { document: alice.document, addresses: [] },
      { ...member, addresses: ["192.0.2.2:7000"] }
    ])
    assert.isUndefined(peers.identity(alice.peerId))
    assert.deepStrictEqual(peers.addresses(bob.peerId), ["192.0.2.2:7000"])
  })

  it("is a bounded number of members", () => {
    const { peers } = trusting()
    // Other bytes in the modulus are another key, as far as a document shows.
    const members = Array.from({ length: maxIntroducedPeers }, (_, index) => {
      const document = Uint8Array.from(bob.document)
      document.set([index >> 8, index & 0xff], 200)
      return { document, addresses: [] }
    })
    assert.strictEqual(
      codeOf(() => peers.roster(carol.peerId, job, members)),
      "LIMIT"
    )
    assert.strictEqual(
      codeOf(() => peers.roster(carol.peerId, job, [member, ...members.slice(0, 5)])),
      "taken"
    )
  })
})
