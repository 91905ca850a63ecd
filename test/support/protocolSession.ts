import { concat, fromHex, u16, u64 } from "../../src/protocol/Bytes.ts"
import { makeExporter, type Role, type SessionSecrets } from "../../src/protocol/Handshake.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { Multiplexer } from "../../src/protocol/Multiplexer.ts"
import type { MessageChunk, MessageType, MuxStream, StreamReceiver } from "../../src/protocol/MuxStream.ts"
import { encodeOpen, encodePrefix, type GoodbyePacket, type StreamClass } from "../../src/protocol/Packets.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { RecordOpener, RecordSealer, recordFlags, recordTypes, type Record } from "../../src/protocol/Records.ts"
import { defaultParameters, type SessionParameters } from "../../src/protocol/SessionParameters.ts"
import { alice, bob, vectors } from "./vectors.ts"

const toResponder = fromHex(vectors.traffic_i2r)
const toInitiator = fromHex(vectors.traffic_r2i)
const exporterSecret = fromHex(vectors.exporter)

/** The secrets of the recorded session, with any parameters of the other side. */
export const secretsOf = (role: Role, peerParameters: SessionParameters): SessionSecrets => ({
  role,
  mode: modes.paired,
  version: 1,
  suite: 1,
  initiator: alice,
  responder: bob,
  peer: role === "initiator" ? bob : alice,
  sendSecret: role === "initiator" ? toResponder : toInitiator,
  receiveSecret: role === "initiator" ? toInitiator : toResponder,
  exporterSecret,
  exportKey: makeExporter(exporterSecret),
  peerParameters
})

/** What one stream brought, message by message. With `reading` off nothing is consumed until `read`. */
export class Inbox implements StreamReceiver {
  readonly messages: Array<{ type: MessageType; messageId: number; ackRequested: boolean; bytes: Uint8Array }> = []
  readonly acks: Array<number> = []
  readonly stream: MuxStream
  ends = 0
  closed: ProtocolError | undefined
  callbacksAfterClose = 0
  reading: boolean
  /** Chunks that wait to be consumed. */
  readonly unread: Array<MessageChunk> = []
  #parts: Array<Uint8Array> = []

  constructor(stream: MuxStream, reading = true) {
    this.stream = stream
    this.reading = reading
    stream.receive(this)
  }

  onChunk(chunk: MessageChunk): void {
    this.#alive()
    this.#parts.push(chunk.bytes)
    if (chunk.last) {
      const { type, messageId, ackRequested } = chunk
      this.messages.push({ type, messageId, ackRequested, bytes: concat(...this.#parts) })
      this.#parts = []
    }
    if (this.reading) this.stream.consumed(chunk)
    else this.unread.push(chunk)
  }

  onEnd(): void {
    this.#alive()
    this.ends++
  }

  onAck(messageId: number): void {
    this.#alive()
    this.acks.push(messageId)
  }

  onClose(reason: ProtocolError): void {
    this.#alive()
    this.closed = reason
  }

  /** Consumes up to this many of the waiting chunks. */
  read(chunks = Infinity): void {
    for (const chunk of this.unread.splice(0, chunks)) this.stream.consumed(chunk)
  }

  #alive(): void {
    if (this.closed !== undefined) this.callbacksAfterClose++
  }
}

/** One side of a session and all that it told its owner. */
export class End {
  readonly mux: Multiplexer
  readonly streams: Array<MuxStream> = []
  readonly inboxes: Array<Inbox> = []
  readonly pongs: Array<Uint8Array> = []
  readonly failures: Array<ProtocolError> = []
  goodbye: GoodbyePacket | undefined
  readies = 0
  wakes = 0
  onRecord = (): void => undefined
  /** Whether streams of the other side get an inbox at once. */
  accepting = true
  reading = true

  constructor(role: Role, own: Partial<SessionParameters> = {}, peer: Partial<SessionParameters> = {}) {
    this.mux = new Multiplexer(
      secretsOf(role, { ...defaultParameters, ...peer }),
      { ...defaultParameters, ...own },
      {
        onReady: () => this.readies++,
        onStream: stream => {
          this.streams.push(stream)
          if (this.accepting) this.inboxes.push(new Inbox(stream, this.reading))
        },
        onPong: payload => this.pongs.push(payload),
        onRecord: () => this.onRecord(),
        onGoodbye: goodbye => {
          this.goodbye = goodbye
        },
        onWritable: () => this.wakes++,
        onFailure: error => this.failures.push(error)
      }
    )
  }

  inbox(index: number): Inbox {
    const inbox = this.inboxes[index]
    if (inbox === undefined) throw new Error(`no stream ${index} has come`)
    return inbox
  }

  open(streamClass: StreamClass, name = "", reading = true): Inbox {
    const inbox = new Inbox(this.mux.openStream(streamClass, name), reading)
    this.inboxes.push(inbox)
    return inbox
  }
}

/** Two sides without a wire between them yet. */
export const session = (
  initiatorTakes: Partial<SessionParameters> = {},
  responderTakes: Partial<SessionParameters> = {}
): { readonly initiator: End; readonly responder: End } => ({
  initiator: new End("initiator", initiatorTakes, responderTakes),
  responder: new End("responder", responderTakes, initiatorTakes)
})

/** Carries what each side has to say to the other until both are quiet; how many bytes that were. */
export const carry = (one: End, other: End, batchBytes = 128 * 1024): number => {
  let carried = 0
  for (let quiet = 0; quiet < 2;) {
    quiet++
    for (const [from, to] of [
      [one, other],
      [other, one]
    ] as const) {
      const bytes = concat(...from.mux.take(batchBytes))
      if (bytes.length === 0) continue
      to.mux.receive(bytes)
      carried += bytes.length
      quiet = 0
    }
  }
  return carried
}

/** The records in what one side has to say, opened by one who has the keys. */
export class Listener {
  readonly #opener: RecordOpener
  constructor(from: Role) {
    this.#opener = new RecordOpener(from === "initiator" ? toResponder : toInitiator)
  }

  read(bytes: ReadonlyArray<Uint8Array>): Array<Record> {
    const records: Array<Record> = []
    this.#opener.push(concat(...bytes), record => records.push(record))
    return records
  }
}

/** A peer that has the right keys and says what it likes. */
export class HostilePeer {
  readonly #sealer: RecordSealer
  readonly victim: End

  /** By default it is the initiator and has sent READY. */
  constructor(own: Partial<SessionParameters> = {}, role: Role = "initiator", ready = role === "initiator") {
    this.#sealer = new RecordSealer(role === "initiator" ? toResponder : toInitiator)
    this.victim = new End(role === "initiator" ? "responder" : "initiator", own)
    if (ready) this.say(recordTypes.ready, 0)
  }

  /** Sends one record; what the victim throws comes out here. */
  say(type: number, stream: number, payload: Uint8Array = new Uint8Array(0), flags = 0): void {
    this.victim.mux.receive(this.seal(type, stream, payload, flags))
  }

  seal(type: number, stream: number, payload: Uint8Array = new Uint8Array(0), flags = 0): Uint8Array {
    return concat(...this.#sealer.seal(type, flags, stream, [payload]))
  }

  updateKey(): void {
    this.victim.mux.receive(concat(...this.#sealer.updateKey()))
  }

  open(stream: number, streamClass: StreamClass = 2, name = ""): void {
    this.say(recordTypes.open, stream, encodeOpen({ streamClass, name }))
  }

  /** A whole message in one record. */
  message(stream: number, messageId: number, bytes: Uint8Array, flags = 0, type: number = recordTypes.rawData): void {
    const prefix = encodePrefix({ messageId, total: bytes.length })
    this.say(type, stream, concat(prefix, bytes), recordFlags.first | recordFlags.last | flags)
  }

  credit(stream: number, limit: number): void {
    this.say(recordTypes.credit, stream, u64(limit))
  }

  reset(stream: number, code = 0): void {
    this.say(recordTypes.reset, stream, u16(code))
  }

  /** The code of the ProtocolError that these actions end in. */
  static refused(run: () => void): string | undefined {
    try {
      run()
    } catch (error) {
      if (error instanceof ProtocolError) return error.code
      throw error
    }
    return undefined
  }
}
