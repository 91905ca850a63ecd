/** Effect Cluster's `RunnerStorage` as leases that one peer holds for all: safe for several runners, without a database. */
import { Clock, Effect, Layer, Schema } from "effect"
import * as ClusterError from "effect/cluster/ClusterError"
import * as RunnerStorage from "effect/cluster/RunnerStorage"
import { Rpc, RpcGroup } from "effect/rpc"
import type { PeerId } from "../protocol/Identity.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { LeaseTable, type LeaseOptions } from "./LeaseTable.ts"
import { PeerNode } from "./PeerNode.ts"

/** Shards named in one request: ten times what a default cluster has. */
const maxShards = 4096
const maxTextLength = 4096

const Address = Schema.String.check(Schema.isMaxLength(maxTextLength))
const Shards = Schema.Array(Schema.String.check(Schema.isMaxLength(maxTextLength))).check(Schema.isMaxLength(maxShards))

/** A peer acts for itself alone: an address other than its own is not its to lease for. */
class NotOwnAddress extends Schema.TaggedError<NotOwnAddress>()("NotOwnAddress", {
  peer: Schema.String,
  address: Schema.String
}) {
  override get message() {
    return `peer ${this.peer} cannot act as the runner ${this.address}`
  }
}

class ClusterFull extends Schema.TaggedError<ClusterFull>()("ClusterFull", {}) {
  override get message() {
    return "the cluster has as many runners as it may have"
  }
}

const own = { error: NotOwnAddress }

const Leases = RpcGroup.make(
  Rpc.make("Register", {
    payload: {
      address: Address,
      runner: Schema.String.check(Schema.isMaxLength(maxTextLength)),
      healthy: Schema.Boolean
    },
    success: Schema.Int,
    error: Schema.Union([NotOwnAddress, ClusterFull])
  }),
  Rpc.make("Unregister", { payload: { address: Address }, ...own }),
  Rpc.make("Runners", { success: Schema.Array(Schema.Tuple([Schema.String, Schema.Boolean])) }),
  Rpc.make("SetHealth", { payload: { address: Address, healthy: Schema.Boolean } }),
  Rpc.make("Acquire", { payload: { address: Address, shards: Shards }, success: Shards, ...own }),
  Rpc.make("Refresh", { payload: { address: Address, shards: Shards }, success: Shards, ...own }),
  Rpc.make("Release", { payload: { address: Address, shard: Schema.String }, ...own }),
  Rpc.make("ReleaseAll", { payload: { address: Address }, ...own })
)

export const leasesService = "cluster-leases"

/** How a runner's address begins: its host is its peer's id, and `RunnerStorage` writes host, colon, port. */
const belongsTo = (address: string, peer: string): boolean => address.startsWith(`${peer}:`)

export interface HolderOptions extends LeaseOptions {
  /** Who may be part of the cluster. Default: every paired peer. */
  readonly authorize?: RpcPeer.Authorize
}

/**
 * Holds the leases of a cluster in this process and serves them to its peers.
 *
 * **Details** A runner whose process ends, or that cannot reach the holder, loses its shards after `expirationMs`; it stops what runs on
 * them by itself after two thirds of that.
 *
 * **Gotchas** While the holder is away nothing moves, and after `expirationMs` nothing runs. A process that was frozen for longer than its
 * lease, and wakes, learns only with its next renewal that another runs its singletons.
 */
export const layerHolder = (options: HolderOptions): Layer.Layer<RunnerStorage.RunnerStorage, never, PeerNode> =>
  Layer.effect(
    RunnerStorage.RunnerStorage,
    Effect.gen(function* () {
      const node = yield* PeerNode
      const table = new LeaseTable(options, yield* nowMs)
      const authorize = options.authorize === undefined ? {} : { authorize: options.authorize }
      yield* Effect.provide(node.serve(leasesService, Leases, authorize), handlers(table))
      return RunnerStorage.makeEncoded({
        register: (address, runner, healthy) =>
          at(now => table.register(address, runner, healthy, now)).pipe(
            Effect.filterOrFail(
              id => id !== undefined,
              () => new ClusterFull()
            ),
            persisted
          ),
        unregister: address => at(() => table.unregister(address)),
        getRunners: at(now => table.runners(now).map(({ description, healthy }) => [description, healthy])),
        setRunnerHealth: (address, healthy) => at(() => table.setHealth(address, healthy)),
        acquire: (address, shards) => at(now => [...table.acquire(address, shards, now)]),
        refresh: (address, shards) => at(now => table.refresh(address, shards, now)),
        release: (address, shard) => at(() => table.release(address, shard)),
        releaseAll: address => at(() => table.releaseAll(address))
      })
    })
  )

/** Leases that another peer holds. */
export const layerRemote = (holder: PeerId): Layer.Layer<RunnerStorage.RunnerStorage, never, PeerNode> =>
  Layer.effect(
    RunnerStorage.RunnerStorage,
    Effect.map(PeerNode, node => {
      const { client } = node.actor(holder, leasesService, Leases)
      return RunnerStorage.makeEncoded({
        register: (address, runner, healthy) => persisted(client.Register({ address, runner, healthy })),
        unregister: address => persisted(client.Unregister({ address })),
        getRunners: persisted(Effect.map(client.Runners(), runners => [...runners])),
        setRunnerHealth: (address, healthy) => persisted(client.SetHealth({ address, healthy })),
        acquire: (address, shards) => persisted(Effect.map(client.Acquire({ address, shards }), got => [...got])),
        refresh: (address, shards) => persisted(client.Refresh({ address, shards })),
        release: (address, shard) => persisted(client.Release({ address, shard })),
        releaseAll: address => persisted(client.ReleaseAll({ address }))
      })
    })
  )

const persisted = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, ClusterError.PersistenceError, R> =>
  ClusterError.PersistenceError.refail(effect)

/** Never set back or forward, unlike the time of day, by which a lease must not be measured. */
const nowMs = Effect.map(Clock.currentTimeNanos, nanos => Number(nanos / 1_000_000n))
const at = <A>(use: (now: number) => A): Effect.Effect<A> => Effect.map(nowMs, use)

const handlers = (table: LeaseTable) => {
  const forSelf = <A>(address: string, use: (now: number) => A): Effect.Effect<A, NotOwnAddress> =>
    Effect.flatMap(RpcPeer.caller, ({ peer }) =>
      belongsTo(address, peer) ? at(use) : Effect.fail(new NotOwnAddress({ peer, address }))
    )
  return Leases.toLayer({
    Register: ({ address, runner, healthy }) =>
      Effect.flatMap(
        forSelf(address, now => table.register(address, runner, healthy, now)),
        id => (id === undefined ? Effect.fail(new ClusterFull()) : Effect.succeed(id))
      ),
    Unregister: ({ address }) => forSelf(address, () => table.unregister(address)),
    Runners: () => at(now => table.runners(now).map(({ description, healthy }) => [description, healthy] as const)),
    SetHealth: ({ address, healthy }) => at(() => table.setHealth(address, healthy)),
    Acquire: ({ address, shards }) => forSelf(address, now => table.acquire(address, shards, now)),
    Refresh: ({ address, shards }) => forSelf(address, now => table.refresh(address, shards, now)),
    Release: ({ address, shard }) => forSelf(address, () => table.release(address, shard)),
    ReleaseAll: ({ address }) => forSelf(address, () => table.releaseAll(address))
  })
}
