/**
 * The peer of this process, as the commands that train start it.
 */
import {
  type Address,
  Cryptography,
  type LocalIdentity,
  NetworkTcp,
  PeerNode,
  type PeerNodeOptions,
  PeerStore,
  type SessionError
} from "artifice"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type CliFailure, failed } from "./CliFailure.ts"
import { openHomeFolder } from "./Home.ts"

const cannotStart = (error: SessionError): CliFailure => {
  const { detail: message } = error
  switch (error.code) {
    case "LISTEN": {
      const hint = "Choose another --listen HOST:PORT; port 0 lets the system choose."
      return failed({ code: "CANNOT_LISTEN", message, hint, cause: error })
    }
    case "DISCOVERY": {
      const hint =
        "Another program has this UDP port; without --discover peers are dialled at the addresses that are known."
      return failed({ code: "CANNOT_DISCOVER", message, hint, cause: error })
    }
    default:
      return failed({ code: "CANNOT_START", message, hint: "Run it again with --log-level debug.", cause: error })
  }
}

export interface PeerStartOptions {
  /** Absent: this peer only dials. */
  readonly listen?: Address | undefined
  /** Absent: it neither announces itself on the local network nor hears who does. */
  readonly discovery?: PeerNodeOptions["discovery"] | undefined
}

/** Starts a peer with this identity and store; it ends with the scope. */
export const startPeer = Effect.fnUntraced(function* (
  identity: LocalIdentity,
  store: Layer.Layer<PeerStore>,
  { listen, discovery }: PeerStartOptions = {}
) {
  const node = PeerNode.layer({
    identity,
    ...(listen === undefined ? {} : { listen }),
    ...(discovery === undefined ? {} : { discovery })
  })
  const services = Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, store)
  const built = yield* Effect.mapError(Layer.build(Layer.provide(node, services)), cannotStart)
  return Context.get(built, PeerNode)
})

/** The peer of a home folder: its identity, made at the first use, and the peers that it is paired with. */
export const peerOfHome = Effect.fnUntraced(function* (home: string, options: PeerStartOptions = {}) {
  const { identity, peers } = yield* openHomeFolder(home)
  return yield* startPeer(identity, Layer.succeed(PeerStore, peers), options)
})
