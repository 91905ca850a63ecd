/** Associations on a virtual network with virtual time: seeded loss, bursts of it, delay, reordering, duplicates, a bottleneck, black holes, new addresses. */
import type { SllpAssociation, SllpEvent, SllpMessage } from "../../src/protocol/sllp/SllpAssociation.ts"
import { SeededRandom } from "./protocolRandom.ts"

/** What happens to datagrams on their way, in one direction. All of it may be changed while the network runs. */
export interface Line {
  /** One way. */
  delayMs: number
  /** Of a million datagrams. */
  loss: number
  /** Of a million datagrams: with each of these the line goes dead for `burstMs`. */
  bursts: number
  burstMs: number
  /** Of a million datagrams: those that come twice. */
  duplicates: number
  /** Of a million datagrams: those that are held up for `reorderMs`. */
  reordered: number
  reorderMs: number
  /** Larger ones vanish. */
  mtuBytes: number
}

export const perfect: Line = {
  delayMs: 10,
  loss: 0,
  bursts: 0,
  burstMs: 100,
  duplicates: 0,
  reordered: 0,
  reorderMs: 15,
  mtuBytes: Infinity
}

/** A queue that drains at a fixed rate; what finds it full is dropped. Several lines may share one. */
export class Bottleneck {
  readonly #bytesPerMs: number
  readonly #queueBytes: number
  #freeAtMs = 0

  constructor(bitsPerSecond: number, queueBytes: number) {
    this.#bytesPerMs = bitsPerSecond / 8_000
    this.#queueBytes = queueBytes
  }

  /** When the last byte has left; undefined for a full queue. */
  pass(bytes: number, nowMs: number): number | undefined {
    const startMs = Math.max(nowMs, this.#freeAtMs)
    if ((startMs - nowMs) * this.#bytesPerMs + bytes > this.#queueBytes) return undefined
    this.#freeAtMs = startMs + bytes / this.#bytesPerMs
    return this.#freeAtMs
  }
}

interface Arrival {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

/** A datagram as whoever sits on the line sees it. */
export interface Passing {
  readonly bytes: Uint8Array
  readonly from: string
  readonly to: string
}

export class Host {
  readonly association: SllpAssociation
  readonly network: VirtualNetwork
  readonly line: Line
  /** Where its datagrams come from, as others see it. */
  address: string
  bottleneck: Bottleneck | undefined
  readonly events: Array<SllpEvent> = []
  readonly messages: Array<{ readonly channel: number; readonly message: SllpMessage; readonly atMs: number }> = []
  /** Bytes of datagrams that it handed to the network, by destination. */
  readonly sentTo = new Map<string, number>()
  /** Takes messages as they come. Switch it off to be a slow reader. */
  reading = true
  readonly channels: number
  onMessage: (channel: number, message: SllpMessage) => void = (channel, message) =>
    void this.messages.push({ channel, message, atMs: this.network.nowMs })
  onEvent: (event: SllpEvent) => void = event => void this.events.push(event)
  /** Called whenever something may have changed. */
  onTurn: () => void = () => undefined

  constructor(
    network: VirtualNetwork,
    address: string,
    association: SllpAssociation,
    channels: number,
    line: Partial<Line>
  ) {
    this.network = network
    this.address = address
    this.association = association
    this.channels = channels
    this.line = { ...perfect, ...line }
  }

  /** What an event loop does after each batch. */
  turn(): void {
    const { association, network } = this
    for (;;) {
      this.take()
      this.onTurn()
      const out = association.poll(network.nowMs)
      // A real event loop would spin.
      if (out.length === 0 && association.nextTimeoutMs <= network.nowMs)
        throw new Error(`${this.address} asks to be polled again for nothing`)
      for (const { to, bytes } of out) {
        this.sentTo.set(to, (this.sentTo.get(to) ?? 0) + bytes.length)
        network.send(this, to, bytes)
      }
      this.take()
      if (association.nextTimeoutMs > network.nowMs) return
    }
  }

  take(): void {
    for (const event of this.association.takeEvents()) this.onEvent(event)
    if (!this.reading) return
    for (let channel = 0; channel < this.channels; channel++) {
      for (;;) {
        const message = this.association.read(channel, this.network.nowMs)
        if (message === undefined) break
        this.onMessage(channel, message)
      }
    }
  }

  has(type: SllpEvent["type"]): boolean {
    return this.events.some(event => event.type === type)
  }

  /** Why it was closed. */
  get closed(): (SllpEvent & { readonly type: "closed" }) | undefined {
    for (const event of this.events) if (event.type === "closed") return event
    return undefined
  }
}

export class VirtualNetwork {
  readonly random: SeededRandom
  nowMs = 1_000
  readonly hosts: Array<Host> = []
  /** Sees every datagram as it is sent; what it returns is delivered in its place. */
  onPath: (passing: Passing) => ReadonlyArray<Passing> = passing => [passing]
  datagrams = 0
  /** A binary heap by time. */
  readonly #arrivals: Array<Arrival> = []
  #order = 0
  readonly #deadUntilMs = new Map<Host, number>()

  constructor(seed: number) {
    this.random = new SeededRandom(seed)
  }

  add(address: string, association: SllpAssociation, channels: number, line: Partial<Line> = {}): Host {
    const host = new Host(this, address, association, channels, line)
    this.hosts.push(host)
    return host
  }

  send(from: Host, to: string, bytes: Uint8Array): void {
    this.datagrams++
    for (const passing of this.onPath({ bytes, from: from.address, to })) this.#carry(from, passing)
  }

  #chance(ofMillion: number): boolean {
    return ofMillion > 0 && this.random.below(1_000_000) < ofMillion
  }

  #carry(from: Host, passing: Passing): void {
    const { line } = from
    if (passing.bytes.length > line.mtuBytes) return
    if (this.nowMs < (this.#deadUntilMs.get(from) ?? 0)) return
    if (this.#chance(line.bursts)) return void this.#deadUntilMs.set(from, this.nowMs + line.burstMs)
    if (this.#chance(line.loss)) return
    const leavesMs = from.bottleneck === undefined ? this.nowMs : from.bottleneck.pass(passing.bytes.length, this.nowMs)
    if (leavesMs === undefined) return
    const extraMs = this.#chance(line.reordered) ? line.reorderMs : 0
    this.deliver(passing, leavesMs + line.delayMs + extraMs)
    if (this.#chance(line.duplicates)) this.deliver(passing, leavesMs + line.delayMs + this.random.below(50))
  }

  /** Brings a datagram to whoever has its address then. */
  deliver(passing: Passing, atMs: number): void {
    this.at(atMs, () => {
      for (const host of this.hosts) {
        if (host.address !== passing.to) continue
        host.association.receive(passing.bytes, this.nowMs, passing.from)
        host.turn()
      }
    })
  }

  at(atMs: number, run: () => void): void {
    const arrivals = this.#arrivals
    arrivals.push({ atMs, order: this.#order++, run })
    for (let at = arrivals.length - 1; at > 0;) {
      const parent = (at - 1) >>> 1
      if (!this.#swapUnlessSorted(parent, at)) break
      at = parent
    }
  }

  /** Goes on until `done`, or until the time has come; says whether it is done. */
  run(untilMs: number, done: () => boolean = () => false): boolean {
    for (const host of this.hosts) host.turn()
    while (!done()) {
      const arrivalMs = this.#arrivals[0]?.atMs ?? Infinity
      let wakeMs = Infinity
      for (const host of this.hosts) wakeMs = Math.min(wakeMs, host.association.nextTimeoutMs)
      const nextMs = Math.min(arrivalMs, wakeMs)
      if (nextMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs)
        return false
      }
      this.nowMs = Math.max(this.nowMs, nextMs)
      if (arrivalMs <= wakeMs) this.#next()?.run()
      else for (const host of this.hosts) if (host.association.nextTimeoutMs <= this.nowMs) host.turn()
    }
    return true
  }

  #next(): Arrival | undefined {
    const arrivals = this.#arrivals
    const first = arrivals[0]
    const last = arrivals.pop()
    if (last === undefined || arrivals.length === 0) return first
    arrivals[0] = last
    for (let at = 0; ;) {
      const left = 2 * at + 1
      const least = left + 1 < arrivals.length && this.#before(left + 1, left) ? left + 1 : left
      if (least >= arrivals.length || !this.#swapUnlessSorted(at, least)) return first
      at = least
    }
  }

  #before(a: number, b: number): boolean {
    const [x, y] = [this.#arrivals[a], this.#arrivals[b]]
    if (x === undefined || y === undefined) return false
    return x.atMs < y.atMs || (x.atMs === y.atMs && x.order < y.order)
  }

  /** True when the two changed places. */
  #swapUnlessSorted(upper: number, lower: number): boolean {
    if (!this.#before(lower, upper)) return false
    const [x, y] = [this.#arrivals[upper], this.#arrivals[lower]]
    if (x === undefined || y === undefined) return false
    this.#arrivals[upper] = y
    this.#arrivals[lower] = x
    return true
  }
}
