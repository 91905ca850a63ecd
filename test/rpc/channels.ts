/** Two kinds of channel pairs to run RPC over: one in memory, one over TCP with a length before every message. */
import { Effect, type Scope } from "effect"
import { createServer, connect, type AddressInfo, type Socket } from "node:net"
import { once } from "node:events"
import { RpcChannelClosed, type RpcChannel } from "../../src/rpc/RpcChannel.ts"

export interface ChannelPair {
  readonly left: RpcChannel
  readonly right: RpcChannel
  /** Ends both sides, as a lost session does. */
  readonly kill: (reason: string) => void
  /** Why it ended, or undefined while it is open. */
  readonly ended: () => string | undefined
}

/** Delivers in the next microtask, in order: a session never calls the receiver from inside `send`. */
export const memoryPair = (): ChannelPair => {
  let ended: string | undefined
  const ends: Array<{
    onMessage?: (message: Uint8Array) => void
    onClose?: (reason: RpcChannelClosed) => void
    early: Array<Uint8Array>
  }> = [{ early: [] }, { early: [] }]
  const kill = (reason: string) => {
    if (ended !== undefined) return
    ended = reason
    for (const end of ends) end.onClose?.(new RpcChannelClosed({ reason }))
  }
  const channel = (own: number): RpcChannel => {
    const self = ends[own]
    const peer = ends[1 - own]
    if (self === undefined || peer === undefined) throw new Error("no such end")
    return {
      send: message =>
        Effect.suspend(() => {
          if (ended !== undefined) return Effect.fail(new RpcChannelClosed({ reason: ended }))
          queueMicrotask(() => {
            if (ended === undefined) (peer.onMessage ?? (early => peer.early.push(early)))(message)
          })
          return Effect.void
        }),
      receive: (onMessage, onClose) => {
        self.onMessage = onMessage
        self.onClose = onClose
        if (ended !== undefined) return onClose(new RpcChannelClosed({ reason: ended }))
        for (const message of self.early.splice(0)) onMessage(message)
      },
      flushed: Effect.void,
      end: () => Effect.sync(() => kill("ended")),
      fail: reason => Effect.sync(() => kill(reason))
    }
  }
  return { left: channel(0), right: channel(1), kill, ended: () => ended }
}

const maxFrameBytes = 32 * 1024 * 1024

/** One channel over one socket: u32 length, message. */
const tcpChannel = (socket: Socket): RpcChannel & { readonly ended: () => string | undefined } => {
  let ended: string | undefined
  let buffered: Array<Buffer> = []
  let size = 0
  let onMessage: ((message: Uint8Array) => void) | undefined
  let onClose: ((reason: RpcChannelClosed) => void) | undefined
  const end = (reason: string) => {
    if (ended !== undefined) return
    ended = reason
    socket.destroy()
    onClose?.(new RpcChannelClosed({ reason }))
  }
  let need = 4
  const parse = () => {
    while (onMessage !== undefined && ended === undefined && size >= need) {
      const all = Buffer.concat(buffered)
      buffered = [all]
      const length = all.readUInt32BE(0)
      if (length > maxFrameBytes) return end("frame too large")
      need = 4 + length
      if (size < need) return
      const rest = all.subarray(need)
      buffered = [rest]
      size = rest.length
      const message = new Uint8Array(all.subarray(4, need))
      need = 4
      onMessage(message)
    }
  }
  socket.on("data", chunk => {
    buffered.push(chunk)
    size += chunk.length
    parse()
  })
  socket.on("error", error => end(error.message))
  socket.on("close", () => end("the socket closed"))
  return {
    send: message =>
      Effect.callback(resume => {
        if (ended !== undefined) return resume(Effect.fail(new RpcChannelClosed({ reason: ended })))
        const header = Buffer.alloc(4)
        header.writeUInt32BE(message.length)
        socket.cork()
        socket.write(header)
        socket.write(message, error => {
          if (error) resume(Effect.fail(new RpcChannelClosed({ reason: error.message })))
          else resume(Effect.void)
        })
        socket.uncork()
      }),
    receive: (message, close) => {
      onMessage = message
      onClose = close
      if (ended !== undefined) close(new RpcChannelClosed({ reason: ended }))
      else parse()
    },
    flushed: Effect.void,
    end: () => Effect.sync(() => end("ended")),
    fail: reason => Effect.sync(() => end(reason)),
    ended: () => ended
  }
}

export const tcpPair: Effect.Effect<ChannelPair, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(async () => {
    const server = createServer().listen(0, "127.0.0.1")
    await once(server, "listening")
    const accepted = once(server, "connection")
    const socket = connect((server.address() as AddressInfo).port, "127.0.0.1")
    await once(socket, "connect")
    const [peer]: Array<Socket> = await accepted
    if (peer === undefined) throw new Error("no connection")
    server.close()
    for (const each of [socket, peer]) each.setNoDelay(true)
    const left = tcpChannel(socket)
    const right = tcpChannel(peer)
    // One side is enough: the other finds out as it would from a peer that vanishes.
    return { left, right, kill: (_reason: string) => peer.destroy(), ended: () => left.ended() ?? right.ended() }
  }),
  ({ left, right }) => Effect.andThen(left.fail("the test is over"), right.fail("the test is over"))
)

export const pairs: ReadonlyArray<readonly [string, Effect.Effect<ChannelPair, never, Scope.Scope>]> = [
  ["in memory", Effect.sync(memoryPair)],
  ["over TCP", tcpPair]
]
