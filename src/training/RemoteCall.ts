import { Cause, Effect, Schema } from "effect"
import * as RpcPeer from "../rpc/RpcPeer.ts"

/** A handler on another machine crashed or was stopped there: its fault, of which nothing here may break. */
export class RemoteFailure extends Schema.TaggedError<RemoteFailure>()("RemoteFailure", { detail: Schema.String }) {
  override get message() {
    return `the other side failed: ${this.detail}`
  }
}

/**
 * Bounds a call to another machine in time. What a handler there dies of, or its being interrupted, arrives as a cause of that kind and would
 * end this process's job: it becomes a `RemoteFailure`. Typed errors stay as they are.
 */
export const remoteCall =
  (deadlineMs?: number) =>
  <A, E, R>(call: Effect.Effect<A, E, R>): Effect.Effect<A, E | RpcPeer.RpcDeadlineExceeded | RemoteFailure, R> =>
    call.pipe(
      Effect.catchCause((cause): Effect.Effect<never, E | RemoteFailure> => {
        if (Cause.hasFails(cause)) return Effect.failCause(cause)
        const error = Cause.squash(cause)
        return Effect.fail(new RemoteFailure({ detail: error instanceof Error ? error.message : String(error) }))
      }),
      RpcPeer.withDeadline(deadlineMs)
    )
