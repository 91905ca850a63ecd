import { type Cluster, Cryptography, generateIdentity, NetworkTcp, PeerNode, PeerStore } from "artifice"
import { Effect, Layer, Schema } from "effect"
import * as Entity from "effect/cluster/Entity"
import { Rpc, RpcGroup } from "effect/rpc"

/** An ordinary entity of Effect Cluster: nothing in it knows of peers. */
export const Greeter = Entity.make("Greeter", [
  Rpc.make("Greet", {
    payload: { name: Schema.String },
    success: Schema.Struct({ text: Schema.String, runner: Schema.String })
  })
])

/** Where a runner asks to be let in. It is answered when the runner is paired with every other. */
export const Door = RpcGroup.make(Rpc.make("Enter", { payload: { runner: Schema.String } }))

/** What every runner answers the peer at the door, so that runners who have never met can be paired. */
export const Introduction = RpcGroup.make(
  Rpc.make("Invite", { success: Schema.String }),
  Rpc.make("Join", { payload: { token: Schema.String } })
)

/** A lost runner's shards are free after this. Short for an example; each renewal is a round trip to the holder of the leases. */
export const leaseMs = 3_000

export const config: NonNullable<Cluster.Options["config"]> = {
  shardLockExpiration: leaseMs,
  shardLockRefreshInterval: leaseMs / 3,
  refreshAssignmentsInterval: 500,
  entityMessagePollInterval: 500,
  shardsPerGroup: 32
}

/** A peer that listens on this machine, with an identity that lasts as long as its process. */
export const peer = Layer.unwrap(
  Effect.map(Effect.promise(generateIdentity), identity =>
    PeerNode.layer({ identity, listen: { host: "127.0.0.1", port: 0 } })
  )
).pipe(Layer.provide([NetworkTcp.layer, Cryptography.layer, PeerStore.memory]))
