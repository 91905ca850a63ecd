import { Clock, Deferred, Effect, FiberSet, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { utf8 } from "../protocol/Bytes.ts"
import { CookieJar } from "../protocol/CookieJar.ts"
import { confirmTimeoutMs, protocolVersion, verifyDeadlineMs } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { LocalIdentity, PeerId } from "../protocol/Identity.ts"
import type { DialTarget } from "../protocol/Initiator.ts"
import { isWireCode } from "../protocol/ProtocolError.ts"
import { ReplayCache } from "../protocol/ReplayCache.ts"
import type { ResponderConfig } from "../protocol/Responder.ts"
import type { SessionParameters } from "../protocol/SessionParameters.ts"
import { Cryptography } from "../transport/Cryptography.ts"
import { initiate, peerList, respond, type ConnectionRequest, type PeerList } from "../transport/Handshakes.ts"
import { formatAddress, Network, type Address, type Connection, type NetworkError } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError } from "../transport/SessionError.ts"
import type { IntroducedPeers } from "./IntroducedPeers.ts"
import { dialAddresses, dialError, type DialFailures } from "./Dialling.ts"
import { HandshakePools } from "./HandshakePools.ts"
import { acceptPairing, commitPairing, commitTimeoutMs, type Confirm } from "./Pairing.ts"
import { tagsPerTurn, type RegistryRpcs, type RegistryView } from "./PeerRegistry.ts"
import { inviteIdOf, keyIdOfEntry } from "./PeerTable.ts"
import { RelayConnection } from "./RelayConnection.ts"
import { SessionRouter, type StreamServices } from "./SessionRouter.ts"

/** A wish to reach a peer: whom, where, and who waits for the outcome. Stays within this process. */
export class DialRequest {
  readonly target: DialTarget
  readonly addresses: ReadonlyArray<string>
  /** Opens a connection to it by way of another peer, in place of the addresses. */
  readonly way: Effect.Effect<Connection, SessionError> | undefined
  /** Which of the pair's keys it is. */
  readonly keyId: string | undefined
  /** A token whose guest a person lets in. */
  readonly confirms: boolean
  readonly result = Deferred.makeUnsafe<SessionRouter, SessionError>()
  constructor(
    target: DialTarget,
    addresses: ReadonlyArray<string>,
    options: {
      readonly keyId?: string
      readonly confirms?: boolean
      readonly way?: Effect.Effect<Connection, SessionError>
    } = {}
  ) {
    this.target = target
    this.addresses = addresses
    this.way = options.way
    this.keyId = options.keyId
    this.confirms = options.confirms ?? false
  }
}

export const HandshakeProtocol = RpcGroup.make(
  Rpc.make("Dial", { payload: { request: Schema.instanceOf(DialRequest) } }),
  /** Answers whoever comes by a connection that another peer passes on. */
  Rpc.make("Answer", { payload: { connection: Schema.instanceOf(RelayConnection) } })
)
export type HandshakeRpcs = RpcGroup.Rpcs<typeof HandshakeProtocol>

export interface HandshakeActorOptions {
  readonly identity: LocalIdentity
  readonly parameters: SessionParameters
  /** Handshake suites in order of preference. */
  readonly suites: ReadonlyArray<number>
  readonly registry: ActorRef<RegistryRpcs>
  readonly view: RegistryView
  readonly introduced: IntroducedPeers
  readonly services: StreamServices
  /** Further restricts which paired peers may come in. */
  readonly allow: PeerList | undefined
  /** Who decides on the guests of an invitation. */
  readonly confirm: (inviteId: string) => Confirm | undefined
  /** Told when an invitation has paired its guest. */
  readonly paired: (inviteId: string, session: Session) => void
  /** Where to listen; absent: this host only dials. */
  readonly listen: Address | undefined
  /** Told the bound address at each start; the same port is asked for again after a restart. */
  readonly onListening: (address: Address) => void
  readonly onListenFailure: (error: NetworkError) => void
  /** Where the reasons of failed dials are kept. */
  readonly dialFailures: DialFailures
  /** Takes a session whose peer is known to the registry. */
  readonly adopt: (router: SessionRouter) => Effect.Effect<void, SessionError>
}

/** How long one address may take to accept a connection. */
const connectTimeoutMs = 5_000
/** How often it is looked whether tags of the coming hour are to be computed. */
const tagPreparationMs = 60_000
/** Handshakes as the dialling side at once. */
const maxDials = 256

/**
 * Makes sessions: listens, answers callers, dials. Every half-open handshake is a fiber of its own under this actor, bounded in number and
 * time; what goes wrong in one ends that one.
 */
export const handshakeActor = (options: HandshakeActorOptions) =>
  Actor.make(HandshakeProtocol, () =>
    Effect.gen(function* () {
      const { identity, parameters, suites, registry, view, introduced, services, adopt } = options
      const network = yield* Network
      const crypto = yield* Cryptography
      const pools = new HandshakePools()
      const replay = new ReplayCache()
      const cookies = new CookieJar(crypto.randomBytes)
      const fibers = yield* FiberSet.make<void>()
      const run = yield* FiberSet.runtime(fibers)()
      const clock = yield* Clock.Clock
      const unixSeconds = () => Math.floor(clock.currentTimeMillisUnsafe() / 1000)
      const config = { identity, parameters, suites, crypto }
      /** Guests that are being paired, by their invitation. */
      const pairings = new Map<string, Session>()

      /** Paired, as the registry has it now, and on the operator's list where there is one. */
      const known: PeerList = {
        has: peerId =>
          view.table.peer(peerId) === undefined
            ? Effect.succeed(false)
            : (options.allow?.has(peerId) ?? Effect.succeed(true))
      }

      const introductions: PeerList = { has: peerId => Effect.sync(() => introduced.has(peerId)) }

      /** The session of a request: a peer is checked against the registry or its introductions as they are now; a token's holder is paired first. */
      const enter = (request: ConnectionRequest): Effect.Effect<void, SessionError> => {
        const inviteId = inviteIdOf(request.entry)
        if (inviteId === undefined) {
          const allowed = request.entry.mode === modes.introduced ? introductions : known
          return Effect.flatMap(request.verify(allowed), session =>
            adopt(new SessionRouter(session, services, keyIdOfEntry(request.entry)))
          )
        }
        const invite = view.table.invite(inviteId)
        if (invite === undefined) return Effect.asVoid(request.verify(peerList()))
        return Effect.gen(function* () {
          const session = yield* request.unverify
          const router = new SessionRouter(session, services)
          // Its guest is one identity, so an older attempt is one that was cut off.
          const older = pairings.get(inviteId)
          pairings.set(inviteId, session)
          older?.fail("SUPERSEDED", "the guest has come again")
          const pairing = Effect.flatMap(router.admin, admin =>
            acceptPairing(session, admin, registry, { invite, confirm: options.confirm(inviteId) })
          )
          yield* closingOnFailure(session, pairing).pipe(
            Effect.ensuring(Effect.sync(() => pairings.get(inviteId) === session && pairings.delete(inviteId)))
          )
          options.paired(inviteId, session)
          yield* adopt(router)
        })
      }

      const answer = (connection: Connection): Effect.Effect<void> => {
        let slot: string | undefined
        const freeSlot = (): void => {
          if (slot !== undefined) pools.freeSlot(slot)
          slot = undefined
        }
        const responder: ResponderConfig = {
          ...config,
          directory: { lookup: (tag, seconds) => view.table.lookup(tag, seconds) ?? introduced.lookup(tag, seconds) },
          replay,
          cookies,
          unixSeconds: unixSeconds(),
          source: utf8(connection.remote.host),
          underLoad: () => pools.underLoad || crypto.rsaLoad() > 0.5,
          admit: entry => {
            if (!pools.takeSlot(entry.name)) return false
            slot = entry.name
            return true
          },
          claim: (entry, initiator) =>
            Effect.runPromise(
              registry.client.Claim({ inviteId: inviteIdOf(entry) ?? "", document: initiator.document })
            )
        }
        return respond(connection, responder, () => pools.removeSocket(connection)).pipe(
          Effect.flatMap(request => {
            // A person may take long: the slot is for handshakes. There is one pairing per invitation.
            const pairs = request.entry.mode === modes.invite
            if (pairs) freeSlot()
            return enter(request).pipe(
              Effect.timeoutOrElse({
                duration: verifyDeadlineMs + (pairs ? commitTimeoutMs + confirmTimeoutMs : 0),
                orElse: () => request.expire
              }),
              Effect.onInterrupt(() => request.expire)
            )
          }),
          Effect.catch(error =>
            Effect.logDebug(`a caller at ${formatAddress(connection.remote)} was not let in: ${error.message}`)
          ),
          Effect.ensuring(
            Effect.sync(() => {
              pools.removeSocket(connection)
              freeSlot()
            })
          )
        )
      }

      // The next hour's tags are computed ahead of time, a few per turn, so that no hour begins with a pause.
      const prepareTags = Effect.gen(function* () {
        while (!view.table.prepareTags(unixSeconds(), tagsPerTurn)) yield* Effect.sleep(1)
        while (!introduced.prepareTags(unixSeconds(), tagsPerTurn)) yield* Effect.sleep(1)
        yield* Effect.sleep(tagPreparationMs)
      })
      yield* Effect.forkScoped(Effect.forever(prepareTags))

      const accept = (connection: Connection): void => {
        pools.addSocket(connection)
        run(answer(connection))
      }

      if (options.listen !== undefined) {
        const listening = network.listen(options.listen, accept)
        options.onListening(
          yield* Effect.tapError(listening, error => Effect.sync(() => options.onListenFailure(error)))
        )
      }

      /** What the registry has pinned for whom is dialled. */
      const pinned = (target: DialTarget) => {
        const known = target.mode === modes.invite ? undefined : view.table.peer(target.peer.peerId)
        const least = known?.minimumSuite ?? 0
        return {
          minimumVersion: known?.minimumVersion ?? protocolVersion,
          suites: suites.filter(suite => suite >= least)
        }
      }

      const peerOf = ({ target }: DialRequest): PeerId =>
        target.mode === modes.invite ? target.peerId : target.peer.peerId

      const shakeHands = (request: DialRequest, connection: Connection, proceed?: () => boolean) =>
        initiate(
          connection,
          {
            ...config,
            target: request.target,
            unixSeconds: unixSeconds(),
            ...pinned(request.target)
          },
          proceed
        )

      const attempt = (request: DialRequest) => (address: Address, proceed: () => boolean) =>
        network.dial(address, connectTimeoutMs).pipe(
          Effect.mapError(error => new SessionError({ code: "UNREACHABLE", detail: error.message })),
          Effect.flatMap(connection => shakeHands(request, connection, proceed))
        )

      const dial = (request: DialRequest): Effect.Effect<SessionRouter, SessionError> =>
        Effect.gen(function* () {
          const peerId = peerOf(request)
          const { addresses, way } = request
          if (way !== undefined) return yield* introduce(request, yield* shakeHands(request, yield* way))
          const { failures, session, address } = yield* Effect.mapError(
            dialAddresses({ addresses, resolve: network.resolve, attempt: attempt(request) }),
            reasons => {
              options.dialFailures.record(peerId, reasons)
              return dialError(reasons, peerId)
            }
          )
          options.dialFailures.record(peerId, failures)
          options.dialFailures.forget(peerId, address)
          return yield* introduce(request, session)
        })

      const introduce = (request: DialRequest, session: Session): Effect.Effect<SessionRouter, SessionError> =>
        Effect.gen(function* () {
          const router = new SessionRouter(session, services, request.keyId)
          const admin = yield* router.admin
          if (request.target.mode === modes.invite) {
            yield* closingOnFailure(session, commitPairing(session, admin, registry, request))
          }
          yield* adopt(router)
          return router
        })

      const handlers: Actor.Handlers<HandshakeRpcs> = {
        Dial: ({ request }) =>
          Effect.gen(function* () {
            if ((yield* FiberSet.size(fibers)) >= maxDials + pools.sockets + pools.slots) {
              return yield* Deferred.fail(request.result, failure("BUSY", `${maxDials} dials are under way`))
            }
            run(Effect.asVoid(Deferred.into(dial(request), request.result)))
            return undefined
          }).pipe(Effect.asVoid),
        Answer: ({ connection }) => Effect.sync(() => accept(connection))
      }
      return handlers
    })
  )

/** A session whose pairing fails is over, and the other side is told why. */
const closingOnFailure = <A>(
  session: Session,
  effect: Effect.Effect<A, SessionError>
): Effect.Effect<A, SessionError> =>
  effect.pipe(
    Effect.tapError(({ code, detail }) =>
      Effect.sync(() => session.fail(isWireCode(code) ? code : "INTERNAL", detail))
    ),
    Effect.onInterrupt(() => Effect.sync(() => session.fail("INTERNAL", "pairing was interrupted")))
  )
