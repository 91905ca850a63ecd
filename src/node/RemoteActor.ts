/** Actors of other peers: a ref that calls through whatever session there is, and how local actors are shown to peers. */
import { Deferred, Effect, Fiber, Schema, Scope, Stream, type Layer } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import type { RpcClient, RpcGroup } from "effect/rpc"
import { RpcClientError } from "effect/rpc/RpcClientError"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { clientOf } from "../actor/ActorClient.ts"
import { ActorStopped, AskTimeout, type ActorError } from "../actor/ActorError.ts"
import type { ActorRef, PayloadOf, ReplyOf } from "../actor/ActorRef.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { defaultCallDeadlineMs } from "../rpc/RpcLimits.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionChannel } from "../rpc/SessionChannel.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"

/** The session ended while the call was under way: the peer may or may not have handled it. Nobody sends it again by itself. */
export class PeerLost extends Schema.TaggedError<PeerLost>()("PeerLost", {
  peer: Schema.String,
  reason: Schema.String
}) {
  override get message() {
    return `the session with ${this.peer} ended during the call (${this.reason}); it may have been handled`
  }
}

/**
 * What a call of a remote ref can fail with, beside the errors of its protocol: `SessionError`, there was no session and none could be made,
 * so the call was not sent; `PeerLost`; `CallRefused`; the errors of the actor itself; `RpcClientError`, a message could not be encoded or
 * understood.
 */
export type RemoteActorError = SessionError | PeerLost | RpcPeer.CallRefused | ActorError | RpcClientError

/** What an `ActorRef` and a `RemoteRef` have in common: code written against this does not know where the actor lives. */
export interface AnyActorRef<Rpcs extends Rpc.Any> {
  readonly path: string
  readonly protocol: RpcGroup.RpcGroup<Rpcs>
  readonly client: RpcClient.RpcClient<Rpcs, RemoteActorError>
  /** Waits for the reply, `deadlineMs` at most; of a streaming rpc the reply is the stream. */
  readonly ask: <Tag extends Rpcs["_tag"]>(
    tag: Tag,
    payload: PayloadOf<Rpcs, Tag>,
    options?: { readonly deadlineMs?: number }
  ) => Effect.Effect<ReplyOf<Rpcs, Tag, RemoteActorError>, Rpc.Error<Rpc.ExtractTag<Rpcs, Tag>> | RemoteActorError>
}

/**
 * An actor of another peer. It costs nothing to keep, holds no session, and stays good when one is lost: the calls in flight fail with
 * `PeerLost`, and the next call uses the session that there is then, or dials.
 */
export interface RemoteRef<Rpcs extends Rpc.Any> extends AnyActorRef<Rpcs> {
  readonly peer: PeerId
}

/** Makes a ref to what a peer exposes or serves under a name. */
export type RefMaker = <Rpcs extends Rpc.Any>(
  peer: PeerId,
  name: string,
  protocol: RpcGroup.RpcGroup<Rpcs>
) => RemoteRef<Rpcs>

/** A method of a client of which the types are known elsewhere: an Effect, or a Stream where its rpc says so. */
type Method = (input: unknown) => Effect.Effect<unknown, unknown> & Stream.Stream<unknown, unknown>

/** An open RPC stream to one name at one peer, shared by all refs to it. */
interface Route {
  readonly session: Session
  readonly protocol: unknown
  readonly methods: Deferred.Deferred<Readonly<Record<string, Method>>, SessionError>
  isOpen: boolean
  /** Calls that use it. The client is kept until they have failed with their reason, else they would end as interrupted. */
  calls: number
  onIdle: () => void
}

/** Makes refs whose calls go through `reach`. A stream stays open, one per peer, name and protocol, until its session or the scope ends. */
export const makeRefs = Effect.fnUntraced(function* (
  reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>
): Effect.fn.Return<RefMaker, never, Scope.Scope> {
  const services = yield* Effect.context<never>()
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(exit => Scope.close(scope, exit))
  const routes = new Map<string, Array<Route>>()

  const open = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(
    route: Route,
    name: string,
    group: RpcGroup.RpcGroup<Rpcs>
  ) {
    const stream = yield* route.session.openStream(streamClasses.rpc, name)
    yield* Effect.addFinalizer(() => Effect.sync(() => stream.reset("NORMAL")))
    const channel = sessionChannel(route.session, stream)
    const closed = Deferred.makeUnsafe<void>()
    const client: unknown = yield* RpcPeer.client(group, {
      ...channel,
      receive: (onMessage, onClose) =>
        channel.receive(onMessage, reason => {
          route.isOpen = false
          onClose(reason)
          Deferred.doneUnsafe(closed, Effect.void)
        })
    })
    // The types of payloads and replies end here and begin again at the ref, as with a local actor.
    yield* Deferred.succeed(route.methods, client as Readonly<Record<string, Method>>)
    yield* Deferred.await(closed)
    yield* Effect.callback<void>(resume => {
      route.onIdle = () => resume(Effect.void)
      if (route.calls === 0) route.onIdle()
    })
  })

  const routeOf = <Rpcs extends Rpc.Any>(session: Session, name: string, group: RpcGroup.RpcGroup<Rpcs>): Route => {
    const key = `${session.peer.peerId}/${name}`
    const known = routes.get(key) ?? []
    const same = known.find(route => route.isOpen && route.session === session && route.protocol === group)
    if (same !== undefined) return same
    const methods = Deferred.makeUnsafe<Readonly<Record<string, Method>>, SessionError>()
    const route: Route = { session, protocol: group, methods, isOpen: true, calls: 0, onIdle: () => {} }
    routes.set(key, [...known, route])
    const forget = Effect.sync(() => {
      route.isOpen = false
      const left = (routes.get(key) ?? []).filter(other => other !== route)
      if (left.length > 0) routes.set(key, left)
      else routes.delete(key)
    })
    const life = Effect.scoped(open(route, name, group)).pipe(
      Effect.catch(error => Deferred.fail(route.methods, error)),
      Effect.ensuring(forget)
    )
    Fiber.runIn(Effect.runForkWith(services)(life), scope)
    return route
  }

  /** A route for as long as the caller's scope. */
  const borrow = <Rpcs extends Rpc.Any>(session: Session, name: string, group: RpcGroup.RpcGroup<Rpcs>) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const route = routeOf(session, name, group)
        route.calls++
        return route
      }),
      route =>
        Effect.sync(() => {
          if (--route.calls === 0 && !route.isOpen) route.onIdle()
        })
    )

  return <Rpcs extends Rpc.Any>(peer: PeerId, name: string, protocol: RpcGroup.RpcGroup<Rpcs>) => {
    const path = `//${peer}/${name}`

    const method = Effect.fnUntraced(function* (tag: string) {
      const session = yield* reach(peer)
      const route = yield* borrow(session, name, protocol)
      const found = (yield* Deferred.await(route.methods))[tag]
      if (found === undefined) return yield* Effect.die(new Error(`the protocol of ${path} has no ${tag}`))
      const explain = (error: unknown) => explained(error, session, path)
      return { found, explain }
    })

    const call = (rpc: Rpc.AnyWithProps, input: unknown, deadlineMs: number): Effect.Effect<unknown, unknown> => {
      const { _tag: tag } = rpc
      if (RpcSchema.isStreamSchema(rpc.successSchema)) {
        const begun = Effect.map(method(tag), ({ found, explain }) =>
          found(input).pipe(Stream.catch(error => Stream.fromEffect(explain(error))))
        )
        return Effect.succeed(Stream.unwrap(begun))
      }
      const done = Effect.flatMap(method(tag), ({ found, explain }) => found(input).pipe(Effect.catch(explain)))
      const timeout = () => Effect.fail(new AskTimeout({ actor: path, tag, deadlineMs }))
      return Effect.timeoutOrElse(Effect.scoped(done), { duration: deadlineMs, orElse: timeout })
    }

    const ask = (tag: string, payload: unknown, options?: { readonly deadlineMs?: number }) => {
      const rpc: unknown = protocol.requests.get(tag)
      return Rpc.isRpc(rpc)
        ? call(rpc, payload, options?.deadlineMs ?? defaultCallDeadlineMs)
        : Effect.die(new Error(`the protocol of ${path} has no ${tag}`))
    }

    // The checked core: what `Rpcs` says of payloads and replies was proved by the schemas of this very protocol at both ends.
    return {
      peer,
      path,
      protocol,
      client: clientOf(protocol, (rpc, input) =>
        call(rpc, input, defaultCallDeadlineMs)
      ) as unknown as RemoteRef<Rpcs>["client"],
      ask: ask as RemoteRef<Rpcs>["ask"]
    }
  }
})

/** Fails with what a closed channel means to the caller of an actor. */
const explained = Effect.fnUntraced(function* (error: unknown, session: Session, path: string) {
  const closed = error instanceof RpcClientError ? RpcPeer.closedReason(error) : undefined
  if (closed === undefined) return yield* Effect.fail(error)
  // A session that ends closes its streams one by one, and this may be called from amidst of it.
  yield* Effect.yieldNow
  const goesOn = session.ended === undefined && session.openStreams > 0
  // The peer closed this stream alone, for nobody serves its name (any more).
  if (goesOn) return yield* new ActorStopped({ actor: path })
  return yield* new PeerLost({ peer: session.peer.peerId, reason: closed.reason })
})

/** The handlers of a served group that pass every call on to an actor, whose own errors travel back typed. */
export const handlersOf = <Rpcs extends Rpc.Any>(ref: ActorRef<Rpcs>): Layer.Layer<Rpc.ToHandler<Rpcs>> => {
  // Checked core: tags, payloads and replies are those of one and the same protocol.
  const ask = ref.ask as unknown as (tag: string, payload: unknown, options: object) => Effect.Effect<unknown, unknown>
  // A caller's own deadline interrupts the ask; this one is for callers without.
  const options = { deadlineMs: defaultCallDeadlineMs }
  const methods = clientOf(ref.protocol, ({ _tag }, payload) => ask(_tag, payload, options))
  const handlers = Object.fromEntries(
    Object.entries(methods).map(([tag, method]) => [tag, (payload: unknown) => method(payload)])
  )
  return ref.protocol.toLayer(handlers as never) as Layer.Layer<Rpc.ToHandler<Rpcs>>
}
