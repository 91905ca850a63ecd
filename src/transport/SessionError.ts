import { Schema } from "effect"
import { ProtocolError, type ProtocolErrorCode } from "../protocol/ProtocolError.ts"

/**
 * A session could not be made, or has ended. `code` is the protocol's (`TRUNCATED`: the connection went without a goodbye;
 * `BAD_MAC`: bytes were altered on the way; `NOT_AUTHORIZED`, `INVITE_USED`, …: the other side's reason; `NORMAL`: it was closed).
 */
export class SessionError extends Schema.TaggedError<SessionError>()("SessionError", {
  code: Schema.String,
  /** The peer's id as far as it is known. */
  peer: Schema.optionalKey(Schema.String),
  detail: Schema.String
}) {
  override get message() {
    return `${this.code}: ${this.detail}`
  }
}

export const sessionError = (error: unknown, peer?: string): SessionError =>
  new SessionError({
    code: error instanceof ProtocolError ? error.code : "INTERNAL",
    detail: error instanceof Error ? error.message : String(error),
    ...(peer === undefined ? {} : { peer })
  })

export const failure = (code: ProtocolErrorCode, detail: string, peer?: string): SessionError =>
  sessionError(new ProtocolError(code, detail), peer)
