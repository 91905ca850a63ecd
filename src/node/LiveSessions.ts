import { Clock, Deferred, Effect } from "effect"
import type { Supervisor } from "../actor/Supervisor.ts"
import { compare } from "../protocol/Bytes.ts"
import { sessionDrainMs, simultaneousOpenMs } from "../protocol/constants.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { isWireCode, type WireCode } from "../protocol/ProtocolError.ts"
import type { Session } from "../transport/Session.ts"
import { sessionError, type SessionError } from "../transport/SessionError.ts"
import { sessionActor } from "./SessionActor.ts"
import type { SessionRouter } from "./SessionRouter.ts"

/** From this share of its age on a session may be replaced without being a rival: clocks and handshakes take time. */
const agedShare = 0.9
const drainTickMs = 1_000

interface Live {
  readonly router: SessionRouter
  readonly since: number
}

/** The one live session that this node has with each peer. */
export interface LiveSessions {
  readonly get: (peerId: PeerId) => Session | undefined
  readonly router: (peerId: PeerId) => SessionRouter | undefined
  /** Takes up a session whose handshake is done; of two with one peer it keeps the one that the other side keeps too (§2.5). */
  readonly adopt: (router: SessionRouter) => Effect.Effect<void, SessionError>
  /** Gives a session up: nobody gets it from here on, and its goodbye is said beside. */
  readonly end: (session: Session, code: WireCode, reason: string) => Effect.Effect<void>
}

export const makeLiveSessions = Effect.fnUntraced(function* (options: {
  readonly root: Supervisor
  /** Milliseconds after which the side that dialled replaces a session. */
  readonly ageMs: number
  readonly dial: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  /** Told of a session before its streams are let in; a failure ends it. */
  readonly admit: (router: SessionRouter) => Effect.Effect<void, SessionError>
  /** Runs beside a session, at most until it has ended. */
  readonly beside: (router: SessionRouter) => Effect.Effect<void>
}): Effect.fn.Return<LiveSessions> {
  const { root, ageMs } = options
  const clock = yield* Clock.Clock
  const live = new Map<PeerId, Live>()
  let sessions = 0

  /** Lets the streams of a session end, for an hour at most, and then the session. The administrative stream does not count. */
  const drain = (session: Session): Effect.Effect<void> =>
    Effect.gen(function* () {
      while (session.ended === undefined && session.openStreams > 1) yield* Effect.sleep(drainTickMs)
    }).pipe(
      Effect.timeoutOption(sessionDrainMs),
      Effect.andThen(session.close("NORMAL", "a newer session with this peer has taken its place"))
    )

  /** Dials a new session when this one is of age: keys of a new agreement heal what a leak of the old ones would have opened. */
  const renew = (router: SessionRouter): Effect.Effect<void> => {
    const { session } = router
    const current = () => session.ended === undefined && live.get(session.peer.peerId)?.router === router
    return Effect.gen(function* () {
      yield* Effect.sleep(ageMs)
      while (current()) {
        yield* Effect.ignore(options.dial(session.peer.peerId))
        yield* Effect.sleep(ageMs * (1 - agedShare))
      }
    })
  }

  /** Runs something until the session is over, at most. */
  const beside = (session: Session, effect: Effect.Effect<void>) =>
    Effect.forkDetach(Effect.raceFirst(effect, Effect.asVoid(Deferred.await(session.closed))))

  const adopt: LiveSessions["adopt"] = Effect.fn("LiveSessions.adopt")(function* (router) {
    const { session } = router
    const { peerId } = session.peer
    const now = clock.currentTimeMillisUnsafe()
    const old = live.get(peerId)
    // Both sides see that the old session is about to be of age, so neither takes the new one for a rival.
    if (old !== undefined && now - old.since >= ageMs * agedShare) {
      yield* Effect.forkDetach(drain(old.router.session))
    } else if (old !== undefined && old.router.session.ended === undefined) {
      const [loser, winner] = newerWins(old.router.session, session, now - old.since)
        ? [old.router.session, session]
        : [session, old.router.session]
      yield* Effect.forkDetach(loser.close("SUPERSEDED", "another session with this peer is kept"))
      if (winner !== session) return
    }
    live.set(peerId, { router, since: now })
    yield* Effect.forkDetach(
      Effect.andThen(
        Deferred.await(session.closed),
        Effect.sync(() => {
          if (live.get(peerId)?.router === router) live.delete(peerId)
        })
      )
    )
    const actor = `session-${++sessions}-${peerId.slice(0, 8)}`
    yield* options.admit(router).pipe(
      Effect.andThen(Effect.mapError(root.spawn(actor, sessionActor(router)), error => sessionError(error, peerId))),
      Effect.tapError(error => session.close(isWireCode(error.code) ? error.code : "INTERNAL", error.detail)),
      // Its actor is who else would end it.
      Effect.onInterrupt(() => Effect.sync(() => session.fail("INTERNAL", "this host is no longer there")))
    )
    yield* beside(session, options.beside(router))
    if (session.role === "initiator") yield* beside(session, renew(router))
  })

  return {
    get: peerId => live.get(peerId)?.router.session,
    router: peerId => live.get(peerId)?.router,
    adopt,
    end: (session, code, reason) =>
      Effect.suspend(() => {
        const { peerId } = session.peer
        if (live.get(peerId)?.router.session === session) live.delete(peerId)
        return Effect.asVoid(Effect.forkDetach(session.close(code, reason)))
      })
  }
})

/** §2.5, simultaneous open: whether the new session is kept and the old one closed; both sides come to the same answer. */
const newerWins = (old: Session, fresh: Session, ageMs: number): boolean => {
  if (old.role === fresh.role || ageMs > simultaneousOpenMs) return true
  const initiator = (session: Session) => (session.role === "initiator" ? session.self : session.peer.id)
  return compare(initiator(fresh), initiator(old)) < 0
}
