/**
 * Effect Cluster over peers: its entities and singletons run unchanged, and what its runners say to each other goes through our sessions.
 *
 * ```ts
 * const runner = Cluster.layer().pipe(
 *   Layer.provide([Cluster.layerRemoteLeases(holder), MessageStorage.layerNoop])
 * )
 * const app = Layer.mergeAll(Counter.toLayer(handlers), Singleton.make("clock", tick)).pipe(Layer.provide(runner))
 * ```
 *
 * A runner's address is its peer's id. Runners dial each other when they have something to say, so each must be paired with every other.
 */
import { Effect, Exit, Layer, Option, Scope, Semaphore } from "effect"
import * as MessageStorage from "effect/cluster/MessageStorage"
import * as RunnerAddress from "effect/cluster/RunnerAddress"
import * as RunnerHealth from "effect/cluster/RunnerHealth"
import * as RunnerServer from "effect/cluster/RunnerServer"
import * as Runners from "effect/cluster/Runners"
import type * as RunnerStorage from "effect/cluster/RunnerStorage"
import type * as Sharding from "effect/cluster/Sharding"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as RpcClient from "effect/rpc/RpcClient"
import { RpcClientDefect, RpcClientError } from "effect/rpc/RpcClientError"
import * as RpcServer from "effect/rpc/RpcServer"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { makeClientProtocol, type ClientProtocol } from "../rpc/RpcClientProtocol.ts"
import { codecFor } from "../rpc/RpcCodec.ts"
import { makeServerProtocol } from "../rpc/RpcServerProtocol.ts"
import { sessionChannel } from "../rpc/SessionChannel.ts"
import { failure, type SessionError } from "../transport/SessionError.ts"
import { PeerNode } from "./PeerNode.ts"

export { layerHolder as layerLeases, layerRemote as layerRemoteLeases, type HolderOptions } from "./ClusterLeases.ts"

const service = "cluster"

/** Peers have ids instead of ports; Effect's addresses have both. */
const port = 0

export interface Options {
  /** Intervals, shards and limits of Effect Cluster. `runnerAddress` is always this peer's. */
  readonly config?: Partial<Omit<ShardingConfig.ShardingConfig["Service"], "runnerAddress" | "runnerListenAddress">>
  /** Peers whose runners may send messages to this one. Default: every paired peer. */
  readonly members?: (peer: PeerId) => boolean
}

/** A runner: takes its share of the shards, and calls entities wherever they are. */
export const layer = (
  options: Options = {}
): Layer.Layer<
  Sharding.Sharding | Runners.Runners,
  never,
  PeerNode | RunnerStorage.RunnerStorage | MessageStorage.MessageStorage
> =>
  RunnerServer.layerWithClients.pipe(
    Layer.provide([layerServerProtocol(options), layerClientProtocol, layerHealth, layerConfig(options)])
  )

/** Calls entities, but runs none. */
export const layerClientOnly = (
  options: Pick<Options, "config"> = {}
): Layer.Layer<
  Sharding.Sharding | Runners.Runners,
  never,
  PeerNode | RunnerStorage.RunnerStorage | MessageStorage.MessageStorage
> => RunnerServer.layerClientOnly.pipe(Layer.provide([layerClientProtocol, layerConfig(options)]))

const layerConfig = ({ config }: Options) =>
  Layer.effect(
    ShardingConfig.ShardingConfig,
    Effect.map(PeerNode, node => ({
      ...ShardingConfig.defaults,
      ...config,
      runnerAddress: Option.some(RunnerAddress.make(node.identity.peerId, port)),
      runnerListenAddress: Option.none()
    }))
  )

/** A runner is as alive as the way to its peer. */
const layerHealth = Layer.effect(
  RunnerHealth.RunnerHealth,
  Effect.map(PeerNode, node => ({
    isAlive: ({ host }: RunnerAddress.RunnerAddress) =>
      host === node.identity.peerId
        ? Effect.succeed(true)
        : isPeerId(host)
          ? Effect.isSuccess(node.reach(host))
          : Effect.succeed(false)
  }))
)

const layerServerProtocol = ({ members = () => true }: Options) =>
  Layer.effect(
    RpcServer.Protocol,
    Effect.gen(function* () {
      const node = yield* PeerNode
      const protocol = yield* makeServerProtocol({ tracing: false })
      yield* Effect.addFinalizer(() => protocol.end)
      yield* node.onChannel(service, (channel, caller) => {
        if (!members(caller.peer)) return Effect.runSync(channel.end("NORMAL"))
        // Until the server runs, what comes waits in the stream.
        Effect.runFork(
          Effect.andThen(
            protocol.running,
            Effect.sync(() => protocol.attach(channel, caller))
          )
        )
      })
      return protocol.service
    })
  )

const layerClientProtocol = Layer.effect(
  Runners.RpcClientProtocol,
  Effect.map(PeerNode, node => ({
    codecFor,
    make: ({ host }: RunnerAddress.RunnerAddress) => reconnecting(node, host)
  }))
)

interface Line {
  readonly stream: MuxStream
  readonly protocol: ClientProtocol
  readonly scope: Scope.Closeable
}

/** The calling side towards one runner, over whatever session there is: a request opens a stream where none is open. */
const reconnecting = Effect.fnUntraced(function* (node: PeerNode["Service"], host: string) {
  const outer = yield* Effect.scope
  const turn = yield* Semaphore.make(1)
  type Write = Parameters<RpcClient.Protocol["Service"]["run"]>[1]
  let write: Write = () => Effect.void
  let line: Line | undefined

  const open = Effect.gen(function* () {
    if (line !== undefined && line.stream.closed === undefined) return line
    if (line !== undefined) yield* Scope.close(line.scope, Exit.void)
    line = undefined
    if (!isPeerId(host)) return yield* failure("INTERNAL", `"${host}" is no peer's id, so no runner of this cluster`)
    const session = yield* node.reach(host)
    const stream = yield* session.openStream(streamClasses.rpc, service)
    const scope = yield* Scope.fork(outer)
    yield* Scope.addFinalizer(
      scope,
      Effect.sync(() => stream.reset("NORMAL"))
    )
    const protocol = yield* makeClientProtocol(sessionChannel(session, stream))
    yield* Effect.forkIn(
      protocol.service.run(0, message => write(message)),
      scope
    )
    yield* protocol.listen
    line = { stream, protocol, scope }
    return line
  }).pipe(turn.withPermits(1))

  return RpcClient.Protocol.of({
    run: (_clientId, deliver) =>
      Effect.suspend(() => {
        write = deliver
        return Effect.never
      }),
    send: (_clientId, message) => {
      if (message._tag === "Request")
        return Effect.flatMap(Effect.mapError(open, clientError), ({ protocol }) => protocol.service.send(0, message))
      // About a request that went with its stream there is nothing left to say.
      return line === undefined || line.stream.closed !== undefined
        ? Effect.void
        : line.protocol.service.send(0, message)
    },
    supportsAck: true,
    supportsTransferables: false,
    codecFor
  })
})

const clientError = (cause: SessionError): RpcClientError =>
  new RpcClientError({ reason: new RpcClientDefect({ message: cause.message, cause }) })
