/**
 * Typed calls to a peer and from it. Each side calls on the channel that it opened and serves on the one that the peer opened;
 * a channel has one client and one server.
 *
 * ```ts
 * const server = yield* RpcPeer.serve(Jobs).pipe(Effect.provide(Jobs.toLayer({ Join: ({ name }) => … })))
 * yield* server.attach(incomingChannel, { peer: peerId })
 * const jobs = yield* RpcPeer.client(Jobs, outgoingChannel)
 * const rank = yield* jobs.Join({ name: "worker" }).pipe(RpcPeer.withDeadline())
 * ```
 *
 * What comes from a peer is checked before it is used; a peer that breaks the rules loses its channel and nothing else happens.
 */
import { Cause, Effect, Schema, Stream, type Scope } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import { RequestId } from "effect/rpc/RpcMessage"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as RpcServer from "effect/rpc/RpcServer"
import { inspect } from "node:util"
import { clientOf, type CallOptions } from "../actor/ActorClient.ts"
import type { ActorError } from "../actor/ActorError.ts"
import { border, RpcBorder, withBorder, type Authorize, type CallRefused } from "./Authorization.ts"
import { RpcChannelClosed, type RpcChannel } from "./RpcChannel.ts"
import { makeClientProtocol } from "./RpcClientProtocol.ts"
import { defaultCallDeadlineMs } from "./RpcLimits.ts"
import { CurrentCaller, makeServerProtocol, type CallerIdentity } from "./RpcServerProtocol.ts"

export { CallRefused, type Authorize } from "./Authorization.ts"

/**
 * No reply of the protocol: the handler on the other side died of a defect or was interrupted there, or what came back does not fit the
 * schemas. It is that side's fault, and no defect here.
 */
export class RemoteDefect extends Schema.TaggedError<RemoteDefect>()("RemoteDefect", {
  rpc: Schema.String,
  /** For people: what the other side says of it is not to be trusted. */
  detail: Schema.String
}) {
  override get message() {
    return `${this.rpc} failed on the other side: ${this.detail}`
  }
}

/** What every call to a peer can fail with, beside the errors of its protocol: `RpcClientError` when the channel is closed (`closedReason`). */
export type CallError = RpcClientError | CallRefused | RemoteDefect

/** A client of a remote peer. */
export type Client<Rpcs extends Rpc.Any> = RpcClient.RpcClient<Rpcs, CallError>

/** A client of which nobody knows where the other side lives: both `Client<Rpcs>` and the `client` of an `ActorRef<Rpcs>` fit. */
export type AnyClient<Rpcs extends Rpc.Any> = RpcClient.RpcClient<Rpcs, CallError | ActorError>

/** The call took longer than its caller would wait. Its handler was told to stop. */
export class RpcDeadlineExceeded extends Schema.TaggedError<RpcDeadlineExceeded>()("RpcDeadlineExceeded", {
  deadlineMs: Schema.Number
}) {
  override get message() {
    return `no answer within ${this.deadlineMs} ms`
  }
}

/** Characters of what another side says of its defect. */
const maxDetailLength = 1_024

export interface Options {
  /** Spans for every call, carried to the other side. Off by default: a span per call costs about as much as the call. */
  readonly tracing?: boolean
}

/**
 * Calls `group` over a channel that this side opened. Interrupting a call interrupts its handler. When the channel dies, every
 * call in flight fails at once, and so does every later one. Closing the scope interrupts the calls; the channel stays.
 */
export const client = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(
  group: RpcGroup.RpcGroup<Rpcs>,
  channel: RpcChannel,
  options?: Options
): Effect.fn.Return<Client<Rpcs>, never, Scope.Scope | Rpc.MiddlewareClient<Rpcs>> {
  // Per channel from 1: a counter shared by all would tell every peer how much the others are called.
  let lastId = 0
  const protocol = yield* makeClientProtocol(channel)
  const made = yield* RpcClient.make(withBorder(group), {
    generateRequestId: () => RequestId(++lastId),
    disableTracing: options?.tracing !== true
  }).pipe(Effect.provideService(RpcClient.Protocol, protocol.service))
  yield* protocol.listen
  // Finalizers run in reverse: from here on calls end because this side ends them.
  let isClosing = false
  yield* Effect.addFinalizer(() => Effect.sync(() => (isClosing = true)))
  // The checked core: the types of a method are those of its rpc, which `RpcClient` has proved.
  const methods = made as unknown as Readonly<Record<string, Method>>
  const typed = clientOf(group, ({ _tag, successSchema }, input, options) => {
    const found = methods[_tag]
    if (found === undefined) return Effect.die(new Error(`the protocol has no ${_tag}`))
    const explain = (cause: Cause.Cause<unknown>) =>
      Effect.failCause(isClosing || Cause.hasFails(cause) ? cause : Cause.fail(remoteDefect(_tag, cause)))
    if (!RpcSchema.isStreamSchema(successSchema)) return Effect.catchCause(found(input, options), explain)
    const stream = found(input, { ...options, asQueue: false })
    return Effect.succeed(Stream.catchCause(stream, cause => Stream.fromEffect(explain(cause))))
  })
  return typed as unknown as Client<Rpcs>
})

type Method = (
  input: unknown,
  options: CallOptions | undefined
) => Effect.Effect<unknown, unknown> & Stream.Stream<unknown, unknown>

const remoteDefect = (rpc: string, cause: Cause.Cause<unknown>): RemoteDefect => {
  const error = Cause.squash(cause)
  const detail = Cause.hasInterruptsOnly(cause)
    ? "interrupted"
    : error instanceof Error
      ? error.message
      : inspect(error)
  return new RemoteDefect({ rpc, detail: detail.slice(0, maxDetailLength) })
}

export interface ServeOptions extends Options {
  /** Who may call. Default: every peer whose channel is attached. */
  readonly authorize?: Authorize
}

export interface Server {
  /** Serves a channel that the peer opened, until it closes. `caller` is what its session proved. */
  readonly attach: (channel: RpcChannel, caller: CallerIdentity) => Effect.Effect<void>
  /** Ends each channel as soon as the calls that it has under way have been answered; takes no new channels. */
  readonly drain: (code: "NORMAL" | "INTERNAL") => Effect.Effect<void>
}

/**
 * One server for any number of channels, with the handlers of `group.toLayer`. A defect in a handler fails its own call only.
 * The end of a channel interrupts its handlers; the end of the scope ends the channels. Of one channel `maxConcurrentCalls` handlers run at a time.
 */
export const serve = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(
  group: RpcGroup.RpcGroup<Rpcs>,
  options?: ServeOptions
): Effect.fn.Return<
  Server,
  never,
  Scope.Scope | Rpc.ToHandler<Rpcs> | Rpc.Middleware<Rpcs> | Rpc.ServicesServer<Rpcs>
> {
  const protocol = yield* makeServerProtocol({ tracing: options?.tracing === true })
  yield* Effect.addFinalizer(() => protocol.end)
  yield* RpcServer.make(withBorder(group), {
    disableFatalDefects: true,
    disableTracing: options?.tracing !== true
  }).pipe(
    Effect.provideService(RpcServer.Protocol, protocol.service),
    Effect.provideService(RpcBorder, border(options?.authorize)),
    Effect.forkScoped
  )
  yield* protocol.running
  return { attach: (channel, caller) => Effect.sync(() => protocol.attach(channel, caller)), drain: protocol.drain }
})

/** Inside a handler: the peer that calls. Dies outside of one, rather than let an unknown caller pass for a known one. */
export const caller: Effect.Effect<CallerIdentity> = Effect.flatMap(CurrentCaller, identity =>
  identity === undefined
    ? Effect.die(new Error("RpcPeer.caller: not in the handler of a remote call"))
    : Effect.succeed(identity)
)

/** Bounds a call in time; at the deadline it is interrupted, on the other side too. */
export const withDeadline =
  (deadlineMs: number = defaultCallDeadlineMs) =>
  <A, E, R>(call: Effect.Effect<A, E, R>): Effect.Effect<A, E | RpcDeadlineExceeded, R> =>
    Effect.timeoutOrElse(call, {
      duration: deadlineMs,
      orElse: () => Effect.fail(new RpcDeadlineExceeded({ deadlineMs }))
    })

/** Why the channel is gone, if that is what failed the call; else the call was refused, or could not be sent or understood. */
export const closedReason = (error: CallError | ActorError): RpcChannelClosed | undefined =>
  error._tag === "RpcClientError" &&
  error.reason._tag === "RpcClientDefect" &&
  error.reason.cause instanceof RpcChannelClosed
    ? error.reason.cause
    : undefined
