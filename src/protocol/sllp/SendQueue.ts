import { ProtocolError } from "../ProtocolError.ts"
import { chunkHeaderBytes, maxMessageId, maxQueuedMessages, messageOverheadBytes } from "./constants.ts"
import { Fifo } from "./Fifo.ts"
import type { FrameWriter } from "./Frames.ts"
import { reliableWindowBytes } from "./ReliableInbox.ts"
import { SendMessage } from "./SendMessage.ts"
import type { SentDatagram } from "./SentDatagrams.ts"
import type { ResolvedChannel } from "./SllpOptions.ts"

/** A piece of a message smaller than this is not worth its 21 bytes of header at the end of a datagram. */
const leastPieceBytes = 128

/** What the sending side of a channel tells its association. */
export interface SendQueueHost {
  readonly onDrop: (channel: number, messageId: number) => void
  readonly onWritable: (channel: number) => void
}

/** What became of messages that were to be sent. */
export interface SendCounters {
  /** Whole messages that left, and, where that is known, arrived. */
  sent: number
  /** Messages of mode `latest` that a newer one replaced before they left. */
  replaced: number
  /** Messages of which a part was lost for good. */
  incomplete: number
}

/**
 * The sending side of a channel (§4.4). Messages leave one after another; lost ranges go first again on `reliable`, and elsewhere
 * while the message is younger than `repairMs`.
 */
export class SendQueue {
  readonly channel: number
  readonly counters: SendCounters = { sent: 0, replaced: 0, incomplete: 0 }
  readonly #options: ResolvedChannel
  readonly #host: SendQueueHost
  readonly #keeps: boolean
  readonly #waiting = new Fifo<SendMessage>()
  /** The message that is being sent for the first time. */
  #current: SendMessage | undefined
  /** Messages that have ranges to be sent again, in no order. */
  readonly #repairs = new Set<SendMessage>()
  #nextId = 0
  /** Bytes of messages that the caller has not got back. */
  #heldBytes = 0
  #heldMessages = 0
  #full = false
  /** §4.4: credit of a reliable channel, in bytes of messages and 512 for each. */
  #credit: number
  #charged = 0

  constructor(channel: number, options: ResolvedChannel, host: SendQueueHost) {
    this.channel = channel
    this.#options = options
    this.#host = host
    this.#keeps = options.mode === "reliable" || options.repairMs > 0
    this.#credit = options.mode === "reliable" ? reliableWindowBytes(options.maxMessageBytes) : Infinity
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  /** All numbers of messages are used. */
  get exhausted(): boolean {
    return this.#nextId > maxMessageId
  }

  /** Takes a message; false when the queue is full. Mode `latest` is never full: what has not begun to leave is replaced. */
  add(parts: ReadonlyArray<Uint8Array>, nowMs: number): boolean {
    const { mode, sendQueueBytes, maxMessageBytes } = this.#options
    const message = new SendMessage(parts, nowMs)
    if (message.total === 0) throw new ProtocolError("MALFORMED", "a datagram message has at least one byte")
    if (message.total > maxMessageBytes)
      throw new ProtocolError("TOO_LARGE", `a message of ${message.total} bytes, at most ${maxMessageBytes}`)
    if (mode === "latest") {
      const replaced = this.#waiting.shift()
      if (replaced !== undefined) {
        this.counters.replaced++
        this.#forget(replaced)
      }
    } else {
      const over = this.#heldBytes + message.total > sendQueueBytes || this.#heldMessages >= maxQueuedMessages
      if (over && this.#heldMessages > 0) {
        this.#full = true
        return false
      }
    }
    this.#waiting.push(message)
    this.#heldBytes += message.total
    this.#heldMessages++
    return true
  }

  /** The peer allows more; a limit below an earlier one is old. */
  allow(limit: number): void {
    if (this.#options.mode !== "reliable")
      throw new ProtocolError("MALFORMED", `CREDIT on channel ${this.channel}, which is not reliable`)
    this.#credit = Math.max(this.#credit, limit)
  }

  /** Something could be sent now. */
  get ready(): boolean {
    return this.#repairs.size > 0 || this.#current !== undefined || this.#mayBegin
  }

  get #mayBegin(): boolean {
    const next = this.#waiting.head
    return next !== undefined && !this.exhausted && this.#charged + next.total + messageOverheadBytes <= this.#credit
  }

  /** Writes one CHUNK of this channel, and notes it; false where there is no room for one worth sending, or nothing to send. */
  write(writer: FrameWriter, datagram: SentDatagram, nowMs: number): boolean {
    const repair = this.#nextRepair(nowMs)
    if (repair !== undefined) {
      const from = repair.again.from(0)
      const length = this.#fit(writer, repair.again.to(0) - from)
      if (length === 0) return false
      repair.again.remove(from, from + length)
      if (repair.again.empty) this.#repairs.delete(repair)
      this.#chunk(writer, datagram, repair, from, length)
      return true
    }
    const message = (this.#current ??= this.#begin())
    if (message === undefined) return false
    const length = this.#fit(writer, message.total - message.sent)
    if (length === 0) return false
    this.#chunk(writer, datagram, message, message.sent, length)
    message.sent += length
    if (message.allSent) {
      this.#current = undefined
      if (!this.#keeps) this.#forget(message)
    }
    return true
  }

  #begin(): SendMessage | undefined {
    if (!this.#mayBegin) return undefined
    const message = this.#waiting.shift()
    if (message === undefined) return undefined
    message.id = this.#nextId++
    this.#charged += message.total + messageOverheadBytes
    return message
  }

  /** A message with ranges to be sent again, if it is still worth it. */
  #nextRepair(nowMs: number): SendMessage | undefined {
    for (const message of this.#repairs) {
      if (this.#worthRepair(message, nowMs)) return message
      message.givenUp += message.again.bytes
      message.again.clear()
      this.#repairs.delete(message)
      this.#resolve(message)
    }
    return undefined
  }

  #worthRepair(message: SendMessage, nowMs: number): boolean {
    return this.#options.mode === "reliable" || nowMs - message.queuedAtMs < this.#options.repairMs
  }

  #fit(writer: FrameWriter, wanted: number): number {
    const room = writer.room - chunkHeaderBytes
    const length = Math.min(wanted, room)
    return length >= Math.min(wanted, leastPieceBytes) ? length : 0
  }

  #chunk(writer: FrameWriter, datagram: SentDatagram, message: SendMessage, offset: number, length: number): void {
    const at = writer.chunk(this.channel, message.id, message.total, offset, length)
    message.copy(writer.buffer, at, offset, length)
    message.inFlight++
    datagram.addChunk(this, message, offset, length)
  }

  acknowledged(message: SendMessage, offset: number, length: number): void {
    message.inFlight--
    if (this.#keeps) {
      message.acknowledged.add(offset, offset + length)
      message.again.remove(offset, offset + length)
      if (message.again.empty) this.#repairs.delete(message)
    }
    this.#resolve(message)
  }

  /** @param copied whether a probe carries the same bytes: then what becomes of that one counts */
  lost(message: SendMessage, offset: number, length: number, copied: boolean, nowMs: number): void {
    message.inFlight--
    if (copied) return this.#resolve(message)
    if (!this.#keeps || !this.#worthRepair(message, nowMs)) message.givenUp += length
    else this.#sendAgain(message, offset, length)
    this.#resolve(message)
  }

  /** What is in flight goes out once more as a probe, where it may; not yet counted as lost. */
  probe(message: SendMessage, offset: number, length: number, nowMs: number): boolean {
    if (!this.#keeps || !this.#worthRepair(message, nowMs)) return false
    this.#sendAgain(message, offset, length)
    return true
  }

  #sendAgain(message: SendMessage, offset: number, length: number): void {
    message.sendAgain(offset, offset + length)
    if (!message.again.empty) this.#repairs.add(message)
  }

  /** Sees whether a message is done: everything has arrived, or nothing more of it will. */
  #resolve(message: SendMessage): void {
    if (this.#keeps && message.acknowledged.bytes === message.total) {
      this.#repairs.delete(message)
      // A copy of a piece may still be under way.
      if (this.#forget(message)) this.counters.sent++
      return
    }
    if (!message.allSent || message.inFlight > 0 || !message.again.empty) return
    if (message.givenUp === 0) this.counters.sent++
    else {
      this.counters.incomplete++
      this.#host.onDrop(this.channel, message.id)
    }
    this.#forget(message)
  }

  /** Gives the caller its bytes back; false where it has them. */
  #forget(message: SendMessage): boolean {
    if (message.released) return false
    message.release()
    this.#heldBytes -= message.total
    this.#heldMessages--
    if (this.#full && (this.#heldMessages === 0 || this.#heldBytes < this.#options.sendQueueBytes / 2)) {
      this.#full = false
      this.#host.onWritable(this.channel)
    }
    return true
  }

  /** Nothing will be sent any more. */
  clear(): void {
    this.#current?.release()
    for (const message of this.#repairs) message.release()
    while (this.#waiting.shift() !== undefined);
    this.#repairs.clear()
    this.#current = undefined
    this.#heldBytes = 0
    this.#heldMessages = 0
  }
}
