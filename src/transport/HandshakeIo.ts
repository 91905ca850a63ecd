import { maxHandshakeBufferBytes } from "../protocol/constants.ts"
import { FrameReader, type Frame } from "../protocol/HandshakeMessages.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { Connection } from "./Network.ts"

/** Reads handshake frames from a connection, one at a time, holding no more than a handshake may send unasked. */
export class HandshakeIo {
  readonly #connection: Connection
  readonly #reader = new FrameReader()
  /** Unparsed bytes that may be held: more ends the handshake. */
  limitBytes: number
  #waiting: { readonly resolve: (frame: Frame) => void; readonly reject: (error: ProtocolError) => void } | undefined
  #failure: ProtocolError | undefined

  constructor(connection: Connection, limitBytes: number = maxHandshakeBufferBytes) {
    this.#connection = connection
    this.limitBytes = limitBytes
    connection.handle({
      onData: chunk => this.#onData(chunk),
      onDrain: () => undefined,
      onClose: reason =>
        this.#fail(new ProtocolError("TRUNCATED", `the connection ended during the handshake (${reason})`))
    })
  }

  get held(): number {
    return this.#reader.held
  }

  send(frames: ReadonlyArray<Uint8Array>): void {
    this.#connection.write(frames)
  }

  /** The next frame; rejects with a ProtocolError where the bytes are none or the connection is gone. */
  next(): Promise<Frame> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#connection.resume()
      this.#pump()
    })
  }

  /** Bytes that followed the last frame: the first records. */
  rest(): Uint8Array {
    return this.#reader.rest()
  }

  #onData(chunk: Uint8Array): void {
    this.#reader.push(chunk)
    this.#pump()
    if (this.#reader.held <= this.limitBytes) return
    if (this.#waiting === undefined) this.#connection.pause()
    else this.#fail(new ProtocolError("TOO_LARGE", `${this.#reader.held} bytes of handshake are waiting`))
  }

  #pump(): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    try {
      const frame = this.#reader.next()
      if (frame === undefined) {
        if (this.#failure !== undefined) this.#fail(this.#failure)
        return
      }
      this.#waiting = undefined
      waiting.resolve(frame)
    } catch (error) {
      this.#fail(error instanceof ProtocolError ? error : new ProtocolError("INTERNAL", String(error)))
    }
  }

  #fail(error: ProtocolError): void {
    this.#failure ??= error
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.reject(this.#failure)
  }
}
