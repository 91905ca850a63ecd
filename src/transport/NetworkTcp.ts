import { Deferred, Effect, Layer, Semaphore } from "effect"
import { lookup } from "node:dns/promises"
import { connect, createServer, isIP, type Socket } from "node:net"
import { release } from "../protocol/Records.ts"
import {
  formatAddress,
  maxAddressesName,
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

/** How long what is queued may take to leave when a connection is closed, and the other side to close it too. */
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
  let isDropping = false
  socket.setNoDelay(true)
  const onData = (chunk: Uint8Array): void => {
    if (!isDropping) handlers?.onData(chunk)
  }
  if (reused !== undefined) reused.onData = onData
  else
    socket.on("data", chunk => {
      onData(chunk)
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
      if (!isDropping) socket.pause()
    },
    resume: () => {
      wantsData = true
      if (handlers !== undefined) socket.resume()
    },
    end: (drains = false) => {
      if (closed !== undefined) return
      // A peer that no longer reads must not keep the socket for ever.
      const deadline = setTimeout(() => socket.destroy(), closeDeadlineMs)
      socket.once("close", () => clearTimeout(deadline))
      if (!drains) return void socket.end(() => socket.destroy())
      // To close while more is coming would reset the connection, and what was written last, the reason, would be lost on the way.
      isDropping = true
      socket.resume()
      socket.end(() => {
        socket.unref()
        deadline.unref()
      })
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

/** How long whoever asks waits for a name. */
const lookupTimeoutMs = 5_000
/** Look-ups at once: each takes one of the four threads that files and private-key operations need too, until the system gives up. */
const maxLookups = 2

/** By the system's own resolver, which knows the hosts file and the order of RFC 6724. */
const resolve = (turns: Semaphore.Semaphore, host: string) =>
  Effect.gen(function* () {
    if (isIP(host) !== 0) return [host]
    const failure = (code: string) => new NetworkError({ operation: "look up", address: host, code })
    const found = Deferred.makeUnsafe<ReadonlyArray<string>, NetworkError>()
    const ask = Effect.tryPromise({
      try: () => lookup(host, { all: true, order: "verbatim" }),
      catch: error => failure(codeOf(error))
    }).pipe(Effect.map(all => all.slice(0, maxAddressesName).map(({ address }) => address)))
    // A look-up cannot be called off: its turn ends when the system has answered, not when nobody waits any more.
    yield* Effect.forkDetach(turns.withPermits(1)(Deferred.into(ask, found)))
    return yield* Effect.timeoutOrElse(Deferred.await(found), {
      duration: lookupTimeoutMs,
      orElse: () => Effect.fail(failure("TIMEOUT"))
    })
  })

/** TCP through `node:net`, without Nagle's delay. */
export const layer: Layer.Layer<Network> = Layer.sync(Network, () => {
  const readBuffer = Buffer.allocUnsafeSlow(readBufferBytes)
  const turns = Semaphore.makeUnsafe(maxLookups)
  return {
    listen,
    resolve: host => resolve(turns, host),
    dial: (address, timeoutMs) => dial(readBuffer, address, timeoutMs)
  }
})
