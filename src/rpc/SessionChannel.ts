import { Effect } from "effect"
import type { MuxStream } from "../protocol/MuxStream.ts"
import type { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes } from "../protocol/Records.ts"
import { receiveWhole } from "../transport/Messages.ts"
import type { Session } from "../transport/Session.ts"
import { RpcChannelClosed, type RpcChannel } from "./RpcChannel.ts"
import { maxRpcMessageBytes } from "./RpcWire.ts"

const closed = (error: ProtocolError): RpcChannelClosed =>
  new RpcChannelClosed({ code: error.code, reason: `${error.code}: ${error.message}` })

/** RPC over one stream of a session: each message is an administrative packet. */
export const sessionChannel = (session: Session, stream: MuxStream): RpcChannel => ({
  send: message =>
    Effect.callback<void, RpcChannelClosed>(resume => {
      if (message.length > session.maxSendMessageBytes) {
        // A call that cannot be said is answered by no one: its stream ends, the session and its other streams go on.
        stream.reset(
          "LIMIT",
          `a message of ${message.length} bytes, the other side takes ${session.maxSendMessageBytes}`
        )
      }
      stream.send(recordTypes.admin, [message], error =>
        resume(error === undefined ? Effect.void : Effect.fail(closed(error)))
      )
    }),
  receive: (onMessage, onClose) =>
    receiveWhole(
      stream,
      Math.min(maxRpcMessageBytes, session.maxReceiveMessageBytes),
      ({ type, bytes }) => {
        if (type === recordTypes.admin) onMessage(bytes)
        else session.fail("UNEXPECTED", "data of another kind on an RPC stream")
      },
      reason => {
        // No honest client makes a message that is too large for its own limit: this was the other side's doing.
        if (reason.code === "TOO_LARGE" && !stream.settled) session.fail("TOO_LARGE", reason.message)
        onClose(closed(reason))
      }
    ),
  end: Effect.sync(() => stream.reset("NORMAL")),
  fail: reason => Effect.sync(() => session.fail("MALFORMED", reason))
})
