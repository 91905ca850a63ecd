/** UDP for SLLP: one socket carries many associations. Plain callbacks per datagram; Effect once per socket. */
import { Effect, type Scope } from "effect"
import { createSocket, type Socket } from "node:dgram"
import { isIPv6 } from "node:net"
import { cidBytes } from "../protocol/sllp/constants.ts"
import { formatAddress, NetworkError, parseAddress, type Address } from "./Network.ts"

/**
 * What the kernel may hold for this socket until it is read: 4 MB, as bursts come faster than the event loop turns. Linux gives no more than
 * `net.core.rmem_max`, and says nothing.
 */
const receiveBufferBytes = 4 * 1024 * 1024
/** Datagrams handed to the system that it has not taken yet; above this nothing is polled. */
const maxUnsentDatagrams = 64
/** Destinations whose text has been read; forgotten all at once when they grow beyond this. */
const maxParsedAddresses = 4_096
/** Turns of polling that one association may take before others have theirs. */
const pollsPerTurn = 4
/** Node's timers count whole milliseconds. */
const timerGranularityMs = 1
const longestTimerMs = 2 ** 31 - 1

/** What the socket needs of an association; see `SllpAssociation`. */
export interface DatagramEndpoint {
  readonly receive: (datagram: Uint8Array, nowMs: number, from: string) => void
  readonly poll: (nowMs: number) => ReadonlyArray<{ readonly to: string; readonly bytes: Uint8Array }>
  readonly nextTimeoutMs: number
  readonly state: "open" | "closing" | "closed"
}

/** An association's place at a socket. */
export interface SllpPort {
  /** Something was sent, read or closed: what it leads to goes out at the end of this turn of the event loop. */
  readonly touch: () => void
  /** Takes no more datagrams for this association. */
  readonly remove: () => void
}

interface Entry {
  readonly key: string
  /** The same id as two numbers, which cost nothing to compare. */
  readonly low: number
  readonly high: number
  readonly endpoint: DatagramEndpoint
  readonly onActivity: () => void
  touched: boolean
}

/** The clock of all associations of a process: milliseconds that never go back. */
export const sllpNowMs = (): number => performance.now()

const keyOf = (bytes: Buffer, offset: number): string => bytes.toString("latin1", offset, offset + cidBytes)

/**
 * A bound UDP socket. Datagrams are given to the association whose id stands in their bytes 1 to 8; all others meet silence.
 * One timer for all associations, none while they have nothing to wait for.
 */
export class SllpSocket {
  readonly address: Address
  readonly #socket: Socket
  readonly #entries = new Map<string, Entry>()
  readonly #parsed = new Map<string, Address>()
  #touched: Array<Entry> = []
  #turn: NodeJS.Immediate | undefined
  #timer: NodeJS.Timeout | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  #closed = false
  #lastEntry: Entry | undefined
  #lastFrom: { readonly address: string; readonly port: number; readonly text: string } | undefined

  constructor(socket: Socket, address: Address) {
    this.#socket = socket
    this.address = address
    socket.on("message", (datagram, from) => this.#onDatagram(datagram, from.address, from.port))
  }

  /**
   * Takes datagrams for an association from now on. `onActivity` is called after each batch that concerned it, before and after what it has
   * to say is sent: the time to take events and to read. Fails where an association of this id is there.
   */
  add(cid: Uint8Array, endpoint: DatagramEndpoint, onActivity: () => void): SllpPort {
    const id = Buffer.from(cid)
    const key = keyOf(id, 0)
    if (this.#entries.has(key)) throw new Error("an association of this id is there")
    const entry = { key, low: id.readUInt32LE(0), high: id.readUInt32LE(4), endpoint, onActivity, touched: false }
    this.#entries.set(key, entry)
    this.#touch(entry)
    return {
      touch: () => this.#touch(entry),
      remove: () => this.#remove(entry)
    }
  }

  /** Associations that are here. */
  get size(): number {
    return this.#entries.size
  }

  /** Lets the associations say what they have to, their CLOSE above all, and closes the socket. */
  close(): Promise<void> {
    for (const entry of this.#touched) this.#poll(entry, sllpNowMs())
    this.#closed = true
    clearImmediate(this.#turn)
    clearTimeout(this.#timer)
    this.#entries.clear()
    this.#lastEntry = undefined
    return new Promise(resolve => this.#socket.close(() => resolve()))
  }

  #onDatagram(datagram: Buffer, address: string, port: number): void {
    // Nothing can be answered to port 0, and whoever sits on the way can write it there.
    if (datagram.length <= cidBytes || port === 0) return
    const entry = this.#find(datagram)
    if (entry === undefined) return
    entry.endpoint.receive(datagram, sllpNowMs(), this.#from(address, port))
    this.#touch(entry)
  }

  /** Datagrams come in runs for one association. */
  #find(datagram: Buffer): Entry | undefined {
    const last = this.#lastEntry
    if (last !== undefined && last.low === datagram.readUInt32LE(1) && last.high === datagram.readUInt32LE(5))
      return last
    const entry = this.#entries.get(keyOf(datagram, 1))
    if (entry !== undefined) this.#lastEntry = entry
    return entry
  }

  /** And from one sender: its text is made once per run. */
  #from(address: string, port: number): string {
    const last = this.#lastFrom
    if (last !== undefined && last.port === port && last.address === address) return last.text
    const text = formatAddress({ host: address, port })
    this.#lastFrom = { address, port, text }
    return text
  }

  #remove(entry: Entry): void {
    if (this.#entries.get(entry.key) === entry) this.#entries.delete(entry.key)
    if (this.#lastEntry === entry) this.#lastEntry = undefined
  }

  #touch(entry: Entry): void {
    if (this.#closed) return
    if (!entry.touched) {
      entry.touched = true
      this.#touched.push(entry)
    }
    this.#turn ??= setImmediate(() => this.#run())
  }

  /** Once per turn of the event loop: lets the associations of this batch speak, a bounded time each. */
  #run(): void {
    this.#turn = undefined
    const batch = this.#touched
    this.#touched = []
    for (const entry of batch) {
      entry.touched = false
      if (this.#entries.get(entry.key) !== entry) continue
      entry.onActivity()
      this.#visit(entry)
      // Whoever was told may have closed the socket.
      if (this.#closed) return
    }
  }

  #visit(entry: Entry): void {
    const { endpoint } = entry
    for (let polls = 0; polls < pollsPerTurn; polls++) {
      if (this.#closed) return
      const nowMs = sllpNowMs()
      // The system is asked again in a while; until then what it cannot take stays where pacing and the window hold it.
      if (this.#socket.getSendQueueCount() >= maxUnsentDatagrams) return this.#wakeAt(nowMs + timerGranularityMs)
      this.#poll(entry, nowMs)
      // What is due by the clock happens in there: messages that were waited for long enough, the end of a silent association.
      entry.onActivity()
      if (endpoint.state === "closed") return this.#remove(entry)
      if (endpoint.nextTimeoutMs > nowMs) return this.#wakeAt(endpoint.nextTimeoutMs)
    }
    // More is due at once: others come first.
    this.#touch(entry)
  }

  #poll(entry: Entry, nowMs: number): void {
    for (const { to, bytes } of entry.endpoint.poll(nowMs)) this.#send(to, bytes)
  }

  #send(to: string, bytes: Uint8Array): void {
    const address = this.#destination(to)
    // A datagram that the system does not take (no route, too large for it) is a lost one: loss detection deals with it.
    if (address !== undefined) this.#socket.send(bytes, address.port, address.host)
  }

  #destination(text: string): Address | undefined {
    const known = this.#parsed.get(text)
    if (known !== undefined) return known
    const address = parseAddress(text)
    if (this.#parsed.size >= maxParsedAddresses) this.#parsed.clear()
    if (address !== undefined) this.#parsed.set(text, address)
    return address
  }

  /** The one timer is set to the earliest time at which an association wanted to be asked; that it has changed its mind shows then. */
  #wakeAt(atMs: number): void {
    if (this.#closed || atMs >= this.#timerAtMs) return
    clearTimeout(this.#timer)
    this.#timerAtMs = atMs
    const waitMs = Math.min(longestTimerMs, Math.max(timerGranularityMs, Math.ceil(atMs - sllpNowMs())))
    this.#timer = setTimeout(() => this.#onTimer(), waitMs)
  }

  #onTimer(): void {
    this.#timerAtMs = Number.POSITIVE_INFINITY
    const nowMs = sllpNowMs()
    let earliest = Number.POSITIVE_INFINITY
    for (const entry of this.#entries.values()) {
      const atMs = entry.endpoint.nextTimeoutMs
      if (atMs <= nowMs) this.#touch(entry)
      else if (atMs < earliest) earliest = atMs
    }
    this.#wakeAt(earliest)
  }
}

/** Addresses are literal here, and Node would look each up for every datagram. */
const literal =
  (family: 4 | 6) => (host: string, _options: unknown, done: (error: null, address: string, family: number) => void) =>
    done(null, host, family)

/**
 * Binds a UDP socket until the scope ends; port 0 lets the system choose. The host is an address, not a name.
 * Fails with NetworkError where the address cannot be bound.
 */
export const openSllpSocket = Effect.fn("SllpSocket.open")(function* (
  address: Address
): Effect.fn.Return<SllpSocket, NetworkError, Scope.Scope> {
  return yield* Effect.acquireRelease(
    Effect.callback<SllpSocket, NetworkError>(resume => {
      const family = isIPv6(address.host) ? 6 : 4
      const socket = createSocket({
        type: family === 6 ? "udp6" : "udp4",
        recvBufferSize: receiveBufferBytes,
        lookup: literal(family)
      })
      socket.once("error", error => {
        socket.close()
        const code = "code" in error && typeof error.code === "string" ? error.code : error.message
        resume(Effect.fail(new NetworkError({ operation: "listen", address: `${formatAddress(address)} (UDP)`, code })))
      })
      socket.bind({ address: address.host, port: address.port }, () => {
        socket.removeAllListeners("error")
        // From here on an error concerns one datagram.
        socket.on("error", () => undefined)
        resume(Effect.succeed(new SllpSocket(socket, { host: address.host, port: socket.address().port })))
      })
    }),
    socket => Effect.promise(() => socket.close())
  )
})
