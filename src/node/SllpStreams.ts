/** Opens and accepts SLLP associations over sessions (§4.1): who may, with what, and how they end with their session. */
import { Cause, Deferred, Effect, Exit, Scope } from "effect"
import type { Supervisor } from "../actor/Supervisor.ts"
import { toHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import {
  SllpAssociation,
  sllpCloseCodeOf,
  sllpSecret,
  type SllpChannelOptions
} from "../protocol/sllp/SllpAssociation.ts"
import {
  baseDatagramBytes,
  cidBytes,
  defaultIdleMs,
  defaultInitialRttMs,
  defaultKeepAliveMs,
  defaultMaxSllpMessageBytes
} from "../protocol/sllp/constants.ts"
import { Cryptography } from "../transport/Cryptography.ts"
import { formatAddress, type Address } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"
import { openSllpSocket, sllpNowMs, type SllpSocket } from "../transport/SllpSocket.ts"
import { SllpClose, SllpOpen } from "./AdminKinds.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import { plainHost } from "./PeerUpdates.ts"
import { answerAdmin, type StreamServices } from "./SessionRouter.ts"
import { makeSllpLink, SllpClosed, type OwnedLink, type SllpLink } from "./SllpLink.ts"
import { isLike, whyNot, type SllpEndOptions, type SllpOpenOptions, type SllpServeOptions } from "./SllpOptions.ts"
import { interfaceDatagramBytes, localHost } from "./SllpPlace.ts"
import {
  defaultSllpLimits,
  emptyRoom,
  memoryBudgetOf,
  SllpRoom,
  type SessionRoom,
  type SllpLimits
} from "./SllpRoom.ts"
import { sllpStreamer } from "./SllpStreamer.ts"

export type { SllpEndOptions, SllpOpenOptions, SllpServeOptions } from "./SllpOptions.ts"
export type { SllpLimits } from "./SllpRoom.ts"

/** How long the other side may take to answer SLLP_OPEN and SLLP_CLOSE. */
const answerTimeoutMs = 10_000
/** How long what a service has sent at its end may take to leave. */
const flushTimeoutMs = 5_000
/** A silent peer is asked so often within the idle time, so that one lost datagram does not end an association. */
const keepAlivesPerIdleTime = 3
/**
 * The round trip that the side that accepts assumes: the first datagram mostly overtakes the answer to SLLP_OPEN and is lost, so it comes
 * again soon. The side that opens has just measured one.
 */
const acceptedRttMs = 50
/** One that is shorter than this says more of an idle moment than of the path. */
const leastRttMs = 20

/** Encrypted streaming over UDP beside sessions (PROTOCOL §4). */
export interface SllpStreams {
  /**
   * Opens an association to what a peer serves under a name, over the session with it. It ends with the scope; what is not flushed by then
   * is lost. Fails with SessionError: REFUSED where the peer does not serve it or does not accept the channels, LIMIT where this host's own
   * bounds or options forbid it, RELAYED where the session has no direct connection, else as `connect`.
   */
  readonly open: (
    peerId: PeerId,
    name: string,
    options: SllpOpenOptions
  ) => Effect.Effect<SllpLink, SessionError, Scope.Scope>
  /**
   * Takes the associations that peers open under a name until the scope ends; each goes on until `handle` ends, which may fail with
   * `SllpClosed` when the association does. What it has sent is flushed.
   */
  readonly serve: (
    name: string,
    handle: (link: SllpLink) => Effect.Effect<unknown, unknown>,
    options?: SllpServeOptions
  ) => Effect.Effect<void, never, Scope.Scope>
}

interface Service {
  readonly handle: (link: SllpLink) => Effect.Effect<unknown, unknown>
  readonly options: SllpServeOptions
}

/** The associations of one session, by the id that this side chose. */
interface Associations {
  readonly owned: Map<string, OwnedLink>
  readonly room: SessionRoom
}

/** What both sides have settled. */
interface Ends {
  readonly cid: Uint8Array
  readonly peerCid: Uint8Array
  readonly channels: ReadonlyArray<SllpChannelOptions>
  readonly datagramBytes: number
  readonly address: Address
  readonly initialRttMs: number
  readonly own: SllpEndOptions
}

export const makeSllpStreams = Effect.fnUntraced(function* (options: {
  readonly services: StreamServices
  readonly live: LiveSessions
  readonly root: Supervisor
  readonly limits: Partial<SllpLimits> | undefined
  readonly connect: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  readonly listening: () => Address | undefined
}): Effect.fn.Return<SllpStreams, never, Scope.Scope | Cryptography> {
  const { services, live, root } = options
  const { randomBytes } = yield* Cryptography
  const socketScope = yield* Scope.make()
  const sockets = new Map<string, SllpSocket>()
  const served = new Map<string, Service>()
  const sessions = new WeakMap<Session, Associations>()
  const all = new Set<OwnedLink>()
  const room = new SllpRoom({ ...defaultSllpLimits, ...options.limits })
  let spawned = 0

  // Associations say goodbye while their sockets are there.
  yield* Effect.addFinalizer(exit => {
    for (const owned of all) owned.closeNow("normal", "this host is going away")
    return Scope.close(socketScope, exit)
  })

  /** One socket per local address carries all associations; it is opened when the first one needs it. */
  const socketFor = (remoteHost: string, peerId: PeerId): Effect.Effect<SllpSocket, SessionError> =>
    Effect.suspend(() => {
      const host = localHost(remoteHost, options.listening())
      const known = sockets.get(host)
      if (known !== undefined) return Effect.succeed(known)
      return openSllpSocket({ host, port: 0 }).pipe(
        Scope.provide(socketScope),
        // Two that asked at once have one each: the later one carries what comes.
        Effect.tap(socket => Effect.sync(() => sockets.set(host, socket))),
        Effect.mapError(error => sessionError(error, peerId))
      )
    }).pipe(Effect.uninterruptible)

  const associationsOf = (session: Session): Associations => {
    const known = sessions.get(session)
    if (known !== undefined) return known
    const fresh = { owned: new Map<string, OwnedLink>(), room: emptyRoom() }
    sessions.set(session, fresh)
    return fresh
  }

  /** What every association needs: a session over a connection of its own, and room for what may come. */
  const admitted = <A>(
    session: Session,
    channels: ReadonlyArray<SllpChannelOptions>,
    begin: (leave: () => void) => Effect.Effect<A, SessionError, Scope.Scope>
  ): Effect.Effect<A, SessionError, Scope.Scope> =>
    Effect.suspend(() => {
      const { peerId } = session.peer
      if (session.relay !== undefined) {
        const detail = "the session with this peer is passed on by another one, and datagrams need a direct way"
        return Effect.fail(new SessionError({ code: "RELAYED", peer: peerId, detail }))
      }
      const taken = room.take(associationsOf(session).room, channels)
      if (typeof taken === "string") return Effect.fail(failure("LIMIT", taken, peerId))
      return Effect.onExit(begin(taken), exit => Effect.sync(() => (Exit.isFailure(exit) ? taken() : undefined)))
    })

  /** Neither side uses an id twice in a session: the keys follow from both. */
  const use = (session: Session, side: "own" | "peer", cid: Uint8Array): boolean => {
    const { used } = associationsOf(session).room
    const key = `${side} ${toHex(cid)}`
    if (used.has(key)) return false
    used.add(key)
    return true
  }

  const freshCid = (session: Session): Uint8Array => {
    const cid = randomBytes(cidBytes)
    return use(session, "own", cid) ? cid : freshCid(session)
  }

  const repeated = (peerId: PeerId) =>
    Effect.fail(failure("MALFORMED", "this id was used before in this session", peerId))

  /** Both sides know both ids: the association begins. Its actor lives as long as `using`. */
  const begin = (
    session: Session,
    socket: SllpSocket,
    ends: Ends,
    leave: () => void,
    using: (link: SllpLink) => Effect.Effect<unknown>
  ): Effect.Effect<OwnedLink, SessionError> =>
    Effect.gen(function* () {
      const { peerId } = session.peer
      const { cid, peerCid, channels, own } = ends
      if (session.ended !== undefined) return yield* session.ended
      const initiator = session.role === "initiator"
      const { ceilingBytesPerSecond, idleMs = defaultIdleMs } = own
      const owned = yield* Effect.try({
        try: () =>
          makeSllpLink(
            peerId,
            channels,
            new SllpAssociation({
              role: session.role,
              secret: sllpSecret(session.exportKey, initiator ? cid : peerCid, initiator ? peerCid : cid),
              cid,
              peerCid,
              channels,
              datagramBytes: ends.datagramBytes,
              initialRttMs: ends.initialRttMs,
              memoryBudgetBytes: memoryBudgetOf(channels),
              idleMs,
              keepAliveMs: Math.min(defaultKeepAliveMs, idleMs / keepAlivesPerIdleTime),
              nowMs: sllpNowMs(),
              ...(ceilingBytesPerSecond === undefined ? {} : { ceilingBytesPerSecond }),
              ...(initiator ? { address: formatAddress(ends.address) } : {})
            }),
            socket,
            cid
          ),
        catch: error => sessionError(error, peerId)
      })
      const associations = associationsOf(session)
      associations.owned.set(toHex(cid), owned)
      all.add(owned)
      yield* Effect.forkDetach(
        Effect.ensuring(
          untilClosed(session, owned, peerCid),
          Effect.sync(() => {
            associations.owned.delete(toHex(cid))
            all.delete(owned)
            leave()
          })
        )
      )
      yield* root.spawn(`sllp-${++spawned}-${peerId.slice(0, 8)}`, sllpStreamer(owned, using(owned.link))).pipe(
        Effect.tapError(() => Effect.sync(() => owned.closeNow("app", "this host is going away"))),
        Effect.mapError(error => sessionError(error, peerId))
      )
      return owned
    }).pipe(Effect.uninterruptible)

  /** Ends an association with its session, and tells the peer over the session where this side ended it: its datagrams may all be lost. */
  const untilClosed = (session: Session, owned: OwnedLink, peerCid: Uint8Array): Effect.Effect<void> =>
    Effect.gen(function* () {
      const reason = yield* Effect.raceFirst(
        owned.link.closed,
        Effect.as(Deferred.await(session.closed), "sessionLost" as const)
      )
      if (reason === "sessionLost") return owned.closeNow("sessionLost", "the session that it belongs to is over")
      const router = live.router(session.peer.peerId)
      if (reason.by !== "us" || router?.session !== session) return
      const said = { cid: peerCid, code: sllpCloseCodeOf(reason.code), reason: reason.reason }
      yield* Effect.ignore(Effect.flatMap(router.admin, admin => admin.request(SllpClose, said, answerTimeoutMs)))
    })

  const sizeOf = (wanted: number | "interface" | undefined, remoteHost: string): number =>
    wanted === "interface" ? interfaceDatagramBytes(remoteHost) : (wanted ?? baseDatagramBytes)

  const accept = (body: typeof SllpOpen.body.Type, session: Session) =>
    Effect.suspend(() => {
      const { peerId } = session.peer
      const service = served.get(body.name)
      if (service === undefined || service.options.allow?.(peerId) === false)
        return Effect.fail(failure("NOT_AUTHORIZED", `nobody serves the association "${body.name}" here`, peerId))
      const { maxMessageBytes = defaultMaxSllpMessageBytes, datagramBytes, channel } = service.options
      if (body.channels.some(offered => offered.maxMessageBytes > maxMessageBytes))
        return Effect.fail(failure("LIMIT", `messages are limited to ${maxMessageBytes} bytes here`, peerId))
      const channels = body.channels.map(offered => ({ ...channel, ...offered }))
      return admitted(session, channels, leave =>
        Effect.gen(function* () {
          if (!use(session, "peer", body.cid)) return yield* repeated(peerId)
          const remoteHost = plainHost(session.remote.host)
          const socket = yield* socketFor(remoteHost, peerId)
          const cid = freshCid(session)
          const mtu = sizeOf(datagramBytes, remoteHost)
          const ends: Ends = {
            cid,
            peerCid: body.cid,
            channels,
            datagramBytes: Math.min(mtu, body.mtu),
            address: { host: remoteHost, port: body.port },
            initialRttMs: acceptedRttMs,
            own: service.options
          }
          yield* begin(session, socket, ends, leave, link =>
            Effect.flatMap(Effect.exit(service.handle(link)), exit => closeAfter(link, exit))
          )
          return { cid, port: socket.address.port, mtu }
        })
      )
    })

  answerAdmin(services, SllpOpen, (body, session) => Effect.scoped(accept(body, session)))

  answerAdmin(services, SllpClose, ({ cid, code, reason }, session) =>
    Effect.sync(() => {
      associationsOf(session).owned.get(toHex(cid))?.peerClosed(code, reason)
      return null
    })
  )

  const open: SllpStreams["open"] = Effect.fn("SllpStreams.open")(function* (peerId, name, wanted) {
    const session = yield* options.connect(peerId)
    const problem = whyNot(wanted, session)
    if (problem !== undefined) return yield* failure("LIMIT", problem, peerId)
    const channels = wanted.channels.map(channel => ({ maxMessageBytes: defaultMaxSllpMessageBytes, ...channel }))
    const opened = admitted(session, channels, leave =>
      Effect.gen(function* () {
        const remoteHost = plainHost(session.remote.host)
        const socket = yield* socketFor(remoteHost, peerId)
        const router = live.router(peerId)
        if (router?.session !== session) return yield* failure("TRUNCATED", "its session ended", peerId)
        const admin = yield* router.admin
        const cid = freshCid(session)
        const mtu = sizeOf(wanted.datagramBytes, remoteHost)
        const offered = channels.map(({ mode, maxMessageBytes }) => ({ mode, maxMessageBytes }))
        const said = { name, cid, port: socket.address.port, mtu, channels: offered }
        const askedMs = sllpNowMs()
        const accepted = yield* admin.request(SllpOpen, said, answerTimeoutMs)
        if (!use(session, "peer", accepted.cid)) return yield* repeated(peerId)
        const peer = { host: remoteHost, port: accepted.port }
        const address = wanted.via?.(peer) ?? peer
        if (!isLike(address, peer))
          return yield* failure("LIMIT", `nothing can be sent to ${formatAddress(address)} from here`, peerId)
        const ends: Ends = {
          cid,
          peerCid: accepted.cid,
          channels,
          datagramBytes: Math.min(mtu, accepted.mtu),
          address,
          initialRttMs: Math.min(defaultInitialRttMs, Math.max(leastRttMs, sllpNowMs() - askedMs)),
          own: wanted
        }
        return yield* Effect.acquireRelease(
          begin(session, socket, ends, leave, link => link.closed),
          owned => Effect.sync(() => owned.closeNow("normal", "no longer needed"))
        )
      })
    )
    return (yield* opened).link
  })

  return {
    open,
    serve: (name, handle, options = {}) => {
      const service: Service = { handle, options }
      return Effect.acquireRelease(
        Effect.sync(() => void served.set(name, service)),
        () => Effect.sync(() => (served.get(name) === service ? served.delete(name) : false))
      )
    }
  }
})

/** A service that waits for more when its association closes has not failed. */
const closeAfter = (link: SllpLink, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Exit.match(exit, {
    onSuccess: () =>
      Effect.andThen(
        Effect.timeoutOption(Effect.ignore(link.flush), flushTimeoutMs),
        link.close("normal", "the service has ended")
      ),
    onFailure: cause =>
      cause.reasons.some(reason => Cause.isFailReason(reason) && reason.error instanceof SllpClosed)
        ? Effect.void
        : Effect.andThen(
            Effect.logWarning("the service of an SLLP association failed", cause),
            link.close("app", "the service failed")
          )
  })
