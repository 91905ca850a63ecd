import { Effect, Layer, Context } from "effect"
import { SessionRouter, type StreamServices } from "../../src/node/SessionRouter.ts"
import type { LocalIdentity } from "../../src/protocol/Identity.ts"
import type { DialTarget } from "../../src/protocol/Initiator.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { defaultParameters } from "../../src/protocol/SessionParameters.ts"
import { initiate } from "../../src/transport/Handshakes.ts"
import { Network, parseAddress } from "../../src/transport/Network.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"

/** A peer that speaks the protocol and has no node: its test says what it sends. */
export const bareSession = Effect.fnUntraced(function* (
  address: string,
  identity: LocalIdentity,
  target: DialTarget,
  services: StreamServices = { rpc: new Map(), bulk: new Map(), admin: new Map() }
) {
  const where = parseAddress(address)
  if (where === undefined) return yield* Effect.die(`${address} is no address`)
  const network = Context.get(yield* Layer.build(NetworkTcp.layer), Network)
  const connection = yield* network.dial(where, 5_000)
  const session = yield* Effect.acquireRelease(
    initiate(connection, {
      identity,
      target,
      crypto: nodeCrypto(),
      parameters: defaultParameters,
      unixSeconds: Math.floor(Date.now() / 1000)
    }),
    session => Effect.sync(() => session.fail("NORMAL", "the test is over"))
  )
  const router = new SessionRouter(session, services)
  const admin = yield* router.admin
  router.open()
  return { session, admin }
})
