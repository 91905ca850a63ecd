import { randomBytes } from "node:crypto"
import { fromUtf8, utf8 } from "../Bytes.ts"
import { ProtocolError } from "../ProtocolError.ts"
import { Acknowledger } from "./Acknowledger.ts"
import { sllpCloseCodeOf, sllpCloseNameOf, type SllpCloseName } from "./CloseCodes.ts"
import { closeDatagrams, defaultIdleMs, defaultKeepAliveMs, keptKeyPtos, maxCloseReasonBytes } from "./constants.ts"
import { DatagramOpener, DatagramSealer, directionSecrets, type OpenFailure } from "./Datagrams.ts"
import { DatagramSender, type OutgoingDatagram } from "./DatagramSender.ts"
import { FrameReader, frameTypes, type FrameHandler } from "./Frames.ts"
import type { SllpMessage } from "./IncomingMessage.ts"
import { MessageReceiver } from "./MessageReceiver.ts"
import { Paths } from "./Paths.ts"
import { RateMeter } from "./RateMeter.ts"
import { EventQueue, type SllpEvent, type SllpStatistics } from "./SllpEvents.ts"
import { checkOptions, resolveChannel, type SllpOptions } from "./SllpOptions.ts"

export { sllpCloseCodeOf, sllpCloseCodes, sllpCloseNameOf, sllpCloseNames, type SllpCloseName } from "./CloseCodes.ts"
export { sllpSecret } from "./Datagrams.ts"
export type { OutgoingDatagram } from "./DatagramSender.ts"
export { zeroFilled, type SllpMessage, type SllpPiece } from "./IncomingMessage.ts"
export type { SllpEvent, SllpStatistics } from "./SllpEvents.ts"
export type { SllpChannelOptions, SllpMode, SllpOptions } from "./SllpOptions.ts"

const nothing: ReadonlyArray<OutgoingDatagram> = []

/**
 * One end of a pseudo-connection over datagrams (§4): encrypted, with a delivery mode per channel. It has no clock and no socket: whoever
 * owns it gives it the datagrams that carry its id and the time, sends what `poll` gives, and calls `poll` again at `nextTimeoutMs` and
 * after each batch of other calls. Times are ms of one clock that never goes back. Nothing that a peer sends makes a method throw: what
 * breaks a rule ends the association with a reason.
 */
export class SllpAssociation {
  readonly #opener: DatagramOpener
  readonly #sealer: DatagramSealer
  readonly #acknowledger: Acknowledger
  readonly #paths: Paths
  readonly #sender: DatagramSender
  readonly #receiver: MessageReceiver
  readonly #events = new EventQueue()
  readonly #reader = new FrameReader()
  readonly #handler: FrameHandler
  readonly #meter = new RateMeter()
  readonly #idleMs: number
  readonly #keepAliveMs: number
  #state: "open" | "closing" | "closed" = "open"
  #connected = false
  #from = ""
  #nowMs: number
  #heardMs: number
  #askedMs: number
  #wakeAtMs = -Infinity
  #receivedDatagrams = 0
  #receivedBytes = 0
  readonly #refused: { [K in OpenFailure]: number } = { malformed: 0, replayed: 0, forged: 0 }
  #closeCode = 0
  #closeReason = ""
  #closesLeft = 0
  #closeAtMs = Infinity

  /** Throws LIMIT for options out of range. */
  constructor(options: SllpOptions) {
    checkOptions(options)
    const { role, nowMs, engine, keyLimits } = options
    const initiator = role === "initiator"
    const { initiatorToResponder, responderToInitiator } = directionSecrets(options.secret)
    const [ours, theirs] = initiator
      ? [initiatorToResponder, responderToInitiator]
      : [responderToInitiator, initiatorToResponder]
    const channels = options.channels.map(resolveChannel)
    this.#opener = new DatagramOpener(theirs, options.cid, engine, keyLimits)
    this.#sealer = new DatagramSealer(ours, options.peerCid, nowMs, engine, keyLimits)
    this.#acknowledger = new Acknowledger(this.#opener.window)
    // What a session knows of a responder's peer is its TCP address; behind a NAT its datagrams come from another.
    this.#paths = new Paths(initiator ? options.address : undefined, options.randomBytes ?? randomBytes)
    this.#sender = new DatagramSender(options, channels, this.#sealer, this.#acknowledger, this.#paths, this.#events)
    this.#receiver = new MessageReceiver(options, channels, this.#sender.controls, this.#events)
    this.#handler = this.#makeHandler()
    this.#idleMs = options.idleMs ?? defaultIdleMs
    this.#keepAliveMs = options.keepAliveMs ?? defaultKeepAliveMs
    this.#nowMs = nowMs
    this.#heardMs = nowMs
    this.#askedMs = nowMs
    // The responder learns the address from the first datagram.
    if (initiator) this.#sender.ping()
  }

  #makeHandler(): FrameHandler {
    return {
      onChunk: (channel, messageId, total, offset, plain, from, to) =>
        this.#receiver.onChunk(channel, messageId, total, offset, plain, from, to, this.#nowMs),
      onAck: ranges => this.#sender.onAck(ranges, this.#nowMs),
      onClose: (code, reason) => this.peerClosed(code, reason, this.#nowMs),
      onPathChallenge: data => this.#paths.onChallenge(this.#from, data),
      onPathResponse: data => this.#onPathResponse(data),
      onDrop: (channel, messageId) => this.#receiver.onDrop(channel, messageId, this.#nowMs),
      onCredit: (channel, limit) => this.#onCredit(channel, limit)
    }
  }

  /** `closing`: nothing but CLOSE is sent. `closed`: nothing is, and arriving datagrams mean nothing; messages can still be read. */
  get state(): "open" | "closing" | "closed" {
    return this.#state
  }

  /** When `poll` must be called at the latest; −Infinity for at once, Infinity for never again. */
  get nextTimeoutMs(): number {
    return this.#wakeAtMs
  }

  /** Bytes of messages that wait to be sent, or, where lost ranges are sent again, to be acknowledged. */
  get unfinishedBytes(): number {
    let bytes = 0
    for (const queue of this.#sender.queues) bytes += queue.heldBytes
    return bytes
  }

  /** Takes a datagram that carries this side's id. It is read before this returns. @param from where it came from, as `to` of what is sent there */
  receive(datagram: Uint8Array, nowMs: number, from: string): void {
    if (this.#state !== "open") return
    this.#nowMs = nowMs
    const plain = this.#opener.open(datagram, nowMs, keptKeyPtos * this.#sender.recovery.rtt.ptoMs)
    if (typeof plain === "string") return this.#onRefused(plain)
    const { number, window } = this.#opener
    this.#from = from
    this.#heardMs = nowMs
    this.#wakeAtMs = -Infinity
    this.#receivedDatagrams++
    this.#receivedBytes += datagram.length
    this.#meter.add(datagram.length, nowMs)
    this.#paths.onReceived(from, datagram.length, number === window.largest, nowMs)
    if (!this.#connected && this.#paths.address === from) this.#connect(from)
    try {
      const eliciting = this.#reader.read(plain, this.#handler)
      this.#acknowledger.onReceived(number, eliciting, nowMs)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      const code = error.code === "TOO_LARGE" || error.code === "LIMIT" ? "limit" : "protocol"
      this.#end(code, error.message, "us", nowMs)
    }
  }

  #onRefused(why: OpenFailure): void {
    this.#refused[why]++
    if (this.#opener.wornOut) this.#end("key", "too many datagrams that do not open", "us", this.#nowMs)
  }

  #connect(address: string): void {
    this.#connected = true
    this.#events.push({ type: "connected", address })
  }

  #onPathResponse(data: Uint8Array): void {
    if (!this.#paths.onResponse(data)) return
    const { address } = this.#paths
    if (address === undefined) return
    if (!this.#connected) return this.#connect(address)
    this.#sender.onPath(this.#nowMs)
    this.#events.push({ type: "path", address })
  }

  #onCredit(channel: number, limit: number): void {
    const queue = this.#sender.queues[channel]
    if (queue === undefined) throw new ProtocolError("MALFORMED", `CREDIT for channel ${channel}`)
    queue.allow(limit)
  }

  /**
   * Hands a message to a channel, in one piece or several. Its bytes are not copied: they must not change until they have been sent, or,
   * where lost ranges are sent again, acknowledged. Throws for an empty message, one that is too large, and a channel that is not there.
   */
  send(channel: number, message: Uint8Array | ReadonlyArray<Uint8Array>, nowMs: number): "queued" | "full" | "closed" {
    const queue = this.#sender.queues[channel]
    if (queue === undefined) throw new ProtocolError("LIMIT", `there is no channel ${channel}`)
    if (this.#state !== "open") return "closed"
    const parts = message instanceof Uint8Array ? [message] : message
    if (!queue.add(parts, nowMs)) return "full"
    this.#wakeAtMs = -Infinity
    return "queued"
  }

  /** The next message of a channel, which is the caller's from now on. What is not read holds memory, and on `reliable` holds the peer back. */
  read(channel: number, nowMs: number): SllpMessage | undefined {
    const message = this.#receiver.read(channel, nowMs)
    if (message !== undefined && this.#sender.controls.ready && this.#state === "open") this.#wakeAtMs = -Infinity
    return message
  }

  /** What has happened since the last call: in `receive`, in `poll`, or in any other call. */
  takeEvents(): ReadonlyArray<SllpEvent> {
    return this.#events.take()
  }

  /** Runs what is due and gives the datagrams to send now, at most 64 and a few that test the path. */
  poll(nowMs: number): ReadonlyArray<OutgoingDatagram> {
    this.#nowMs = nowMs
    if (this.#state === "open") this.#runTimers(nowMs)
    if (this.#state === "closed") return nothing
    const out: Array<OutgoingDatagram> = []
    if (this.#state === "closing") this.#sendClose(out, nowMs)
    else {
      this.#sendPathFrames(out, nowMs)
      this.#sender.poll(out, nowMs)
      this.#wakeAtMs = Math.min(
        this.#sender.deadlineMs,
        this.#receiver.deadlineMs,
        this.#paths.deadlineMs,
        this.#heardMs + this.#idleMs,
        Math.max(this.#heardMs, this.#askedMs) + this.#keepAliveMs
      )
    }
    return out
  }

  #runTimers(nowMs: number): void {
    if (nowMs >= this.#heardMs + this.#idleMs) {
      return this.#end("idle", `nothing was heard for ${this.#idleMs} ms`, "us", nowMs)
    }
    if (this.#sealer.wornOut) return this.#end("key", "the other side acknowledges nothing", "us", nowMs)
    if (this.#sender.queues.some(queue => queue.exhausted))
      return this.#end("limit", "a channel has used all its message numbers", "us", nowMs)
    if (nowMs >= Math.max(this.#heardMs, this.#askedMs) + this.#keepAliveMs) {
      this.#askedMs = nowMs
      this.#sender.ping()
    }
    this.#sender.runTimers(nowMs)
    this.#receiver.expire(nowMs)
  }

  #sendPathFrames(out: Array<OutgoingDatagram>, nowMs: number): void {
    for (let frame = this.#paths.takeResponse(); frame !== undefined; frame = this.#paths.takeResponse())
      this.#sender.pathFrame(out, frameTypes.pathResponse, frame, nowMs)
    const challenge = this.#paths.takeChallenge(nowMs, this.#sender.recovery.rtt.ptoMs)
    if (challenge !== undefined) this.#sender.pathFrame(out, frameTypes.pathChallenge, challenge, nowMs)
  }

  /** Ends the association: both sides learn why. What waits to be sent is dropped. Reasons are cut to 256 bytes. */
  close(code: SllpCloseName, reason: string, nowMs: number): void {
    if (this.#state === "open") this.#end(code, cut(reason), "us", nowMs)
  }

  /** The other side has ended it, in a CLOSE or by a word on the session. */
  peerClosed(code: number, reason: string, nowMs: number): void {
    if (this.#state === "open") this.#end(sllpCloseNameOf(code), cut(reason), "peer", nowMs)
  }

  #end(code: SllpCloseName, reason: string, by: "us" | "peer", nowMs: number): void {
    this.#state = by === "us" && this.#paths.destination !== undefined ? "closing" : "closed"
    this.#receiver.finish()
    for (const queue of this.#sender.queues) queue.clear()
    this.#events.push({ type: "closed", code, reason, by })
    this.#closeCode = sllpCloseCodeOf(code)
    this.#closeReason = cut(reason)
    this.#closesLeft = closeDatagrams
    this.#closeAtMs = nowMs
    this.#wakeAtMs = -Infinity
    if (this.#state === "closed") this.#forget()
  }

  #sendClose(out: Array<OutgoingDatagram>, nowMs: number): void {
    if (nowMs < this.#closeAtMs) return
    this.#sender.close(out, this.#closeCode, this.#closeReason, nowMs)
    this.#closesLeft--
    this.#closeAtMs = nowMs + this.#sender.recovery.rtt.ptoMs
    this.#wakeAtMs = this.#closeAtMs
    if (this.#closesLeft > 0) return
    this.#state = "closed"
    this.#forget()
  }

  #forget(): void {
    this.#wakeAtMs = Infinity
    this.#opener.wipe()
    this.#sealer.wipe()
  }

  statistics(nowMs: number): SllpStatistics {
    const { recovery, queues, size } = this.#sender
    const { counters, lost, memory } = this.#receiver
    const sum = (of: "sent" | "replaced" | "incomplete") => queues.reduce((all, queue) => all + queue.counters[of], 0)
    return {
      sentDatagrams: this.#sender.datagrams,
      sentBytes: this.#sender.bytes,
      receivedDatagrams: this.#receivedDatagrams,
      receivedBytes: this.#receivedBytes,
      sentBytesPerSecond: this.#sender.bytesPerSecond(nowMs),
      receivedBytesPerSecond: this.#meter.bytesPerSecond(nowMs),
      acknowledgedDatagrams: recovery.acknowledgedDatagrams,
      lostDatagrams: recovery.lostDatagrams,
      lossRate: recovery.lostDatagrams / Math.max(recovery.lostDatagrams + recovery.acknowledgedDatagrams, 1),
      roundTripMs: recovery.rtt.smoothedMs,
      minRoundTripMs: recovery.rtt.measured ? recovery.rtt.minMs : undefined,
      roundTripVariationMs: recovery.rtt.variationMs,
      congestionWindowBytes: recovery.congestion.windowBytes,
      inFlightBytes: recovery.congestion.inFlightBytes,
      datagramBytes: size.bytes,
      sentMessages: sum("sent"),
      replacedMessages: sum("replaced"),
      incompleteMessages: sum("incomplete"),
      deliveredMessages: counters.delivered,
      droppedMessages: counters.dropped,
      supersededMessages: counters.superseded,
      lostMessages: lost,
      lateChunks: counters.late,
      replayedDatagrams: this.#refused.replayed,
      forgedDatagrams: this.#refused.forged,
      malformedDatagrams: this.#refused.malformed,
      memoryBytes: memory.usedBytes
    }
  }
}

/** A reason that fits into CLOSE, without half a character at its end. */
const cut = (reason: string): string => {
  const bytes = utf8(reason)
  if (bytes.length <= maxCloseReasonBytes) return reason
  let end = maxCloseReasonBytes
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return fromUtf8(bytes.subarray(0, end), "reason")
}
