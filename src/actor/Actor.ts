/**
 * What an actor is: a typed protocol, a mailbox bound, a behaviour and a restart policy. `Supervisor.spawn` gives it a name
 * and runs it; the same definition may run many times.
 *
 * ```ts
 * const Counter = RpcGroup.make(
 *   Rpc.make("Add", { payload: { n: Schema.Number } }),
 *   Rpc.make("Get", { success: Schema.Number })
 * )
 * const counter = Actor.make(Counter, () =>
 *   Effect.sync(() => {
 *     let sum = 0
 *     return { Add: ({ n }) => Effect.sync(() => void (sum += n)), Get: () => Effect.sync(() => sum) }
 *   })
 * )
 * ```
 */
import type { Effect, Scope, Stream } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import type { ActorRef } from "./ActorRef.ts"
import type { Overflow } from "./Mailbox.ts"
import type { Supervisor, SupervisionOptions } from "./Supervisor.ts"
import type { Timers } from "./Timers.ts"

/** Messages. A sender of small control messages fills it only when the actor is stuck; lower it where messages are large. */
export const defaultMailboxCapacity = 1024

/**
 * One handler per rpc of the protocol. Handlers of one actor run one at a time, in the order of the mailbox, so state in the
 * closure of the behaviour needs no lock. A typed failure goes to the asker; anything else (a defect, an interruption from
 * inside) is a crash. A streaming rpc is handled when its stream has been made; the stream itself is run by who reads it, beside
 * later messages, and fails when the incarnation that made it ends.
 */
export type Handlers<Rpcs extends Rpc.Any> = {
  readonly [Current in Rpcs as Current["_tag"]]: Rpc.Success<Current> extends Stream.Stream<infer A, infer E, infer _R>
    ? (payload: Rpc.Payload<Current>) => Stream.Stream<A, E>
    : (payload: Rpc.Payload<Current>) => Effect.Effect<Rpc.Success<Current>, Rpc.Error<Current>>
}

/** What a behaviour is built with. */
export interface ActorContext<Rpcs extends Rpc.Any> {
  readonly self: ActorRef<Rpcs>
  /** Messages to itself, later: `timers.periodic("beat", 1_000, "Beat", undefined)`. */
  readonly timers: Timers<Rpcs>
  /** The children of this incarnation: they stop when it ends, and an escalation among them crashes this actor. */
  readonly children: Supervisor
  /** Takes no more messages, handles those that wait, then ends. Does not wait for that. */
  readonly stop: Effect.Effect<void>
}

export interface ActorOptions {
  /** Messages that may wait. Default `defaultMailboxCapacity`. */
  readonly capacity?: number
  /** What a full mailbox does. Default `suspend`. */
  readonly overflow?: Overflow
  /** `onCrash` (default) starts it again as its supervisor's options say; `never` lets it end, and its watchers know. */
  readonly restart?: "onCrash" | "never"
  /** How this actor supervises its own children. */
  readonly supervision?: SupervisionOptions
}

/**
 * Run at the start and again at every restart, in a new `Scope` that closes when the incarnation ends. To fail or die here is a
 * crash like any other. Messages wait in the mailbox until it is done.
 */
export type Behaviour<Rpcs extends Rpc.Any, E, R> = (
  context: ActorContext<Rpcs>
) => Effect.Effect<Handlers<Rpcs>, E, R | Scope.Scope>

/** An actor that can be spawned where `R` is provided. */
export interface Actor<Rpcs extends Rpc.Any, R = never> extends ActorOptions {
  readonly protocol: RpcGroup.RpcGroup<Rpcs>
  readonly behaviour: Behaviour<Rpcs, unknown, R>
}

export const make = <Rpcs extends Rpc.Any, E = never, R = never>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  behaviour: Behaviour<Rpcs, E, R>,
  options?: ActorOptions
): Actor<Rpcs, R> => ({ ...options, protocol, behaviour })
