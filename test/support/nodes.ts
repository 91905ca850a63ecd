import { Context, Effect, Layer } from "effect"
import { PeerNode, type PeerNodeOptions } from "../../src/node/PeerNode.ts"
import { PeerStore } from "../../src/store/PeerStore.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"

export const loopback = { host: "127.0.0.1", port: 0 }

/** A peer of its own in this process: real sockets on loopback, a store in memory unless one is given. */
export const startNode = Effect.fnUntraced(function* (
  options: PeerNodeOptions,
  store: Layer.Layer<PeerStore> = PeerStore.memory
) {
  const services = Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, Layer.fresh(store))
  return Context.get(yield* Layer.build(PeerNode.layer(options).pipe(Layer.provide(services))), PeerNode)
})
