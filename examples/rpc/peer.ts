import { Cryptography, generateIdentity, NetworkTcp, PeerNode, PeerStore, type Address } from "artifice"
import { Effect, Layer } from "effect"

/** A peer with an identity that lasts as long as its process. */
export const peer = (listen?: Address) =>
  Layer.unwrap(
    Effect.map(Effect.promise(generateIdentity), identity =>
      PeerNode.layer(listen === undefined ? { identity } : { identity, listen })
    )
  ).pipe(Layer.provide([NetworkTcp.layer, Cryptography.layer, PeerStore.memory]))
