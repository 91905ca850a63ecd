import { encodeBeacon, openBeacon } from "../../src/protocol/Beacon.ts"
import { Schema } from "effect"
import { PairRotate, PeerUpdate, Revoked, Roster, TicketGrant } from "../../src/node/AdminKinds.ts"
import { IntroducedPeers } from "../../src/node/IntroducedPeers.ts"
import { decodeAdmin, encodeAdmin, type AdminBody } from "../../src/protocol/AdminMessage.ts"
import { ByteReader, concat, fromHex, u16, u64, utf8 } from "../../src/protocol/Bytes.ts"
import { abortMac, cookieReply, openAuth, sealOnce } from "../../src/protocol/Handshake.ts"
import {
  frame,
  FrameReader,
  helloPrefix,
  messageTypes,
  modes,
  parseAck,
  parseHello
} from "../../src/protocol/HandshakeMessages.ts"
import { parseIdentity } from "../../src/protocol/Identity.ts"
import { decodeInvite, encodeInvite, makeInvite } from "../../src/protocol/Invite.ts"
import { hmac, sha256 } from "../../src/protocol/KeySchedule.ts"
import { encodeMsgpack } from "../../src/protocol/Msgpack.ts"
import {
  encodeGoodbye,
  encodeOpen,
  encodePrefix,
  parseGoodbye,
  parseNumber,
  parseOpen,
  parsePing,
  parsePrefix,
  parseReset
} from "../../src/protocol/Packets.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { RecordOpener, RecordSealer } from "../../src/protocol/Records.ts"
import { decodeParameters } from "../../src/protocol/SessionParameters.ts"
import { decodeTicket, encodeTicket, makeTicket, ticketPeer } from "../../src/protocol/Ticket.ts"
import { expectThat, type FuzzTarget } from "./protocolFuzz.ts"
import { databaseTargets } from "./protocolFuzzDatabase.ts"
import {
  aliceEntry,
  answering,
  dialling,
  directoryOf,
  frameOf,
  keys,
  now,
  recorded,
  recordedInitiator,
  recordedResponder
} from "./protocolHandshake.ts"
import type { SeededRandom } from "./protocolRandom.ts"
import { datagramsRound, framesRound } from "./sllpFuzz.ts"
import { alice, bob, vectors } from "./vectors.ts"

/** The parsers that read what a peer, or somebody in its place, has sent: everything below the streams of a session. */

const offered = { suites: [2, 1] }
const directory = directoryOf(aliceEntry)
const hellos = [dialling(), dialling(offered)].map(dial => parseHello(frameOf(dial.hello()).body))

/** A frame whose body has changed, often with a MAC that is right for the change: parsers behind a MAC face insiders too. */
const changedFrame = (
  random: SeededRandom,
  type: number,
  covered: Uint8Array,
  mac: (covered: Uint8Array) => Uint8Array
) => {
  const changed = random.chance(95) ? random.mutate(covered) : covered
  const { bytes } = frame(type, concat(changed, mac(changed)))
  return random.chance(30) ? random.mutate(bytes) : bytes
}

const helloRound = async (random: SeededRandom): Promise<void> => {
  const { hello } = random.pick(hellos)
  const covered = helloPrefix(random.chance(20) ? { ...hello, cookie: random.bytes(32) } : hello)
  const bytes = changedFrame(random, messageTypes.hello, covered, prefix => hmac(keys.mac1, prefix))
  const reader = new FrameReader()
  const answer = answering({ ...offered, directory, underLoad: () => random.chance(80) })
  for (let at = 0; at < bytes.length;) {
    const size = 1 + random.below(bytes.length)
    reader.push(bytes.subarray(at, at + size))
    at += size
    for (let received = reader.next(); received !== undefined; received = reader.next()) {
      const { failure, send } = await answer.receive(received)
      expectThat(failure !== undefined || send.length === 1, "a HELLO without an answer")
      if (failure !== undefined) throw failure
    }
  }
}

const initiatorRound = async (random: SeededRandom): Promise<void> => {
  const dial = recordedInitiator()
  const hello = dial.hello()
  const frames = [
    () => changedFrame(random, messageTypes.ack, recorded.ack.body, () => new Uint8Array(0)),
    () => changedFrame(random, messageTypes.retry, random.bytes(32), cookie => cookieReply(keys, hello, cookie)),
    () => changedFrame(random, messageTypes.abort, u16(random.below(30)), () => abortMac(keys, hello, 13))
  ]
  const { send, secrets } = await dial.receive(frameOf(random.pick(frames)()))
  expectThat(send !== undefined && secrets === undefined, "a session before AUTH_R")
}

const [th2, keyI] = [fromHex(vectors.th2), fromHex(vectors.k_hs_i2r)]
const plainI = openAuth(keyI, th2, recorded.authI.body, false)
const bodyI = concat(plainI.signed, plainI.signature)
const withDocument = concat(plainI.signed, u16(alice.document.length), alice.document, plainI.signature)

/** AUTH of one who has the keys, so that the AEAD opens whatever is in it. */
const authRound = (random: SeededRandom): void => {
  const plain = random.mutate(random.pick([bodyI, withDocument]))
  openAuth(keyI, th2, sealOnce(keyI, th2, plain), random.chance(50))
}

const responderRound = async (random: SeededRandom): Promise<void> => {
  const answer = recordedResponder()
  await answer.receive(recorded.hello)
  const plain = random.mutate(bodyI)
  // A mutation may change nothing.
  if (Buffer.compare(plain, bodyI) === 0) return
  const sealed = sealOnce(keyI, th2, plain)
  const { failure, send } = await answer.receive(frame(messageTypes.authI, sealed))
  expectThat(failure !== undefined, "a changed AUTH_I was accepted")
  expectThat(
    send.every(bytes => bytes[0] === messageTypes.abort),
    "an answer to a changed AUTH_I"
  )
  throw failure
}

const parameterSets = [
  {},
  { mr: 65_536, mm: 16_777_216, wi: 1_048_576, wc: 16_777_216, ms: 64, pv: 1 },
  { mr: 256, wi: 2 ** 40, ms: 1, unknown: [1, { deep: [null] }], pv: 0 }
].map(encodeMsgpack)

const parametersRound = (random: SeededRandom): void => {
  const parameters = decodeParameters(random.mutate(random.pick(parameterSets)))
  expectThat(
    Object.values(parameters).every(value => Number.isSafeInteger(value) && value >= 0),
    "parameters that are no numbers"
  )
  expectThat(parameters.maxRecordBytes >= 256 && parameters.maxRecordBytes <= 65_536, "a record limit out of bounds")
}

const invite = makeInvite(length => new Uint8Array(length).fill(5), {
  peerId: bob.peerId,
  addresses: ["host:1", "[::1]:2"],
  expiresAt: now,
  name: "a name"
})
const token = utf8(encodeInvite(invite))
const inviteMap = Buffer.from(encodeInvite(invite).slice(6), "base64url").subarray(0, -4)

const inviteRound = (random: SeededRandom): void => {
  if (random.chance(30)) return void decodeInvite(Buffer.from(random.mutate(token)).toString("latin1"))
  const map = random.mutate(inviteMap)
  const read = decodeInvite(`artf1.${Buffer.from(concat(map, sha256(map).subarray(0, 4))).toString("base64url")}`)
  expectThat(read.secret.length === 32 && read.addresses.length <= 16, "an invitation out of bounds")
}

const ticket = encodeTicket(
  makeTicket(length => new Uint8Array(length).fill(6), {
    job: new Uint8Array(16),
    peers: [alice.id, bob.id],
    notBefore: now,
    expiresAt: now + 1
  })
)

const ticketRound = (random: SeededRandom): void => {
  const read = decodeTicket(random.mutate(ticket))
  expectThat(Buffer.compare(read.first, read.second) < 0 && read.notBefore < read.expiresAt, "a ticket out of bounds")
  ticketPeer(read, random.pick([alice.id, bob.id]))
}

const networkKey = sha256(utf8("network"))
const beacon = encodeBeacon(networkKey, { nonce: new Uint8Array(16).fill(7), port: 7_000 }, now)

const fuzzJob = new Uint8Array(16)
const trustMessages = [
  encodeAdmin(PairRotate.kind, { generation: 2 }),
  encodeAdmin(PeerUpdate.kind, { addresses: ["192.0.2.1:7000", "[2001:db8::1]:7000"], seen: "192.0.2.2:50000" }),
  encodeAdmin(Revoked.kind, {}),
  encodeAdmin(Roster.kind, {
    job: fuzzJob,
    peers: [alice, bob].map(({ document }) => ({ document, addresses: ["192.0.2.1:7000"] }))
  }),
  encodeAdmin(TicketGrant.kind, { ticket })
]

/** The body of a kind, or MALFORMED as whoever answers it says. */
const bodyOf = <Body>(schema: Schema.Codec<Body, AdminBody>, body: AdminBody): Body => {
  const read = Schema.decodeUnknownOption(schema)(body)
  if (read._tag === "None") throw new ProtocolError("MALFORMED", "a body of another form")
  return read.value
}

/** What paired peers say of keys, addresses and each other, changed, as far as it is believed. */
const trustRound = (random: SeededRandom): void => {
  const introduced = new IntroducedPeers(alice)
  introduced.trust(bob.peerId, fuzzJob)
  const { kind, body } = decodeAdmin(random.mutate(random.pick(trustMessages)))
  switch (kind) {
    case PairRotate.kind:
      return expectThat(Number.isInteger(bodyOf(PairRotate.body, body).generation), "a generation that is no number")
    case PeerUpdate.kind:
      return expectThat(bodyOf(PeerUpdate.body, body).addresses.length <= 16, "addresses out of bounds")
    case Roster.kind: {
      const { job, peers } = bodyOf(Roster.body, body)
      introduced.roster(bob.peerId, job, peers)
      return
    }
    case TicketGrant.kind: {
      introduced.roster(bob.peerId, fuzzJob, [{ document: bob.document, addresses: [] }])
      introduced.ticket(bob.peerId, decodeTicket(bodyOf(TicketGrant.body, body).ticket))
      return expectThat(introduced.has(bob.peerId), "a ticket that introduces nobody")
    }
  }
}

/** A beacon that was changed is none, even under a MAC that is right for the change, unless it still has the form of one. */
const beaconRound = (random: SeededRandom): void => {
  const covered = random.chance(50) ? random.mutate(beacon.subarray(0, -16)) : beacon.subarray(0, -16)
  const mac = hmac(networkKey, concat(covered, u64(Math.floor(now / 60)))).subarray(0, 16)
  const datagram = random.chance(70) ? random.mutate(concat(covered, mac)) : concat(covered, mac)
  const read = openBeacon(networkKey, datagram, now + random.below(200) - 100)
  if (read === undefined) throw new ProtocolError("BAD_MAC", "no beacon")
  expectThat(datagram.length === beacon.length && datagram[4] === 1, "a beacon of another form")
  expectThat(read.port > 0 && read.port <= 65_535 && read.nonce.length === 16, "a beacon out of bounds")
}

const recordStream = (() => {
  const sealer = new RecordSealer(fromHex(vectors.traffic_i2r))
  const seal = (length: number) => concat(...sealer.seal(0, 0, 1, [new Uint8Array(length)]))
  return [seal(0), seal(40), concat(...sealer.updateKey()), seal(300), seal(1)]
})()

const recordsRound = (random: SeededRandom): void => {
  const opener = new RecordOpener(fromHex(vectors.traffic_i2r))
  const bytes = random.mutate(concat(...recordStream.map(bytes => (random.chance(10) ? random.mutate(bytes) : bytes))))
  let records = 0
  for (let at = 0; at < bytes.length;) {
    const size = 1 + random.below(200)
    opener.push(bytes.subarray(at, at + size), () => records++)
    at += size
  }
  expectThat(records <= 4, "a record that nobody sealed")
}

const packets: ReadonlyArray<readonly [(bytes: Uint8Array) => unknown, Uint8Array]> = [
  [parseOpen, encodeOpen({ streamClass: 2, name: "größe" })],
  [parseGoodbye, encodeGoodbye({ code: 4, reason: "a reason" })],
  [parsePing, new Uint8Array(8)],
  [parseReset, u16(3)],
  [bytes => parseNumber(bytes, "number"), u64(77)],
  [bytes => parsePrefix(new ByteReader(bytes)), encodePrefix({ messageId: 3, total: 9 })],
  [bytes => parseAck(bytes, modes.invite), recorded.ack.body],
  [bytes => parseAck(bytes, modes.paired), recorded.ack.body]
]

const packetsRound = (random: SeededRandom): void => {
  const [parse, bytes] = random.pick(packets)
  parse(random.mutate(bytes))
}

export const parserTargets: ReadonlyArray<FuzzTarget> = [
  { name: "HELLO", inputsPerRound: 1, round: helloRound },
  { name: "frames at the initiator", inputsPerRound: 1, round: initiatorRound },
  { name: "AUTH under the right key", inputsPerRound: 1, round: authRound },
  // A key agreement and a check of a signature each: a tenth of the inputs must do.
  { name: "AUTH_I at the responder", inputsPerRound: 10, round: responderRound },
  { name: "identity document", inputsPerRound: 1, round: random => parseIdentity(random.mutate(alice.document)) },
  { name: "session parameters", inputsPerRound: 1, round: parametersRound },
  { name: "beacon", inputsPerRound: 1, round: beaconRound },
  { name: "invitation", inputsPerRound: 1, round: inviteRound },
  { name: "messages of trust", inputsPerRound: 1, round: trustRound },
  { name: "ticket", inputsPerRound: 1, round: ticketRound },
  { name: "records", inputsPerRound: recordStream.length, round: recordsRound },
  { name: "packets", inputsPerRound: 1, round: packetsRound },
  ...databaseTargets,
  { name: "frames of SLLP", inputsPerRound: 1, round: framesRound },
  { name: "datagrams of SLLP", inputsPerRound: 20, round: datagramsRound }
]
