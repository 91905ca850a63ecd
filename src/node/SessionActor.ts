import { Deferred, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import { formatAddress } from "../transport/Network.ts"
import type { SessionRouter } from "./SessionRouter.ts"

/** What people and other actors ask of a session. Its data does not pass here: streams are read and written by whoever opened them. */
export const SessionProtocol = RpcGroup.make(
  Rpc.make("Describe", {
    success: Schema.Struct({
      peer: Schema.String,
      address: Schema.String,
      role: Schema.Literals(["initiator", "responder"]),
      openStreams: Schema.Int
    })
  }),
  Rpc.make("Close", { payload: { reason: Schema.String } })
)
export type SessionRpcs = RpcGroup.Rpcs<typeof SessionProtocol>

/**
 * Owns one live session: keeps it alive, lets the peer's streams in, and ends when it ends. Never restarted: a session that is lost is made
 * anew by a handshake. Whatever a hostile peer causes stays in here.
 */
export const sessionActor = (router: SessionRouter) =>
  Actor.make(
    SessionProtocol,
    context =>
      Effect.gen(function* () {
        const { session } = router
        yield* Effect.addFinalizer(() => session.close("NORMAL", "this host ends the session"))
        yield* session.keepAlive()
        yield* Effect.forkScoped(Effect.andThen(Deferred.await(session.closed), context.stop))
        router.open()
        const handlers: Actor.Handlers<SessionRpcs> = {
          Describe: () =>
            Effect.sync(() => ({
              peer: session.peer.peerId,
              address: formatAddress(session.remote),
              role: session.role,
              openStreams: session.openStreams
            })),
          Close: ({ reason }) => session.close("NORMAL", reason)
        }
        return handlers
      }),
    { restart: "never" }
  )
