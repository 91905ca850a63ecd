/** Actors of other peers: a ref that calls through whatever session there is. */
import { Cause, Deferred, Effect, Exit, Fiber, Schema, Scope, Stream } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import type { RpcClient, RpcGroup } from "effect/rpc"
import { RpcClientError } from "effect/rpc/RpcClientError"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { clientOf } from "../actor/ActorClient.ts"
import { ActorStopped, AskTimeout, type ActorError } from "../actor/ActorError.ts"
import type { Termination } from "../actor/ActorCell.ts"
import type { PayloadOf, ReplyOf } from "../actor/ActorRef.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { streamClasses } from "../protocol/Packets.ts"
import type { RpcChannelClosed } from "../rpc/RpcChannel.ts"
import { OnSent } from "../rpc/RpcClientProtocol.ts"
import { defaultCallDeadlineMs } from "../rpc/RpcLimits.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionChannel } from "../rpc/SessionChannel.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { tellHeader } from "./ExposedActor.ts"

/** The session ended while the call was under way: the peer may or may not have handled it. Nobody sends it again by itself. */
export class PeerLost extends Schema.TaggedError<PeerLost>()("PeerLost", {
  peer: Schema.String,
  reason: Schema.String
}) {
  override get message() {
    return `the session with ${this.peer} ended (${this.reason}); what was under way may have been handled`
  }
}

/**
 * What a call of a remote ref can fail with, beside the errors of its protocol: `SessionError`, there was no session and none could be made,
 * so the call was not sent; `PeerLost`; `CallRefused`; the errors of the actor itself; `RemoteDefect`, what serves the name is no actor and
 * has died of this call; `RpcClientError`, a message could not be encoded or understood.
 */
export type RemoteActorError = SessionError | PeerLost | RpcPeer.CallError | ActorError

/** The way to the actor is gone, or there was none: whether the actor lives is not known here. */
export interface OutOfSight {
  readonly actor: string
  readonly reason: "lost"
  readonly cause: SessionError | PeerLost
}

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
  /** Sends a message and does not wait for its handling. */
  readonly tell: <Tag extends Rpcs["_tag"]>(
    tag: Tag,
    payload: PayloadOf<Rpcs, Tag>
  ) => Effect.Effect<void, RemoteActorError>
  /** Waits until the actor is gone for good, or out of sight, and tells why. A restart is no end. */
  readonly watch: Effect.Effect<Termination | OutOfSight>
}

/**
 * An actor of another peer. It costs nothing to keep, holds no session, and stays good when one is lost: the calls in flight fail with
 * `PeerLost`, and the next call uses the session that there is then, or dials.
 */
export interface RemoteRef<Rpcs extends Rpc.Any> extends AnyActorRef<Rpcs> {
  readonly peer: PeerId
  /**
   * Succeeds when the message has been handed to the session, in the order of the tells; suspends while the peer grants no credit, or while
   * `callBudgetBytes` of calls and tells wait to be handled there. Fails where there is no session and none can be made, where it is lost
   * meanwhile, and where the name is known to be gone. A refusal, a full mailbox or the handler's typed failure is then a warning in the
   * log. Until it is handled it belongs to the session, and one that ends takes it along; of that `watch` tells. Never sent twice.
   */
  readonly tell: AnyActorRef<Rpcs>["tell"]
  /**
   * `stopped` or `crashed`, as with a local actor: it is gone for good, or its peer does not show it under this name (any more). `lost`:
   * there is no session, or it has ended. Watching dials where there is no session. A watch goes on when a session is replaced by a newer
   * one, and ends with any other: the ref stays good, and whoever wants to know more watches again.
   */
  readonly watch: Effect.Effect<Termination | OutOfSight>
}

/** Makes a ref to what a peer exposes or serves under a name. */
export type RefMaker = <Rpcs extends Rpc.Any>(
  peer: PeerId,
  name: string,
  protocol: RpcGroup.RpcGroup<Rpcs>
) => RemoteRef<Rpcs>

interface MethodOptions {
  readonly headers: Readonly<Record<string, string>>
}

/** A method of a client of which the types are known elsewhere: an Effect, or a Stream where its rpc says so. */
type Method = (
  input: unknown,
  options?: MethodOptions
) => Effect.Effect<unknown, unknown> & Stream.Stream<unknown, unknown>

/** An open RPC stream to one name at one peer, shared by all refs to it. */
interface Route {
  readonly session: Session
  readonly name: string
  readonly protocol: unknown
  readonly methods: Deferred.Deferred<Readonly<Record<string, Method>>, SessionError>
  readonly closed: Deferred.Deferred<RpcChannelClosed>
  isOpen: boolean
  /** Calls that use it. The client is kept until they have failed with their reason, else they would end as interrupted. */
  calls: number
  onIdle: () => void
}

/**
 * Makes refs whose calls go through `reach`; `live` is the session that there is. A stream stays open, one per peer, name and protocol,
 * until its session or the scope ends.
 */
export const makeRefs = Effect.fnUntraced(function* (
  reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>,
  live: (peerId: PeerId) => Session | undefined
): Effect.fn.Return<RefMaker, never, Scope.Scope> {
  const services = yield* Effect.context<never>()
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(exit => Scope.close(scope, exit))
  const routes = new WeakMap<Session, ReadonlyArray<Route>>()

  const open = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(route: Route, group: RpcGroup.RpcGroup<Rpcs>) {
    const stream = yield* route.session.openStream(streamClasses.rpc, route.name)
    yield* Effect.addFinalizer(() => Effect.sync(() => stream.reset("NORMAL")))
    const channel = sessionChannel(route.session, stream)
    const client: unknown = yield* RpcPeer.client(group, {
      ...channel,
      receive: (onMessage, onClose) =>
        channel.receive(onMessage, reason => {
          route.isOpen = false
          onClose(reason)
          Deferred.doneUnsafe(route.closed, Effect.succeed(reason))
        })
    })
    // The types of payloads and replies end here and begin again at the ref, as with a local actor.
    yield* Deferred.succeed(route.methods, client as Readonly<Record<string, Method>>)
    yield* Deferred.await(route.closed)
    yield* Effect.callback<void>(resume => {
      route.onIdle = () => resume(Effect.void)
      if (route.calls === 0) route.onIdle()
    })
  })

  const routeOf = <Rpcs extends Rpc.Any>(session: Session, name: string, group: RpcGroup.RpcGroup<Rpcs>): Route => {
    const known = routes.get(session) ?? []
    const same = known.find(route => route.isOpen && route.name === name && route.protocol === group)
    if (same !== undefined) return same
    const methods = Deferred.makeUnsafe<Readonly<Record<string, Method>>, SessionError>()
    const closed = Deferred.makeUnsafe<RpcChannelClosed>()
    const route: Route = { session, name, protocol: group, methods, closed, isOpen: true, calls: 0, onIdle: () => {} }
    routes.set(session, [...known, route])
    const forget = Effect.sync(() => {
      route.isOpen = false
      const left = (routes.get(session) ?? []).filter(other => other !== route)
      routes.set(session, left)
    })
    const life = Effect.scoped(open(route, group)).pipe(
      Effect.catch(error => Deferred.fail(route.methods, error)),
      Effect.ensuring(forget)
    )
    Fiber.runIn(Effect.runForkWith(services)(life), scope)
    return route
  }

  const leave = (route: Route): Effect.Effect<void> =>
    Effect.sync(() => {
      if (--route.calls === 0 && !route.isOpen) route.onIdle()
    })

  return <Rpcs extends Rpc.Any>(peer: PeerId, name: string, protocol: RpcGroup.RpcGroup<Rpcs>) => {
    const path = `//${peer}/${name}`

    const enter = (session: Session): Effect.Effect<Route> =>
      Effect.sync(() => {
        const route = routeOf(session, name, protocol)
        route.calls++
        return route
      })

    const session: Effect.Effect<Session, SessionError> = Effect.suspend(() => {
      const current = live(peer)
      return current === undefined || current.ended !== undefined ? reach(peer) : Effect.succeed(current)
    })

    const method = (tag: string) => (methods: Readonly<Record<string, Method>>) => {
      const found = methods[tag]
      return found === undefined
        ? Effect.die(new Error(`the protocol of ${path} has no ${tag}`))
        : Effect.succeed(found)
    }

    const stream = (tag: string, input: unknown, options?: MethodOptions): Stream.Stream<unknown, unknown> =>
      Stream.unwrap(
        Effect.gen(function* () {
          const route = yield* Effect.acquireRelease(enter(yield* session), leave)
          const found = yield* Effect.flatMap(Deferred.await(route.methods), method(tag))
          const explain = (error: unknown) => Stream.fromEffect(explained(error, route.session, path))
          return found(input, options).pipe(Stream.catch(explain))
        })
      )

    const reply = (tag: string, input: unknown, options?: MethodOptions): Effect.Effect<unknown, unknown> =>
      Effect.flatMap(session, session =>
        Effect.acquireUseRelease(
          enter(session),
          route =>
            Deferred.await(route.methods).pipe(
              Effect.flatMap(method(tag)),
              Effect.flatMap(found => found(input, options)),
              Effect.catch(error => explained(error, session, path))
            ),
          leave
        )
      )

    const call = (rpc: Rpc.AnyWithProps, input: unknown, deadlineMs: number): Effect.Effect<unknown, unknown> => {
      const { _tag: tag } = rpc
      if (RpcSchema.isStreamSchema(rpc.successSchema)) return Effect.succeed(stream(tag, input))
      const timeout = () => Effect.fail(new AskTimeout({ actor: path, tag, deadlineMs }))
      return Effect.timeoutOrElse(reply(tag, input), { duration: deadlineMs, orElse: timeout })
    }

    /** Until its message has been handled, a tell holds its share of what may be under way. */
    const untilHandled = (rpc: Rpc.AnyWithProps, payload: unknown): Effect.Effect<void, unknown> => {
      const options = { headers: { [tellHeader]: "" } }
      return RpcSchema.isStreamSchema(rpc.successSchema)
        ? Stream.runDrain(stream(rpc._tag, payload, options))
        : Effect.asVoid(reply(rpc._tag, payload, options))
    }

    const tell = (tag: string, payload: unknown): Effect.Effect<void, unknown> => {
      const rpc: unknown = protocol.requests.get(tag)
      if (!Rpc.isRpc(rpc)) return Effect.die(new Error(`the protocol of ${path} has no ${tag}`))
      return Effect.callback<void, unknown>(resume => {
        let isSent = false
        const onSent = () => {
          isSent = true
          resume(Effect.void)
        }
        const end = (exit: Exit.Exit<void, unknown>) => {
          if (!isSent) return Effect.sync(() => resume(exit))
          if (Exit.isSuccess(exit) || isGone(exit.cause)) return Effect.void
          return Effect.logWarning(`${path}: ${tag} failed and its sender did not wait to hear it`, exit.cause)
        }
        const rest = Effect.exit(Effect.onExit(untilHandled(rpc, payload), end))
        const fiber = Effect.runForkWith(services)(Effect.provideService(rest, OnSent, onSent))
        Fiber.runIn(fiber, scope)
        return Effect.suspend(() => (isSent ? Effect.void : Fiber.interrupt(fiber)))
      })
    }

    const closing = (session: Session): Effect.Effect<RpcChannelClosed, SessionError> =>
      Effect.acquireUseRelease(
        enter(session),
        route => Effect.andThen(Deferred.await(route.methods), Deferred.await(route.closed)),
        leave
      )

    const watch = Effect.gen(function* () {
      let current = yield* session
      for (;;) {
        const closed = yield* closing(current)
        const error = yield* meaningOf(closed, current, path)
        if (error?._tag === "ActorStopped") {
          const termination: Termination = { actor: path, reason: closed.code === "INTERNAL" ? "crashed" : "stopped" }
          return termination
        }
        if (error === undefined) return outOfSight(new PeerLost({ peer, reason: closed.reason }))
        const ended = yield* Deferred.await(current.closed)
        const newer = live(peer)
        if (newer === undefined || newer === current || !replacedCodes.includes(ended.code)) return outOfSight(error)
        current = newer
      }
    }).pipe(Effect.catch(error => Effect.succeed(outOfSight(error))))

    const outOfSight = (cause: OutOfSight["cause"]): OutOfSight => ({ actor: path, reason: "lost", cause })

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
      ask: ask as RemoteRef<Rpcs>["ask"],
      tell: tell as RemoteRef<Rpcs>["tell"],
      watch
    }
  }
})

/** Fails with what a closed channel means to the caller of an actor. */
const explained = Effect.fnUntraced(function* (error: unknown, session: Session, path: string) {
  const closed = error instanceof RpcClientError ? RpcPeer.closedReason(error) : undefined
  if (closed === undefined) return yield* Effect.fail(error)
  return yield* Effect.fail((yield* meaningOf(closed, session, path)) ?? error)
})

/** The actor, its session or this node is gone: a local mailbox that closes is as silent about what it still holds. */
const isGone = (cause: Cause.Cause<unknown>): boolean => {
  const error = Cause.squash(cause)
  return Cause.hasInterruptsOnly(cause) || error instanceof PeerLost || error instanceof ActorStopped
}

/** Of a stream that the peer ends alone, by its code: nobody serves the name, or does so no more. */
const goneCodes: ReadonlyArray<string | undefined> = ["NORMAL", "INTERNAL", "NOT_AUTHORIZED"]

/** Undefined: the stream alone was given up, for a reason that says nothing about the actor. */
const meaningOf = Effect.fnUntraced(function* (closed: RpcChannelClosed, session: Session, path: string) {
  // A session that ends closes its streams one by one, and this may be asked from amidst of it.
  yield* Effect.yieldNow
  if (session.ended !== undefined || session.openStreams === 0)
    return new PeerLost({ peer: session.peer.peerId, reason: closed.reason })
  return goneCodes.includes(closed.code) ? new ActorStopped({ actor: path }) : undefined
})

/** Of a session that both sides wanted to end: if there is another by then, nothing has happened to the peer. */
const replacedCodes: ReadonlyArray<string> = ["NORMAL", "SUPERSEDED"]
