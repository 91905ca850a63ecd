/** What every transport is measured through: a two-way stream of bytes, and the two ends of the work done on it. */

export interface Channel {
  /** Sends bytes that will not change; false where the caller is to wait for `onDrain` before it sends more. */
  readonly send: (bytes: Uint8Array) => boolean
  /** To be called once. A chunk is valid until `onData` returns. */
  readonly listen: (handlers: { readonly onData: (chunk: Uint8Array) => void; readonly onDrain: () => void }) => void
  readonly close: () => void
}

/** A connection to the other process; each piece of work is done on a channel of its own. */
export interface Connection {
  readonly open: () => Promise<Channel>
  readonly close: () => Promise<void>
}

/** One transport, as it runs in two processes. */
export interface Transport {
  /** Answers work on every channel that is opened here; gives what `connect` needs, as text. */
  readonly listen: (onChannel: (channel: Channel) => void) => Promise<string>
  readonly connect: (endpoint: string) => Promise<Connection>
}

/** Bytes handed over at once: enough that no transport is measured by the cost of its `send`. */
export const pieceBytes = 256 * 1024

const requestBytes = 24
const piece = Buffer.alloc(pieceBytes, 0xa5)

interface Request {
  /** Above 0: every so many bytes are sent back. */
  readonly echo: number
  /** Bytes that the answering end takes, and then says so by one byte. */
  readonly take: number
  /** Bytes that the answering end sends. */
  readonly give: number
}

const encode = ({ echo, take, give }: Request): Uint8Array => new Uint8Array(Float64Array.of(echo, take, give).buffer)

const decode = (bytes: Uint8Array): Request => {
  const [echo = 0, take = 0, give = 0] = new Float64Array(Uint8Array.from(bytes).buffer)
  return { echo, take, give }
}

/** Sends `bytes` as fast as the channel takes them: to be called now and at every drain. */
class Source {
  readonly #channel: Channel
  #left: number
  constructor(channel: Channel, bytes: number) {
    this.#channel = channel
    this.#left = bytes
  }
  get done(): boolean {
    return this.#left === 0
  }
  pump(): void {
    while (this.#left > 0) {
      const bytes = Math.min(pieceBytes, this.#left)
      this.#left -= bytes
      if (!this.#channel.send(bytes === pieceBytes ? piece : piece.subarray(0, bytes))) return
    }
  }
}

/** The answering end of one channel. */
export const answer = (channel: Channel): void => {
  const head = new Uint8Array(requestBytes)
  let filled = 0
  let request: Request = { echo: 0, take: 0, give: 0 }
  let source = new Source(channel, 0)
  let taken = 0
  let held: Array<Uint8Array> = []
  const onData = (chunk: Uint8Array): void => {
    if (filled < requestBytes) {
      const part = chunk.subarray(0, requestBytes - filled)
      head.set(part, filled)
      filled += part.length
      if (filled < requestBytes) return
      request = decode(head)
      source = new Source(channel, request.give)
      source.pump()
      if (part.length < chunk.length) onData(chunk.subarray(part.length))
      return
    }
    taken += chunk.length
    if (request.echo > 0) {
      held.push(Uint8Array.from(chunk))
      if (taken < request.echo) return
      channel.send(held.length === 1 && held[0] !== undefined ? held[0] : Buffer.concat(held))
      held = []
      taken = 0
    } else if (taken === request.take) channel.send(Uint8Array.of(1))
  }
  channel.listen({ onData, onDrain: () => source.pump() })
}

export interface Transfer {
  readonly seconds: number
}

/** Sends `up` bytes and receives `down` bytes at the same time; ends when both ends have all. */
export const transfer = async (connection: Connection, up: number, down: number): Promise<Transfer> => {
  const channel = await connection.open()
  const expected = down + (up > 0 ? 1 : 0)
  const started = performance.now()
  await new Promise<void>(resolve => {
    let received = 0
    const source = new Source(channel, up)
    channel.listen({
      onData: chunk => {
        received += chunk.length
        if (received === expected) resolve()
      },
      onDrain: () => source.pump()
    })
    channel.send(encode({ echo: 0, take: up, give: down }))
    source.pump()
  })
  const seconds = (performance.now() - started) / 1000
  channel.close()
  return { seconds }
}

/** Round trips of `bytes` in each direction, one after the other, in milliseconds each. */
export const roundTrips = async (connection: Connection, bytes: number, count: number): Promise<Array<number>> => {
  const channel = await connection.open()
  const payload = new Uint8Array(bytes)
  const times: Array<number> = []
  channel.send(encode({ echo: bytes, take: 0, give: 0 }))
  await new Promise<void>(resolve => {
    let received = 0
    let started = performance.now()
    channel.listen({
      onData: chunk => {
        received += chunk.length
        if (received < bytes) return
        const now = performance.now()
        times.push(now - started)
        if (times.length === count) return resolve()
        received = 0
        started = performance.now()
        channel.send(payload)
      },
      onDrain: () => undefined
    })
    channel.send(payload)
  })
  channel.close()
  return times
}
