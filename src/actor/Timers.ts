/**
 * Messages that an actor sends itself later. The timers of an actor belong to its incarnation: they end when it ends, with the message that
 * waits in the mailbox; a restarted behaviour starts its own.
 */
import { Clock, Effect, FiberMap } from "effect"
import type { Rpc } from "effect/rpc"
import { ActorStopped, MailboxFull, TooManyTimers } from "./ActorError.ts"
import type { ActorRef, PayloadOf } from "./ActorRef.ts"

/** Timers that one actor may have at a time: names are few and fixed, a growing set of them is a leak. */
export const maxTimers = 64

type Start<Rpcs extends Rpc.Any> = <Tag extends Rpcs["_tag"]>(
  name: string,
  ms: number,
  tag: Tag,
  payload: PayloadOf<Rpcs, Tag>
) => Effect.Effect<void>

/**
 * Each timer has a name, and one that is started under a name in use takes the place of the other, whose message is withdrawn where it is
 * not being handled yet. At most one message of a timer is in the mailbox or under work at any time, and at most one stands in line before
 * a full one. `ms` is at least 1. Starting more than `maxTimers` is a crash with `TooManyTimers`.
 */
export interface Timers<Rpcs extends Rpc.Any> {
  /** Sends once, after `ms`. */
  readonly single: Start<Rpcs>
  /** Sends `ms` after the start, and again `ms` after each message has been handled. */
  readonly fixedDelay: Start<Rpcs>
  /** Sends at every multiple of `ms` since the start; skips those at which the last message has not been handled. */
  readonly periodic: Start<Rpcs>
  /** Ends the timer of this name, if there is one, and withdraws its message. */
  readonly cancel: (name: string) => Effect.Effect<void>
}

/** The timers of one incarnation: they end with the scope. */
export const makeTimers = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(self: ActorRef<Rpcs>) {
  const running = yield* FiberMap.make<string, void>()

  const starting =
    (schedule: (ms: number, send: Effect.Effect<void>) => Effect.Effect<void>): Start<Rpcs> =>
    (name, ms, tag, payload) =>
      Effect.gen(function* () {
        if (!(ms >= 1)) return yield* Effect.die(new RangeError(`${self.path}: a timer of ${ms} ms, at least 1`))
        if (!FiberMap.hasUnsafe(running, name) && (yield* FiberMap.size(running)) >= maxTimers)
          return yield* Effect.die(new TooManyTimers({ actor: self.path, timer: name, limit: maxTimers }))
        // Asks instead of telling, to know when the message has been handled.
        const asked = Effect.asVoid(self.ask(tag, payload, { deadlineMs: Infinity }))
        const onFailure = (error: unknown) => {
          if (error instanceof ActorStopped) return Effect.interrupt
          if (error instanceof MailboxFull) return Effect.void
          return Effect.logWarning(`${self.path}: ${tag} of the timer ${name} failed`, error)
        }
        const send = asked.pipe(Effect.catch(onFailure))
        yield* FiberMap.run(running, name, schedule(ms, send))
      })

  const timers: Timers<Rpcs> = {
    single: starting((ms, send) => Effect.delay(send, ms)),
    fixedDelay: starting((ms, send) => Effect.forever(Effect.delay(send, ms))),
    periodic: starting((ms, send) =>
      Effect.flatMap(Clock.currentTimeMillis, begun => {
        const untilNext = Effect.map(Clock.currentTimeMillis, now => ms - ((now - begun) % ms))
        return Effect.forever(
          Effect.andThen(
            Effect.flatMap(untilNext, left => Effect.sleep(left)),
            send
          )
        )
      })
    ),
    cancel: name => FiberMap.remove(running, name)
  }
  return timers
})
