import { connect, createServer, type AddressInfo, type Socket } from "node:net"
import tls from "node:tls"
import type { Channel, Connection, Transport } from "./Channel.ts"

/** Bytes of the reused buffer that `onread` reads into. */
const readBufferBytes = 64 * 1024

/** Reading by `onread`: Node offers it to the side that connects. */
const reusedBuffer = () => {
  let onData = (_chunk: Uint8Array): void => undefined
  const onread = {
    buffer: Buffer.allocUnsafeSlow(readBufferBytes),
    callback: (bytes: number, buffer: Uint8Array): boolean => {
      onData(buffer.subarray(0, bytes))
      return true
    }
  }
  return { onread, handle: (next: typeof onData) => (onData = next) }
}

const channelOf = (socket: Socket, reused?: ReturnType<typeof reusedBuffer>): Channel => {
  socket.setNoDelay(true)
  socket.on("error", () => undefined)
  return {
    send: bytes => socket.write(bytes),
    listen: ({ onData, onDrain }) => {
      socket.on("drain", onDrain)
      if (reused === undefined) socket.on("data", onData)
      else {
        reused.handle(onData)
        socket.resume()
      }
    },
    close: () => socket.destroy()
  }
}

const once = (socket: Socket, event: string): Promise<void> =>
  new Promise((resolve, reject) => {
    socket.once(event, () => resolve())
    socket.once("error", reject)
  })

const listening = (server: ReturnType<typeof createServer> | tls.Server): Promise<number> =>
  new Promise(resolve => {
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      const isAddress = (value: typeof address): value is AddressInfo => typeof value === "object" && value !== null
      resolve(isAddress(address) ? address.port : 0)
    })
  })

/** A connection opens a socket for each channel. */
const connectionOf = (open: () => Promise<Channel>): Connection => {
  const channels: Array<Channel> = []
  return {
    open: async () => {
      const channel = await open()
      channels.push(channel)
      return channel
    },
    close: async () => channels.forEach(channel => channel.close())
  }
}

/** Plain TCP. With `onread` the side that connects reads into one reused buffer. */
export const tcp = (onread: boolean): Transport => ({
  listen: async onChannel => String(await listening(createServer(socket => onChannel(channelOf(socket))))),
  connect: async endpoint =>
    connectionOf(async () => {
      const reused = onread ? reusedBuffer() : undefined
      const socket = connect({ host: "127.0.0.1", port: Number(endpoint), ...(reused && { onread: reused.onread }) })
      await once(socket, "connect")
      return channelOf(socket, reused)
    })
})

/** Key and certificate of one end, and the certificate of the other; PEM. */
export interface TlsCredentials {
  readonly key: string
  readonly cert: string
  readonly ca: string
}

/** TLS 1.3 in which both ends show a certificate, as both ends of a session prove who they are. */
export const tls13 = (credentials: TlsCredentials, onread: boolean): Transport => ({
  listen: async onChannel => {
    const options = { ...credentials, requestCert: true, rejectUnauthorized: true, minVersion: "TLSv1.3" } as const
    return String(await listening(tls.createServer(options, socket => onChannel(channelOf(socket)))))
  },
  connect: async endpoint =>
    connectionOf(async () => {
      const reused = onread ? reusedBuffer() : undefined
      const socket = tls.connect({
        ...credentials,
        host: "127.0.0.1",
        port: Number(endpoint),
        minVersion: "TLSv1.3",
        checkServerIdentity: () => undefined,
        ...(reused && { onread: reused.onread })
      })
      await once(socket, "secureConnect")
      return channelOf(socket, reused)
    })
})
