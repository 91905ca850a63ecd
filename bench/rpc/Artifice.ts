import { Effect, Schema } from "effect"
import { Rpc, RpcGroup, type RpcClient } from "effect/rpc"
import { RpcPeer, TensorRef, type PeerNode, type RemoteActorError, type Session } from "../../src/index.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import type { MuxStream } from "../../src/protocol/MuxStream.ts"
import { recordTypes, release } from "../../src/protocol/Records.ts"
import { run, startPeer } from "../transport/Artifice.ts"
import { isRight, loadOf, type Caller, type Load, type LoadOptions, type RpcSystem } from "./Caller.ts"

const Bench = RpcGroup.make(
  Rpc.make("Echo", { payload: { bytes: Schema.Uint8Array }, success: Schema.Uint8Array }),
  Rpc.make("Count", { payload: { bytes: Schema.Uint8Array }, success: Schema.Number }),
  Rpc.make("Take", { payload: { ref: TensorRef }, success: Schema.Number })
)
const service = "bench"
const rawStream = "raw"

const serve = (node: PeerNode["Service"]) =>
  Effect.provide(
    node.serve(service, Bench),
    Bench.toLayer({
      Echo: ({ bytes }) => Effect.succeed(bytes),
      Count: ({ bytes }) => Effect.succeed(bytes.length),
      Take: ({ ref }) =>
        Effect.flatMap(RpcPeer.caller, ({ peer }) => Effect.orDie(node.tensors.take(ref, peer))).pipe(
          Effect.map(tensor => {
            const { byteLength } = tensor
            node.tensors.reuse(tensor)
            return byteLength
          })
        )
    })
  )

type Calls = Pick<RpcClient.RpcClient<RpcGroup.Rpcs<typeof Bench>, RemoteActorError>, "Echo" | "Count">

/** Calls in fibers, as a program written with Effect makes them. */
const load = (client: Calls, options: LoadOptions): Promise<Load> =>
  run(
    Effect.gen(function* () {
      const { concurrency, seconds, bytes, reply } = options
      const payload = new Uint8Array(bytes).fill(0xa5)
      const times: Array<number> = []
      const started = performance.now()
      const end = started + seconds * 1000
      const call = reply === "echo" ? client.Echo : client.Count
      const loop = Effect.gen(function* () {
        for (let begun = started; begun < end; begun = performance.now()) {
          const answer: unknown = yield* call({ bytes: payload })
          if (!isRight(options, answer)) return yield* Effect.die(new Error("a wrong reply"))
          times.push(performance.now() - begun)
        }
      })
      yield* Effect.all(
        Array.from({ length: concurrency }, () => loop),
        { concurrency, discard: true }
      )
      return loadOf(times, (performance.now() - started) / 1000)
    })
  )

/** The other end of the bulk stream: drops what it reads, and says of each message that it has come. */
const drop = (stream: MuxStream): void =>
  stream.receive({
    onChunk: chunk => {
      const { bytes, last, messageId } = chunk
      stream.consumed(chunk)
      release(bytes)
      if (last) stream.acknowledge(messageId)
    }
  })

/** Messages of the whole array on one stream, the next one behind the last, until all have come. */
const sendAll = (stream: MuxStream, array: Uint8Array, count: number): Promise<void> =>
  new Promise((resolve, reject) => {
    let acknowledged = 0
    stream.receive({
      onChunk: chunk => stream.consumed(chunk),
      onAck: () => (++acknowledged === count ? resolve() : undefined),
      onClose: reject
    })
    for (let sent = 0; sent < count; sent++)
      stream.send(recordTypes.rawData, [array], () => undefined, { ackRequested: true })
  })

/** What our own calling end is asked beside calls. */
export interface ArtificeCaller extends Caller {
  /** The same calls through a remote ref, as `node.actor` gives it. */
  readonly refLoad: (options: LoadOptions) => Promise<Load>
  /** Seconds for so many tensors of so many bytes, put here and taken there, each named in a call. */
  readonly tensors: (bytes: number, count: number) => Promise<number>
  /** Seconds for the same bytes as messages on one bulk stream of the same session, which the other end drops. */
  readonly raw: (bytes: number, count: number) => Promise<number>
}

const connected = async (node: PeerNode["Service"], session: Session): Promise<ArtificeCaller> => {
  const client = await run(node.client(session, service, Bench))
  const ref = node.actor(session.peer.peerId, service, Bench)
  let last = new Float32Array(0)
  /** One array for both ways, made once: to make it anew each time would be measured too, by the collector. */
  const arrayOf = (bytes: number): Float32Array<ArrayBuffer> =>
    (last = last.byteLength === bytes ? last : new Float32Array(bytes / Float32Array.BYTES_PER_ELEMENT).fill(0.5))
  const tensor = (array: Float32Array<ArrayBuffer>) =>
    Effect.gen(function* () {
      const { ref } = yield* node.tensors.put(array, session.peer.peerId)
      const taken = yield* client.Take({ ref })
      if (taken !== array.byteLength) return yield* Effect.die(new Error("a wrong tensor"))
    })
  return {
    load: options => load(client, options),
    refLoad: options => load(ref.client, options),
    tensors: async (bytes, count) => {
      const array = arrayOf(bytes)
      const started = performance.now()
      // The next one is on its way while the last one is answered.
      await run(
        Effect.all(
          Array.from({ length: count }, () => tensor(array)),
          { concurrency: 2, discard: true }
        )
      )
      return (performance.now() - started) / 1000
    },
    raw: async (bytes, count) => {
      const array = new Uint8Array(arrayOf(bytes).buffer)
      const stream = await run(session.openStream(streamClasses.bulk, rawStream))
      const started = performance.now()
      await sendAll(stream, array, count)
      const seconds = (performance.now() - started) / 1000
      stream.reset("NORMAL")
      return seconds
    }
  }
}

export const artifice: RpcSystem & {
  readonly connect: (...parameters: Parameters<RpcSystem["connect"]>) => Promise<ArtificeCaller>
} = {
  listen: async () => {
    const node = await startPeer(true)
    await run(serve(node))
    await run(node.onBulk(rawStream, drop))
    return (await run(node.invite({ name: "bench" }))).token
  },
  connect: async (_credentials, token) => {
    const node = await startPeer(false)
    const session = await run(node.join(token))
    return connected(node, session)
  }
}
