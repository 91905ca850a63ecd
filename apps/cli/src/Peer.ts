/**
 * The peer of this process, as the commands that train start it.
 */
import {
  type Address,
  Cryptography,
  type LocalIdentity,
  NetworkTcp,
  openIdentity,
  PeerNode,
  PeerStore,
  type SessionError
} from "artifice"
import { join } from "node:path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type CliFailure, failed } from "./CliFailure.ts"
import { storeFailure } from "./Home.ts"

const cannotStart = (error: SessionError): CliFailure =>
  error.code === "LISTEN"
    ? failed({
        code: "CANNOT_LISTEN",
        message: error.detail,
        hint: "Choose another --listen HOST:PORT; port 0 lets the system choose.",
        cause: error
      })
    : failed({
        code: "CANNOT_START",
        message: error.detail,
        hint: "Run it again with --log-level debug.",
        cause: error
      })

/** Starts a peer with this identity and store; it ends with the scope. */
export const startPeer = Effect.fnUntraced(function* (
  identity: LocalIdentity,
  store: Layer.Layer<PeerStore>,
  listen?: Address
) {
  const node = PeerNode.layer(listen === undefined ? { identity } : { identity, listen })
  const services = Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, store)
  const built = yield* Effect.mapError(Layer.build(Layer.provide(node, services)), cannotStart)
  return Context.get(built, PeerNode)
})

/** The peer of a home folder: its identity, made at the first use, and the peers that it is paired with. */
export const peerOfHome = Effect.fnUntraced(function* (home: string, listen?: Address) {
  const { identity } = yield* Effect.mapError(openIdentity(home), storeFailure)
  return yield* startPeer(identity, PeerStore.file(join(home, "peers.json")), listen)
})
