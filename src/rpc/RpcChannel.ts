/** What RPC needs of a session, and no more: ordered whole messages with back-pressure, one caller and one server. */
import { Schema, type Effect } from "effect"

/** The channel is gone: the peer or this side ended it, or the session died. Calls in flight may or may not have been handled. */
export class RpcChannelClosed extends Schema.TaggedError<RpcChannelClosed>()("RpcChannelClosed", {
  reason: Schema.String,
  /** The protocol's code, where the channel is a stream of a session. */
  code: Schema.optionalKey(Schema.String)
}) {
  override get message() {
    return `the channel is closed: ${this.reason}`
  }
}

export interface RpcChannel {
  /**
   * Sends one message of at most `maxRpcMessageBytes`. Suspends while the peer grants no credit for what was sent before; fails once the
   * channel is closed. Interrupted, it has sent the whole message or nothing. Messages arrive in the order in which they were sent.
   */
  readonly send: (message: Uint8Array) => Effect.Effect<void, RpcChannelClosed>
  /**
   * Registers the one receiver. The channel buffers (bounded) until then and calls `onClose` at most once, at once if it is
   * closed already. The callbacks do not throw. A message counts as consumed when the callback returns.
   */
  readonly receive: (onMessage: (message: Uint8Array) => void, onClose: (reason: RpcChannelClosed) => void) => void
  /** Waits until every message that was sent has left this side, or the channel is closed. */
  readonly flushed: Effect.Effect<void>
  /** Ends the channel alone, on both sides: `INTERNAL` where what it led to has crashed. */
  readonly end: (code: "NORMAL" | "INTERNAL") => Effect.Effect<void>
  /** Ends the channel and its session because the peer broke the protocol. */
  readonly fail: (reason: string) => Effect.Effect<void>
}
