/** The actors that the tests supervise: real behaviours with switches to crash, fail and block them from outside. */
import { Deferred, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../../src/actor/Actor.ts"

export class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String }) {}

export const Counter = RpcGroup.make(
  Rpc.make("Add", { payload: { n: Schema.Number } }),
  Rpc.make("Get", { success: Schema.Number }),
  Rpc.make("Refuse", { payload: { why: Schema.String }, error: Refused }),
  Rpc.make("Crash", { payload: { why: Schema.String } }),
  Rpc.make("Block"),
  Rpc.make("Stop")
)
export type CounterRpcs = RpcGroup.Rpcs<typeof Counter>

/** What the incarnations of one counter did, in order: `start`, `end`, and a mark of the test's own. */
export interface Journal {
  readonly lines: Array<string>
  /** `Block` waits for it; every blocked handler announces itself first. */
  readonly gate: Deferred.Deferred<void>
  readonly blocked: Deferred.Deferred<void>
}

export const makeJournal = (): Journal => ({
  lines: [],
  gate: Deferred.makeUnsafe<void>(),
  blocked: Deferred.makeUnsafe<void>()
})

export const counter = (journal: Journal, name = "", options: Actor.ActorOptions = {}) =>
  Actor.make(
    Counter,
    ({ stop }) =>
      Effect.gen(function* () {
        let sum = 0
        journal.lines.push(`start${name}`)
        yield* Effect.addFinalizer(() => Effect.sync(() => journal.lines.push(`end${name}`)))
        return {
          Add: ({ n }) =>
            Effect.sync(() => {
              sum += n
            }),
          Get: () => Effect.sync(() => sum),
          Refuse: ({ why }) => Effect.fail(new Refused({ why })),
          Crash: ({ why }) => Effect.die(new Error(why)),
          Block: () =>
            Effect.gen(function* () {
              yield* Deferred.succeed(journal.blocked, undefined)
              yield* Deferred.await(journal.gate)
              journal.lines.push("handled")
            }),
          Stop: () => stop
        }
      }),
    options
  )
