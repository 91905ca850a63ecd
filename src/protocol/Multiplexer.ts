import { u16, u64 } from "./Bytes.ts"
import { maxStreamId, maxUnreadAcks } from "./constants.ts"
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
import { codeName, ProtocolError, wireCode, type WireCode } from "./ProtocolError.ts"
import { RecordOpener, RecordSealer, recordTypes, type CipherEngine, type Record } from "./Records.ts"
import type { SessionParameters } from "./SessionParameters.ts"

/** What a session tells its owner; all are called synchronously from `receive`, or from the call that caused them. */
export interface SessionEvents {
  /** READY was opened: the initiator has proved that it has the keys. Comes once, at the responder. */
  readonly onReady: () => void
  readonly onStream: (stream: MuxStream) => void
  readonly onPong: (payload: Uint8Array) => void
  /** The other side says goodbye; ours is queued in answer where we have not said it first. */
  readonly onGoodbye: (goodbye: GoodbyePacket) => void
  /** There is something to write. */
  readonly onWritable: () => void
  /** The session cannot go on, though no bytes from the other side are being taken just now. */
  readonly onFailure: (error: ProtocolError) => void
}

/** Bytes that one bulk stream may send before it is the next one's turn. */
const bulkQuantumBytes = 65_536
/** Control records that may wait to be written; a peer that asks for more without reading answers is cut off. */
const maxControlRecords = 4 * maxUnreadAcks
/** Streams that we gave up and the other side has not confirmed. */
const maxUnsettledStreams = 1_024

interface ControlRecord {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Uint8Array
}

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
  readonly #unsettled = new Map<number, StreamClass>()
  #nextOwnId: number
  #nextPeerId: number
  #peerOpen = 0
  #ownOpen = 0

  readonly #control: Array<ControlRecord> = []
  readonly #credits = new Map<number, number>()
  #failure: ProtocolError | undefined
  /** Streams with something to send, by class; the first is the next one to be asked. */
  readonly #active: ReadonlyArray<Array<MuxStream>> = [[], [], []]
  #bulkDeficit = 0

  #connectionLimit: number
  #connectionReceived = 0
  #connectionConsumed = 0
  #connectionReceiveLimit: number

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
    this.#connectionReceiveLimit = own.connectionWindowBytes
    this.#host = {
      maxRecordBytes: this.#peer.maxRecordBytes,
      connectionCredit: this.#connectionLimit,
      control: (type, flags, stream, payload) => this.#queueControl({ type, flags, stream, payload }),
      credit: (stream, limit) => this.#queueCredit(stream, limit),
      wake: stream => this.#wake(stream),
      connectionConsumed: bytes => this.#onConnectionConsumed(bytes),
      forget: stream => this.#forget(stream)
    }
    if (this.#initiator)
      this.#queueControl({ type: recordTypes.ready, flags: 0, stream: 0, payload: new Uint8Array(0) })
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
    const stream = new MuxStream(
      this.#host,
      id,
      streamClass,
      name,
      this.#peer.streamWindowBytes,
      this.#own.streamWindowBytes
    )
    this.#streams.set(id, stream)
    this.#ownOpen++
    this.#queueControl({ type: recordTypes.open, flags: 0, stream: id, payload: encodeOpen({ streamClass, name }) })
    return stream
  }

  ping(payload: Uint8Array): void {
    this.#queueControl({ type: recordTypes.ping, flags: 0, stream: 0, payload })
  }

  /** Says goodbye: the last record of this side. Streams that are open fail with its code. */
  goodbye(code: WireCode, reason: string): void {
    if (this.#goodbyeSent) return
    const payload = encodeGoodbye({ code: wireCode(code) ?? 0, reason })
    this.#queueControl({ type: recordTypes.goodbye, flags: 0, stream: 0, payload })
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

  #queueControl(record: ControlRecord): void {
    if (this.#goodbyeSent || this.#failure !== undefined) return
    if (this.#control.length >= maxControlRecords) {
      this.#failure = new ProtocolError("LIMIT", "the other side does not read our answers")
      return this.#events.onFailure(this.#failure)
    }
    this.#control.push(record)
    this.#events.onWritable()
  }

  #queueCredit(stream: number, limit: number): void {
    if (this.#goodbyeSent) return
    this.#credits.set(stream, limit)
    this.#events.onWritable()
  }

  #wake(stream: MuxStream): void {
    const active = this.#active[stream.streamClass]
    if (active === undefined || this.#goodbyeSent) return
    if (!active.includes(stream)) active.push(stream)
    this.#events.onWritable()
  }

  /** Sealed bytes to write now, in parts: about `maxBytes`, less where there is no more to send or no credit. */
  take(maxBytes: number): Array<Uint8Array> {
    const out: Array<Uint8Array> = []
    let bytes = 0
    const seal = (type: number, flags: number, stream: number, payload: ReadonlyArray<Uint8Array>): void => {
      for (const part of this.#sealer.seal(type, flags, stream, payload)) {
        out.push(part)
        bytes += part.length
      }
    }
    while (bytes < maxBytes) {
      for (const [stream, limit] of this.#credits) {
        this.#credits.delete(stream)
        if (stream === 0 || this.#streams.has(stream)) seal(recordTypes.credit, 0, stream, [u64(limit)])
      }
      const control = this.#control.shift()
      if (control !== undefined) {
        seal(control.type, control.flags, control.stream, [control.payload])
        continue
      }
      if (this.#goodbyeSent) break
      const record = this.#nextRecord()
      if (record === undefined) break
      seal(record.type, record.flags, record.stream, record.payload)
    }
    return out
  }

  #nextRecord() {
    for (const streamClass of [streamClasses.admin, streamClasses.rpc]) {
      const active = this.#active[streamClass] ?? []
      for (let turns = active.length; turns > 0; turns--) {
        const stream = active.shift()
        if (stream === undefined) break
        const record = stream.next()
        // A stream without credit leaves the turn; its CREDIT wakes it again.
        if (stream.ready) active.push(stream)
        if (record !== undefined) return record
      }
    }
    return this.#nextBulk()
  }

  /** Deficit round robin: a stream goes on until its share is used or it can send no more. */
  #nextBulk() {
    const active = this.#active[streamClasses.bulk] ?? []
    for (let turns = active.length + 1; turns > 0; turns--) {
      const stream = active[0]
      if (stream === undefined) return undefined
      if (this.#bulkDeficit <= 0) this.#bulkDeficit += bulkQuantumBytes
      const record = stream.next()
      if (record !== undefined) this.#bulkDeficit -= record.bytes
      if (record === undefined || !stream.ready || this.#bulkDeficit <= 0) {
        this.#bulkDeficit = 0
        // A stream that has just ended has left the list by itself.
        if (active[0] === stream) active.shift()
        if (stream.ready) active.push(stream)
      }
      if (record !== undefined) return record
    }
    return undefined
  }

  // --- receiving ---

  /** Takes bytes from the other side. Throws ProtocolError: the session is then over. */
  receive(chunk: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure
    this.#opener.push(chunk, record => this.#onRecord(record))
  }

  #onRecord(record: Record): void {
    const { type, stream, payload } = record
    if (this.#goodbyeReceived) throw new ProtocolError("UNEXPECTED", "a record after GOODBYE")
    if (type >= 128) return
    if (!this.#ready) {
      if (type !== recordTypes.ready || stream !== 0 || payload.length > 0)
        throw new ProtocolError("UNEXPECTED", "READY must be first")
      this.#ready = true
      return this.#events.onReady()
    }
    // The side that said goodbye first waits for the other's and for nothing else.
    if (this.#goodbyeSent && type !== recordTypes.goodbye) return
    if (stream === 0) return this.#onConnectionRecord(type, payload)
    if (type === recordTypes.open) return this.#onOpen(stream, payload)
    this.#onStreamRecord(record)
  }

  #onConnectionRecord(type: number, payload: Uint8Array): void {
    switch (type) {
      case recordTypes.ping:
        return this.#queueControl({ type: recordTypes.pong, flags: 0, stream: 0, payload: parsePing(payload) })
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
      this.#unsettle(id, streamClass)
      return this.#queueControl({ type: recordTypes.reset, flags: 0, stream: id, payload: u16(wireCode("BUSY") ?? 0) })
    }
    const stream = new MuxStream(
      this.#host,
      id,
      streamClass,
      name,
      this.#peer.streamWindowBytes,
      this.#own.streamWindowBytes
    )
    this.#streams.set(id, stream)
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
        this.#countConnection(stream.streamClass, payload.length)
        return stream.onMessageRecord(record, type)
      case recordTypes.adminAck:
        return stream.onMessageRecord(record, type)
      case recordTypes.rawAck:
        return stream.onRawAck(parseNumber(payload, "RAW_ACK"))
      case recordTypes.fin:
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
    const streamClass = this.#unsettled.get(id)
    if (streamClass === undefined) {
      // CREDIT and RAW_ACK may cross our FIN; anything else after the end of both directions is a breach.
      if (type === recordTypes.credit || type === recordTypes.rawAck || type === recordTypes.reset) return
      throw new ProtocolError("UNEXPECTED", `record type ${type} on stream ${id}, which has ended`)
    }
    if (type === recordTypes.fin || type === recordTypes.reset) {
      this.#unsettled.delete(id)
      return
    }
    if (type === recordTypes.rawData || type === recordTypes.admin) {
      this.#countConnection(streamClass, payload.length)
      if (streamClass === streamClasses.bulk) this.#onConnectionConsumed(payload.length)
    }
  }

  #countConnection(streamClass: StreamClass, bytes: number): void {
    if (streamClass !== streamClasses.bulk) return
    this.#connectionReceived += bytes
    if (this.#connectionReceived > this.#connectionReceiveLimit)
      throw new ProtocolError("LIMIT", "bulk data over the connection's credit")
  }

  #onConnectionCredit(limit: number): void {
    if (limit <= this.#connectionLimit) return
    this.#host.connectionCredit += limit - this.#connectionLimit
    this.#connectionLimit = limit
    for (const stream of this.#streams.values()) if (stream.streamClass === streamClasses.bulk) this.#wake(stream)
  }

  #onConnectionConsumed(bytes: number): void {
    this.#connectionConsumed += bytes
    const window = this.#own.connectionWindowBytes
    if (this.#connectionConsumed + window - this.#connectionReceiveLimit < window / 2) return
    this.#connectionReceiveLimit = this.#connectionConsumed + window
    this.#queueCredit(0, this.#connectionReceiveLimit)
  }

  #unsettle(id: number, streamClass: StreamClass): void {
    if (this.#unsettled.size >= maxUnsettledStreams)
      throw new ProtocolError("LIMIT", "too many streams that were given up are still open")
    this.#unsettled.set(id, streamClass)
  }

  #forget(stream: MuxStream): void {
    this.#streams.delete(stream.id)
    if (stream.id % 2 === this.#nextOwnId % 2) this.#ownOpen--
    else this.#peerOpen--
    const active = this.#active[stream.streamClass] ?? []
    const at = active.indexOf(stream)
    if (at >= 0) active.splice(at, 1)
    if (!stream.settled && !this.#goodbyeSent) this.#unsettle(stream.id, stream.streamClass)
  }
}
