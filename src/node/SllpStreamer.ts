import { Cause, Effect, Exit, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import type { OwnedLink } from "./SllpLink.ts"

/** What people and other actors ask of an association. Its messages do not pass here: they go between the link and the socket. */
export const SllpStreamerProtocol = RpcGroup.make(
  Rpc.make("Describe", {
    success: Schema.Struct({
      peer: Schema.String,
      /** Milliseconds. */
      roundTripMs: Schema.Number,
      sentBytesPerSecond: Schema.Number,
      receivedBytesPerSecond: Schema.Number,
      /** Share of the datagrams sent that were lost: 0 to 1. */
      lossRate: Schema.Number
    })
  }),
  Rpc.make("Close", { payload: { reason: Schema.String } })
)
export type SllpStreamerRpcs = RpcGroup.Rpcs<typeof SllpStreamerProtocol>

/** How long the user of an association that is over may go on: to read what has arrived, to learn the reason. */
const afterwardsMs = 5_000

/**
 * Owns one association: ends it when the actor ends, and ends when `use` does, at most a little after the association. Never restarted:
 * keys and packet numbers of an association that crashed must not be used again.
 */
export const sllpStreamer = (owned: OwnedLink, use: Effect.Effect<unknown>) =>
  Actor.make(
    SllpStreamerProtocol,
    context =>
      Effect.gen(function* () {
        const { link, closeNow } = owned
        yield* Effect.addFinalizer(exit =>
          Effect.sync(() => {
            const crashed = Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)
            if (crashed) closeNow("app", "what this host does with the association has crashed")
            else closeNow("normal", "this host ends the association")
          })
        )
        const over = Effect.andThen(link.closed, Effect.sleep(afterwardsMs))
        yield* Effect.forkScoped(Effect.andThen(Effect.raceFirst(use, over), context.stop))
        const handlers: Actor.Handlers<SllpStreamerRpcs> = {
          Describe: () =>
            Effect.map(link.statistics, statistics => ({
              peer: link.peer,
              roundTripMs: statistics.roundTripMs,
              sentBytesPerSecond: statistics.sentBytesPerSecond,
              receivedBytesPerSecond: statistics.receivedBytesPerSecond,
              lossRate: statistics.lossRate
            })),
          Close: ({ reason }) => link.close("normal", reason)
        }
        return handlers
      }),
    { restart: "never" }
  )
