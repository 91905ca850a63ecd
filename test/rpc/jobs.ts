/** A protocol with every kind of call, and its handlers. */
import { Deferred, Effect, Queue, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"

export class DivisionByZero extends Schema.TaggedError<DivisionByZero>()("DivisionByZero", {
  dividend: Schema.Number
}) {}
export class Broken extends Schema.TaggedError<Broken>()("Broken", { after: Schema.Number }) {}

export const Jobs = RpcGroup.make(
  Rpc.make("Echo", { payload: { text: Schema.String }, success: Schema.String }),
  Rpc.make("Bytes", { payload: { bytes: Schema.Uint8Array }, success: Schema.Struct({ bytes: Schema.Uint8Array }) }),
  Rpc.make("Divide", {
    payload: { a: Schema.Number, b: Schema.Number },
    success: Schema.Number,
    error: DivisionByZero
  }),
  Rpc.make("Explode", { payload: { how: Schema.String } }),
  Rpc.make("Unsayable", { success: Schema.Any }),
  Rpc.make("Count", { payload: { to: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("BreakAfter", {
    payload: { chunks: Schema.Number },
    success: Schema.Uint8Array,
    error: Broken,
    stream: true
  }),
  Rpc.make("DieAfter", { payload: { values: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("Wait", { payload: { name: Schema.String }, success: Schema.String }),
  Rpc.make("StackDepth", { success: Schema.Number }),
  Rpc.make("WhoAmI", { success: Schema.String })
)

/** What the handlers of one server saw: `+name` when a Wait begins, `-name` when it is interrupted, `=name` when it ends. */
export interface Watch {
  readonly events: Queue.Queue<string>
  /** Lets every Wait end. */
  readonly gate: Deferred.Deferred<void>
}

export const makeWatch: Effect.Effect<Watch> = Effect.map(Queue.unbounded<string>(), events => ({
  events,
  gate: Deferred.makeUnsafe<void>()
}))

export const handlers = ({ events, gate }: Watch) =>
  Jobs.toLayer({
    Echo: ({ text }) => Effect.succeed(text),
    Bytes: ({ bytes }) => Effect.succeed({ bytes }),
    Divide: ({ a, b }) => (b === 0 ? Effect.fail(new DivisionByZero({ dividend: a })) : Effect.succeed(a / b)),
    Explode: ({ how }) => {
      if (how === "throw") throw new Error("thrown")
      if (how === "interrupt") return Effect.interrupt
      return Effect.die(new Error(how))
    },
    Unsayable: () => Effect.succeed(Symbol("unsayable")),
    Count: ({ to }) => Stream.range(1, to),
    BreakAfter: ({ chunks }) =>
      Stream.concat(
        Stream.map(Stream.range(1, chunks), n => new Uint8Array(n)),
        Stream.fail(new Broken({ after: chunks }))
      ),
    DieAfter: ({ values }) => Stream.concat(Stream.range(1, values), Stream.die(new Error("the stream died"))),
    Wait: ({ name }) =>
      Queue.offer(events, `+${name}`).pipe(
        Effect.andThen(Deferred.await(gate)),
        Effect.andThen(Queue.offer(events, `=${name}`)),
        Effect.as(name),
        Effect.onInterrupt(() => Queue.offer(events, `-${name}`))
      ),
    StackDepth: () => Effect.sync(stackDepth),
    WhoAmI: () => Effect.map(RpcPeer.caller, ({ peer }) => peer)
  })

/** How many calls deep this runs. */
const stackDepth = (): number => {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = Infinity
  const depth = (new Error("only for its stack").stack ?? "").split("\n").length
  Error.stackTraceLimit = limit
  return depth
}
