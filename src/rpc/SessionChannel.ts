import { Effect } from "effect"
import type { MuxStream } from "../protocol/MuxStream.ts"
import type { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes, release } from "../protocol/Records.ts"
import { receiveWhole } from "../transport/Messages.ts"
import type { Session } from "../transport/Session.ts"
import { RpcChannelClosed, type RpcChannel } from "./RpcChannel.ts"
import { maxRpcMessageBytes } from "./RpcWire.ts"

const closed = (error: ProtocolError): RpcChannelClosed =>
  new RpcChannelClosed({ code: error.code, reason: `${error.code}: ${error.message}` })

/** Bytes of messages that may wait on one stream for credit or for the socket before who sends more waits too. */
const maxWaitingBytes = 64 * 1024

/** RPC over one stream of a session: each message is an administrative packet. */
export const sessionChannel = (session: Session, stream: MuxStream): RpcChannel => {
  let waitingBytes = 0
  let onFlushed = (): void => undefined
  /** Hands a message to the stream; `done` is called once, later or from within. */
  const hand = (message: Uint8Array, done: (error: ProtocolError | undefined) => void): void => {
    if (message.length > session.maxSendMessageBytes) {
      // A call that cannot be said is answered by no one: its stream ends, the session and its other streams go on.
      stream.reset("LIMIT", `a message of ${message.length} bytes, the other side takes ${session.maxSendMessageBytes}`)
    }
    waitingBytes += message.length
    stream.send(recordTypes.admin, [message], error => {
      waitingBytes -= message.length
      done(error)
      if (waitingBytes === 0) onFlushed()
    })
  }
  const handed = (message: Uint8Array) =>
    Effect.callback<void, RpcChannelClosed>(resume =>
      hand(message, error => resume(error === undefined ? Effect.void : Effect.fail(closed(error))))
    )
  return {
    // Who need not wait does not suspend: to put a fiber to sleep and to wake it costs as much as to seal a small message.
    send: message =>
      Effect.suspend(() => {
        if (waitingBytes + message.length > maxWaitingBytes) return handed(message)
        let refusal: ProtocolError | undefined
        hand(message, error => (refusal = error))
        return refusal === undefined ? Effect.void : Effect.fail(closed(refusal))
      }),
    receive: (onMessage, onClose) =>
      receiveWhole(
        stream,
        Math.min(maxRpcMessageBytes, session.maxReceiveMessageBytes),
        ({ type, bytes }) => {
          if (type !== recordTypes.admin) return session.fail("UNEXPECTED", "data of another kind on an RPC stream")
          onMessage(bytes)
          // What was decoded from it are copies.
          release(bytes)
        },
        reason => {
          // No honest client makes a message that is too large for its own limit: this was the other side's doing.
          if (reason.code === "TOO_LARGE" && !stream.settled) session.fail("TOO_LARGE", reason.message)
          onClose(closed(reason))
        }
      ),
    flushed: Effect.callback(resume => {
      onFlushed = () => resume(Effect.void)
      if (waitingBytes === 0) onFlushed()
    }),
    end: code => Effect.sync(() => stream.reset(code)),
    fail: reason => Effect.sync(() => session.fail("MALFORMED", reason))
  }
}
