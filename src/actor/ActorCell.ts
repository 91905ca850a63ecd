/** The part of an actor that outlives its restarts: path, mailbox, and what is owed to senders and watchers. */
import { Cause, Deferred, Effect, Exit, Stream } from "effect"
import { ActorCrashed, ActorStopped, MailboxFull } from "./ActorError.ts"
import { Mailbox, type Overflow } from "./Mailbox.ts"

/** One message. The protocol's types are proved where it is sent and where it is handled; between them it is opaque. */
export interface Envelope {
  readonly tag: string
  readonly payload: unknown
  /** Tells the sender how it ended; undefined once nobody waits. */
  settle: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined
  /** The asker has gone: not worth handling any more. */
  cancelled: boolean
}

export type AnyHandlers = {
  readonly [tag: string]: (payload: unknown) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
}

export type ActorState = "starting" | "running" | "restarting" | "draining" | "stopped"

/** Why an actor is gone for good; `cause` is the last crash. A restart is no termination. */
export interface Termination {
  readonly actor: string
  readonly reason: "stopped" | "crashed"
  readonly cause?: unknown
}

export class ActorCell {
  readonly path: string
  readonly mailbox: Mailbox<Envelope>
  readonly terminated = Deferred.makeUnsafe<Termination>()
  crashes = 0
  private phase: "starting" | "running" | "restarting" = "starting"
  private draining = false
  private current: Envelope | undefined
  /** Fails when the running incarnation ends: what it has handed out and is still read fails with it. */
  private incarnation = Deferred.makeUnsafe<never, ActorStopped | ActorCrashed>()

  constructor(path: string, capacity: number, overflow: Overflow) {
    this.path = path
    this.mailbox = new Mailbox<Envelope>(capacity, overflow, dropped =>
      dropped.settle?.(Exit.fail(new MailboxFull({ actor: path, capacity })))
    )
  }

  get state(): ActorState {
    if (this.isTerminated) return "stopped"
    return this.draining ? "draining" : this.phase
  }

  get isTerminated(): boolean {
    return Deferred.isDoneUnsafe(this.terminated)
  }

  enter(phase: "starting" | "running" | "restarting"): void {
    this.phase = phase
  }

  /** Handles messages one by one until the actor drains and nothing is left; fails with the cause of a crash. */
  receive(handlers: AnyHandlers): Effect.Effect<void, unknown> {
    const next = (): Effect.Effect<void, unknown> => {
      let envelope = this.mailbox.take()
      while (envelope?.cancelled === true) envelope = this.mailbox.take()
      if (envelope === undefined) return this.arrival
      this.current = envelope
      return Effect.matchCauseEffect(this.handle(handlers, envelope), this.outcome)
    }
    return Effect.whileLoop({
      while: () => !(this.draining && this.mailbox.size === 0),
      body: next,
      step: () => {}
    })
  }

  /** The incarnation is over: fails the message under work and the streams that are still read. */
  endIncarnation(error: ActorStopped | ActorCrashed): void {
    const { current, incarnation } = this
    this.current = undefined
    this.incarnation = Deferred.makeUnsafe()
    current?.settle?.(Exit.fail(error))
    Deferred.doneUnsafe(incarnation, Effect.fail(error))
  }

  /** Takes no more messages; those that wait are still handled. */
  drain(): void {
    this.draining = true
    const stopped = Exit.fail(new ActorStopped({ actor: this.path }))
    for (const envelope of this.mailbox.close()) envelope.settle?.(stopped)
    this.mailbox.onArrival?.()
  }

  /** The end: every message left fails, every watcher is told. */
  terminate(reason: Termination["reason"], cause?: unknown): void {
    if (this.isTerminated) return
    this.drain()
    const error = new ActorStopped({ actor: this.path })
    this.endIncarnation(error)
    for (let left = this.mailbox.take(); left !== undefined; left = this.mailbox.take()) left.settle?.(Exit.fail(error))
    const termination = { actor: this.path, reason, ...(cause === undefined ? {} : { cause }) }
    Deferred.doneUnsafe(this.terminated, Effect.succeed(termination))
  }

  private handle(handlers: AnyHandlers, { tag, payload }: Envelope): Effect.Effect<unknown, unknown> {
    const handler = handlers[tag]
    if (handler === undefined) return Effect.die(new Error(`the behaviour of ${this.path} has no handler for ${tag}`))
    try {
      const reply = handler(payload)
      return Stream.isStream(reply)
        ? Effect.succeed(Stream.interruptWhen(reply, Deferred.await(this.incarnation)))
        : reply
    } catch (error) {
      return Effect.die(error)
    }
  }

  /** Made once: this lies on the way of every message. */
  private readonly outcome = {
    onSuccess: (value: unknown): Effect.Effect<void> => {
      const { current } = this
      this.current = undefined
      current?.settle?.(Exit.succeed(value))
      return Effect.void
    },
    onFailure: (cause: Cause.Cause<unknown>): Effect.Effect<void, unknown> => {
      const isTyped = cause.reasons.length > 0 && cause.reasons.every(Cause.isFailReason)
      if (!isTyped) {
        this.endIncarnation(new ActorCrashed({ actor: this.path, cause: Cause.squash(cause) }))
        return Effect.failCause(cause)
      }
      const { current } = this
      this.current = undefined
      if (current?.settle !== undefined) current.settle(Exit.failCause(cause))
      else if (current?.cancelled === false)
        return Effect.logWarning(`${this.path}: ${current.tag} failed and its sender did not wait to hear it`, cause)
      return Effect.void
    }
  }

  // Woken through the scheduler, so that a sender goes on first and a burst of messages costs one wake.
  private readonly arrival = Effect.withFiber<void>(fiber =>
    Effect.callback(resume => {
      // The fiber may have yielded since it looked into the mailbox.
      if (this.mailbox.size > 0 || this.draining) return resume(Effect.void)
      this.mailbox.onArrival = () => fiber.currentDispatcher.scheduleTask(() => resume(Effect.void), 0)
      return Effect.sync(() => {
        this.mailbox.onArrival = undefined
      })
    })
  )
}
