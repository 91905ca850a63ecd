/** Makes sessions on demand: one dial at a time per peer, and none for a while after one that failed. */
import { Clock, Deferred, Effect, Fiber, Random, Scope } from "effect"
import { dialBackoffMs, maxDialBackoffMs } from "../protocol/constants.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { Session } from "../transport/Session.ts"
import { SessionError } from "../transport/SessionError.ts"

type Dial = (peerId: PeerId, addresses?: ReadonlyArray<string>) => Effect.Effect<Session, SessionError>

/** A dial under way. `isGuess`: to addresses that may be another peer's. */
interface UnderWay {
  readonly result: Deferred.Deferred<Session, SessionError>
  readonly isGuess: boolean
}

interface Backoff {
  readonly failures: number
  /** Milliseconds of the clock before which `reach` does not dial again. */
  readonly notBefore: number
  readonly last: SessionError
}

export interface Dialer {
  /** The live session, or that of the dial under way, or of a new dial at once: for whoever asks for a connection himself. */
  readonly connect: Dial
  /**
   * Like `connect`, for calls that need a session on the way: after the n-th failed dial in a row it fails at once with the last error for
   * a random time up to min(`maxDialBackoffMs`, `dialBackoffMs` · 2^(n−1)), so that callers in a loop do not beat on a peer that is away.
   */
  readonly reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  /**
   * Dials an address that may or may not be the peer's, once the dial under way has failed; undefined where there is a session. A failure
   * tells nothing of the peer, so that nobody waits longer for it.
   */
  readonly tryAddress: (peerId: PeerId, address: string) => Effect.Effect<Session | undefined, SessionError>
}

/** Dials run in the scope given here: who waits for one may leave without ending it for the others. */
export const makeDialer = Effect.fnUntraced(function* (
  live: (peerId: PeerId) => Session | undefined,
  dial: Dial
): Effect.fn.Return<Dialer, never, Scope.Scope> {
  const scope = yield* Effect.scope
  const services = yield* Effect.context<never>()
  const underWay = new Map<PeerId, UnderWay>()
  const backoffs = new Map<PeerId, Backoff>()

  const failed = (peerId: PeerId, last: SessionError) =>
    Effect.gen(function* () {
      const failures = (backoffs.get(peerId)?.failures ?? 0) + 1
      const longestMs = Math.min(maxDialBackoffMs, dialBackoffMs * 2 ** (failures - 1))
      const notBefore = (yield* Clock.currentTimeMillis) + (yield* Random.next) * longestMs
      backoffs.set(peerId, { failures, notBefore, last })
    })

  const begin = (peerId: PeerId, addresses?: ReadonlyArray<string>, isGuess = false) =>
    Effect.suspend(() => {
      const result = Deferred.makeUnsafe<Session, SessionError>()
      underWay.set(peerId, { result, isGuess })
      const run = dial(peerId, addresses).pipe(
        Effect.tap(() => Effect.sync(() => backoffs.delete(peerId))),
        // Not a matter of time: a peer that is not paired stays so until someone joins.
        Effect.tapError(error => (isGuess || error.code === "NOT_PAIRED" ? Effect.void : failed(peerId, error))),
        Effect.onExit(exit =>
          Effect.sync(() => {
            underWay.delete(peerId)
            Deferred.doneUnsafe(result, exit)
          })
        )
      )
      Fiber.runIn(Effect.runForkWith(services)(run), scope)
      return Deferred.await(result)
    })

  const alive = (peerId: PeerId): Session | undefined => {
    const session = live(peerId)
    return session === undefined || session.ended !== undefined ? undefined : session
  }

  const connect: Dial = (peerId, addresses) =>
    Effect.suspend(() => {
      const session = alive(peerId)
      if (session !== undefined) return Effect.succeed(session)
      const joined = underWay.get(peerId)
      if (joined === undefined) return begin(peerId, addresses)
      const outcome = Deferred.await(joined.result)
      // The dial under way may go to other addresses than these.
      return addresses === undefined && !joined.isGuess
        ? outcome
        : outcome.pipe(Effect.catch(() => connect(peerId, addresses)))
    })

  const reach = Effect.fnUntraced(function* (peerId: PeerId) {
    const backoff = backoffs.get(peerId)
    if (backoff !== undefined && alive(peerId) === undefined && !underWay.has(peerId)) {
      const waitMs = Math.ceil(backoff.notBefore - (yield* Clock.currentTimeMillis))
      if (waitMs > 0) {
        const { code, detail } = backoff.last
        return yield* new SessionError({ code, peer: peerId, detail: `${detail}; not dialled again for ${waitMs} ms` })
      }
    }
    return yield* connect(peerId)
  })

  const tryAddress: Dialer["tryAddress"] = (peerId, address) =>
    Effect.suspend(() => {
      if (alive(peerId) !== undefined) return Effect.succeed(undefined)
      const joined = underWay.get(peerId)
      if (joined === undefined) return begin(peerId, [address], true)
      return Effect.andThen(Effect.exit(Deferred.await(joined.result)), () => tryAddress(peerId, address))
    })

  return { connect, reach, tryAddress }
})
