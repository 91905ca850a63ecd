import { Deferred, Effect } from "effect"
import { decodeAdmin, encodeAdmin, type AdminBody } from "../protocol/AdminMessage.ts"
import { encodeMsgpack } from "../protocol/Msgpack.ts"
import { maxAdminMessageBytes } from "../protocol/constants.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes } from "../protocol/Records.ts"
import { receiveWhole, type WholeMessage } from "../transport/Messages.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, type SessionError } from "../transport/SessionError.ts"

/** Kinds of administrative messages of version 1 that this host understands (§6). */
export const adminKinds = { pairCommit: 1, pairOk: 2 } as const

/** §6: the answer to a kind that is not known here. */
const unknownKind = 1

/** Messages that may wait for someone to expect them. */
const maxWaiting = 16

/** The class 0 stream of a session: a few small messages between the two hosts themselves, before and beside any application. */
export class AdminChannel {
  readonly #session: Session
  readonly #stream: MuxStream
  readonly #expected = new Map<number, Deferred.Deferred<AdminBody, SessionError>>()
  readonly #waiting = new Map<number, AdminBody>()
  #closed: SessionError | undefined

  constructor(session: Session, stream: MuxStream) {
    this.#session = session
    this.#stream = stream
    receiveWhole(
      stream,
      maxAdminMessageBytes,
      message => this.#onMessage(message),
      reason => this.#onClose(sessionError(reason, session.peer.peerId))
    )
  }

  send(kind: number, body: AdminBody): Effect.Effect<void, SessionError> {
    return Effect.callback<void, SessionError>(resume => {
      this.#stream.send(recordTypes.admin, [encodeAdmin(kind, body)], error =>
        resume(error === undefined ? Effect.void : Effect.fail(sessionError(error, this.#session.peer.peerId)))
      )
    })
  }

  /** The next message of this kind; TIMEOUT where it does not come. */
  expect(kind: number, timeoutMs: number): Effect.Effect<AdminBody, SessionError> {
    return Effect.suspend(() => {
      const early = this.#waiting.get(kind)
      this.#waiting.delete(kind)
      if (early !== undefined) return Effect.succeed(early)
      if (this.#closed !== undefined) return Effect.fail(this.#closed)
      const deferred = Deferred.makeUnsafe<AdminBody, SessionError>()
      this.#expected.set(kind, deferred)
      return Deferred.await(deferred)
    }).pipe(
      Effect.timeoutOrElse({
        duration: timeoutMs,
        orElse: () =>
          Effect.fail(failure("TIMEOUT", `no administrative message ${kind} came`, this.#session.peer.peerId))
      }),
      Effect.ensuring(Effect.sync(() => this.#expected.delete(kind)))
    )
  }

  #onMessage(message: WholeMessage): void {
    if (message.type !== recordTypes.admin)
      throw new ProtocolError("UNEXPECTED", "data of another kind on the administrative stream")
    const { kind, body } = decodeAdmin(message.bytes)
    const known = kind === adminKinds.pairCommit || kind === adminKinds.pairOk
    if (!known) {
      if (message.ackRequested) this.#refuse(message.messageId, kind)
      return
    }
    const expected = this.#expected.get(kind)
    if (expected !== undefined) {
      this.#expected.delete(kind)
      Deferred.doneUnsafe(expected, Effect.succeed(body))
    } else if (this.#waiting.size < maxWaiting) this.#waiting.set(kind, body)
  }

  #refuse(messageId: number, kind: number): void {
    const answer = encodeMsgpack([unknownKind, `UNKNOWN_KIND ${kind}`])
    this.#stream.send(recordTypes.adminAck, [answer], () => undefined, { answers: messageId })
  }

  #onClose(reason: SessionError): void {
    this.#closed = reason
    for (const expected of this.#expected.values()) Deferred.doneUnsafe(expected, Effect.fail(reason))
    this.#expected.clear()
  }
}
