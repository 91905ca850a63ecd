import { ProtocolError } from "../ProtocolError.ts"
import type { AckRanges } from "./AckRanges.ts"
import { packetThreshold, persistentCongestionPtos } from "./constants.ts"
import { NewReno } from "./NewReno.ts"
import { RttEstimator } from "./RttEstimator.ts"
import { SentDatagrams, type SentDatagram } from "./SentDatagrams.ts"

/** What becomes of datagrams. They are read before the call returns. */
export interface RecoveryHost {
  readonly onAcknowledged: (datagram: SentDatagram) => void
  readonly onLost: (datagram: SentDatagram) => void
}

/** Datagrams that may leave in spite of the congestion window when a probe timeout has passed. */
const probesPerTimeout = 2

/** Loss detection: RFC 9002, section 6 and appendix A, in one packet number space. Feeds the congestion controller. */
export class LossRecovery {
  readonly sent = new SentDatagrams()
  readonly #host: RecoveryHost
  readonly #initialRttMs: number
  rtt: RttEstimator
  congestion: NewReno
  #largestAcknowledged = -1
  #lastElicitingMs = 0
  #pending = 0
  /** When the earliest datagram below the largest acknowledged one counts as lost. */
  #lossAtMs = Infinity
  /** Probe timeouts in a row without an acknowledgement. */
  ptoCount = 0
  /** Probes that may leave now. */
  probes = 0
  /** The last look for something to send was ended by the window or by pacing. */
  limited = false
  lostDatagrams = 0
  acknowledgedDatagrams = 0

  constructor(host: RecoveryHost, initialRttMs: number, datagramBytes: number) {
    this.#host = host
    this.#initialRttMs = initialRttMs
    this.rtt = new RttEstimator(initialRttMs)
    this.congestion = new NewReno(datagramBytes)
  }

  get pendingDatagrams(): number {
    return this.#pending
  }

  get ptoMs(): number {
    return this.rtt.backedOffPtoMs(this.ptoCount)
  }

  /** When `onTimeout` is due; Infinity while nothing is in flight. */
  get deadlineMs(): number {
    if (this.#lossAtMs !== Infinity) return this.#lossAtMs
    return this.#pending === 0 ? Infinity : this.#lastElicitingMs + this.ptoMs
  }

  /** A place for the next datagram, of which `onSent` tells. A peer that acknowledges nothing does not make the books grow: the oldest is given up. */
  begin(): SentDatagram {
    while (this.sent.full) {
      const oldest = this.sent.pending(this.sent.lowest)
      if (oldest !== undefined) this.#lose(oldest)
      this.sent.advance()
    }
    return this.sent.begin()
  }

  /** Notes a datagram from `begin` as sent. Only those that ask for an acknowledgement are in flight. */
  onSent(datagram: SentDatagram, bytes: number, eliciting: boolean, nowMs: number): void {
    datagram.sentAtMs = nowMs
    datagram.bytes = bytes
    datagram.pending = eliciting
    this.sent.commit()
    if (!eliciting) {
      if (this.#pending === 0) this.sent.advance()
      return
    }
    this.#pending++
    this.#lastElicitingMs = nowMs
    this.congestion.inFlightBytes += bytes
  }

  /** Throws for an acknowledgement of what was never sent. */
  onAck(ranges: AckRanges, nowMs: number): void {
    const { largest } = ranges
    if (largest >= this.sent.next)
      throw new ProtocolError("MALFORMED", `ACK of datagram ${largest}, of ${this.sent.next} that were sent`)
    const sentAtMs = largest > this.#largestAcknowledged ? this.sent.sentAtMs(largest) : undefined
    this.#largestAcknowledged = Math.max(this.#largestAcknowledged, largest)
    const before = this.acknowledgedDatagrams
    for (let range = 0; range < ranges.count; range++) {
      const high = ranges.high[range] ?? -1
      if (high < this.sent.lowest) break
      for (let number = Math.max(ranges.low[range] ?? 0, this.sent.lowest); number <= high; number++) {
        const datagram = this.sent.pending(number)
        if (datagram !== undefined) this.#acknowledge(datagram)
      }
    }
    if (this.acknowledgedDatagrams === before) return
    if (sentAtMs !== undefined) this.rtt.sample(Math.max(nowMs - sentAtMs, 0), ranges.delayMs)
    this.ptoCount = 0
    this.probes = 0
    this.#detectLost(nowMs)
    this.sent.advance()
  }

  #acknowledge(datagram: SentDatagram): void {
    this.acknowledgedDatagrams++
    this.#pending--
    this.congestion.inFlightBytes -= datagram.bytes
    this.congestion.acknowledged(datagram.bytes, datagram.sentAtMs, this.limited)
    datagram.arrived = true
    this.#host.onAcknowledged(datagram)
    this.sent.settle(datagram)
  }

  /** Section 6.1: lost is what lies 3 datagrams or 9/8 of a round trip before an acknowledged one. */
  #detectLost(nowMs: number): void {
    const delayMs = this.rtt.lossDelayMs
    /** Since when, before the one at hand, nothing has arrived. */
    let silentSinceMs = Infinity
    let silentMs = 0
    let lastLostMs = -Infinity
    this.#lossAtMs = Infinity
    for (let number = this.sent.lowest; number < this.#largestAcknowledged; number++) {
      const datagram = this.sent.pending(number)
      if (datagram === undefined) {
        if (this.sent.arrived(number)) silentSinceMs = Infinity
        continue
      }
      const lostAtMs = datagram.sentAtMs + delayMs
      if (number > this.#largestAcknowledged - packetThreshold && lostAtMs > nowMs) {
        this.#lossAtMs = Math.min(this.#lossAtMs, lostAtMs)
        continue
      }
      if (!datagram.trial) {
        lastLostMs = datagram.sentAtMs
        silentSinceMs = Math.min(silentSinceMs, lastLostMs)
        silentMs = Math.max(silentMs, lastLostMs - silentSinceMs)
      }
      this.#lose(datagram)
    }
    if (lastLostMs === -Infinity) return
    this.congestion.lost(lastLostMs, nowMs)
    if (this.rtt.measured && silentMs > persistentCongestionPtos * this.rtt.ptoMs)
      this.congestion.persistentCongestion()
  }

  #lose(datagram: SentDatagram): void {
    this.#pending--
    this.congestion.inFlightBytes -= datagram.bytes
    if (!datagram.trial) this.lostDatagrams++
    this.#host.onLost(datagram)
    this.sent.settle(datagram)
  }

  /** To be called when `deadlineMs` has come: finds losses, or allows probes. Returns whether a probe timeout has passed. */
  onTimeout(nowMs: number): boolean {
    if (this.#lossAtMs !== Infinity) {
      this.#detectLost(nowMs)
      this.sent.advance()
      return false
    }
    this.ptoCount++
    this.probes = probesPerTimeout
    return true
  }

  /** The oldest datagrams of which nothing is known, as many as there are probes: what they carried goes out again. */
  *oldest(): Iterable<SentDatagram> {
    let left = probesPerTimeout
    for (let number = this.sent.lowest; number < this.sent.next && left > 0; number++) {
      const datagram = this.sent.pending(number)
      if (datagram === undefined) continue
      left--
      yield datagram
    }
  }

  /** Another path: nothing that is known of the last one holds, and what was under way there is not waited for (RFC 9000, section 9.4). */
  restart(datagramBytes: number): void {
    for (let number = this.sent.lowest; number < this.sent.next; number++) {
      const datagram = this.sent.pending(number)
      if (datagram === undefined) continue
      this.#pending--
      this.#host.onLost(datagram)
      this.sent.settle(datagram)
    }
    this.sent.advance()
    this.#lossAtMs = Infinity
    this.ptoCount = 0
    this.probes = 0
    this.rtt = new RttEstimator(this.#initialRttMs)
    this.congestion = new NewReno(datagramBytes)
  }
}
