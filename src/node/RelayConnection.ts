import type { PeerId } from "../protocol/Identity.ts"
import type { MessageChunk, MuxStream } from "../protocol/MuxStream.ts"
import { recordTypes, release } from "../protocol/Records.ts"
import type { Connection, ConnectionHandlers } from "../transport/Network.ts"

/** How long what is queued may take to leave when a connection is closed. */
const closeDeadlineMs = 5_000

/**
 * A connection to another peer as one bulk stream of a session with a third, who passes the bytes on (§2.7). Each batch that is written is a
 * message; where messages begin means nothing. What is not read waits in the stream's window, so that a reader who pauses stops the writer.
 */
export class RelayConnection implements Connection {
  readonly relay: PeerId
  readonly remote: Connection["remote"]
  readonly #stream: MuxStream
  #handlers: ConnectionHandlers | undefined
  #paused = false
  /** Bounded by the stream's window, as none of it is consumed. */
  readonly #waiting: Array<MessageChunk> = []
  #queuedBytes = 0
  #closed: string | undefined
  #deadline: NodeJS.Timeout | undefined

  /** @param relay who passes the bytes on */
  constructor(stream: MuxStream, relay: PeerId) {
    this.#stream = stream
    this.relay = relay
    this.remote = { host: `relay:${relay}`, port: 0 }
    stream.receive({
      onChunk: chunk => {
        if (chunk.type !== recordTypes.rawData) stream.reset("UNEXPECTED", "a typed message in a relayed connection")
        else if (this.#handlers === undefined || this.#paused) this.#waiting.push(chunk)
        else this.#deliver(chunk)
      },
      // As with a socket, one side's end is the end.
      onEnd: () => this.end(),
      onClose: ({ message }) => {
        this.#closed = message
        clearTimeout(this.#deadline)
        this.#handlers?.onClose(message)
      }
    })
  }

  #deliver(chunk: MessageChunk): void {
    this.#handlers?.onData(chunk.bytes)
    this.#stream.consumed(chunk)
    release(chunk.bytes)
  }

  handle(handlers: ConnectionHandlers): void {
    this.#handlers = handlers
    if (this.#closed !== undefined) handlers.onClose(this.#closed)
    else if (!this.#paused) this.resume()
  }

  write(parts: ReadonlyArray<Uint8Array>, onWritten?: () => void): void {
    if (this.#closed !== undefined || parts.length === 0) return
    const bytes = parts.reduce((sum, part) => sum + part.length, 0)
    this.#queuedBytes += bytes
    this.#stream.send(recordTypes.rawData, parts, error => {
      this.#queuedBytes -= bytes
      if (error !== undefined) return
      onWritten?.()
      this.#handlers?.onDrain()
    })
  }

  buffered(): number {
    return this.#queuedBytes
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    // A reader may pause again, or take the handlers elsewhere, amidst of what waited.
    while (!this.#paused && this.#handlers !== undefined) {
      const chunk = this.#waiting.shift()
      if (chunk === undefined) return
      this.#deliver(chunk)
    }
  }

  end(): void {
    if (this.#closed !== undefined) return
    this.#stream.finish()
    // A peer that no longer reads must not keep the stream for ever.
    this.#deadline ??= setTimeout(() => this.destroy(), closeDeadlineMs)
  }

  destroy(): void {
    this.#stream.reset("NORMAL", "this side closed the relayed connection")
  }
}
