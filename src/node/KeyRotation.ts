/** Rotation of pair keys on live sessions (§2.6). */
import { Clock, Effect } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { PeerRecord } from "../store/PeerStore.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"
import { PairRotate } from "./AdminKinds.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import { pairKeyOf } from "./Pairing.ts"
import type { RegistryRpcs, RegistryView } from "./PeerRegistry.ts"
import { keyIdOf } from "./PeerTable.ts"
import { answerAdmin, type SessionRouter, type StreamServices } from "./SessionRouter.ts"

/** How long the other side may take to store the new key. */
const answerTimeoutMs = 10_000
/** Between two rotations by age, or after one that failed. */
const pauseMs = 3_600_000
/** In place of a generation: asks the peer that may begin a rotation to do so. */
const pleaseBegin = 0

export interface KeyRotation {
  /** Agrees with a peer on the next generation of their pair key and gives its number: what the next session is made with. */
  readonly rotate: (peerId: PeerId) => Effect.Effect<number, SessionError>
  /** Rotates when the pair key is of age, as long as the session lives. */
  readonly whenOfAge: (router: SessionRouter) => Effect.Effect<void>
}

export const makeKeyRotation = Effect.fnUntraced(function* (options: {
  readonly services: StreamServices
  readonly view: RegistryView
  readonly registry: ActorRef<RegistryRpcs>
  readonly live: () => LiveSessions
  readonly connect: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  /** Milliseconds. */
  readonly ageMs: number
}): Effect.fn.Return<KeyRotation> {
  const { services, view, registry, ageMs } = options
  const clock = yield* Clock.Clock
  const underWay = new Set<PeerId>()

  /** One of the two may begin, so that both never propose at once. */
  const begins = ({ self, peer }: Session): boolean => Buffer.compare(self, peer.id) < 0

  const nextGeneration = ({ pairKeys }: PeerRecord): number =>
    1 + Math.max(0, ...pairKeys.filter(({ state }) => state === "active").map(({ generation }) => generation))

  const paired = (session: Session): Effect.Effect<PeerRecord, SessionError> => {
    const { peerId } = session.peer
    const record = view.table.peer(peerId)
    if (record !== undefined && session.mode !== modes.introduced) return Effect.succeed(record)
    return Effect.fail(
      failure("NOT_AUTHORIZED", "only paired peers have a pair key, in a session made with it", peerId)
    )
  }

  /** Stores the key of a generation as pending: it stays so until a session shows that both sides have it. */
  const store = (session: Session, generation: number) => {
    const { peerId } = session.peer
    const key = pairKeyOf(session, generation)
    const stored = registry.client.PutNextKey({ peerId, generation, key })
    return Effect.as(
      Effect.mapError(stored, error => sessionError(error, peerId)),
      keyIdOf(key)
    )
  }

  const begin = (session: Session): Effect.Effect<number, SessionError> => {
    const { peerId } = session.peer
    const router = options.live().router(peerId)
    if (router === undefined || router.session !== session)
      return Effect.fail(failure("TRUNCATED", "the session has ended", peerId))
    if (underWay.has(peerId)) return Effect.fail(failure("BUSY", "a rotation with this peer is under way", peerId))
    underWay.add(peerId)
    return Effect.gen(function* () {
      const generation = nextGeneration(yield* paired(session))
      const keyId = yield* store(session, generation)
      yield* (yield* router.admin).request(PairRotate, { generation }, answerTimeoutMs).pipe(
        // Refused, it was not stored there; every other end leaves that open, and dialling finds out.
        Effect.tapError(({ code }) =>
          code === "REFUSED" ? Effect.ignore(registry.client.DropPairKey({ peerId, keyId })) : Effect.void
        )
      )
      return generation
    }).pipe(Effect.ensuring(Effect.sync(() => underWay.delete(peerId))))
  }

  answerAdmin(services, PairRotate, ({ generation }, session) =>
    Effect.gen(function* () {
      const { peerId } = session.peer
      const record = yield* paired(session)
      if (generation === pleaseBegin) {
        if (!begins(session)) return yield* failure("UNEXPECTED", "the peer with the smaller id begins", peerId)
        return { generation: yield* begin(session) }
      }
      const expected = nextGeneration(record)
      if (begins(session)) return yield* failure("UNEXPECTED", "the peer with the smaller id begins", peerId)
      if (generation !== expected)
        return yield* failure("UNEXPECTED", `generation ${generation} where ${expected} is next`, peerId)
      yield* store(session, generation)
      return { generation }
    })
  )

  const rotate: KeyRotation["rotate"] = Effect.fn("PeerNode.rotate")(function* (peerId) {
    if (view.table.peer(peerId) === undefined) {
      return yield* new SessionError({ code: "NOT_PAIRED", peer: peerId, detail: "no peer of this id is paired" })
    }
    const session = yield* options.connect(peerId)
    if (begins(session)) return yield* begin(session)
    const router = options.live().router(peerId)
    if (router === undefined) return yield* failure("TRUNCATED", "the session has ended", peerId)
    const admin = yield* router.admin
    return (yield* admin.request(PairRotate, { generation: pleaseBegin }, 2 * answerTimeoutMs)).generation
  })

  const whenOfAge: KeyRotation["whenOfAge"] = ({ session }) => {
    const { peerId } = session.peer
    if (session.mode === modes.introduced || !begins(session)) return Effect.void
    return Effect.gen(function* () {
      for (;;) {
        const madeAt = (view.table.peer(peerId)?.pairKeys ?? []).map(({ madeAt }) => madeAt ?? 0)
        const waitMs = Math.max(0, ...madeAt) * 1000 + ageMs - clock.currentTimeMillisUnsafe()
        if (waitMs > 0) {
          yield* Effect.sleep(waitMs)
          continue
        }
        const attempt = yield* Effect.result(begin(session))
        if (attempt._tag === "Failure")
          yield* Effect.logDebug(`the pair key with ${peerId} was not rotated: ${attempt.failure.message}`)
        yield* Effect.sleep(pauseMs)
      }
    })
  }

  return { rotate, whenOfAge }
})
