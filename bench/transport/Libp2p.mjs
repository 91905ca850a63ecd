// Plain JavaScript: its types come with what bench/package.json installs, not with the repository.
import { noise } from "@libp2p/noise"
import { tcp } from "@libp2p/tcp"
import { yamux } from "@libp2p/yamux"
import { createLibp2p } from "libp2p"

const protocol = "/artifice-bench/1"

const node = listen =>
  createLibp2p({
    ...(listen && { addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] } }),
    // By default five connections a second from one host are let in; this is measured by more.
    connectionManager: { inboundConnectionThreshold: 1_000 },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()]
  })

/** A chunk is one array or a list of them. */
const channelOf = stream => ({
  send: bytes => stream.send(bytes),
  listen: ({ onData, onDrain }) => {
    stream.addEventListener("drain", onDrain)
    stream.addEventListener("message", ({ data }) => {
      if (data instanceof Uint8Array) onData(data)
      else for (const part of data) onData(part)
    })
  },
  // Closing ends one direction only, and at most 32 streams of a protocol may be open.
  close: () => stream.abort(new Error("done"))
})

export const libp2p = {
  listen: async onChannel => {
    const host = await node(true)
    await host.handle(protocol, stream => onChannel(channelOf(stream)))
    return host.getMultiaddrs()[0].toString()
  },
  connect: async endpoint => {
    const { multiaddr } = await import("@multiformats/multiaddr")
    const host = (shared ??= await node(false))
    const connection = await host.dial(multiaddr(endpoint))
    return {
      open: async () => channelOf(await connection.newStream(protocol)),
      close: () => connection.close()
    }
  }
}

/** The dialling end has one identity for all its connections. */
let shared
