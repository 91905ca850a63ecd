import { Clock, Deferred, Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { confirmTimeoutMs } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { PeerId, PublicIdentity } from "../protocol/Identity.ts"
import type { DialTarget } from "../protocol/Initiator.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"
import { DialRequest, type HandshakeRpcs } from "./HandshakeActor.ts"
import type { IntroducedPeers } from "./IntroducedPeers.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import type { RegistryView } from "./PeerRegistry.ts"
import type { Relay } from "./Relay.ts"

/** How long a dial with all its addresses may take. */
const dialTimeoutMs = 30_000

/** Codes by which the peer itself, and nobody else, has said no. */
const refusals: ReadonlySet<string> = new Set([
  "NOT_AUTHORIZED",
  "BUSY",
  "VERSION",
  "NO_SUITE",
  "DOWNGRADE",
  "SUPERSEDED"
])

/** By what right this host dials a peer. */
interface Right {
  readonly target: DialTarget
  readonly keyId?: string
}

export interface PeerDials {
  /** One dial, by one right, to the addresses of the request. */
  readonly dial: (request: DialRequest) => Effect.Effect<Session, SessionError>
  /** Dials a peer by every right that there is: pair keys, the newest first, then introductions. */
  readonly dialPeer: (peerId: PeerId, addresses?: ReadonlyArray<string>) => Effect.Effect<Session, SessionError>
}

export const makePeerDials = Effect.fnUntraced(function* (options: {
  readonly handshakes: () => ActorRef<HandshakeRpcs>
  readonly view: RegistryView
  readonly introduced: IntroducedPeers
  readonly live: () => LiveSessions
  /** Connections to an introduced peer by way of others. */
  readonly ways: Relay["ways"]
}): Effect.fn.Return<PeerDials> {
  const { view, introduced } = options
  const clock = yield* Clock.Clock

  const dial: PeerDials["dial"] = request =>
    Effect.gen(function* () {
      yield* Effect.mapError(options.handshakes().tell("Dial", { request }), error => sessionError(error))
      const waitMs = dialTimeoutMs + (request.confirms ? confirmTimeoutMs : 0)
      const router = yield* Deferred.await(request.result).pipe(
        Effect.timeoutOrElse({
          duration: waitMs,
          orElse: () => Effect.fail(failure("TIMEOUT", `no session within ${waitMs / 1000} s`))
        })
      )
      // The other side may have dialled at the same time: whichever session won is the one to use.
      return options.live().get(router.session.peer.peerId) ?? router.session
    })

  const rights = (peerId: PeerId, peer: PublicIdentity): ReadonlyArray<Right> => {
    const unixSeconds = Math.floor(clock.currentTimeMillisUnsafe() / 1000)
    return [
      ...view.table.dialKeys(peerId).map(({ keys, keyId }) => ({ target: { mode: modes.paired, keys, peer }, keyId })),
      ...introduced.dialKeys(peerId, unixSeconds).map(keys => ({ target: { mode: modes.introduced, keys, peer } }))
    ]
  }

  /** By way of those who have introduced the peer, where it cannot be reached directly. */
  const dialRelayed = Effect.fnUntraced(function* (peerId: PeerId, all: ReadonlyArray<Right>, direct: SessionError) {
    const reasons = [direct.detail]
    const introductions = all.filter(({ target }) => target.mode === modes.introduced)
    for (const way of options.ways(peerId)) {
      for (const { target } of introductions) {
        const attempt = yield* Effect.result(dial(new DialRequest(target, [], { way })))
        if (attempt._tag === "Success") {
          yield* Effect.logInfo(
            `the session with ${peerId} is relayed, as none of its addresses answers: ${direct.detail}`
          )
          return attempt.success
        }
        reasons.push(`relayed: ${attempt.failure.detail}`)
      }
    }
    return yield* new SessionError({ code: direct.code, peer: peerId, detail: reasons.join("; ") })
  })

  const dialPeer = Effect.fn("PeerNode.dialPeer")(function* (peerId: PeerId, addresses?: ReadonlyArray<string>) {
    const peer = view.table.identity(peerId) ?? introduced.identity(peerId)
    if (peer === undefined) {
      return yield* new SessionError({
        code: "NOT_PAIRED",
        peer: peerId,
        detail: "this host is not paired with that peer, nor introduced to it: join with a token of it"
      })
    }
    const known = [...(view.table.peer(peerId)?.addresses ?? []), ...introduced.addresses(peerId)]
    const where = addresses ?? [...new Set(known)]
    let last = failure("INTERNAL", "no address of this peer is known, or its introduction has run out", peerId)
    const all = rights(peerId, peer)
    const revokedAt = view.table.peer(peerId)?.revokedAt
    if (all.length === 0 && revokedAt !== undefined) {
      const when = new Date(revokedAt * 1000).toISOString()
      const detail = `that peer removed this host from its peers at ${when}: ask for a token and join again`
      return yield* new SessionError({ code: "REVOKED", peer: peerId, detail })
    }
    for (const { target, ...key } of all) {
      const attempt = yield* Effect.result(dial(new DialRequest(target, where, key)))
      if (attempt._tag === "Success") return attempt.success
      last = attempt.failure
      if (last.code === "UNREACHABLE") break
    }
    // Addresses of one's own choice are meant to be tried alone; and who has refused would do so again.
    if (addresses === undefined && !refusals.has(last.code)) {
      const relayed = yield* Effect.result(dialRelayed(peerId, all, last))
      if (relayed._tag === "Success") return relayed.success
      last = relayed.failure
    }
    if (last.code !== "TRUNCATED") return yield* last
    // Whoever is not known meets silence, so that a lost connection looks the same.
    const detail = `the peer hung up without a word: it does not know this host (any more), or the connection was lost (${last.detail})`
    return yield* failure(last.code, detail, peerId)
  })

  return { dial, dialPeer }
})
