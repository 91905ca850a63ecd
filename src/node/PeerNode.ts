import { Clock, Context, Deferred, Effect, Layer, type Scope } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import * as Supervisor from "../actor/Supervisor.ts"
import type { SupervisorFailed } from "../actor/ActorError.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { compare, toHex } from "../protocol/Bytes.ts"
import { sessionAgeMs, sessionDrainMs, simultaneousOpenMs, suiteX25519 } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { isPeerId, type LocalIdentity, type PeerId } from "../protocol/Identity.ts"
import { decodeInvite, encodeInvite, inviteKeys, makeInvite } from "../protocol/Invite.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { defaultParameters, type SessionParameters } from "../protocol/SessionParameters.ts"
import type { RpcChannel } from "../rpc/RpcChannel.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionChannel } from "../rpc/SessionChannel.ts"
import { noPeers, PeerStore } from "../store/PeerStore.ts"
import { Cryptography } from "../transport/Cryptography.ts"
import { formatAddress, Network, type Address } from "../transport/Network.ts"
import type { PeerList } from "../transport/Handshakes.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"
import { makeDialer } from "./Dialer.ts"
import { DialRequest, handshakeActor } from "./HandshakeActor.ts"
import { peerRegistry, type RegistryRpcs } from "./PeerRegistry.ts"
import { PeerTable } from "./PeerTable.ts"
import { handlersOf, makeRefs, type RemoteRef } from "./RemoteActor.ts"
import { sessionActor } from "./SessionActor.ts"
import type { SessionRouter, StreamServices } from "./SessionRouter.ts"
import { defaultTensorLimits, makeTensors, type TensorLimits, type Tensors } from "./TensorExchange.ts"

export interface PeerNodeOptions {
  readonly identity: LocalIdentity
  /** Where to listen; port 0 lets the system choose. Absent: this peer only dials. */
  readonly listen?: Address
  /** What this peer is ready to receive in each session. */
  readonly parameters?: Partial<SessionParameters>
  /**
   * Handshake suites in order of preference: `suiteX25519` (the default, alone) and `suiteX25519MlKem768`, which adds ML-KEM-768 against an
   * attacker who records today and owns a quantum computer later. A suite that the other side does not have is not used.
   */
  readonly suites?: ReadonlyArray<number>
  /** Which of the paired peers may come in, asked at each of their sessions before a byte is read. Default: all of them. */
  readonly allow?: PeerList
  /** Milliseconds after which a session is replaced by a new one. Default one day; the same on both sides. */
  readonly sessionAgeMs?: number
  /** What each peer may make this one hold of tensors by reference. */
  readonly tensors?: Partial<TensorLimits>
}

/** How long a dial with all its addresses may take. */
const dialTimeoutMs = 30_000
/** How long an invitation works unless told otherwise. */
export const defaultInviteTtlMs = 10 * 60_000

/** From this share of its age on a session may be replaced without being a rival: clocks and handshakes take time. */
const agedShare = 0.9
const drainTickMs = 1_000

interface Live {
  readonly router: SessionRouter
  readonly since: number
  readonly actor: string
}

/**
 * This machine's peer: a supervised tree of actors that finds, trusts and talks to other peers.
 *
 * **Details** The root supervises (one-for-one) the registry, the handshake actor and one session actor per live session. A
 * session's crash ends that session; the registry and the handshake actor start again from the store.
 *
 * **Gotchas** There is one live session per peer. A lost session is made anew by whoever needs it next: a call of an `actor` ref, `connect`.
 */
export class PeerNode extends Context.Service<
  PeerNode,
  {
    readonly identity: LocalIdentity
    /** Where this peer listens, once bound. */
    readonly address: Address | undefined
    readonly registry: ActorRef<RegistryRpcs>
    /** Makes a one-time token by which another machine pairs with this one; `addresses` is where it should dial. */
    readonly invite: (options: {
      readonly name: string
      readonly ttlMs?: number
      readonly addresses?: ReadonlyArray<string>
    }) => Effect.Effect<{ readonly token: string; readonly expiresAt: number }, SessionError>
    /** Pairs with the host that made the token and gives the session. */
    readonly join: (token: string) => Effect.Effect<Session, SessionError>
    /** The session with a paired peer: the live one, or a new one to the given or remembered addresses. One dial at a time per peer. */
    readonly connect: (peerId: PeerId, addresses?: ReadonlyArray<string>) => Effect.Effect<Session, SessionError>
    /** Like `connect`, for callers that come again by themselves: after a failed dial it fails at once for a growing while. */
    readonly reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>
    /** The live session with a peer. */
    readonly session: (peerId: PeerId) => Session | undefined
    /** Serves an RPC group under a name until the scope ends, to all paired peers or to those that `authorize` lets call. */
    readonly serve: <Rpcs extends Rpc.Any>(
      name: string,
      group: RpcGroup.RpcGroup<Rpcs>,
      options?: RpcPeer.ServeOptions
    ) => Effect.Effect<void, never, Scope.Scope | Rpc.ToHandler<Rpcs> | Rpc.Middleware<Rpcs> | Rpc.ServicesServer<Rpcs>>
    /** Takes the channels that peers open under a name, until the scope ends: what `serve` is made of. */
    readonly onChannel: (
      name: string,
      attach: (channel: RpcChannel, caller: { readonly peer: PeerId }) => void
    ) => Effect.Effect<void, never, Scope.Scope>
    /** A typed client of the group that the other side of a session serves under a name. */
    readonly client: <Rpcs extends Rpc.Any>(
      session: Session,
      name: string,
      group: RpcGroup.RpcGroup<Rpcs>
    ) => Effect.Effect<RpcPeer.Client<Rpcs>, SessionError, Scope.Scope | Rpc.MiddlewareClient<Rpcs>>
    /** Lets peers call a local actor under a name, until the scope ends, as `serve` does for handlers. */
    readonly expose: <Rpcs extends Rpc.Any>(
      name: string,
      ref: ActorRef<Rpcs>,
      options?: RpcPeer.ServeOptions
    ) => Effect.Effect<void, never, Scope.Scope | Rpc.Middleware<Rpcs> | Rpc.ServicesServer<Rpcs>>
    /**
     * A ref to what a peer exposes or serves under a name; it neither dials nor fails. A call takes the live session with the peer or makes
     * one: one dial at a time per peer, with backoff after a failed one. A lost session fails the calls in flight at once.
     */
    readonly actor: <Rpcs extends Rpc.Any>(
      peerId: PeerId,
      name: string,
      protocol: RpcGroup.RpcGroup<Rpcs>
    ) => RemoteRef<Rpcs>
    /** Tensors by reference: an RPC names them, their bytes travel beside it. */
    readonly tensors: Tensors
    /** Takes the bulk streams whose name begins with `name`, until the scope ends. */
    readonly onBulk: (
      name: string,
      take: (stream: MuxStream, session: Session) => void
    ) => Effect.Effect<void, never, Scope.Scope>
    /** The supervisor under which a job's own actors run. */
    readonly supervisor: Supervisor.Supervisor
    /** Never succeeds; fails when the tree has given up. */
    readonly failure: Effect.Effect<never, SupervisorFailed>
  }
>()("artifice/node/PeerNode") {
  static readonly layer = (
    options: PeerNodeOptions
  ): Layer.Layer<PeerNode, SessionError, Network | Cryptography | PeerStore> => Layer.effect(PeerNode, make(options))
}

const make = Effect.fn("PeerNode.make")(function* (options: PeerNodeOptions) {
  const { identity } = options
  const crypto = yield* Cryptography
  const clock = yield* Clock.Clock
  // Before the tree, so that the sessions end first when this node ends, and calls in flight fail with that reason.
  const dialer = yield* makeDialer(
    peerId => live.get(peerId)?.router.session,
    (peerId, addresses) => dialPeer(peerId, addresses)
  )
  const actor = yield* makeRefs(dialer.reach)
  const root = yield* Supervisor.make(`peer-${identity.peerId.slice(0, 8)}`)
  const view = { table: new PeerTable(identity, noPeers) }
  const services: StreamServices = { rpc: new Map(), bulk: new Map() }
  const live = new Map<PeerId, Live>()
  const ageMs = options.sessionAgeMs ?? sessionAgeMs
  let sessions = 0
  let address: Address | undefined

  // A store that cannot be read is an error at once, with its path: the registry would only crash until its supervisor gives up.
  yield* Effect.mapError(
    (yield* PeerStore).load,
    error => new SessionError({ code: "REGISTRY", detail: error.message })
  )
  const spawnFailure = (error: unknown) => sessionError(error)
  const registry = yield* Effect.mapError(root.spawn("registry", peerRegistry(identity, view)), spawnFailure)
  // The first answer shows that the stored peers are loaded: a damaged store is an error here, not a silent empty list.
  yield* Effect.mapError(
    Effect.raceFirst(registry.ask("List", undefined), root.failure),
    error => new SessionError({ code: "REGISTRY", detail: error.message })
  )

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
        yield* Effect.ignore(dialPeer(session.peer.peerId))
        yield* Effect.sleep(ageMs * (1 - agedShare))
      }
    }).pipe(Effect.raceFirst(Effect.asVoid(Deferred.await(session.closed))))
  }

  const adopt = Effect.fn("PeerNode.adopt")(function* (router: SessionRouter) {
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
    const actor = `session-${++sessions}-${peerId.slice(0, 8)}`
    live.set(peerId, { router, since: now, actor })
    yield* Effect.forkDetach(
      Effect.andThen(
        Deferred.await(session.closed),
        Effect.sync(() => {
          if (live.get(peerId)?.router === router) live.delete(peerId)
        })
      )
    )
    const dialled = session.role === "initiator" ? { address: formatAddress(session.remote) } : {}
    yield* Effect.mapError(registry.client.Seen({ peerId, ...dialled }), spawnFailure)
    yield* Effect.mapError(root.spawn(actor, sessionActor(router)), spawnFailure)
    if (session.role === "initiator") yield* Effect.forkDetach(renew(router))
  })

  const bound = yield* Deferred.make<Address, SessionError>()
  const handshakes = yield* Effect.mapError(
    root.spawn(
      "handshake",
      handshakeActor({
        identity,
        parameters: { ...defaultParameters, ...options.parameters },
        suites: options.suites ?? [suiteX25519],
        allow: options.allow,
        registry,
        view,
        services,
        // After a restart the same port is asked for again: others know it.
        get listen() {
          return address ?? options.listen
        },
        onListening: chosen => {
          address = chosen
          Deferred.doneUnsafe(bound, Effect.succeed(chosen))
        },
        // The first attempt tells: an address that is taken is an error at the start, not after all restarts.
        onListenFailure: error =>
          Deferred.doneUnsafe(bound, Effect.fail(new SessionError({ code: "LISTEN", detail: error.message }))),
        adopt
      })
    ),
    spawnFailure
  )
  if (options.listen !== undefined) {
    yield* Effect.raceFirst(Deferred.await(bound), Effect.mapError(root.failure, spawnFailure))
  }

  const dial = (request: DialRequest): Effect.Effect<Session, SessionError> =>
    Effect.gen(function* () {
      yield* Effect.mapError(handshakes.tell("Dial", { request }), spawnFailure)
      const router = yield* Deferred.await(request.result).pipe(
        Effect.timeoutOrElse({
          duration: dialTimeoutMs,
          orElse: () => Effect.fail(failure("TIMEOUT", "no session within 30 s"))
        })
      )
      // The other side may have dialled at the same time: whichever session won is the one to use.
      return live.get(router.session.peer.peerId)?.router.session ?? router.session
    })

  const dialPeer = Effect.fn("PeerNode.dialPeer")(function* (peerId: PeerId, addresses?: ReadonlyArray<string>) {
    const peer = view.table.identity(peerId)
    if (peer === undefined) {
      return yield* new SessionError({
        code: "NOT_PAIRED",
        peer: peerId,
        detail: "this host is not paired with that peer: join with a token of it"
      })
    }
    const where = addresses ?? view.table.peer(peerId)?.addresses ?? []
    let last = failure("INTERNAL", "no address of this peer is known", peerId)
    for (const { keys, pending } of view.table.dialKeys(peerId)) {
      const attempt = yield* Effect.result(dial(new DialRequest({ mode: modes.paired, keys, peer }, where)))
      if (attempt._tag === "Success") {
        // Pairing was cut off after the other side had stored the key: this session shows that it has.
        if (pending) yield* Effect.mapError(registry.client.Seen({ peerId, activates: true }), spawnFailure)
        return attempt.success
      }
      last = attempt.failure
      if (last.code === "UNREACHABLE") break
    }
    return yield* last
  })

  const invite: PeerNode["Service"]["invite"] = ({ name, ttlMs = defaultInviteTtlMs, addresses }) =>
    Effect.gen(function* () {
      const expiresAt = Math.floor((clock.currentTimeMillisUnsafe() + ttlMs) / 1000)
      const where = addresses ?? (address === undefined ? [] : [formatAddress(address)])
      if (where.length === 0) return yield* failure("INTERNAL", "this peer does not listen, so it cannot invite")
      const made = makeInvite(crypto.randomBytes, { peerId: identity.peerId, addresses: where, expiresAt, name })
      const record = { id: toHex(made.id), keys: inviteKeys(made.secret, identity.id), expiresAt }
      yield* Effect.mapError(registry.client.PutInvite({ invite: record }), spawnFailure)
      return { token: encodeInvite(made), expiresAt }
    })

  const join: PeerNode["Service"]["join"] = token =>
    Effect.gen(function* () {
      const invitation = yield* Effect.try({ try: () => decodeInvite(token), catch: error => sessionError(error) })
      if (invitation.expiresAt * 1000 <= clock.currentTimeMillisUnsafe()) {
        return yield* failure("INVITE_USED", "the token has run out: ask for a new one", invitation.peerId)
      }
      // Paired before, or cut off while pairing: the key that is here may work, and then the token is not needed.
      if (view.table.identity(invitation.peerId) !== undefined) {
        const known = yield* Effect.result(dialer.connect(invitation.peerId, invitation.addresses))
        if (known._tag === "Success") return known.success
      }
      const keys = inviteKeys(invitation.secret, Buffer.from(invitation.peerId, "hex"))
      return yield* dial(new DialRequest({ mode: modes.invite, keys, peerId: invitation.peerId }, invitation.addresses))
    })

  const registered = <A>(map: Map<string, A>, name: string, value: A) =>
    Effect.acquireRelease(
      Effect.sync(() => void map.set(name, value)),
      () => Effect.sync(() => (map.get(name) === value ? map.delete(name) : false))
    )

  const onBulk: PeerNode["Service"]["onBulk"] = (name, take) => registered(services.bulk, name, take)
  const tensors = yield* makeTensors({
    limits: { ...defaultTensorLimits, ...options.tensors },
    self: identity.peerId,
    randomBytes: crypto.randomBytes,
    reach: dialer.reach,
    live: peer => (isPeerId(peer) ? live.get(peer)?.router.session : undefined),
    onBulk
  })

  const onChannel: PeerNode["Service"]["onChannel"] = (name, attach) =>
    registered(services.rpc, name, (stream: MuxStream, session: Session) =>
      attach(sessionChannel(session, stream), { peer: session.peer.peerId })
    )

  const serve: PeerNode["Service"]["serve"] = Effect.fnUntraced(function* (name, group, options) {
    const server = yield* RpcPeer.serve(group, options)
    yield* onChannel(name, (channel, caller) => Effect.runSync(server.attach(channel, caller)))
  })

  return PeerNode.of({
    identity,
    get address() {
      return address
    },
    registry,
    invite,
    join,
    connect: dialer.connect,
    reach: dialer.reach,
    session: peerId => live.get(peerId)?.router.session,
    serve,
    onChannel,
    expose: (name, ref, options) => Effect.provide(serve(name, ref.protocol, options), handlersOf(ref)),
    actor,
    client: Effect.fnUntraced(function* (session, name, group) {
      const stream = yield* session.openStream(streamClasses.rpc, name)
      yield* Effect.addFinalizer(() => Effect.sync(() => stream.reset("NORMAL")))
      return yield* RpcPeer.client(group, sessionChannel(session, stream))
    }),
    onBulk,
    tensors,
    supervisor: root,
    failure: root.failure
  })
})

/** §2.5, simultaneous open: whether the new session is kept and the old one closed; both sides come to the same answer. */
const newerWins = (old: Session, fresh: Session, ageMs: number): boolean => {
  if (old.role === fresh.role || ageMs > simultaneousOpenMs) return true
  const initiator = (session: Session) => (session.role === "initiator" ? session.self : session.peer.id)
  return compare(initiator(fresh), initiator(old)) < 0
}
