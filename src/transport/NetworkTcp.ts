import { Effect, Layer } from "effect"
import { connect, createServer, type Socket } from "node:net"
import { release } from "../protocol/Records.ts"
import {
  formatAddress,
  Network,
  NetworkError,
  type Address,
  type Connection,
  type ConnectionHandlers
} from "./Network.ts"

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : String(error)

/** Connections that wait to be accepted by this process. */
const listenBacklog = 511

/** How long what is queued may take to leave when a connection is closed. */
const closeDeadlineMs = 5_000

/** Bytes that one read of a dialled connection may bring: several records, as each that is cut by the end of a read is copied. */
const readBufferBytes = 256 * 1024

/** Reading into one buffer, again and again, instead of into new memory: Node offers it to the side that dials. */
class ReusedBuffer {
  readonly buffer: Uint8Array
  onData: (chunk: Uint8Array) => void = () => undefined

  /** A read is over when its callback returns, so that all connections can share one buffer. */
  constructor(buffer: Uint8Array) {
    this.buffer = buffer
  }

  readonly callback = (bytes: number): boolean => {
    this.onData(this.buffer.subarray(0, bytes))
    return true
  }
}

const connectionOf = (socket: Socket, reused?: ReusedBuffer): Connection => {
  let handlers: ConnectionHandlers | undefined
  let closed: string | undefined
  let reason = "closed"
  let wantsData = true
  socket.setNoDelay(true)
  if (reused !== undefined) reused.onData = chunk => handlers?.onData(chunk)
  else
    socket.on("data", chunk => {
      handlers?.onData(chunk)
      release(chunk)
    })
  socket.on("error", error => (reason = codeOf(error)))
  socket.on("close", () => {
    closed = reason
    handlers?.onClose(reason)
  })
  socket.pause()
  return {
    remote: { host: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 },
    handle: next => {
      handlers = next
      if (closed !== undefined) next.onClose(closed)
      else if (wantsData) socket.resume()
    },
    write: (parts, onWritten) => {
      if (closed !== undefined || parts.length === 0) return
      const written = (error?: Error | null) => {
        if (error === undefined || error === null) onWritten?.()
        handlers?.onDrain()
      }
      const last = parts.length - 1
      if (last > 0) socket.cork()
      parts.forEach((part, index) => {
        if (index < last) socket.write(part)
        else socket.write(part, written)
      })
      if (last > 0) socket.uncork()
    },
    buffered: () => socket.writableLength,
    pause: () => {
      wantsData = false
      socket.pause()
    },
    resume: () => {
      wantsData = true
      if (handlers !== undefined) socket.resume()
    },
    end: () => {
      // A peer that no longer reads must not keep the socket for ever.
      const deadline = setTimeout(() => socket.destroy(), closeDeadlineMs)
      socket.once("close", () => clearTimeout(deadline))
      socket.end(() => socket.destroy())
    },
    destroy: () => socket.destroy()
  }
}

const listen = (address: Address, accept: (connection: Connection) => void) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly bound: Address; readonly close: Effect.Effect<void> }, NetworkError>(resume => {
      const server = createServer({ pauseOnConnect: true, noDelay: true }, socket => accept(connectionOf(socket)))
      const fail = (error: unknown) =>
        resume(
          Effect.fail(new NetworkError({ operation: "listen", address: formatAddress(address), code: codeOf(error) }))
        )
      server.once("error", fail)
      server.listen({ host: address.host, port: address.port, backlog: listenBacklog }, () => {
        server.off("error", fail)
        // After this an error concerns one accept (EMFILE): that caller is lost, the listener is not.
        server.on("error", () => undefined)
        const bound = server.address()
        const port = typeof bound === "object" && bound !== null ? bound.port : address.port
        // Accepted connections have owners of their own, so closing does not wait for them.
        resume(Effect.succeed({ bound: { host: address.host, port }, close: Effect.sync(() => server.close()) }))
      })
      return Effect.sync(() => server.close())
    }),
    ({ close }) => close
  ).pipe(Effect.map(({ bound }) => bound))

const dial = (readBuffer: Uint8Array, address: Address, timeoutMs: number) =>
  Effect.callback<Connection, NetworkError>(resume => {
    const failure = (code: string) => new NetworkError({ operation: "dial", address: formatAddress(address), code })
    const reused = new ReusedBuffer(readBuffer)
    const socket = connect({ host: address.host, port: address.port, noDelay: true, onread: reused })
    const fail = (error: unknown) => resume(Effect.fail(failure(codeOf(error))))
    socket.once("error", fail)
    socket.once("connect", () => {
      socket.off("error", fail)
      resume(Effect.succeed(connectionOf(socket, reused)))
    })
    return Effect.sync(() => socket.destroy())
  }).pipe(
    Effect.timeoutOrElse({
      duration: timeoutMs,
      orElse: () =>
        Effect.fail(new NetworkError({ operation: "dial", address: formatAddress(address), code: "TIMEOUT" }))
    })
  )

/** TCP through `node:net`, without Nagle's delay. */
export const layer: Layer.Layer<Network> = Layer.sync(Network, () => {
  const readBuffer = Buffer.allocUnsafeSlow(readBufferBytes)
  return { listen, dial: (address, timeoutMs) => dial(readBuffer, address, timeoutMs) }
})
