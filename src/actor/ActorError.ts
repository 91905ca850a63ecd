/** Everything that can go wrong between a sender and an actor, apart from the errors that the actor's own protocol declares. */
import { Schema } from "effect"
import { inspect } from "node:util"

/** The actor is gone, or takes no more messages while it drains. The message was not handled. */
export class ActorStopped extends Schema.TaggedError<ActorStopped>()("ActorStopped", { actor: Schema.String }) {
  override get message() {
    return `${this.actor} has stopped; look it up again or start it anew`
  }
}

/** The actor crashed while it handled this very message: part of the work may have been done. Not sent again by anyone. */
export class ActorCrashed extends Schema.TaggedError<ActorCrashed>()("ActorCrashed", {
  actor: Schema.String,
  cause: Schema.Defect()
}) {
  override get message() {
    return `${this.actor} crashed while it handled the message: ${text(this.cause)}`
  }
}

/** The mailbox was full and its policy is not to wait (`fail`), or the message was dropped for another (`drop…`). */
export class MailboxFull extends Schema.TaggedError<MailboxFull>()("MailboxFull", {
  actor: Schema.String,
  capacity: Schema.Number
}) {
  override get message() {
    return `the mailbox of ${this.actor} is full (${this.capacity} messages)`
  }
}

/** No reply within the deadline. The message may still be handled later, unless it had not been begun. */
export class AskTimeout extends Schema.TaggedError<AskTimeout>()("AskTimeout", {
  actor: Schema.String,
  tag: Schema.String,
  deadlineMs: Schema.Number
}) {
  override get message() {
    return `${this.actor} did not answer ${this.tag} within ${this.deadlineMs} ms`
  }
}

/** What a `tell` can fail with. */
export type TellError = ActorStopped | MailboxFull
/** What an `ask` can fail with, beside the typed errors of the protocol. */
export type ActorError = ActorStopped | ActorCrashed | MailboxFull | AskTimeout

/** A living child of this supervisor already has this name. */
export class ActorNameTaken extends Schema.TaggedError<ActorNameTaken>()("ActorNameTaken", { actor: Schema.String }) {
  override get message() {
    return `${this.actor} is already running; stop it first or choose another name`
  }
}

/** A behaviour has started more timers than an actor may have: it makes new names instead of using a few again. A defect of the behaviour. */
export class TooManyTimers extends Schema.TaggedError<TooManyTimers>()("TooManyTimers", {
  actor: Schema.String,
  timer: Schema.String,
  limit: Schema.Number
}) {
  override get message() {
    return `${this.actor} has ${this.limit} timers and cannot start ${this.timer}; cancel some or use their names again`
  }
}

/**
 * A child crashed more often than its limit allows, so its supervisor gave up and stopped all its children.
 * `cause` is the last crash. In a tree it climbs: the parent actor crashes with this error, at the root the tree ends with it.
 */
export class SupervisorFailed extends Schema.TaggedError<SupervisorFailed>()("SupervisorFailed", {
  supervisor: Schema.String,
  actor: Schema.String,
  crashes: Schema.Number,
  withinMs: Schema.Number,
  cause: Schema.Defect()
}) {
  override get message() {
    return `${this.supervisor} gave up: ${this.actor} crashed ${this.crashes} times within ${this.withinMs} ms, last by ${text(this.cause)}`
  }
}

const text = (cause: unknown): string => {
  if (cause instanceof Error) return `${cause.name}: ${cause.message}`
  // Not every value becomes a string: one without a prototype throws.
  return typeof cause === "string" ? cause : inspect(cause)
}
