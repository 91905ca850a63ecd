import { concat } from "../../src/protocol/Bytes.ts"
import { minRecordLimitBytes } from "../../src/protocol/constants.ts"
import type { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import type { SessionParameters } from "../../src/protocol/SessionParameters.ts"
import { SeededRandom } from "./protocolRandom.ts"
import { carry, session, type End, type Inbox } from "./protocolSession.ts"

const { rawData, admin, adminAck } = recordTypes

/** One stream as its opener and the other side know it, and what each has sent on it. */
interface Line {
  readonly inboxes: { readonly [K in "near" | "far"]: Inbox | undefined }
  readonly sent: { readonly near: Array<Uint8Array>; readonly far: Array<Uint8Array> }
  broken: boolean
}

/** One direction of the wire: bytes that have been taken and not delivered. */
class Wire {
  #bytes: Uint8Array = new Uint8Array(0)

  fill(from: End, maxBytes: number): void {
    this.#bytes = concat(this.#bytes, ...from.mux.take(maxBytes))
  }

  deliver(to: End, bytes: number): void {
    to.mux.receive(this.#bytes.slice(0, bytes))
    this.#bytes = this.#bytes.slice(bytes)
  }

  get length(): number {
    return this.#bytes.length
  }
}

/** Small limits, so that each of them is reached. */
const someParameters = (random: SeededRandom): Partial<SessionParameters> => ({
  maxRecordBytes: minRecordLimitBytes + random.below(600),
  streamWindowBytes: minRecordLimitBytes + random.below(3000),
  connectionWindowBytes: minRecordLimitBytes + random.below(5000),
  maxStreams: 1 + random.below(8)
})

const problemsOf = (line: Line, name: string): ReadonlyArray<string> => {
  const { near, far } = line.inboxes
  if (near === undefined || far === undefined) return line.broken ? [] : [`${name} never arrived`]
  const problems: Array<string> = []
  for (const [inbox, sent] of [
    [far, line.sent.near],
    [near, line.sent.far]
  ] as const) {
    const got = inbox.messages.filter(({ type }) => type !== adminAck).map(({ bytes }) => bytes)
    if (inbox.callbacksAfterClose > 0) problems.push(`${name}: a callback after the end`)
    if (got.some((bytes, at) => Buffer.compare(bytes, sent[at] ?? new Uint8Array(0)) !== 0) || got.length > sent.length)
      problems.push(`${name}: other bytes than were sent`)
    if (line.broken) continue
    if (got.length !== sent.length) problems.push(`${name}: ${got.length} of ${sent.length} messages`)
    if (inbox.ends !== 1 || inbox.closed?.code !== "NORMAL") problems.push(`${name} did not end`)
  }
  return problems
}

/**
 * Two honest sides that do everything in a random order, over wires that hold bytes back and cut them anywhere.
 * What they have to say for themselves in the end: nothing when all is well.
 */
export const runSchedule = (seed: number): ReadonlyArray<string> => {
  const random = new SeededRandom(seed)
  const { initiator, responder } = session(someParameters(random), someParameters(random))
  initiator.reading = responder.reading = false
  const ends = [initiator, responder] as const
  const wires = [new Wire(), new Wire()] as const
  const lines: Array<Line> = []
  let handedIn = 0
  let finished = 0

  const linesOf = (end: End): ReadonlyArray<Line> =>
    lines.filter(({ inboxes }) => end.inboxes.some(inbox => inbox === inboxes.near))
  const lineOf = (end: End, inbox: Inbox): { readonly line: Line; readonly side: "near" | "far" } => {
    for (const line of lines) {
      if (line.inboxes.near === inbox) return { line, side: "near" }
      if (line.inboxes.far === inbox) return { line, side: "far" }
    }
    // A stream that the other side opened is met for the first time: it opened its streams in this order.
    const other = end === initiator ? responder : initiator
    const opened = linesOf(other).find(line => line.inboxes.near?.stream.id === inbox.stream.id)
    if (opened === undefined) throw new Error(`stream ${inbox.stream.id} came from nowhere`)
    const line: Line = { ...opened, inboxes: { ...opened.inboxes, far: inbox } }
    lines[lines.indexOf(opened)] = line
    return { line, side: "far" }
  }

  const send = (end: End, inbox: Inbox): void => {
    const { line, side } = lineOf(end, inbox)
    const bytes = random.bytes(random.chance(20) ? 0 : random.below(random.chance(10) ? 20_000 : 1000))
    const request = random.chance(20)
    const ackRequested = random.chance(30)
    handedIn++
    let refused = false
    const done = (error?: ProtocolError) => {
      finished++
      refused = error !== undefined
    }
    inbox.stream.send(request ? admin : rawData, [bytes.subarray(0, 100), bytes.subarray(100)], done, { ackRequested })
    if (!refused) line.sent[side].push(bytes)
  }

  const answer = (inbox: Inbox): void => {
    for (const { type, messageId, ackRequested } of inbox.messages) {
      if (
        !ackRequested ||
        answered.has(`${inbox.stream.id} ${messageId} ${ends.findIndex(end => end.inboxes.includes(inbox))}`)
      )
        continue
      answered.add(`${inbox.stream.id} ${messageId} ${ends.findIndex(end => end.inboxes.includes(inbox))}`)
      if (type === rawData) inbox.stream.acknowledge(messageId)
      if (type === admin)
        inbox.stream.send(adminAck, [random.bytes(random.below(2000))], () => undefined, { answers: messageId })
    }
  }
  const answered = new Set<string>()

  const act = (end: End): void => {
    const at = end === initiator ? 0 : 1
    const action = random.below(100)
    if (action < 30) return wires[at].fill(end, 1 + random.below(4000))
    if (action < 55)
      return wires[1 - at === 0 ? 0 : 1].deliver(
        end,
        random.chance(30) ? wires[1 - at === 0 ? 0 : 1].length : random.below(2000)
      )
    if (action < 57) return end.mux.ping(random.bytes(8))
    if (action < 58) return end.mux.updateKey()
    if (end.inboxes.length === 0 || action < 63) {
      try {
        lines.push({
          inboxes: { near: end.open(random.pick([0, 1, 2]), "", false), far: undefined },
          sent: { near: [], far: [] },
          broken: false
        })
      } catch {
        // Its limit of streams is reached.
      }
      return
    }
    const inbox = random.pick(end.inboxes)
    if (action < 80) return send(end, inbox)
    if (action < 95) return inbox.read(1 + random.below(4))
    if (action < 97) return answer(inbox)
    if (action < 99) {
      lineOf(end, inbox)
      return inbox.stream.finish()
    }
    if (random.chance(50)) return
    lineOf(end, inbox).line.broken = true
    inbox.stream.reset("NORMAL")
  }

  for (let step = 0; step < 250; step++) act(random.pick(ends))

  // In the end everybody reads, answers and finishes.
  const settle = (): void => {
    for (const [at, wire] of wires.entries()) {
      const to = ends[1 - at === 0 ? 0 : 1]
      wire.deliver(to, wire.length)
    }
    carry(initiator, responder, 1 + random.below(100_000))
    for (const end of ends) {
      for (const inbox of end.inboxes) {
        lineOf(end, inbox)
        inbox.read()
        answer(inbox)
      }
    }
  }
  for (let round = 0; round < 400; round++) settle()
  for (const end of ends) for (const inbox of end.inboxes) inbox.stream.finish()
  for (let round = 0; round < 5; round++) settle()
  // BUSY is an honest answer to a stream that came before the end of another was read.
  for (const line of lines) if (line.inboxes.near?.closed?.code === "BUSY") line.broken = true

  const problems = lines.flatMap((line, at) => problemsOf(line, `stream ${line.inboxes.near?.stream.id} (${at})`))
  if (finished !== handedIn) problems.push(`${handedIn - finished} messages were never done`)
  for (const end of ends) {
    if (end.mux.openStreams > 0) problems.push(`${end.mux.openStreams} streams are left open`)
    if (end.failures.length > 0) problems.push(`a failure: ${end.failures[0]?.message}`)
  }
  // Whatever happened, all credit of the connection has come back.
  const last = initiator.open(2, "", false)
  last.stream.send(rawData, [new Uint8Array(30_000)], () => undefined)
  carry(initiator, responder)
  const inbox = responder.inboxes.at(-1)
  for (let round = 0; round < 400; round++) {
    inbox?.read()
    carry(initiator, responder)
  }
  if (inbox?.messages[0]?.bytes.length !== 30_000) problems.push("the connection's credit has leaked")
  return problems
}
