import { Deferred, Effect } from "effect"
import { defaultMaxStreams } from "../protocol/constants.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import type { Session } from "../transport/Session.ts"
import { failure, type SessionError } from "../transport/SessionError.ts"
import { AdminChannel, adminHandler, type AdminHandler, type AdminKind } from "./AdminChannel.ts"

/** Who takes the streams that a peer opens, by the part of their name before the first colon, and its requests, by their kind. */
export interface StreamServices {
  readonly rpc: Map<string, (stream: MuxStream, session: Session) => void>
  readonly bulk: Map<string, (stream: MuxStream, session: Session) => void>
  readonly admin: Map<number, (session: Session) => AdminHandler>
}

/** Answers the requests of one kind in every session, once its peer is known. */
export const answerAdmin = <Body, Answer>(
  services: StreamServices,
  message: AdminKind<Body, Answer>,
  handle: (body: Body, session: Session) => Effect.Effect<Answer, SessionError>
): void => {
  services.admin.set(message.kind, session => adminHandler(message, body => handle(body, session), session.peer.peerId))
}

/** How long the initiator's first stream may take to come. */
const adminStreamTimeoutMs = 10_000

/**
 * Hands each stream that the other side opens to whoever serves its name. The first one is the administrative stream; until `open`
 * is called (the peer is known to the registry) all others wait, bounded by the number of streams that a peer may open.
 */
export class SessionRouter {
  readonly session: Session
  readonly keyId: string | undefined
  readonly #services: StreamServices
  readonly #admin = Deferred.makeUnsafe<AdminChannel>()
  readonly #opened = Deferred.makeUnsafe<void>()
  #held: Array<MuxStream> | undefined = []
  #adminSeen = false

  /** @param keyId which of the pair's keys the session was made with, in mode 0 */
  constructor(session: Session, services: StreamServices, keyId?: string) {
    this.session = session
    this.keyId = keyId
    this.#services = services
    session.accept(stream => this.#route(stream))
  }

  /** The administrative channel: opened here by the initiator, awaited by the responder. */
  readonly admin: Effect.Effect<AdminChannel, SessionError> = Effect.suspend(() => {
    const { session } = this
    if (session.role === "responder" || this.#adminSeen) return this.#awaitAdmin()
    this.#adminSeen = true
    return Effect.map(session.openStream(streamClasses.admin, "admin"), stream => {
      const channel = this.#channel(stream)
      Deferred.doneUnsafe(this.#admin, Effect.succeed(channel))
      return channel
    })
  })

  /** Requests that come before the peer is known wait: their number is bounded by those that a stream may leave unanswered. */
  #channel(stream: MuxStream): AdminChannel {
    const { session } = this
    const known = Effect.raceFirst(
      Deferred.await(this.#opened),
      Effect.flatMap(Deferred.await(session.closed), reason => Effect.fail(reason))
    )
    return new AdminChannel(session, stream, kind => {
      const handler = this.#services.admin.get(kind)?.(session)
      return handler === undefined ? undefined : body => Effect.andThen(known, handler(body))
    })
  }

  #awaitAdmin(): Effect.Effect<AdminChannel, SessionError> {
    const gone = Effect.flatMap(Deferred.await(this.session.closed), reason => Effect.fail(reason))
    return Effect.raceFirst(Deferred.await(this.#admin), gone).pipe(
      Effect.timeoutOrElse({
        duration: adminStreamTimeoutMs,
        orElse: () =>
          Effect.fail(failure("TIMEOUT", "the administrative stream was not opened", this.session.peer.peerId))
      })
    )
  }

  /** Lets the peer's streams reach their services. */
  open(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const stream of held) this.#dispatch(stream)
    Deferred.doneUnsafe(this.#opened, Effect.void)
  }

  #route(stream: MuxStream): void {
    if (stream.streamClass === streamClasses.admin) {
      if (this.#adminSeen || this.session.role === "initiator") return stream.reset("UNEXPECTED")
      this.#adminSeen = true
      Deferred.doneUnsafe(this.#admin, Effect.succeed(this.#channel(stream)))
    } else if (this.#held === undefined) this.#dispatch(stream)
    else this.#hold(stream, this.#held)
  }

  /** A peer that opens and resets streams before it is known must not make the list grow. */
  #hold(stream: MuxStream, held: ReadonlyArray<MuxStream>): void {
    const open = held.filter(({ closed }) => closed === undefined)
    if (open.length >= defaultMaxStreams) stream.reset("BUSY")
    else this.#held = [...open, stream]
  }

  #dispatch(stream: MuxStream): void {
    const services = stream.streamClass === streamClasses.rpc ? this.#services.rpc : this.#services.bulk
    const serve = services.get(stream.name.split(":", 1)[0] ?? "")
    if (serve === undefined) stream.reset("NOT_AUTHORIZED", `nobody serves the stream "${stream.name}" here`)
    else serve(stream, this.session)
  }
}
