/** Local actors as other peers see them: the serving side of a `RemoteRef`. */
import { Effect, Exit, Scope, Stream, type Layer } from "effect"
import type { Headers } from "effect/http/Headers"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { clientOf } from "../actor/ActorClient.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { defaultDrainMs } from "../actor/Supervisor.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { RpcChannel } from "../rpc/RpcChannel.ts"
import { defaultCallDeadlineMs } from "../rpc/RpcLimits.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"

/** On a call that nobody waits for: a `tell`. */
export const tellHeader = "tell"

/**
 * Serves an actor to the channels that `onChannel` brings, until the scope ends or the actor is gone for good. Then the name is free, the
 * calls under way get their replies, and the channels end, which is what those who watch from other peers see: with INTERNAL after a crash.
 */
export const exposeActor = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(
  onChannel: (
    attach: (channel: RpcChannel, caller: { readonly peer: PeerId }) => void
  ) => Effect.Effect<void, never, Scope.Scope>,
  ref: ActorRef<Rpcs>,
  options?: RpcPeer.ServeOptions
): Effect.fn.Return<void, never, Scope.Scope | Rpc.Middleware<Rpcs> | Rpc.ServicesServer<Rpcs>> {
  const outer = yield* Effect.scope
  const serving = yield* Scope.fork(outer)
  const server = yield* RpcPeer.serve(ref.protocol, options).pipe(
    Effect.provide(handlersOf(ref)),
    Scope.provide(serving)
  )
  const named = yield* Scope.fork(serving)
  yield* onChannel((channel, caller) => Effect.runSync(server.attach(channel, caller))).pipe(Scope.provide(named))
  const end = Effect.gen(function* () {
    const { reason } = yield* ref.watch
    yield* Scope.close(named, Exit.void)
    // All asks have ended with the actor; only a reader that does not take what was streamed to it can hold this up.
    yield* Effect.timeoutOption(server.drain(reason === "crashed" ? "INTERNAL" : "NORMAL"), defaultDrainMs)
    yield* Scope.close(serving, Exit.void)
  })
  yield* Effect.forkIn(end, outer)
})

/** Handlers that pass every call on to an actor, whose own errors travel back typed. */
const handlersOf = <Rpcs extends Rpc.Any>(ref: ActorRef<Rpcs>): Layer.Layer<Rpc.ToHandler<Rpcs>> => {
  // Checked core: tags, payloads and replies are those of one and the same protocol.
  type Send = (tag: string, payload: unknown, options?: object) => Effect.Effect<unknown, unknown>
  const ask = ref.ask as unknown as Send
  const tell = ref.tell as unknown as Send
  // A caller's own deadline interrupts the ask; this one is for callers without.
  const asking = clientOf(ref.protocol, ({ _tag }, payload) =>
    ask(_tag, payload, { deadlineMs: defaultCallDeadlineMs })
  )
  // A message that was told waits for its turn as long as the actor lives, as a local one does. Its reply says that it has been handled,
  // until when it counts against what the caller may have under way.
  const telling = (tag: string, isStream: boolean) => (payload: unknown) =>
    isStream ? Stream.drain(Stream.fromEffect(tell(tag, payload))) : ask(tag, payload, { deadlineMs: Infinity })
  const handlers: Record<string, (payload: unknown, call: { readonly headers: Headers }) => unknown> = {}
  for (const [tag, rpc] of ref.protocol.requests) {
    const asked = asking[tag]
    if (asked === undefined) continue
    const told = telling(tag, Rpc.isRpc(rpc) && RpcSchema.isStreamSchema(rpc.successSchema))
    handlers[tag] = (payload, { headers }) => (tellHeader in headers ? told(payload) : asked(payload))
  }
  return ref.protocol.toLayer(handlers as never) as Layer.Layer<Rpc.ToHandler<Rpcs>>
}
