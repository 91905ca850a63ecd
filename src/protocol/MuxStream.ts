import { ByteReader, u16, u64 } from "./Bytes.ts"
import { firstPrefixBytes, maxAdminMessageBytes, maxUnreadAcks } from "./constants.ts"
import { OutgoingMessage, type MessageType, type OutgoingRecord } from "./OutgoingMessage.ts"
import { encodePrefix, parsePrefix, streamClasses, type StreamClass } from "./Packets.ts"
import { codeName, ProtocolError, wireCode, type WireCode } from "./ProtocolError.ts"
import { ReceiveWindow } from "./ReceiveWindow.ts"
import { recordFlags, recordTypes, type Record } from "./Records.ts"

export type { MessageType }

/** A piece of a message as it arrives. `bytes` belongs to the receiver, who says by `consumed`, once, when it is done with it. */
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

interface Incoming {
  readonly type: MessageType
  readonly messageId: number
  readonly total: number | undefined
  readonly ackRequested: boolean
  received: number
}

/** Chunks that may lie unread beside one for each message prefix in the window: what a change of credit may split. */
const spareChunks = 64

/** One stream of a session: messages in both directions under credit (§3.4, §3.5). Made by `Multiplexer`. */
export class MuxStream {
  readonly id: number
  readonly streamClass: StreamClass
  readonly name: string
  readonly #host: StreamHost
  readonly #maxUnreadChunks: number
  #receiver: StreamReceiver | undefined
  /** Events that came before there was a receiver: bounded by the window, as nothing in it is consumed. */
  readonly #early: Array<(receiver: StreamReceiver) => void> = []
  #closed: ProtocolError | undefined

  #sendLimit: number
  #sent = 0
  #nextMessageId = 1
  readonly #queue: Array<OutgoingMessage> = []
  #finishing = false
  #finished = false

  readonly #window: ReceiveWindow
  #unreadChunks = 0
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
    this.#window = new ReceiveWindow(receiveWindow)
    this.#maxUnreadChunks = receiveWindow / firstPrefixBytes + spareChunks
  }

  get closed(): ProtocolError | undefined {
    return this.#closed
  }

  /** Unread bytes that have arrived here. */
  get unread(): number {
    return this.#window.unread
  }

  /** Sets who takes what arrives; what has arrived already is delivered at once. */
  receive(receiver: StreamReceiver): void {
    if (this.#receiver !== undefined) throw new ProtocolError("INTERNAL", `stream ${this.id} has a receiver already`)
    // An event may bring others, which stand behind it, or a reset, which leaves none.
    for (const event of this.#early) event(receiver)
    this.#early.length = 0
    this.#receiver = receiver
    if (this.#closed !== undefined) receiver.onClose?.(this.#closed)
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
    const message = new OutgoingMessage(type, messageId, parts, ackRequested, done)
    const refusal = this.#refusal(message, answers)
    if (refusal !== undefined) {
      done(refusal)
      return messageId
    }
    if (answers === undefined) this.#nextMessageId++
    else this.#toAnswer.delete(answers)
    if (ackRequested) (type === recordTypes.admin ? this.#unanswered : this.#unacked).add(messageId)
    this.#queue.push(message)
    this.#host.wake(this)
    return messageId
  }

  #refusal(message: OutgoingMessage, answers: number | undefined): ProtocolError | undefined {
    if (this.#closed !== undefined) return this.#closed
    if (this.#finishing) return new ProtocolError("UNEXPECTED", `stream ${this.id} is closed for sending`)
    if (message.ackRequested && this.#unacked.size + this.#unanswered.size >= maxUnreadAcks) {
      return new ProtocolError("LIMIT", `${maxUnreadAcks} messages wait for their acknowledgement`)
    }
    if (message.free && message.total > maxAdminMessageBytes) {
      return new ProtocolError("TOO_LARGE", `an answer of ${message.total} bytes, at most ${maxAdminMessageBytes}`)
    }
    if (message.free ? answers === undefined || !this.#toAnswer.has(answers) : answers !== undefined) {
      return new ProtocolError("INTERNAL", `message ${answers} waits for no answer of this type`)
    }
    return undefined
  }

  /** RAW_ACK: the application has taken this message. */
  acknowledge(messageId: number): void {
    if (this.#closed === undefined) this.#host.control(recordTypes.rawAck, 0, this.id, u64(messageId))
  }

  /**
   * Says that a chunk is done with, an empty one too: its bytes and its message's prefix are credit for the other side again.
   * After both FINs the last chunk's ends the stream, which calls `onClose`.
   */
  consumed(chunk: MessageChunk): void {
    if (chunk.type === recordTypes.adminAck) return
    this.#unreadChunks--
    this.#consume(chunk.bytes.length + (chunk.first ? firstPrefixBytes : 0))
  }

  #consume(bytes: number): void {
    if (this.#closed !== undefined) return
    if (this.streamClass === streamClasses.bulk) this.#host.connectionConsumed(bytes)
    const limit = this.#window.consume(bytes)
    if (limit !== undefined && !this.#ended) this.#host.credit(this.id, limit)
    this.#closeIfDone()
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
    this.#early.length = 0
    // After its FIN nothing of this stream comes from the other side, not even an answer to the RESET.
    this.close(new ProtocolError(code, message), this.#ended)
  }

  // --- called by Multiplexer ---

  /** Whether `next` would give a record now. */
  get ready(): boolean {
    const message = this.#queue[0]
    if (message === undefined) return this.#finishing && !this.#finished && this.#closed === undefined
    return message.free || this.#credit() >= (message.started ? 0 : firstPrefixBytes) + (message.waiting > 0 ? 1 : 0)
  }

  /** What the other side may still send here: it counts on after the stream has been given up. */
  get window(): ReceiveWindow {
    return this.#window
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
    const record = { type: message.type, flags, stream: this.id, payload, bytes }
    if (!last) return record
    this.#queue.shift()
    return { ...record, sealed: () => message.finish() }
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
    this.#ended = true
    if (this.#incoming !== undefined) return this.reset("MALFORMED", `FIN within a message on stream ${this.id}`)
    this.#deliver(receiver => receiver.onEnd?.())
    this.#closeIfDone()
  }

  onReset(code: number): void {
    // The answer tells the other side that nothing of this stream is on its way any more.
    if (!this.#finished) this.#host.control(recordTypes.reset, 0, this.id, u16(0))
    const name = codeName(code)
    this.#early.length = 0
    this.close(new ProtocolError(name, `stream ${this.id} was reset by the other side: ${name}`), true)
  }

  onMessageRecord(record: Record, type: MessageType): void {
    if (this.#ended) throw new ProtocolError("UNEXPECTED", `data after FIN on stream ${this.id}`)
    if (type !== recordTypes.adminAck) this.#count(record.payload.length)
    const first = (record.flags & recordFlags.first) !== 0
    if (first !== (this.#incoming === undefined))
      throw new ProtocolError("UNEXPECTED", "a message begins within another, or without FIRST")
    const last = (record.flags & recordFlags.last) !== 0
    let bytes = record.payload
    if (!first && !last && bytes.length === 0)
      throw new ProtocolError("MALFORMED", "a record that carries nothing of its message")
    let incoming = this.#incoming
    if (incoming === undefined) {
      incoming = this.#beginIncoming(record, type)
      bytes = record.payload.subarray(firstPrefixBytes)
    } else if (incoming.type !== type || (record.flags & recordFlags.ackRequested) !== 0) {
      throw new ProtocolError("UNEXPECTED", "a record of another kind within a message")
    }
    incoming.received += bytes.length
    const { messageId, total, ackRequested } = incoming
    if (total !== undefined && (incoming.received > total || (last && incoming.received !== total))) {
      return this.reset("MALFORMED", `a message of ${incoming.received} bytes that announced ${total}`)
    }
    // An answer is free of credit, so its size is the only bound on it.
    if (type === recordTypes.adminAck && incoming.received > maxAdminMessageBytes) {
      return this.reset("TOO_LARGE", `an answer of more than ${maxAdminMessageBytes} bytes`)
    }
    this.#incoming = last ? undefined : incoming
    this.#deliver(receiver => receiver.onChunk({ type, messageId, total, first, last, ackRequested, bytes }))
  }

  #count(bytes: number): void {
    if (!this.#window.receive(bytes))
      throw new ProtocolError("LIMIT", `stream ${this.id} sent ${-this.#window.credit} bytes over its credit`)
    // Credit bounds the bytes; this bounds the objects that hold them, which for tiny records are far larger.
    if (++this.#unreadChunks > this.#maxUnreadChunks)
      throw new ProtocolError("LIMIT", `${this.#unreadChunks} unread records on stream ${this.id}`)
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

  /** A stream whose last bytes lie unread still counts as open, else one stream after another could fill this machine's memory. */
  #closeIfDone(): void {
    if (this.#finished && this.#ended && this.unread === 0)
      this.close(new ProtocolError("NORMAL", `stream ${this.id} has ended`), true)
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
    this.#receiver?.onClose?.(reason)
  }

  /** The other side knows that this stream is over. */
  settled = false
}
