import { Deferred, Effect, Schema } from "effect"
import { decodeAdmin, encodeAdmin, type AdminBody } from "../protocol/AdminMessage.ts"
import { maxAdminMessageBytes } from "../protocol/constants.ts"
import { decodeMsgpack, encodeMsgpack } from "../protocol/Msgpack.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes } from "../protocol/Records.ts"
import { receiveWhole, type WholeMessage } from "../transport/Messages.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"

/** A kind of administrative message (§6): its number, and what its body and its answer hold. */
export interface AdminKind<Body, Answer> {
  readonly kind: number
  readonly body: Schema.Codec<Body, AdminBody>
  readonly answer: Schema.Codec<Answer, unknown>
}

export const adminKind = <Body, Answer = void>(
  kind: number,
  body: Schema.Codec<Body, AdminBody>,
  answer: Schema.Codec<Answer, unknown>
): AdminKind<Body, Answer> => ({ kind, body, answer })

/** What a host does with a request; its result is encoded. */
export type AdminHandler = (body: AdminBody) => Effect.Effect<unknown, SessionError>

export const adminHandler =
  <Body, Answer>(
    message: AdminKind<Body, Answer>,
    handle: (body: Body) => Effect.Effect<Answer, SessionError>,
    peer: string
  ): AdminHandler =>
  body =>
    decodeBody(message, body, peer).pipe(
      Effect.flatMap(handle),
      Effect.flatMap(result => Effect.orDie(Schema.encodeEffect(message.answer)(result)))
    )

const decodeBody = <Body>(message: AdminKind<Body, unknown>, body: AdminBody, peer: string) =>
  Effect.mapError(Schema.decodeEffect(message.body)(body), error =>
    failure("MALFORMED", `administrative message ${message.kind}: ${error.message}`, peer)
  )

/** Codes in an ADMIN_ACK: 0 is success. */
const answerCodes = { done: 0, unknownKind: 1, failed: 2 } as const

/** Messages that may wait for someone to expect them, and handlers of messages without an answer at once. */
const maxWaiting = 16

/** The answer to a request: `[0, result]` or `[code, text]`. */
const Answered = Schema.Tuple([Schema.Int, Schema.Unknown])

/**
 * The class 0 stream of a session: a few small messages between the two hosts themselves, before and beside any application. A message is
 * checked against its kind's schema on both sides.
 */
export class AdminChannel {
  readonly #session: Session
  readonly #stream: MuxStream
  readonly #expected = new Map<number, Deferred.Deferred<AdminBody, SessionError>>()
  readonly #waiting = new Map<number, AdminBody>()
  readonly #requests = new Map<number, (answer: Uint8Array) => void>()
  readonly #handlers = new Map<number, AdminHandler>()
  readonly #common: (kind: number) => AdminHandler | undefined
  /** Handlers of messages that ask for no answer, at work. */
  #running = 0
  #closed: SessionError | undefined

  /** @param common answers the requests of kinds that `answer` has not been called for */
  constructor(
    session: Session,
    stream: MuxStream,
    common: (kind: number) => AdminHandler | undefined = () => undefined
  ) {
    this.#session = session
    this.#stream = stream
    this.#common = common
    receiveWhole(
      stream,
      maxAdminMessageBytes,
      message => this.#onMessage(message),
      reason => this.#onClose(sessionError(reason, session.peer.peerId))
    )
  }

  /** Sends a message that asks for no answer. */
  send<Body>(message: AdminKind<Body, unknown>, body: Body): Effect.Effect<void, SessionError> {
    return Effect.flatMap(this.#encode(message, body), bytes => this.#write(bytes, false, () => undefined))
  }

  /** Sends a message and waits for its answer; TIMEOUT after `timeoutMs`, the other side's text where it refuses. */
  request<Body, Answer>(
    message: AdminKind<Body, Answer>,
    body: Body,
    timeoutMs: number
  ): Effect.Effect<Answer, SessionError> {
    return Effect.flatMap(this.#encode(message, body), bytes => {
      const answer = Deferred.makeUnsafe<Uint8Array, SessionError>()
      let messageId = 0
      return this.#write(bytes, true, id => {
        messageId = id
        this.#requests.set(id, answered => Deferred.doneUnsafe(answer, Effect.succeed(answered)))
      }).pipe(
        Effect.andThen(Deferred.await(answer)),
        Effect.timeoutOrElse({ duration: timeoutMs, orElse: () => Effect.fail(this.#timeout(message.kind)) }),
        Effect.raceFirst(Effect.flatMap(Deferred.await(this.#session.closed), reason => Effect.fail(reason))),
        Effect.ensuring(Effect.sync(() => this.#requests.delete(messageId))),
        Effect.flatMap(answered => this.#decodeAnswer(message, answered))
      )
    })
  }

  /** Answers requests of this kind from now on. */
  answer<Body, Answer>(
    message: AdminKind<Body, Answer>,
    handler: (body: Body) => Effect.Effect<Answer, SessionError>
  ): void {
    this.#handlers.set(message.kind, adminHandler(message, handler, this.#session.peer.peerId))
  }

  /** The next message of this kind; TIMEOUT where it does not come. */
  expect<Body>(message: AdminKind<Body, unknown>, timeoutMs: number): Effect.Effect<Body, SessionError> {
    return Effect.suspend(() => {
      const early = this.#waiting.get(message.kind)
      this.#waiting.delete(message.kind)
      if (early !== undefined) return Effect.succeed(early)
      if (this.#closed !== undefined) return Effect.fail(this.#closed)
      const deferred = Deferred.makeUnsafe<AdminBody, SessionError>()
      this.#expected.set(message.kind, deferred)
      return Deferred.await(deferred)
    }).pipe(
      Effect.timeoutOrElse({ duration: timeoutMs, orElse: () => Effect.fail(this.#timeout(message.kind)) }),
      Effect.ensuring(Effect.sync(() => this.#expected.delete(message.kind))),
      Effect.flatMap(body => decodeBody(message, body, this.#session.peer.peerId))
    )
  }

  #timeout(kind: number): SessionError {
    return failure("TIMEOUT", `administrative message ${kind} was not answered`, this.#session.peer.peerId)
  }

  #encode<Body>(message: AdminKind<Body, unknown>, body: Body): Effect.Effect<Uint8Array, SessionError> {
    return Schema.encodeEffect(message.body)(body).pipe(
      Effect.map(encoded => encodeAdmin(message.kind, encoded)),
      Effect.mapError(error => sessionError(error, this.#session.peer.peerId))
    )
  }

  #decodeAnswer<Answer>(
    message: { readonly answer: Schema.Codec<Answer, unknown> },
    bytes: Uint8Array
  ): Effect.Effect<Answer, SessionError> {
    const { peerId } = this.#session.peer
    const malformed = (error: { readonly message: string }) => failure("MALFORMED", error.message, peerId)
    return Effect.gen(function* () {
      const value = yield* Effect.try({ try: () => decodeMsgpack(bytes), catch: error => sessionError(error, peerId) })
      const [code, result] = yield* Effect.mapError(Schema.decodeUnknownEffect(Answered)(value), malformed)
      if (code === answerCodes.done) {
        return yield* Effect.mapError(Schema.decodeUnknownEffect(message.answer)(result), malformed)
      }
      return yield* new SessionError({ code: "REFUSED", peer: peerId, detail: String(result).slice(0, 1_000) })
    })
  }

  #write(bytes: Uint8Array, ackRequested: boolean, onId: (id: number) => void): Effect.Effect<void, SessionError> {
    return Effect.callback<void, SessionError>(resume => {
      const done = (error?: ProtocolError) =>
        resume(error === undefined ? Effect.void : Effect.fail(sessionError(error, this.#session.peer.peerId)))
      onId(this.#stream.send(recordTypes.admin, [bytes], done, { ackRequested }))
    })
  }

  #onMessage({ type, messageId, ackRequested, bytes }: WholeMessage): void {
    if (type === recordTypes.adminAck) {
      this.#requests.get(messageId)?.(bytes)
      return
    }
    if (type !== recordTypes.admin) throw new ProtocolError("UNEXPECTED", "raw data on the administrative stream")
    const { kind, body } = decodeAdmin(bytes)
    if (ackRequested) return this.#onRequest(messageId, kind, body)
    const expected = this.#expected.get(kind)
    const handler = this.#handlerOf(kind)
    if (expected !== undefined) {
      this.#expected.delete(kind)
      Deferred.doneUnsafe(expected, Effect.succeed(body))
    } else if (handler !== undefined) {
      if (this.#running >= maxWaiting) return
      this.#running++
      Effect.runFork(
        Effect.ensuring(
          Effect.exit(handler(body)),
          Effect.sync(() => this.#running--)
        )
      )
    } else if (this.#waiting.size < maxWaiting) this.#waiting.set(kind, body)
  }

  #handlerOf(kind: number): AdminHandler | undefined {
    return this.#handlers.get(kind) ?? this.#common(kind)
  }

  /** Handlers run beside the stream; the number at once is bounded by the requests that a stream may leave unanswered. */
  #onRequest(messageId: number, kind: number, body: AdminBody): void {
    const reply = (code: number, result: unknown): void => {
      this.#stream.send(recordTypes.adminAck, [encodeMsgpack([code, result])], () => undefined, { answers: messageId })
    }
    const handler = this.#handlerOf(kind)
    if (handler === undefined) return reply(answerCodes.unknownKind, `UNKNOWN_KIND ${kind}`)
    Effect.runFork(
      handler(body).pipe(
        Effect.map(result => reply(answerCodes.done, result)),
        Effect.catch(error => Effect.sync(() => reply(answerCodes.failed, error.message))),
        Effect.catchDefect(() => Effect.sync(() => reply(answerCodes.failed, "INTERNAL")))
      )
    )
  }

  #onClose(reason: SessionError): void {
    this.#closed = reason
    for (const expected of this.#expected.values()) Deferred.doneUnsafe(expected, Effect.fail(reason))
    this.#expected.clear()
    this.#requests.clear()
  }
}
