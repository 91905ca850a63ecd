import { u16, u64 } from "./Bytes.ts"
import { maxStreamId, maxUnreadAcks, minRecordsPerKeyUpdate } from "./constants.ts"
import type { SessionSecrets } from "./Handshake.ts"
import {
  encodeGoodbye,
  encodeOpen,
  parseGoodbye,
  parseNumber,
  parseOpen,
  parsePing,
  parseReset,
  streamClasses,
  type GoodbyePacket,
  type StreamClass
} from "./Packets.ts"
import { MuxStream, type StreamHost } from "./MuxStream.ts"
import type { OutgoingRecord } from "./OutgoingMessage.ts"
import { codeName, ProtocolError, wireCode, type WireCode } from "./ProtocolError.ts"
import { ReceiveWindow } from "./ReceiveWindow.ts"
import type { CipherEngine } from "./CipherEngine.ts"
import { messageTypes, RecordOpener, RecordSealer, recordTypes, streamTypes, type Record } from "./Records.ts"
import type { SessionParameters } from "./SessionParameters.ts"
import { StreamScheduler } from "./StreamScheduler.ts"

/** What a session tells its owner; all are called synchronously from `receive`, or from the call that caused them. */
export interface SessionEvents {
  /** READY was opened: the initiator has proved that it has the keys. Comes once, at the responder. */
  readonly onReady: () => void
  readonly onStream: (stream: MuxStream) => void
  readonly onPong: (payload: Uint8Array) => void
  /** One record of several that came together has been dealt with: what it brought about may be taken. */
  readonly onRecord: () => void
  /** The other side says goodbye; ours is queued in answer where we have not said it first. */
  readonly onGoodbye: (goodbye: GoodbyePacket) => void
  /** There is something to write: `take` it once the call that brought this event has returned. */
  readonly onWritable: () => void
  /** The session cannot go on, though no bytes from the other side are being taken just now. */
  readonly onFailure: (error: ProtocolError) => void
}

/** Control records that may wait to be written; a peer that asks for more without reading answers is cut off. */
const maxControlRecords = 4 * maxUnreadAcks
/** Streams that we gave up and the other side has not confirmed. */
const maxUnsettledStreams = 1_024

/**
 * The streams of one session (§3.2 to §3.5) over its records: bytes from the other side go to `receive`, bytes to write come from `take`.
 * Neither waits nor knows a socket or a clock. Any ProtocolError from `receive` ends the session.
 */
export class Multiplexer {
  readonly #sealer: RecordSealer
  readonly #opener: RecordOpener
  readonly #own: SessionParameters
  readonly #peer: SessionParameters
  readonly #events: SessionEvents
  readonly #initiator: boolean
  readonly #host: StreamHost

  readonly #streams = new Map<number, MuxStream>()
  /** Streams that we reset and whose last records may still be on their way. */
  readonly #unsettled = new Map<number, { readonly streamClass: StreamClass; readonly window: ReceiveWindow }>()
  #nextOwnId: number
  #nextPeerId: number
  #peerOpen = 0
  #ownOpen = 0

  readonly #control: Array<OutgoingRecord> = []
  readonly #credits = new Map<number, number>()
  #failure: ProtocolError | undefined
  readonly #scheduler = new StreamScheduler()
  #keyUpdateDue = false
  #taking = false

  #connectionLimit: number
  readonly #connectionWindow: ReceiveWindow

  #ready: boolean
  #goodbyeSent = false
  #goodbyeReceived = false

  constructor(secrets: SessionSecrets, own: SessionParameters, events: SessionEvents, engine?: CipherEngine) {
    this.#sealer = new RecordSealer(secrets.sendSecret, engine)
    this.#opener = new RecordOpener(secrets.receiveSecret, engine)
    this.#own = own
    this.#peer = secrets.peerParameters
    this.#events = events
    this.#initiator = secrets.role === "initiator"
    this.#nextOwnId = this.#initiator ? 1 : 2
    this.#nextPeerId = this.#initiator ? 2 : 1
    this.#ready = this.#initiator
    this.#connectionLimit = this.#peer.connectionWindowBytes
    this.#connectionWindow = new ReceiveWindow(own.connectionWindowBytes)
    this.#host = {
      maxRecordBytes: this.#peer.maxRecordBytes,
      connectionCredit: this.#connectionLimit,
      control: (type, flags, stream, payload) => this.#queueControl(type, stream, payload, flags),
      credit: (stream, limit) => this.#queueCredit(stream, limit),
      wake: stream => this.#wake(stream),
      connectionConsumed: bytes => this.#onConnectionConsumed(bytes),
      forget: stream => this.#forget(stream)
    }
    if (this.#initiator) this.#queueControl(recordTypes.ready, 0, new Uint8Array(0))
  }

  get openStreams(): number {
    return this.#streams.size
  }

  /** Whether the other side has said goodbye: only then is an end of the connection a clean one. */
  get goodbyeReceived(): boolean {
    return this.#goodbyeReceived
  }

  get goodbyeSent(): boolean {
    return this.#goodbyeSent
  }

  /** Opens a stream. LIMIT where the other side allows no more open streams, UNEXPECTED after GOODBYE. */
  openStream(streamClass: StreamClass, name: string): MuxStream {
    if (this.#goodbyeSent || this.#goodbyeReceived) throw new ProtocolError("UNEXPECTED", "the session is ending")
    if (this.#ownOpen >= this.#peer.maxStreams)
      throw new ProtocolError("LIMIT", `${this.#ownOpen} streams are open, no more are allowed`)
    if (this.#nextOwnId >= maxStreamId) throw new ProtocolError("LIMIT", "this session has no stream ids left")
    const id = this.#nextOwnId
    this.#nextOwnId += 2
    const stream = this.#addStream(id, streamClass, name)
    this.#ownOpen++
    this.#queueControl(recordTypes.open, id, encodeOpen({ streamClass, name }))
    return stream
  }

  #addStream(id: number, streamClass: StreamClass, name: string): MuxStream {
    const { streamWindowBytes } = this.#peer
    const stream = new MuxStream(this.#host, id, streamClass, name, streamWindowBytes, this.#own.streamWindowBytes)
    this.#streams.set(id, stream)
    return stream
  }

  ping(payload: Uint8Array): void {
    this.#queueControl(recordTypes.ping, 0, payload)
  }

  /** Changes the sending key with the next bytes (§3.3: hourly), unless too few records went out under it to need that. */
  updateKey(): void {
    if (this.#goodbyeSent) return
    this.#keyUpdateDue = true
    this.#events.onWritable()
  }

  /** Says goodbye: the last record of this side. Streams that are open fail with its code. */
  goodbye(code: WireCode, reason: string): void {
    if (this.#goodbyeSent) return
    this.#queueControl(recordTypes.goodbye, 0, encodeGoodbye({ code: wireCode(code) ?? 0, reason }))
    this.#goodbyeSent = true
    this.closeStreams(new ProtocolError(code, reason))
  }

  /** Fails every stream: the session is over. */
  closeStreams(reason: ProtocolError): void {
    for (const stream of [...this.#streams.values()]) stream.close(reason, true)
  }

  /** Overwrites the keys. */
  wipe(): void {
    this.#sealer.wipe()
    this.#opener.wipe()
  }

  // --- sending ---

  #queueControl(type: number, stream: number, payload: Uint8Array, flags = 0): void {
    if (this.#goodbyeSent || this.#failure !== undefined) return
    if (this.#control.length >= maxControlRecords) return this.#fail("the other side does not read our answers")
    this.#control.push({ type, flags, stream, payload: [payload], bytes: payload.length })
    this.#events.onWritable()
  }

  /** A bound of ours is reached by what we do ourselves in answer to the other side. */
  #fail(message: string): void {
    if (this.#failure !== undefined) return
    this.#failure = new ProtocolError("LIMIT", message)
    this.#events.onFailure(this.#failure)
  }

  #queueCredit(stream: number, limit: number): void {
    if (this.#goodbyeSent) return
    this.#credits.set(stream, limit)
    this.#events.onWritable()
  }

  #wake(stream: MuxStream): void {
    if (this.#goodbyeSent) return
    this.#scheduler.add(stream)
    this.#events.onWritable()
  }

  /**
   * Sealed bytes to write now, in parts: about `maxBytes`, less where there is no more to send or no credit. They are to be written
   * before the next call. A responder has nothing to write before READY.
   */
  take(maxBytes: number): Array<Uint8Array> {
    // Records that a callback takes while others are being sealed would be written before them.
    if (this.#taking || !this.#ready) return []
    this.#taking = true
    try {
      return this.#take(maxBytes)
    } finally {
      this.#taking = false
    }
  }

  #take(maxBytes: number): Array<Uint8Array> {
    const out: Array<Uint8Array> = []
    let bytes = 0
    const append = (parts: ReadonlyArray<Uint8Array>): void => {
      for (const part of parts) {
        out.push(part)
        bytes += part.length
      }
    }
    const seal = (type: number, flags: number, stream: number, payload: ReadonlyArray<Uint8Array>): void =>
      append(this.#sealer.seal(type, flags, stream, payload))
    while (bytes < maxBytes) {
      if (this.#keyUpdateDue && !this.#goodbyeSent && this.#sealer.records >= minRecordsPerKeyUpdate)
        append(this.#sealer.updateKey())
      this.#keyUpdateDue = false
      for (const [stream, limit] of this.#credits) {
        this.#credits.delete(stream)
        seal(recordTypes.credit, 0, stream, [u64(limit)])
      }
      const record = this.#control.shift() ?? (this.#goodbyeSent ? undefined : this.#scheduler.next())
      if (record === undefined) break
      seal(record.type, record.flags, record.stream, record.payload)
      record.sealed?.()
    }
    return out
  }

  // --- receiving ---

  /** Takes bytes from the other side. Throws ProtocolError: the session is then over. */
  receive(chunk: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure
    this.#opener.push(chunk, record => {
      this.#onRecord(record)
      this.#events.onRecord()
    })
  }

  #onRecord(record: Record): void {
    const { type, flags, stream, payload } = record
    if (this.#goodbyeReceived) throw new ProtocolError("UNEXPECTED", "a record after GOODBYE")
    if (!this.#ready) return this.#onFirstRecord(record)
    if (type >= 128) return
    if (flags !== 0 && !messageTypes.has(type))
      throw new ProtocolError("MALFORMED", `flags ${flags} on a record of type ${type}`)
    // The side that said goodbye first waits for the other's and for nothing else.
    if (this.#goodbyeSent && type !== recordTypes.goodbye) return
    if (stream === 0) return this.#onConnectionRecord(type, payload)
    if (type === recordTypes.open) return this.#onOpen(stream, payload)
    this.#onStreamRecord(record)
  }

  #onFirstRecord({ type, flags, stream, payload }: Record): void {
    if (type !== recordTypes.ready || flags !== 0 || stream !== 0 || payload.length > 0 || this.#opener.epoch > 0)
      throw new ProtocolError("UNEXPECTED", "READY must be first")
    this.#ready = true
    this.#events.onReady()
    if (this.#control.length > 0) this.#events.onWritable()
  }

  #onConnectionRecord(type: number, payload: Uint8Array): void {
    switch (type) {
      case recordTypes.ping:
        return this.#queueControl(recordTypes.pong, 0, parsePing(payload))
      case recordTypes.pong:
        return this.#events.onPong(parsePing(payload))
      case recordTypes.credit:
        return this.#onConnectionCredit(parseNumber(payload, "CREDIT"))
      case recordTypes.goodbye: {
        const goodbye = parseGoodbye(payload)
        this.closeStreams(
          new ProtocolError(codeName(goodbye.code), `the other side ended the session: ${goodbye.reason}`)
        )
        this.goodbye("NORMAL", "")
        this.#goodbyeReceived = true
        return this.#events.onGoodbye(goodbye)
      }
      default:
        throw new ProtocolError("UNEXPECTED", `record type ${type} on stream 0`)
    }
  }

  #onOpen(id: number, payload: Uint8Array): void {
    if (id !== this.#nextPeerId || id >= maxStreamId)
      throw new ProtocolError("UNEXPECTED", `OPEN of stream ${id}, ${this.#nextPeerId} was next`)
    const { streamClass, name } = parseOpen(payload)
    this.#nextPeerId += 2
    if (this.#peerOpen >= this.#own.maxStreams) {
      this.#unsettle(id, streamClass, new ReceiveWindow(this.#own.streamWindowBytes))
      return this.#queueControl(recordTypes.reset, id, u16(wireCode("BUSY") ?? 0))
    }
    const stream = this.#addStream(id, streamClass, name)
    this.#peerOpen++
    this.#events.onStream(stream)
  }

  #onStreamRecord(record: Record): void {
    const { type, stream: id, payload } = record
    const stream = this.#streams.get(id)
    if (stream === undefined) return this.#onLateRecord(record)
    switch (type) {
      case recordTypes.rawData:
      case recordTypes.admin:
        this.#checkSize(payload)
        this.#countConnection(stream.streamClass, payload.length)
        return stream.onMessageRecord(record, type)
      case recordTypes.adminAck:
        this.#checkSize(payload)
        return stream.onMessageRecord(record, type)
      case recordTypes.rawAck:
        return stream.onRawAck(parseNumber(payload, "RAW_ACK"))
      case recordTypes.fin:
        if (payload.length > 0) throw new ProtocolError("MALFORMED", "FIN is not empty")
        return stream.onFin()
      case recordTypes.reset:
        return stream.onReset(parseReset(payload))
      case recordTypes.credit:
        return stream.onCredit(parseNumber(payload, "CREDIT"))
      default:
        throw new ProtocolError("UNEXPECTED", `record type ${type} on stream ${id}`)
    }
  }

  /** A record on a stream that is gone here: dropped, its bytes given back at once. One that was never opened ends the session. */
  #onLateRecord({ type, stream: id, payload }: Record): void {
    const known = id % 2 === this.#nextOwnId % 2 ? id < this.#nextOwnId : id < this.#nextPeerId
    if (!known) throw new ProtocolError("UNEXPECTED", `record type ${type} on stream ${id}, which was never opened`)
    if (!streamTypes.has(type)) throw new ProtocolError("UNEXPECTED", `record type ${type} on stream ${id}`)
    const unsettled = this.#unsettled.get(id)
    if (unsettled === undefined) {
      // CREDIT and RAW_ACK may cross our FIN; anything else after the end of both directions is a breach.
      if (type === recordTypes.credit || type === recordTypes.rawAck || type === recordTypes.reset) return
      throw new ProtocolError("UNEXPECTED", `record type ${type} on stream ${id}, which has ended`)
    }
    if (type === recordTypes.fin || type === recordTypes.reset) {
      this.#unsettled.delete(id)
      return
    }
    if (type === recordTypes.rawData || type === recordTypes.admin) {
      if (!unsettled.window.receive(payload.length))
        throw new ProtocolError("LIMIT", `stream ${id} sent over its credit after its end`)
      this.#countConnection(unsettled.streamClass, payload.length)
      if (unsettled.streamClass === streamClasses.bulk) this.#onConnectionConsumed(payload.length)
    }
  }

  /** Our `mr`: the other side signed that it has read it. */
  #checkSize(payload: Uint8Array): void {
    if (payload.length > this.#own.maxRecordBytes)
      throw new ProtocolError("TOO_LARGE", `a record of ${payload.length} bytes, we take ${this.#own.maxRecordBytes}`)
  }

  #countConnection(streamClass: StreamClass, bytes: number): void {
    if (streamClass === streamClasses.bulk && !this.#connectionWindow.receive(bytes))
      throw new ProtocolError("LIMIT", "bulk data over the connection's credit")
  }

  #onConnectionCredit(limit: number): void {
    if (limit <= this.#connectionLimit) return
    this.#host.connectionCredit += limit - this.#connectionLimit
    this.#connectionLimit = limit
    for (const stream of this.#streams.values()) if (stream.streamClass === streamClasses.bulk) this.#wake(stream)
  }

  #onConnectionConsumed(bytes: number): void {
    const limit = this.#connectionWindow.consume(bytes)
    if (limit !== undefined) this.#queueCredit(0, limit)
  }

  #unsettle(id: number, streamClass: StreamClass, window: ReceiveWindow): void {
    if (this.#unsettled.size >= maxUnsettledStreams)
      return this.#fail("the other side does not confirm the end of streams")
    this.#unsettled.set(id, { streamClass, window })
  }

  #forget(stream: MuxStream): void {
    this.#streams.delete(stream.id)
    if (stream.id % 2 === this.#nextOwnId % 2) this.#ownOpen--
    else this.#peerOpen--
    this.#scheduler.remove(stream)
    this.#credits.delete(stream.id)
    if (!stream.settled && !this.#goodbyeSent) this.#unsettle(stream.id, stream.streamClass, stream.window)
  }
}
