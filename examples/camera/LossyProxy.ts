/** A bad network in user space: a UDP forwarder that loses, delays, reorders, doubles and throttles, all of it drawn from a seed. */
import { createSocket, type Socket } from "node:dgram"
import { once } from "node:events"

/** What happens to datagrams on their way, the same in both directions. Chances are 0 to 1. */
export interface Line {
  readonly loss: number
  /** Chance that a datagram begins a time in which nothing passes. */
  readonly bursts: number
  readonly burstMs: number
  /** One way. */
  readonly delayMs: number
  /** Chance that a datagram takes `reorderMs` more, so that later ones overtake it. */
  readonly reordered: number
  readonly reorderMs: number
  /** Chance that a datagram comes twice. */
  readonly duplicates: number
  readonly bytesPerSecond: number
  /** What the bottleneck holds of datagrams that wait for their turn; what finds it full is lost. */
  readonly queueBytes: number
  /** Larger ones vanish without a word. */
  readonly mtuBytes: number
}

export const perfectLine: Line = {
  loss: 0,
  bursts: 0,
  burstMs: 10,
  delayMs: 0,
  reordered: 0,
  reorderMs: 15,
  duplicates: 0,
  bytesPerSecond: Infinity,
  queueBytes: 256 * 1024,
  mtuBytes: Infinity
}

export interface Place {
  readonly host: string
  readonly port: number
}

/** Numbers from 0 to 1 that follow from the seed (mulberry32). */
const seeded = (seed: number) => {
  let state = seed >>> 0
  return (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** One direction. */
class Direction {
  readonly #random: () => number
  readonly #later: (waitMs: number, deliver: () => void) => void
  #burstUntilMs = 0
  #freeAtMs = 0

  constructor(seed: number, later: (waitMs: number, deliver: () => void) => void) {
    this.#random = seeded(seed)
    this.#later = later
  }

  #chance(chance: number): boolean {
    return chance > 0 && this.#random() < chance
  }

  /** Delivers a datagram in a while, or more than once; false: never. */
  pass(bytes: number, line: Line, deliver: () => void): boolean {
    if (bytes > line.mtuBytes) return false
    const nowMs = performance.now()
    if (nowMs < this.#burstUntilMs) return false
    if (this.#chance(line.bursts)) {
      this.#burstUntilMs = nowMs + line.burstMs
      return false
    }
    if (this.#chance(line.loss)) return false
    const startMs = Math.max(nowMs, this.#freeAtMs)
    if (((startMs - nowMs) / 1000) * line.bytesPerSecond + bytes > line.queueBytes) return false
    this.#freeAtMs = startMs + (bytes / line.bytesPerSecond) * 1000
    const waitMs = this.#freeAtMs - nowMs + line.delayMs + (this.#chance(line.reordered) ? line.reorderMs : 0)
    this.#later(waitMs, deliver)
    if (this.#chance(line.duplicates)) this.#later(waitMs + this.#random() * line.reorderMs, deliver)
    return true
  }
}

const bound = async (host: string): Promise<Socket> => {
  const socket = createSocket({ type: host.includes(":") ? "udp6" : "udp4", recvBufferSize: 4 * 1024 * 1024 })
  // A datagram that cannot be sent is a lost one.
  socket.on("error", () => undefined)
  socket.bind(0, host)
  await once(socket, "listening")
  return socket
}

/** Stands between one sender and one receiver. The receiver sees it as the sender. */
export class LossyProxy implements AsyncDisposable {
  /** May be changed at any time. */
  line: Line
  /** Sees each datagram that comes from the sender. */
  onDatagram: (datagram: Buffer) => void = () => undefined
  /** Datagrams that came, those that were lost on purpose, and those that were sent on, which some are twice. */
  received = 0
  lost = 0
  forwarded = 0
  readonly #host: string
  readonly #front: Socket
  #back: Socket
  #sender: Place | undefined
  #receiver: Place | undefined
  readonly #toReceiver: Direction
  readonly #toSender: Direction
  readonly #due = new Map<number, Array<() => void>>()
  readonly #timers = new Set<NodeJS.Timeout>()
  #closed = false

  private constructor(host: string, front: Socket, back: Socket, line: Line, seed: number) {
    this.#host = host
    this.#front = front
    this.#back = back
    this.line = line
    const later = (waitMs: number, run: () => void): void => this.#later(waitMs, run)
    this.#toReceiver = new Direction(seed, later)
    this.#toSender = new Direction(seed + 1, later)
    front.on("message", (datagram, from) => {
      this.#sender = { host: from.address, port: from.port }
      this.onDatagram(datagram)
      this.#pass(this.#toReceiver, datagram, () => this.#receiver && [this.#back, this.#receiver])
    })
    this.#listen(back)
  }

  /** @param seed the same seed loses the same datagrams of a sequence */
  static async open(line: Partial<Line> = {}, seed = 1, host = "127.0.0.1"): Promise<LossyProxy> {
    return new LossyProxy(host, await bound(host), await bound(host), { ...perfectLine, ...line }, seed)
  }

  /** Says where the receiver is, and gives where to send instead: what `via` wants. */
  readonly toward = (receiver: Place): Place => {
    this.#receiver = receiver
    return { host: this.#host, port: this.#front.address().port }
  }

  /** From now on the receiver sees another address, as behind a NAT that has forgotten; what it sends to the old one is lost. */
  async move(): Promise<void> {
    const old = this.#back
    this.#back = await bound(this.#host)
    this.#listen(this.#back)
    old.close()
  }

  #listen(back: Socket): void {
    back.on("message", datagram =>
      this.#pass(this.#toSender, datagram, () => this.#sender && [this.#front, this.#sender])
    )
  }

  #pass(direction: Direction, datagram: Buffer, way: () => readonly [Socket, Place] | undefined): void {
    this.received++
    const passes = direction.pass(datagram.length, this.line, () => {
      const [socket, to] = way() ?? []
      if (this.#closed || socket === undefined || to === undefined) return
      this.forwarded++
      socket.send(datagram, to.port, to.host)
    })
    if (!passes) this.lost++
  }

  /** One timer for all that is due in the same millisecond. */
  #later(waitMs: number, run: () => void): void {
    if (waitMs <= 0) return run()
    const atMs = Math.ceil(performance.now() + waitMs)
    const known = this.#due.get(atMs)
    if (known !== undefined) return void known.push(run)
    const together = [run]
    this.#due.set(atMs, together)
    const timer = setTimeout(() => {
      this.#due.delete(atMs)
      this.#timers.delete(timer)
      for (const each of together) each()
    }, atMs - performance.now())
    this.#timers.add(timer)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers) clearTimeout(timer)
    await Promise.all([this.#front, this.#back].map(socket => new Promise<void>(resolve => socket.close(resolve))))
  }
}
