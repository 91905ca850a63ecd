/** Who may call what, and the errors that come from the border between peers rather than from a protocol. */
import { Effect, Schema } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import * as RpcMiddleware from "effect/rpc/RpcMiddleware"
import { ActorCrashed, ActorStopped, AskTimeout, MailboxFull } from "../actor/ActorError.ts"
import { CurrentCaller, type CallerIdentity } from "./RpcServerProtocol.ts"

/** The serving peer does not let this caller call this rpc. Its handler did not run. */
export class CallRefused extends Schema.TaggedError<CallRefused>()("CallRefused", {
  /** The caller's id, as its session proved it. */
  caller: Schema.String,
  rpc: Schema.String
}) {
  override get message() {
    return `peer ${this.caller} may not call ${this.rpc} here`
  }
}

/** The ids of the peers that may call every rpc, or a decision for each call. A decision that dies refuses. */
export type Authorize = ReadonlyArray<string> | ((caller: CallerIdentity, rpc: string) => Effect.Effect<boolean>)

/**
 * Stands around every handler of a served group. As a middleware its errors are part of every reply's schema, so that a group needs not
 * declare what the border adds to it.
 */
export class RpcBorder extends RpcMiddleware.Service<RpcBorder>()("artifice/rpc/RpcBorder", {
  error: Schema.Union([CallRefused, ActorStopped, ActorCrashed, MailboxFull, AskTimeout])
}) {}

const bordered = new WeakMap<object, object>()

/** The same group with the border's errors in its replies. One per group: a schema compiles once, not once per session. */
export const withBorder = <Rpcs extends Rpc.Any>(group: RpcGroup.RpcGroup<Rpcs>): RpcGroup.RpcGroup<Rpcs> => {
  const known = bordered.get(group) ?? group.middleware(RpcBorder)
  bordered.set(group, known)
  // Outside of this folder the group keeps its type: tags, payloads and replies are the same, and the middleware is provided here.
  return known as RpcGroup.RpcGroup<Rpcs>
}

/** The border of one server. */
export const border = (authorize: Authorize | undefined): RpcBorder["Service"] => {
  if (authorize === undefined) return effect => effect
  const allows =
    typeof authorize === "function" ? authorize : ({ peer }: CallerIdentity) => Effect.succeed(authorize.includes(peer))
  return (effect, { rpc }) =>
    Effect.flatMap(CurrentCaller, caller => {
      const refused = Effect.fail(new CallRefused({ caller: caller?.peer ?? "", rpc: rpc._tag }))
      if (caller === undefined) return refused
      const decision = Effect.catchCause(
        Effect.suspend(() => allows(caller, rpc._tag)),
        cause => Effect.as(Effect.logError(`the authorisation of ${rpc._tag} failed and refuses`, cause), false)
      )
      return Effect.flatMap(decision, allowed => (allowed ? effect : refused))
    })
}
