import { concat } from "../../src/protocol/Bytes.ts"
import { minRecordLimitBytes } from "../../src/protocol/constants.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import type { SessionParameters } from "../../src/protocol/SessionParameters.ts"
import { SeededRandom } from "./protocolRandom.ts"
import { carry, session, type End, type Inbox } from "./protocolSession.ts"

const { rawData, admin, adminAck } = recordTypes
const nothing = () => undefined

/** One direction of the wire: bytes that have been taken and not delivered. */
class Wire {
  readonly #from: End
  readonly #to: End
  #bytes: Uint8Array = new Uint8Array(0)

  constructor(from: End, to: End) {
    this.#from = from
    this.#to = to
  }

  fill(maxBytes: number): void {
    this.#bytes = concat(this.#bytes, ...this.#from.mux.take(maxBytes))
  }

  deliver(bytes: number): void {
    this.#to.mux.receive(this.#bytes.slice(0, bytes))
    this.#bytes = this.#bytes.slice(bytes)
  }

  deliverAll(): void {
    this.deliver(this.#bytes.length)
  }
}

/** A stream: what each side was told of it, and what each side sent on it. */
interface Line {
  readonly near: Inbox
  far: Inbox | undefined
  readonly sentByNear: Array<Uint8Array>
  readonly sentByFar: Array<Uint8Array>
  /** It was reset, so nobody can count on what was on its way. */
  broken: boolean
}

/** Small limits, so that each of them is reached. */
const someParameters = (random: SeededRandom): Partial<SessionParameters> => ({
  maxRecordBytes: minRecordLimitBytes + random.below(600),
  streamWindowBytes: minRecordLimitBytes + random.below(3000),
  connectionWindowBytes: minRecordLimitBytes + random.below(5000),
  maxStreams: 1 + random.below(8)
})

class Schedule {
  readonly #random: SeededRandom
  readonly #initiator: End
  readonly #responder: End
  readonly #toResponder: Wire
  readonly #toInitiator: Wire
  readonly #lines: Array<Line> = []
  readonly #answered = new Set<object>()
  #handedIn = 0
  #done = 0
  readonly #problems: Array<string> = []

  constructor(seed: number) {
    this.#random = new SeededRandom(seed)
    const { initiator, responder } = session(someParameters(this.#random), someParameters(this.#random))
    this.#initiator = initiator
    this.#responder = responder
    initiator.reading = responder.reading = false
    this.#toResponder = new Wire(initiator, responder)
    this.#toInitiator = new Wire(responder, initiator)
  }

  run(actions: number): ReadonlyArray<string> {
    for (let action = 0; action < actions; action++) this.#act()
    this.#finish()
    for (const line of this.#lines) this.#check(line)
    if (this.#done !== this.#handedIn) this.#problems.push(`${this.#handedIn - this.#done} messages were never done`)
    for (const end of [this.#initiator, this.#responder]) {
      if (end.mux.openStreams > 0) this.#problems.push(`${end.mux.openStreams} streams are left open`)
      if (end.failures.length > 0) this.#problems.push(`a failure: ${end.failures[0]?.message}`)
    }
    this.#checkCredit()
    return this.#problems
  }

  #act(): void {
    const random = this.#random
    const forward = random.chance(50)
    const end = forward ? this.#initiator : this.#responder
    const wire = forward ? this.#toResponder : this.#toInitiator
    const action = random.below(100)
    if (action < 30) return wire.fill(1 + random.below(4000))
    if (action < 55) return random.chance(30) ? wire.deliverAll() : wire.deliver(random.below(2000))
    if (action < 57) return end.mux.ping(random.bytes(8))
    if (action < 58) return end.mux.updateKey()
    if (end.inboxes.length === 0 || action < 63) return this.#open(end)
    const inbox = random.pick(end.inboxes)
    if (action < 80) return this.#send(end, inbox)
    if (action < 95) return inbox.read(1 + random.below(4))
    if (action < 97) return this.#answer(inbox)
    if (action < 99) return inbox.stream.finish()
    if (random.chance(50)) this.#reset(end, inbox)
  }

  #open(end: End): void {
    try {
      const near = end.open(this.#random.pick([0, 1, 2]), "", false)
      this.#lines.push({ near, far: undefined, sentByNear: [], sentByFar: [], broken: false })
    } catch (error) {
      // As many streams as the other side allows are open.
      if (!(error instanceof ProtocolError) || error.code !== "LIMIT") throw error
    }
  }

  #lineOf(end: End, inbox: Inbox): Line {
    const known = this.#lines.find(({ near, far }) => near === inbox || far === inbox)
    if (known !== undefined) return known
    const other = end === this.#initiator ? this.#responder : this.#initiator
    const line = this.#lines.find(({ near }) => near.stream.id === inbox.stream.id && other.inboxes.includes(near))
    if (line === undefined) throw new Error(`stream ${inbox.stream.id} came from nowhere`)
    line.far = inbox
    return line
  }

  #send(end: End, inbox: Inbox): void {
    const random = this.#random
    const line = this.#lineOf(end, inbox)
    const bytes = random.bytes(random.chance(20) ? 0 : random.below(random.chance(10) ? 20_000 : 1000))
    let refused = false
    const done = (error?: ProtocolError) => {
      this.#done++
      refused = error !== undefined
    }
    this.#handedIn++
    const parts = [bytes.subarray(0, 100), bytes.subarray(100)]
    inbox.stream.send(random.pick([rawData, admin]), parts, done, { ackRequested: random.chance(30) })
    if (!refused) (line.near === inbox ? line.sentByNear : line.sentByFar).push(bytes)
  }

  #answer({ messages, stream }: Inbox): void {
    for (const message of messages) {
      if (!message.ackRequested || this.#answered.has(message)) continue
      this.#answered.add(message)
      const { type, messageId } = message
      if (type === rawData) stream.acknowledge(messageId)
      if (type === admin)
        stream.send(adminAck, [this.#random.bytes(this.#random.below(2000))], nothing, { answers: messageId })
    }
  }

  #reset(end: End, inbox: Inbox): void {
    this.#lineOf(end, inbox).broken = true
    inbox.stream.reset("NORMAL")
  }

  /** In the end everybody reads, answers and finishes. */
  #finish(): void {
    this.#toResponder.deliverAll()
    this.#toInitiator.deliverAll()
    this.#settle()
    for (const { inboxes } of [this.#initiator, this.#responder]) for (const { stream } of inboxes) stream.finish()
    this.#settle()
    for (const line of this.#lines) {
      // BUSY is an honest answer to a stream that came before the end of another had been read.
      if (line.near.closed?.code === "BUSY") line.broken = true
    }
  }

  #settle(): void {
    for (let quiet = 0; quiet < 2; quiet++) {
      if (carry(this.#initiator, this.#responder, 1 + this.#random.below(100_000)) > 0) quiet = 0
      for (const end of [this.#initiator, this.#responder]) {
        for (const inbox of end.inboxes) {
          this.#lineOf(end, inbox)
          inbox.read()
          this.#answer(inbox)
        }
      }
    }
  }

  #check({ near, far, sentByNear, sentByFar, broken }: Line): void {
    const problem = (what: string) => this.#problems.push(`stream ${near.stream.id}: ${what}`)
    if (far === undefined) {
      if (!broken) problem("it never arrived")
      return
    }
    for (const [inbox, sent] of [
      [far, sentByNear],
      [near, sentByFar]
    ] as const) {
      const got = inbox.messages.filter(({ type }) => type !== adminAck).map(({ bytes }) => bytes)
      if (inbox.callbacksAfterClose > 0) problem("a callback after the end")
      if (got.some((bytes, at) => sent[at] === undefined || Buffer.compare(bytes, sent[at]) !== 0))
        problem("other bytes than were sent")
      if (broken) continue
      if (got.length !== sent.length) problem(`${got.length} of ${sent.length} messages`)
      if (inbox.ends !== 1 || inbox.closed?.code !== "NORMAL") problem("it did not end")
    }
  }

  /** Whatever happened, all credit of the connection has come back. */
  #checkCredit(): void {
    for (const [from, to] of [
      [this.#initiator, this.#responder],
      [this.#responder, this.#initiator]
    ] as const) {
      to.reading = true
      from.open(2).stream.send(rawData, [new Uint8Array(30_000)], nothing)
      carry(from, to)
      if (to.inboxes.at(-1)?.messages[0]?.bytes.length !== 30_000)
        this.#problems.push("the connection's credit has leaked")
    }
  }
}

/**
 * Two honest sides that do everything in a random order, over wires that hold bytes back and cut them anywhere.
 * Gives what was wrong in the end: nothing when exactly the bytes that were sent have arrived.
 */
export const runSchedule = (seed: number): ReadonlyArray<string> => new Schedule(seed).run(250)
