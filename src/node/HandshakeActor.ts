import { Clock, Deferred, Effect, FiberSet, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { utf8 } from "../protocol/Bytes.ts"
import { CookieJar } from "../protocol/CookieJar.ts"
import { protocolVersion, verifyDeadlineMs } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { LocalIdentity, PeerId } from "../protocol/Identity.ts"
import type { DialTarget } from "../protocol/Initiator.ts"
import { ReplayCache } from "../protocol/ReplayCache.ts"
import type { ResponderConfig } from "../protocol/Responder.ts"
import type { SessionParameters } from "../protocol/SessionParameters.ts"
import { Cryptography } from "../transport/Cryptography.ts"
import { initiate, respond, type ConnectionRequest, type PeerList } from "../transport/Handshakes.ts"
import {
  formatAddress,
  Network,
  parseAddress,
  type Address,
  type Connection,
  type NetworkError
} from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError } from "../transport/SessionError.ts"
import { HandshakePools } from "./HandshakePools.ts"
import { acceptPairing, commitPairing } from "./Pairing.ts"
import type { RegistryRpcs, RegistryView } from "./PeerRegistry.ts"
import { inviteIdOf } from "./PeerTable.ts"
import { SessionRouter, type StreamServices } from "./SessionRouter.ts"

/** A wish to reach a peer: whom, where, and who waits for the outcome. Stays within this process. */
export class DialRequest {
  readonly target: DialTarget
  readonly addresses: ReadonlyArray<string>
  readonly result = Deferred.makeUnsafe<SessionRouter, SessionError>()
  constructor(target: DialTarget, addresses: ReadonlyArray<string>) {
    this.target = target
    this.addresses = addresses
  }
}

export const HandshakeProtocol = RpcGroup.make(
  Rpc.make("Dial", { payload: { request: Schema.instanceOf(DialRequest) } })
)
export type HandshakeRpcs = RpcGroup.Rpcs<typeof HandshakeProtocol>

export interface HandshakeActorOptions {
  readonly identity: LocalIdentity
  readonly parameters: SessionParameters
  /** Handshake suites in order of preference. */
  readonly suites: ReadonlyArray<number>
  readonly registry: ActorRef<RegistryRpcs>
  readonly view: RegistryView
  readonly services: StreamServices
  /** Further restricts which paired peers may come in. */
  readonly allow: PeerList | undefined
  /** Where to listen; absent: this host only dials. */
  readonly listen: Address | undefined
  /** Told the bound address at each start; the same port is asked for again after a restart. */
  readonly onListening: (address: Address) => void
  readonly onListenFailure: (error: NetworkError) => void
  /** Takes a session whose peer is known to the registry. */
  readonly adopt: (router: SessionRouter) => Effect.Effect<void, SessionError>
}

/** How long one address may take to accept a connection. */
const connectTimeoutMs = 5_000
/** Tags of the coming hour computed per turn of the event loop, and how often it is looked whether there are more. */
const tagsPerTurn = 500
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
      const { identity, parameters, suites, registry, view, services, adopt } = options
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

      /** Paired, as the registry has it now, and on the operator's list where there is one. */
      const known: PeerList = {
        has: peerId =>
          view.table.peer(peerId) === undefined
            ? Effect.succeed(false)
            : (options.allow?.has(peerId) ?? Effect.succeed(true))
      }

      /** The session of a request: a paired peer is checked against the registry as it is now; a token's holder is paired first. */
      const enter = (request: ConnectionRequest): Effect.Effect<void, SessionError> => {
        const inviteId = inviteIdOf(request.entry)
        if (inviteId === undefined) {
          return Effect.flatMap(request.verify(known), session => adopt(new SessionRouter(session, services)))
        }
        return Effect.gen(function* () {
          const session = yield* request.unverify
          const router = new SessionRouter(session, services)
          yield* closingOnFailure(session, acceptPairing(session, yield* router.admin, registry, identity.id, inviteId))
          yield* adopt(router)
        })
      }

      const answer = (connection: Connection): Effect.Effect<void> => {
        let slot: string | undefined
        const responder: ResponderConfig = {
          ...config,
          directory: { lookup: (tag, seconds) => view.table.lookup(tag, seconds) },
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
              registry.client
                .Claim({ inviteId: inviteIdOf(entry) ?? "", document: initiator.document })
                .pipe(Effect.catch(() => Effect.succeed(false)))
            )
        }
        return respond(connection, responder, () => pools.removeSocket(connection)).pipe(
          Effect.flatMap(request =>
            enter(request).pipe(
              Effect.timeoutOrElse({ duration: verifyDeadlineMs, orElse: () => request.expire }),
              Effect.onInterrupt(() => request.expire)
            )
          ),
          Effect.catch(error =>
            Effect.logDebug(`a caller at ${formatAddress(connection.remote)} was not let in: ${error.message}`)
          ),
          Effect.ensuring(
            Effect.sync(() => {
              pools.removeSocket(connection)
              if (slot !== undefined) pools.freeSlot(slot)
            })
          )
        )
      }

      // The next hour's tags are computed ahead of time, a few per turn, so that no hour begins with a pause.
      const prepareTags = Effect.gen(function* () {
        while (!view.table.prepareTags(unixSeconds(), tagsPerTurn)) yield* Effect.sleep(1)
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

      const minimumVersion = (target: DialTarget): number =>
        (target.mode === modes.invite ? undefined : view.table.peer(target.peer.peerId)?.minimumVersion) ??
        protocolVersion

      const dialOne = (request: DialRequest, address: Address): Effect.Effect<Session, SessionError> =>
        network.dial(address, connectTimeoutMs).pipe(
          Effect.mapError(error => new SessionError({ code: "UNREACHABLE", detail: error.message })),
          Effect.flatMap(connection =>
            initiate(connection, {
              ...config,
              target: request.target,
              unixSeconds: unixSeconds(),
              minimumVersion: minimumVersion(request.target)
            })
          )
        )

      const dial = (request: DialRequest): Effect.Effect<SessionRouter, SessionError> =>
        Effect.gen(function* () {
          const reasons: Array<SessionError> = []
          for (const text of request.addresses) {
            const address = parseAddress(text)
            if (address === undefined) {
              reasons.push(new SessionError({ code: "UNREACHABLE", detail: `"${text}" is no address` }))
              continue
            }
            const attempt = yield* Effect.result(dialOne(request, address))
            if (attempt._tag === "Success") return yield* introduce(request, attempt.success)
            reasons.push(attempt.failure)
          }
          return yield* worst(reasons, request)
        })

      const introduce = (request: DialRequest, session: Session): Effect.Effect<SessionRouter, SessionError> =>
        Effect.gen(function* () {
          const router = new SessionRouter(session, services)
          const admin = yield* router.admin
          if (request.target.mode === modes.invite) {
            yield* closingOnFailure(session, commitPairing(session, admin, registry, identity.id, request.addresses))
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
          }).pipe(Effect.asVoid)
      }
      return handlers
    })
  )

const closingOnFailure = <A>(
  session: Session,
  effect: Effect.Effect<A, SessionError>
): Effect.Effect<A, SessionError> =>
  Effect.onError(effect, () => Effect.sync(() => session.fail("INTERNAL", "pairing failed")))

/** One reason out of several: a refusal says more than an address that nobody answers at. */
const worst = (reasons: ReadonlyArray<SessionError>, request: DialRequest): SessionError => {
  const refusal = reasons.find(({ code }) => code !== "UNREACHABLE") ?? reasons[0]
  const peer: PeerId = request.target.mode === modes.invite ? request.target.peerId : request.target.peer.peerId
  if (refusal === undefined) return failure("INTERNAL", "no address of this peer is known", peer)
  return new SessionError({ code: refusal.code, peer, detail: reasons.map(({ detail }) => detail).join("; ") })
}
