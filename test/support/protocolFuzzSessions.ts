import { concat, u16, u32, u64 } from "../../src/protocol/Bytes.ts"
import { abortMac, cookieReply } from "../../src/protocol/Handshake.ts"
import { frame, messageTypes, type Frame } from "../../src/protocol/HandshakeMessages.ts"
import { encodeGoodbye, encodeOpen, encodePrefix } from "../../src/protocol/Packets.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import { expectThat, type FuzzTarget } from "./protocolFuzz.ts"
import { keys, recorded, recordedInitiator, recordedResponder } from "./protocolHandshake.ts"
import type { SeededRandom } from "./protocolRandom.ts"
import { HostilePeer } from "./protocolSession.ts"

/** The parts that remember: the handshake's two roles, and the streams of a session behind the right keys. */

const { rawData, rawAck, admin, adminAck, ping, goodbye, open, fin, reset, credit } = recordTypes
const recordsPerSession = 40
const own = { streamWindowBytes: 2000, connectionWindowBytes: 3000, maxStreams: 3, maxRecordBytes: 1000 }

/** A peer with the right keys who mixes what is right with what is not. */
class Mixer {
  readonly #random: SeededRandom
  readonly #peer = new HostilePeer(own)
  readonly #nextMessage = new Map<number, number>()
  /** The type of the message that a stream is in the middle of. */
  readonly #within = new Map<number, number>()
  readonly #ended = new Set<number>()
  #opened = 0
  #acked = 1

  constructor(random: SeededRandom) {
    this.#random = random
    const { victim } = this.#peer
    victim.reading = random.chance(50)
    const { stream } = victim.open(random.pick([0, 1, 2]), "ours")
    for (let at = 0; at < 3; at++) {
      stream.send(rawData, [random.bytes(random.below(500))], () => undefined, { ackRequested: true })
    }
  }

  run(): void {
    for (let record = 0; record < recordsPerSession; record++) {
      this.#act()
      this.#check()
    }
    const random = this.#random
    this.#peer.victim.mux.take(100_000)
    if (random.chance(30)) this.#peer.say(goodbye, 0, random.mutate(encodeGoodbye({ code: 0, reason: "x" })))
    if (random.chance(30)) this.#peer.victim.mux.receive(random.mutate(this.#peer.seal(rawData, 1, u32(1))))
  }

  #check(): void {
    const { mux, inboxes } = this.#peer.victim
    expectThat(mux.openStreams <= own.maxStreams + 1, "more streams than are allowed")
    for (const { stream } of inboxes)
      expectThat(stream.closed !== undefined || stream.unread <= own.streamWindowBytes, "a window is overrun")
  }

  #anyStream(): number {
    return this.#random.pick([0, 1, 2, 3, 2 * this.#opened + 1, 2 ** 31, 0xffffffff])
  }

  #openStreams(): ReadonlyArray<number> {
    const open = this.#peer.victim.streams.filter(({ id, closed }) => closed === undefined && !this.#ended.has(id))
    return open.map(({ id }) => id)
  }

  /** Sends a record with now and then one field that is wrong. */
  #say(type: number, id: number, payload: Uint8Array, flags = 0): void {
    const random = this.#random
    this.#peer.say(
      random.chance(1) ? random.below(256) : type,
      random.chance(1) ? this.#anyStream() : id,
      random.chance(2) ? random.mutate(payload) : payload,
      random.chance(1) ? random.below(256) : flags
    )
  }

  #act(): void {
    const random = this.#random
    const { mux, inboxes } = this.#peer.victim
    const streams = this.#openStreams()
    const action = random.below(100)
    if (streams.length === 0 || action < 8) return this.#open()
    const id = random.pick(streams)
    if (action < 50) return this.#message(id)
    if (action < 55) return this.#say(credit, random.pick([id, 0, 2]), this.#number())
    if (action < 58) return this.#say(rawAck, 2, u64(this.#acked++))
    if (action < 62) return this.#say(reset, random.pick([id, 2]), u16(random.below(20)))
    if (action < 64) return this.#fin(id)
    if (action < 67) return this.#say(ping, 0, random.bytes(8))
    if (action < 68) return this.#say(random.below(256), id, random.bytes(random.below(40)), random.below(8))
    if (action < 82) return random.pick(inboxes).read(2)
    if (action < 84) return random.pick(inboxes).stream.reset("BUSY")
    if (action < 87) return random.pick(inboxes).stream.finish()
    mux.take(random.below(3000))
  }

  #fin(id: number): void {
    this.#ended.add(id)
    this.#say(fin, id, new Uint8Array(0))
  }

  #open(): void {
    this.#say(open, 2 * this.#opened++ + 1, encodeOpen({ streamClass: this.#random.pick([0, 1, 2]), name: "x" }))
  }

  #number(): Uint8Array {
    const random = this.#random
    return random.chance(2) ? random.bytes(8) : random.pick([u64(0), u64(random.below(9000)), u64(random.u32())])
  }

  /** A message in one record, or a piece of one. */
  #message(id: number): void {
    const random = this.#random
    const bytes = random.bytes(random.below(random.chance(1) ? 1200 : 100))
    const within = this.#within.get(id)
    const last = random.chance(70)
    if (last) this.#within.delete(id)
    if (within !== undefined) return this.#say(within, id, bytes, last ? 2 : 0)
    const messageId = this.#nextMessage.get(id) ?? 1
    this.#nextMessage.set(id, messageId + 1)
    const type = random.chance(1) ? adminAck : random.pick([rawData, admin])
    if (!last) this.#within.set(id, type)
    const total = last && random.chance(50) ? bytes.length + (random.chance(2) ? 1 : 0) : undefined
    const flags = 1 + (last ? 2 : 0) + (random.chance(20) ? 4 : 0)
    this.#say(type, id, concat(encodePrefix({ messageId, total }), bytes), flags)
  }
}

const cookie = new Uint8Array(32)
const retry = frame(messageTypes.retry, concat(cookie, cookieReply(keys, recorded.hello.bytes, cookie)))
const abort = frame(messageTypes.abort, concat(u16(13), abortMac(keys, recorded.hello.bytes, 13)))
const everyFrame: ReadonlyArray<Frame> = [...Object.values(recorded), retry, abort]
const framesPerHandshake = 4

/** Frames in any order, at either role: only the right order comes to a session, and what has failed stays failed. */
const orderRound = async (random: SeededRandom): Promise<void> => {
  const initiator = random.chance(50)
  const right = initiator ? [recorded.ack, recorded.authR] : [recorded.hello, recorded.authI]
  const [dial, answer] = [recordedInitiator(), recordedResponder()]
  if (initiator) dial.hello()
  const receive = async (received: Frame): Promise<unknown> => {
    if (initiator) return (await dial.receive(received)).secrets
    const step = await answer.receive(received)
    if (step.failure !== undefined) throw step.failure
    return step.secrets
  }
  const sent: Array<Frame> = []
  let failure: ProtocolError | undefined
  for (let at = 0; at < framesPerHandshake; at++) {
    const next = random.chance(60) ? right[at] : undefined
    sent.push(next ?? random.pick(everyFrame))
    const order = sent.map(({ type }) => type).join()
    try {
      const secrets = await receive(sent[at] ?? abort)
      expectThat(failure === undefined, `life after an error: ${order}`)
      expectThat(secrets === undefined || order === right.map(({ type }) => type).join(), `a session from ${order}`)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      failure = error
    }
  }
  if (failure !== undefined) throw failure
}

export const statefulTargets: ReadonlyArray<FuzzTarget> = [
  { name: "streams of a session", inputsPerRound: recordsPerSession, round: random => new Mixer(random).run() },
  // Each may cost a key agreement and private RSA operations: a tenth of the inputs must do.
  { name: "order of frames", inputsPerRound: 10 * framesPerHandshake, round: orderRound }
]
