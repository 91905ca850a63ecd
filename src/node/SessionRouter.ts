import { Deferred, Effect } from "effect"
import { defaultMaxStreams } from "../protocol/constants.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import type { Session } from "../transport/Session.ts"
import { failure, type SessionError } from "../transport/SessionError.ts"
import { AdminChannel } from "./AdminChannel.ts"

/** Who takes the streams that a peer opens, by the part of their name before the first colon. */
export interface StreamServices {
  readonly rpc: Map<string, (stream: MuxStream, session: Session) => void>
  readonly bulk: Map<string, (stream: MuxStream, session: Session) => void>
}

/** How long the initiator's first stream may take to come. */
const adminStreamTimeoutMs = 10_000

/**
 * Hands each stream that the other side opens to whoever serves its name. The first one is the administrative stream; until `open`
 * is called (the peer is known to the registry) all others wait, bounded by the number of streams that a peer may open.
 */
export class SessionRouter {
  readonly session: Session
  readonly #services: StreamServices
  readonly #admin = Deferred.makeUnsafe<AdminChannel>()
  #held: Array<MuxStream> | undefined = []
  #adminSeen = false

  constructor(session: Session, services: StreamServices) {
    this.session = session
    this.#services = services
    session.accept(stream => this.#route(stream))
  }

  /** The administrative channel: opened here by the initiator, awaited by the responder. */
  readonly admin: Effect.Effect<AdminChannel, SessionError> = Effect.suspend(() => {
    const { session } = this
    if (session.role === "responder" || this.#adminSeen) return this.#awaitAdmin()
    this.#adminSeen = true
    return Effect.map(session.openStream(streamClasses.admin, "admin"), stream => {
      const channel = new AdminChannel(session, stream)
      Deferred.doneUnsafe(this.#admin, Effect.succeed(channel))
      return channel
    })
  })

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
  }

  #route(stream: MuxStream): void {
    if (stream.streamClass === streamClasses.admin) {
      if (this.#adminSeen || this.session.role === "initiator") return stream.reset("UNEXPECTED")
      this.#adminSeen = true
      Deferred.doneUnsafe(this.#admin, Effect.succeed(new AdminChannel(this.session, stream)))
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
