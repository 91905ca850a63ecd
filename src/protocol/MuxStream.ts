import { ByteReader, u16, u64 } from "./Bytes.ts"
import { firstPrefixBytes, maxUnreadAcks } from "./constants.ts"
import { encodePrefix, parsePrefix, streamClasses, type StreamClass } from "./Packets.ts"
import { codeName, ProtocolError, wireCode, type WireCode } from "./ProtocolError.ts"
import { recordFlags, recordTypes, type Record } from "./Records.ts"

export type MessageType = typeof recordTypes.rawData | typeof recordTypes.admin | typeof recordTypes.adminAck

/** A piece of a message as it arrives. `bytes` belongs to the receiver, who says by `consumed` when it is done with it. */
export interface MessageChunk {
  readonly type: MessageType
  readonly messageId: number
  /** Length of the whole message where the sender knew it: a claim, never an allocation size. */
  readonly total: number | undefined
  readonly first: boolean
  readonly last: boolean
  readonly ackRequested: boolean
  readonly bytes: Uint8Array
}

/** Who takes what a stream brings. All are called synchronously from `Multiplexer.receive`. */
export interface StreamReceiver {
  readonly onChunk: (chunk: MessageChunk) => void
  /** The other side sends no more; what was sent before has been delivered. */
  readonly onEnd?: () => void
  /** The stream is gone: reset by either side, or its session ended. No callback follows. */
  readonly onClose?: (reason: ProtocolError) => void
  /** RAW_ACK: the other side's application has taken this message. */
  readonly onAck?: (messageId: number) => void
}

/** What a stream needs of its connection. */
export interface StreamHost {
  readonly maxRecordBytes: number
  /** Bytes that may still be sent on bulk streams together. */
  connectionCredit: number
  /** Queues a control record, which goes before all data. */
  readonly control: (type: number, flags: number, stream: number, payload: Uint8Array) => void
  /** Queues CREDIT: a later limit of the same stream replaces one that still waits. */
  readonly credit: (stream: number, limit: number) => void
  /** There is something to send on this stream. */
  readonly wake: (stream: MuxStream) => void
  /** Bulk bytes that were received are done with. */
  readonly connectionConsumed: (bytes: number) => void
  readonly forget: (stream: MuxStream) => void
}

/** One record to be sealed. */
export interface OutgoingRecord {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: ReadonlyArray<Uint8Array>
  readonly bytes: number
}

/** A message on its way out. Its parts are sent in order and must not change until `finish`. */
class OutgoingMessage {
  readonly type: MessageType
  readonly messageId: number
  readonly total: number
  readonly ackRequested: boolean
  readonly finish: (error?: ProtocolError) => void
  readonly #parts: Array<Uint8Array>
  /** Bytes that wait to be sent. */
  waiting: number
  started = false

  constructor(
    type: MessageType,
    messageId: number,
    parts: ReadonlyArray<Uint8Array>,
    ackRequested: boolean,
    done: (error?: ProtocolError) => void
  ) {
    this.type = type
    this.messageId = messageId
    this.#parts = parts.filter(part => part.length > 0)
    this.total = this.#parts.reduce((bytes, part) => bytes + part.length, 0)
    this.waiting = this.total
    this.ackRequested = ackRequested
    this.finish = done
  }

  /** Free of credit: answers, so that a full window never blocks them. */
  get free(): boolean {
    return this.type === recordTypes.adminAck
  }

  take(bytes: number): Array<Uint8Array> {
    const taken: Array<Uint8Array> = []
    let left = bytes
    while (left > 0) {
      const part = this.#parts[0]
      if (part === undefined) throw new ProtocolError("INTERNAL", "more bytes counted than queued")
      if (part.length <= left) {
        taken.push(part)
        this.#parts.shift()
        left -= part.length
      } else {
        taken.push(part.subarray(0, left))
        this.#parts[0] = part.subarray(left)
        left = 0
      }
    }
    this.waiting -= bytes
    return taken
  }
}

interface Incoming {
  readonly type: MessageType
  readonly messageId: number
  readonly total: number | undefined
  readonly ackRequested: boolean
  received: number
}

/** One stream of a session: messages in both directions under credit (§3.4, §3.5). Made by `Multiplexer`. */
export class MuxStream {
  readonly id: number
  readonly streamClass: StreamClass
  readonly name: string
  readonly #host: StreamHost
  readonly #window: number
  #receiver: StreamReceiver | undefined
  /** Events that came before there was a receiver: bounded by the window, as nothing in it is consumed. */
  #early: Array<(receiver: StreamReceiver) => void> = []
  #closed: ProtocolError | undefined

  #sendLimit: number
  #sent = 0
  #nextMessageId = 1
  readonly #queue: Array<OutgoingMessage> = []
  #finishing = false
  #finished = false

  #receiveLimit: number
  #received = 0
  #consumed = 0
  #incoming: Incoming | undefined
  #lastMessageId = 0
  #ended = false
  /** Messages of ours that wait for a RAW_ACK, and requests that wait for an ADMIN_ACK. */
  readonly #unacked = new Set<number>()
  readonly #unanswered = new Set<number>()
  /** Requests of the other side that we have not answered. */
  readonly #toAnswer = new Set<number>()

  constructor(
    host: StreamHost,
    id: number,
    streamClass: StreamClass,
    name: string,
    sendWindow: number,
    receiveWindow: number
  ) {
    this.#host = host
    this.id = id
    this.streamClass = streamClass
    this.name = name
    this.#sendLimit = sendWindow
    this.#window = receiveWindow
    this.#receiveLimit = receiveWindow
  }

  get closed(): ProtocolError | undefined {
    return this.#closed
  }

  /** Unread bytes that have arrived here. */
  get unread(): number {
    return this.#received - this.#consumed
  }

  /** Sets who takes what arrives; what has arrived already is delivered at once. */
  receive(receiver: StreamReceiver): void {
    if (this.#receiver !== undefined) throw new ProtocolError("INTERNAL", `stream ${this.id} has a receiver already`)
    this.#receiver = receiver
    const early = this.#early
    this.#early = []
    for (const event of early) event(receiver)
  }

  #deliver(event: (receiver: StreamReceiver) => void): void {
    if (this.#receiver === undefined) this.#early.push(event)
    else event(this.#receiver)
  }

  /**
   * Sends one whole message; its parts must not change until `done` is called: when its last byte is under credit and handed on,
   * or with the reason why it never will be. `answers` names the request that an ADMIN_ACK is for.
   */
  send(
    type: MessageType,
    parts: ReadonlyArray<Uint8Array>,
    done: (error?: ProtocolError) => void,
    options: { readonly answers?: number; readonly ackRequested?: boolean } = {}
  ): number {
    const { answers, ackRequested = false } = options
    const messageId = answers ?? this.#nextMessageId
    const refusal = this.#refusal(answers)
    if (refusal !== undefined) {
      done(refusal)
      return messageId
    }
    if (answers === undefined) this.#nextMessageId++
    else this.#toAnswer.delete(answers)
    if (ackRequested) (type === recordTypes.admin ? this.#unanswered : this.#unacked).add(messageId)
    this.#queue.push(new OutgoingMessage(type, messageId, parts, ackRequested, done))
    this.#host.wake(this)
    return messageId
  }

  #refusal(answers: number | undefined): ProtocolError | undefined {
    if (this.#closed !== undefined) return this.#closed
    if (this.#finishing) return new ProtocolError("UNEXPECTED", `stream ${this.id} is closed for sending`)
    if (this.#unacked.size + this.#unanswered.size >= maxUnreadAcks) {
      return new ProtocolError("LIMIT", `${maxUnreadAcks} messages wait for their acknowledgement`)
    }
    if (answers !== undefined && !this.#toAnswer.has(answers)) {
      return new ProtocolError("INTERNAL", `message ${answers} waits for no answer`)
    }
    return undefined
  }

  /** RAW_ACK: the application has taken this message. */
  acknowledge(messageId: number): void {
    if (this.#closed === undefined) this.#host.control(recordTypes.rawAck, 0, this.id, u64(messageId))
  }

  /** Says that a chunk is done with; the other side may send as much again. */
  consumed(chunk: MessageChunk): void {
    if (chunk.type !== recordTypes.adminAck) this.#consume(chunk.bytes.length)
  }

  #consume(bytes: number): void {
    if (this.#closed !== undefined) return
    this.#consumed += bytes
    if (this.streamClass === streamClasses.bulk) this.#host.connectionConsumed(bytes)
    if (this.#ended || this.#consumed + this.#window - this.#receiveLimit < this.#window / 2) return
    this.#receiveLimit = this.#consumed + this.#window
    this.#host.credit(this.id, this.#receiveLimit)
  }

  /** Sends no more after what is queued. */
  finish(): void {
    if (this.#finishing || this.#closed !== undefined) return
    this.#finishing = true
    this.#host.wake(this)
  }

  /** Gives the stream up at once, in both directions. */
  reset(code: WireCode, message: string = `stream ${this.id} was reset here: ${code}`): void {
    if (this.#closed !== undefined) return
    this.#host.control(recordTypes.reset, 0, this.id, u16(wireCode(code) ?? 0))
    this.close(new ProtocolError(code, message))
  }

  // --- called by Multiplexer ---

  /** Whether `next` would give a record now. */
  get ready(): boolean {
    const message = this.#queue[0]
    if (message === undefined) return this.#finishing && !this.#finished
    return message.free || this.#credit() >= (message.started ? 0 : firstPrefixBytes) + (message.waiting > 0 ? 1 : 0)
  }

  #credit(): number {
    const own = this.#sendLimit - this.#sent
    return this.streamClass === streamClasses.bulk ? Math.min(own, this.#host.connectionCredit) : own
  }

  /** The next record under credit, or undefined. */
  next(): OutgoingRecord | undefined {
    if (!this.ready) return undefined
    const message = this.#queue[0]
    if (message === undefined) {
      this.#finished = true
      this.#closeIfDone()
      return { type: recordTypes.fin, flags: 0, stream: this.id, payload: [], bytes: 0 }
    }
    const prefix = message.started ? [] : [encodePrefix(message)]
    const prefixBytes = message.started ? 0 : firstPrefixBytes
    const room = Math.min(this.#host.maxRecordBytes, message.free ? Infinity : this.#credit()) - prefixBytes
    const taken = Math.min(message.waiting, room)
    const payload = [...prefix, ...message.take(taken)]
    const last = message.waiting === 0
    const flags =
      (message.started ? 0 : recordFlags.first) |
      (last ? recordFlags.last : 0) |
      (message.ackRequested && !message.started ? recordFlags.ackRequested : 0)
    message.started = true
    const bytes = prefixBytes + taken
    if (!message.free) {
      this.#sent += bytes
      if (this.streamClass === streamClasses.bulk) this.#host.connectionCredit -= bytes
    }
    if (last) {
      this.#queue.shift()
      message.finish()
    }
    return { type: message.type, flags, stream: this.id, payload, bytes }
  }

  onCredit(limit: number): void {
    if (limit <= this.#sendLimit) return
    this.#sendLimit = limit
    this.#host.wake(this)
  }

  onRawAck(messageId: number): void {
    if (!this.#unacked.delete(messageId))
      throw new ProtocolError("UNEXPECTED", `an acknowledgement of message ${messageId}`)
    this.#deliver(receiver => receiver.onAck?.(messageId))
  }

  onFin(): void {
    if (this.#ended) throw new ProtocolError("UNEXPECTED", `FIN twice on stream ${this.id}`)
    if (this.#incoming !== undefined) return this.reset("MALFORMED", `FIN within a message on stream ${this.id}`)
    this.#ended = true
    this.#deliver(receiver => receiver.onEnd?.())
    this.#closeIfDone()
  }

  onReset(code: number): void {
    // The answer tells the other side that nothing of this stream is on its way any more.
    if (!this.#finished) this.#host.control(recordTypes.reset, 0, this.id, u16(0))
    const name = codeName(code)
    this.close(new ProtocolError(name, `stream ${this.id} was reset by the other side: ${name}`), true)
  }

  onMessageRecord(record: Record, type: MessageType): void {
    if (this.#ended) throw new ProtocolError("UNEXPECTED", `data after FIN on stream ${this.id}`)
    if (type !== recordTypes.adminAck) this.#count(record.payload.length)
    const first = (record.flags & recordFlags.first) !== 0
    if (first !== (this.#incoming === undefined))
      throw new ProtocolError("UNEXPECTED", "a message begins within another, or without FIRST")
    let bytes = record.payload
    let incoming = this.#incoming
    if (incoming === undefined) {
      incoming = this.#beginIncoming(record, type)
      bytes = record.payload.subarray(firstPrefixBytes)
      if (type !== recordTypes.adminAck) this.#consume(firstPrefixBytes)
    } else if (incoming.type !== type || (record.flags & recordFlags.ackRequested) !== 0) {
      throw new ProtocolError("UNEXPECTED", "a record of another kind within a message")
    }
    incoming.received += bytes.length
    const last = (record.flags & recordFlags.last) !== 0
    const { messageId, total, ackRequested } = incoming
    if (total !== undefined && (incoming.received > total || (last && incoming.received !== total))) {
      return this.reset("MALFORMED", `a message of ${incoming.received} bytes that announced ${total}`)
    }
    this.#incoming = last ? undefined : incoming
    this.#deliver(receiver => receiver.onChunk({ type, messageId, total, first, last, ackRequested, bytes }))
  }

  #count(bytes: number): void {
    this.#received += bytes
    if (this.#received > this.#receiveLimit) {
      throw new ProtocolError(
        "LIMIT",
        `stream ${this.id} sent ${this.#received - this.#receiveLimit} bytes over its credit`
      )
    }
  }

  #beginIncoming(record: Record, type: MessageType): Incoming {
    const { messageId, total } = parsePrefix(new ByteReader(record.payload))
    const ackRequested = (record.flags & recordFlags.ackRequested) !== 0
    if (type === recordTypes.adminAck) {
      if (!this.#unanswered.delete(messageId))
        throw new ProtocolError("UNEXPECTED", `an answer to message ${messageId}`)
    } else {
      if (messageId !== this.#lastMessageId + 1) {
        throw new ProtocolError("UNEXPECTED", `message ${messageId} after ${this.#lastMessageId} on stream ${this.id}`)
      }
      this.#lastMessageId = messageId
      if (type === recordTypes.admin && ackRequested) {
        if (this.#toAnswer.size >= maxUnreadAcks)
          throw new ProtocolError("LIMIT", `${maxUnreadAcks} unanswered requests`)
        this.#toAnswer.add(messageId)
      }
    }
    return { type, messageId, total, ackRequested, received: 0 }
  }

  #closeIfDone(): void {
    if (this.#finished && this.#ended) this.close(new ProtocolError("NORMAL", `stream ${this.id} has ended`), true)
  }

  /** Ends the stream here. `settled`: the other side knows, so no record of it can follow. */
  close(reason: ProtocolError, settled = false): void {
    if (this.#closed !== undefined) return
    const unread = this.unread
    this.#closed = reason
    if (this.streamClass === streamClasses.bulk && unread > 0) this.#host.connectionConsumed(unread)
    this.settled = settled
    const queue = this.#queue.splice(0)
    this.#host.forget(this)
    for (const message of queue) message.finish(reason)
    this.#deliver(receiver => receiver.onClose?.(reason))
  }

  /** The other side knows that this stream is over. */
  settled = false
}
