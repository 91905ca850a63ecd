import { Context, Effect, Layer, Schema, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { formatAddress, generateIdentity, NetworkTcp, PeerNode, PeerStore } from "../../src/index.ts"
import type { MuxStream } from "../../src/protocol/MuxStream.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes, release } from "../../src/protocol/Records.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import type { Session } from "../../src/transport/Session.ts"
import type { Channel, Connection, Transport } from "./Channel.ts"

const loopback = { host: "127.0.0.1", port: 0 }
const streamName = "bench"
/** Messages that a sender has under way on one stream: one is sealed while the next one waits. */
const maxPending = 2

/** What the other process is called for, to see what a call costs beside bulk data. */
const EchoProtocol = RpcGroup.make(
  Rpc.make("Echo", { payload: { bytes: Schema.Uint8Array }, success: Schema.Uint8Array })
)
const serviceName = "echo"

/** The peer of this process; it lives as long as the process. */
const scope = Scope.makeUnsafe()
export const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>): Promise<A> =>
  Effect.runPromise(Scope.provide(effect, scope))

export const startPeer = async (listen: boolean): Promise<PeerNode["Service"]> => {
  const identity = await generateIdentity()
  const services = Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, PeerStore.memory)
  const layer = PeerNode.layer({ identity, ...(listen && { listen: loopback }) }).pipe(Layer.provide(services))
  return run(Effect.map(Layer.build(layer), context => Context.get(context, PeerNode)))
}

/** Messages on a stream of a session. */
const channelOf = (stream: MuxStream): Channel => {
  let pending = 0
  let drained = (): void => undefined
  return {
    send: bytes => {
      pending++
      stream.send(recordTypes.rawData, [bytes], error => {
        pending--
        if (error === undefined) drained()
      })
      return pending < maxPending
    },
    listen: ({ onData, onDrain }) => {
      drained = onDrain
      stream.receive({
        onChunk: chunk => {
          onData(chunk.bytes)
          stream.consumed(chunk)
          release(chunk.bytes)
        }
      })
    },
    close: () => stream.reset("NORMAL")
  }
}

let peer: PeerNode["Service"] | undefined
let session: Session | undefined

export const artifice: Transport = {
  listen: async onChannel => {
    const node = await startPeer(true)
    await run(node.onBulk(streamName, stream => onChannel(channelOf(stream))))
    const handlers = EchoProtocol.toLayer({ Echo: ({ bytes }) => Effect.succeed(bytes) })
    await run(Effect.provide(node.serve(serviceName, EchoProtocol), handlers))
    const { token } = await run(node.invite({ name: "bench" }))
    return JSON.stringify({ token, peerId: node.identity.peerId, address: formatAddress(node.address ?? loopback) })
  },
  connect: async (endpoint): Promise<Connection> => {
    const { token, peerId } = JSON.parse(endpoint)
    const node = (peer ??= await startPeer(false))
    // The first connection pairs the two; the later ones are what a connection costs.
    const made = await run(session === undefined ? node.join(token) : node.connect(peerId))
    session = made
    return {
      open: async () => channelOf(await run(made.openStream(streamClasses.bulk, streamName))),
      close: () => run(made.close())
    }
  }
}

/** Times of calls, one after the other, in milliseconds each; on the session that was connected last. */
export const callTimes = (bytes: number, count: number): Promise<Array<number>> =>
  run(
    Effect.scoped(
      Effect.gen(function* () {
        if (peer === undefined || session === undefined) return yield* Effect.die("connect first")
        const client = yield* peer.client(session, serviceName, EchoProtocol)
        const payload = new Uint8Array(bytes)
        const times: Array<number> = []
        for (let call = 0; call < count; call++) {
          const started = performance.now()
          yield* client.Echo({ bytes: payload })
          times.push(performance.now() - started)
        }
        return times
      })
    )
  )
