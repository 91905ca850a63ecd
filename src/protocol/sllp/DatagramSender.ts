import type { Acknowledger } from "./Acknowledger.ts"
import type { AckRanges } from "./AckRanges.ts"
import {
  baseDatagramBytes,
  chunkHeaderBytes,
  datagramOverheadBytes,
  datagramsPerPoll,
  defaultInitialRttMs,
  largestDatagramBytes
} from "./constants.ts"
import { ControlFrames } from "./ControlFrames.ts"
import type { DatagramSealer } from "./Datagrams.ts"
import { DatagramSize } from "./DatagramSize.ts"
import { frameTypes, FrameWriter } from "./Frames.ts"
import { LossRecovery } from "./LossRecovery.ts"
import { Pacer } from "./Pacer.ts"
import type { PathFrame, Paths } from "./Paths.ts"
import { RateMeter } from "./RateMeter.ts"
import { SendQueue } from "./SendQueue.ts"
import type { SentDatagram } from "./SentDatagrams.ts"
import type { EventQueue } from "./SllpEvents.ts"
import type { ResolvedChannel, SllpOptions } from "./SllpOptions.ts"

/** One datagram to send. `bytes` is not written again. */
export interface OutgoingDatagram {
  readonly to: string
  readonly bytes: Uint8Array
}

/** Packs what is to be said into datagrams, as fast as congestion control and pacing allow (§4.5), and learns what became of them. */
export class DatagramSender {
  readonly queues: ReadonlyArray<SendQueue>
  readonly recovery: LossRecovery
  readonly size: DatagramSize
  readonly controls = new ControlFrames()
  readonly #sealer: DatagramSealer
  readonly #acknowledger: Acknowledger
  readonly #paths: Paths
  readonly #events: EventQueue
  readonly #writer: FrameWriter
  readonly #pacer: Pacer
  readonly #meter = new RateMeter()
  #turn = 0
  #pingDue = false
  /** Pacing: when the next datagram may leave, if one waits. */
  #pacedAtMs = Infinity
  #nowMs: number
  datagrams = 0
  bytes = 0

  constructor(
    options: SllpOptions,
    channels: ReadonlyArray<ResolvedChannel>,
    sealer: DatagramSealer,
    acknowledger: Acknowledger,
    paths: Paths,
    events: EventQueue
  ) {
    const { ceilingBytesPerSecond = Infinity, datagramBytes = baseDatagramBytes } = options
    this.#sealer = sealer
    this.#acknowledger = acknowledger
    this.#paths = paths
    this.#events = events
    this.#nowMs = options.nowMs
    this.#writer = new FrameWriter(Math.min(datagramBytes, largestDatagramBytes) - datagramOverheadBytes)
    this.#pacer = new Pacer(ceilingBytesPerSecond)
    this.size = new DatagramSize(datagramBytes)
    this.recovery = new LossRecovery(
      {
        onAcknowledged: datagram => this.#onAcknowledged(datagram),
        onLost: datagram => this.#onLost(datagram)
      },
      options.initialRttMs ?? defaultInitialRttMs,
      baseDatagramBytes
    )
    const host = {
      onDrop: (channel: number, messageId: number) => this.controls.drop(channel, messageId),
      onWritable: (channel: number) => this.#events.push({ type: "writable", channel })
    }
    this.queues = channels.map((channel, place) => new SendQueue(place, channel, host))
  }

  /** Something that has to be acknowledged leaves as soon as it may. */
  ping(): void {
    this.#pingDue = true
  }

  bytesPerSecond(nowMs: number): number {
    return this.#meter.bytesPerSecond(nowMs)
  }

  onAck(ranges: AckRanges, nowMs: number): void {
    this.#nowMs = nowMs
    this.recovery.onAck(ranges, nowMs)
  }

  #onAcknowledged(datagram: SentDatagram): void {
    this.#sealer.acknowledged(datagram.number)
    if (this.size.onAcknowledged(datagram.number, datagram.bytes)) this.#resized()
    datagram.acknowledged()
  }

  #onLost(datagram: SentDatagram): void {
    if (this.size.onLost(datagram.number, datagram.bytes, this.#nowMs)) this.#resized()
    datagram.lost(this.#nowMs)
    for (const frame of datagram.controls) this.controls.lost(frame)
  }

  #resized(): void {
    this.recovery.congestion.resize(this.size.bytes)
    this.#events.push({ type: "datagramSize", bytes: this.size.bytes })
  }

  /** The peer is elsewhere: all that was learnt of the old path is forgotten. */
  onPath(nowMs: number): void {
    this.#nowMs = nowMs
    const shrunk = this.size.bytes !== baseDatagramBytes
    this.size.restart(nowMs)
    this.recovery.restart(baseDatagramBytes)
    if (shrunk) this.#events.push({ type: "datagramSize", bytes: baseDatagramBytes })
  }

  /** Losses and probe timeouts that are due. */
  runTimers(nowMs: number): void {
    this.#nowMs = nowMs
    const { recovery } = this
    if (this.#paths.allowedBytes === 0) return
    if (nowMs < recovery.deadlineMs || !recovery.onTimeout(nowMs)) return
    if (this.size.onTimeouts(recovery.ptoCount, nowMs)) this.#resized()
    for (const datagram of recovery.oldest()) {
      datagram.probe(nowMs)
      for (const frame of datagram.controls) this.controls.lost(frame)
    }
  }

  /** When `poll` has something to do; −Infinity for at once. */
  get deadlineMs(): number {
    if (this.#paths.allowedBytes === 0) return Infinity
    return Math.min(this.recovery.deadlineMs, this.#acknowledger.dueAtMs, this.#pacedAtMs, this.#probeAtMs)
  }

  get #probeAtMs(): number {
    return this.#paths.address === undefined ? Infinity : this.size.probeAtMs
  }

  /** Adds the datagrams that may leave now. */
  poll(out: Array<OutgoingDatagram>, nowMs: number): void {
    this.#nowMs = nowMs
    this.#pacedAtMs = Infinity
    const to = this.#paths.destination
    if (to === undefined) return
    if (this.#sealer.awaitsProof(nowMs) && this.recovery.pendingDatagrams === 0) this.#pingDue = true
    if (this.#probeAtMs <= nowMs) this.#probeSize(out, to, nowMs)
    const { recovery } = this
    const { congestion } = recovery
    this.#pacer.fill(nowMs, congestion.windowBytes, recovery.rtt.smoothedMs, this.size.bytes)
    recovery.limited = false
    while (out.length < datagramsPerPoll) {
      const limit = Math.min(this.size.bytes, this.#paths.allowedBytes)
      if (limit === 0) return
      if (recovery.probes > 0) {
        recovery.probes--
        if (this.#hasSomething && this.#pack(out, to, limit, nowMs)) continue
        this.#pingDue = true
        this.#pack(out, to, limit, nowMs)
        continue
      }
      if (!this.#hasSomething) break
      const readyAtMs = this.#pacer.readyAtMs(this.size.bytes)
      recovery.limited = recovery.sent.full || !congestion.allows(this.size.bytes) || readyAtMs > nowMs
      if (recovery.limited) {
        if (!recovery.sent.full && congestion.allows(this.size.bytes)) this.#pacedAtMs = readyAtMs
        break
      }
      if (!this.#pack(out, to, limit, nowMs)) break
    }
    if (out.length >= datagramsPerPoll) this.#pacedAtMs = -Infinity
    else if (this.#acknowledger.dueAtMs <= nowMs) this.#acknowledge(out, to, nowMs)
  }

  get #hasSomething(): boolean {
    return this.#pingDue || this.controls.ready || this.#hasChunks
  }

  get #hasChunks(): boolean {
    for (const queue of this.queues) if (queue.ready) return true
    return false
  }

  /** One datagram of whatever there is; false where it asks for no acknowledgement: it then carries an ACK, or was not sent. */
  #pack(out: Array<OutgoingDatagram>, to: string, limit: number, nowMs: number): boolean {
    const writer = this.#writer
    const datagram = this.recovery.begin()
    writer.start(limit - datagramOverheadBytes)
    this.#acknowledger.write(writer, nowMs)
    const before = writer.length
    this.controls.write(writer, datagram)
    if (this.#pingDue && writer.ping()) this.#pingDue = false
    this.#writeChunks(datagram, nowMs)
    const eliciting = writer.length > before
    if (writer.length > 0) this.#emit(out, to, datagram, eliciting, nowMs)
    return eliciting
  }

  /** A chunk of each channel in turn, until nothing more fits. */
  #writeChunks(datagram: SentDatagram, nowMs: number): void {
    const { queues } = this
    for (let skipped = 0; skipped < queues.length && this.#writer.room > chunkHeaderBytes;) {
      const queue = queues[this.#turn]
      this.#turn = (this.#turn + 1) % queues.length
      if (queue?.write(this.#writer, datagram, nowMs) === true) skipped = 0
      else skipped++
    }
  }

  /** An ACK alone: neither the window nor pacing holds it back. */
  #acknowledge(out: Array<OutgoingDatagram>, to: string, nowMs: number): void {
    const datagram = this.recovery.begin()
    this.#writer.start(Math.min(baseDatagramBytes, this.#paths.allowedBytes) - datagramOverheadBytes)
    this.#acknowledger.write(this.#writer, nowMs)
    if (this.#writer.length > 0) this.#emit(out, to, datagram, false, nowMs)
  }

  #probeSize(out: Array<OutgoingDatagram>, to: string, nowMs: number): void {
    const datagram = this.recovery.begin()
    datagram.trial = true
    this.#writer.start(this.size.target - datagramOverheadBytes)
    this.#writer.ping()
    this.#writer.pad()
    this.size.onProbe(datagram.number)
    this.#emit(out, to, datagram, true, nowMs)
  }

  /** PATH_CHALLENGE or PATH_RESPONSE, in a datagram of its own. */
  pathFrame(
    out: Array<OutgoingDatagram>,
    type: typeof frameTypes.pathChallenge | typeof frameTypes.pathResponse,
    frame: PathFrame,
    nowMs: number
  ): void {
    const datagram = this.recovery.begin()
    datagram.trial = true
    this.#writer.start(baseDatagramBytes - datagramOverheadBytes)
    this.#writer.path(type, frame.data)
    this.#emit(out, frame.to, datagram, true, nowMs)
  }

  close(out: Array<OutgoingDatagram>, code: number, reason: string, nowMs: number): void {
    const to = this.#paths.destination
    const room = Math.min(baseDatagramBytes, this.#paths.allowedBytes) - datagramOverheadBytes
    if (to === undefined || room <= 0) return
    const datagram = this.recovery.begin()
    this.#writer.start(room)
    if (this.#writer.close(code, reason) || this.#writer.close(code, "")) this.#emit(out, to, datagram, false, nowMs)
  }

  #emit(out: Array<OutgoingDatagram>, to: string, datagram: SentDatagram, eliciting: boolean, nowMs: number): void {
    const bytes = this.#sealer.seal(this.#writer.written, nowMs)
    this.recovery.onSent(datagram, bytes.length, eliciting, nowMs)
    if (eliciting) this.#pacer.sent(bytes.length)
    this.#paths.onSent(to, bytes.length)
    this.#meter.add(bytes.length, nowMs)
    this.datagrams++
    this.bytes += bytes.length
    out.push({ to, bytes })
  }
}
