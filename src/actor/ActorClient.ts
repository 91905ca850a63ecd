/** The methods of an RPC client, made of one function that asks: what a local and a remote ref have in common. */
import { Effect, Stream, type Scope } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import type { RpcGroup } from "effect/rpc"

/** Options of a client's method that mean something to an actor. */
export interface CallOptions {
  readonly discard?: unknown
  readonly asQueue?: unknown
  readonly streamBufferSize?: number | undefined
}

type Reply =
  Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown> | Effect.Effect<unknown, unknown, Scope.Scope>

/** Elements that a queue of replies holds before the stream waits, as `RpcClient` has it. */
const streamBuffer = 16

/** A client's methods, all made of one `call`; that of a streaming rpc succeeds with the stream. */
export const clientOf = <Rpcs extends Rpc.Any>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  call: (rpc: Rpc.AnyWithProps, input: unknown, options: CallOptions | undefined) => Effect.Effect<unknown, unknown>
): Record<string, (input: unknown, options?: CallOptions) => Reply> => {
  const client: Record<string, (input: unknown, options?: CallOptions) => Reply> = {}
  for (const [tag, rpc] of protocol.requests) {
    if (!Rpc.isRpc(rpc)) continue
    client[tag] = (input, options) => {
      const reply = call(rpc, input, options)
      if (!RpcSchema.isStreamSchema(rpc.successSchema)) return reply
      const stream = Stream.unwrap(Effect.flatMap(reply, asStream))
      return options?.asQueue === true
        ? Stream.toQueue(stream, { capacity: options.streamBufferSize ?? streamBuffer })
        : stream
    }
  }
  return client
}

const isStream = (reply: unknown): reply is Stream.Stream<unknown, unknown> => Stream.isStream(reply)

const asStream = (reply: unknown): Effect.Effect<Stream.Stream<unknown, unknown>> =>
  isStream(reply)
    ? Effect.succeed(reply)
    : Effect.die(new Error("the handler of a streaming rpc did not answer with a stream"))
