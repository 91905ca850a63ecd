import { Deferred, Effect } from "effect"
import * as Supervisor from "../actor/Supervisor.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { pairKeyAgeMs, sessionAgeMs, suiteX25519 } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { isPeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { defaultParameters } from "../protocol/SessionParameters.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import { sessionChannel } from "../rpc/SessionChannel.ts"
import { noPeers, PeerStore } from "../store/PeerStore.ts"
import { Cryptography } from "../transport/Cryptography.ts"
import { formatAddress, type Address } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import { failure, SessionError, sessionError } from "../transport/SessionError.ts"
import { makeDialer } from "./Dialer.ts"
import { DialFailures } from "./Dialling.ts"
import { discover } from "./Discovery.ts"
import { handshakeActor, type HandshakeRpcs } from "./HandshakeActor.ts"
import { IntroducedPeers } from "./IntroducedPeers.ts"
import { makeIntroductions } from "./Introductions.ts"
import { makeInvitations, type Invitations } from "./Invitations.ts"
import { makeKeyRotation } from "./KeyRotation.ts"
import { makeLiveSessions, type LiveSessions } from "./LiveSessions.ts"
import { makePeerDials, type PeerDials } from "./PeerDials.ts"
import { peerRegistry } from "./PeerRegistry.ts"
import { PeerTable } from "./PeerTable.ts"
import { makePeerUpdates } from "./PeerUpdates.ts"
import { exposeActor } from "./ExposedActor.ts"
import { makeRefs } from "./RemoteActor.ts"
import { makeRelay, type Relay } from "./Relay.ts"
import { makeRemove } from "./Revocation.ts"
import type { StreamServices } from "./SessionRouter.ts"
import { makeSllpStreams } from "./SllpStreams.ts"
import { defaultTensorLimits, makeTensors } from "./TensorExchange.ts"
import type { PeerNode, PeerNodeOptions } from "./PeerNode.ts"

/** A registry of a hundred thousand peers takes some seconds until all their tags are computed. */
const registryStartMs = 60_000

/** Puts a node together: the registry, the handshake actor, the live sessions, and what is made of them. */
export const makePeerNode = Effect.fn("PeerNode.make")(function* (options: PeerNodeOptions) {
  const { identity } = options
  const crypto = yield* Cryptography
  // Before the tree, so that the sessions end first when this node ends, and calls in flight fail with that reason.
  const dialer = yield* makeDialer(
    peerId => live.get(peerId),
    (peerId, addresses) => dials.dialPeer(peerId, addresses)
  )
  const actor = yield* makeRefs(dialer.reach, peerId => live.get(peerId))
  const root = yield* Supervisor.make(`peer-${identity.peerId.slice(0, 8)}`)
  const view = { table: new PeerTable(identity, noPeers) }
  const introduced = new IntroducedPeers(identity)
  const services: StreamServices = { rpc: new Map(), bulk: new Map(), admin: new Map() }
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
    Effect.raceFirst(registry.ask("List", undefined, { deadlineMs: registryStartMs }), root.failure),
    error => new SessionError({ code: "REGISTRY", detail: error.message })
  )

  const dials: PeerDials = yield* makePeerDials({
    handshakes: () => handshakes,
    view,
    introduced,
    live: () => live,
    ways: peerId => relay.ways(peerId)
  })

  const { announce, heard, addresses } = makePeerUpdates({
    services,
    view,
    registry,
    introduced,
    listening: () => address
  })

  const live: LiveSessions = yield* makeLiveSessions({
    root,
    ageMs: options.sessionAgeMs ?? sessionAgeMs,
    dial: dials.dialPeer,
    admit: ({ session, keyId }) => {
      const { peerId } = session.peer
      // Who is introduced is not kept, so there is nothing to write down; but the job may have ended during the handshake.
      if (session.mode === modes.introduced) {
        const over = failure("NOT_AUTHORIZED", "the job for which this peer was introduced is over", peerId)
        return introduced.has(peerId) ? Effect.void : Effect.fail(over)
      }
      const dialled =
        session.role === "initiator" && session.relay === undefined ? { address: formatAddress(session.remote) } : {}
      const key = keyId === undefined ? {} : { keyId }
      return Effect.mapError(registry.client.Seen({ peerId, ...dialled, ...key }), error =>
        error._tag === "RegistryRefusal"
          ? failure("NOT_AUTHORIZED", "this peer was removed during the handshake", peerId)
          : sessionError(error, peerId)
      )
    },
    beside: router => Effect.asVoid(Effect.all([announce(router), whenOfAge(router)], { concurrency: "unbounded" }))
  })

  const { rotate, whenOfAge } = yield* makeKeyRotation({
    services,
    view,
    registry,
    live: () => live,
    connect: dialer.connect,
    ageMs: options.pairKeyAgeMs ?? pairKeyAgeMs
  })
  const remove = makeRemove({ services, registry, introduced, live })

  const dialFailures = new DialFailures()
  const bound = yield* Deferred.make<Address, SessionError>()
  const handshakes: ActorRef<HandshakeRpcs> = yield* Effect.mapError(
    root.spawn(
      "handshake",
      handshakeActor({
        identity,
        parameters: { ...defaultParameters, ...options.parameters },
        suites: options.suites ?? [suiteX25519],
        allow: options.allow,
        registry,
        view,
        introduced,
        services,
        confirm: inviteId => invitations.confirm(inviteId),
        paired: (inviteId, session) => invitations.paired(inviteId, session),
        // After a restart the same port is asked for again: others know it.
        get listen() {
          return address ?? options.listen
        },
        onListening: chosen => {
          address = chosen
          Deferred.doneUnsafe(bound, Effect.succeed(chosen))
        },
        dialFailures,
        // The first attempt tells: an address that is taken is an error at the start, not after all restarts.
        onListenFailure: error =>
          Deferred.doneUnsafe(bound, Effect.fail(new SessionError({ code: "LISTEN", detail: error.message }))),
        adopt: live.adopt
      })
    ),
    spawnFailure
  )
  if (options.listen !== undefined) {
    yield* Effect.raceFirst(Deferred.await(bound), Effect.mapError(root.failure, spawnFailure))
  }

  if (options.discovery !== undefined) {
    yield* discover({
      ...options.discovery,
      randomBytes: crypto.randomBytes,
      listening: () => address,
      peers: () => view.table.stored.peers,
      isReached: peerId => live.get(peerId)?.ended === undefined && live.get(peerId) !== undefined,
      // Whoever is there may be anybody: that it is not this peer says nothing of the peer.
      tryAddress: (peerId, address) =>
        Effect.tapError(dialer.tryAddress(peerId, address), () =>
          Effect.sync(() => dialFailures.forget(peerId, address))
        )
    }).pipe(Effect.mapError(error => new SessionError({ code: "DISCOVERY", detail: error.message })))
  }

  const invitations: Invitations = yield* makeInvitations({
    identity,
    randomBytes: crypto.randomBytes,
    registry,
    view,
    dial: dials.dial,
    connect: dialer.connect,
    addresses,
    confirm: options.confirm
  })

  const { introduce, trustIntroducer, introducedHere } = yield* makeIntroductions({
    services,
    live,
    introduced,
    randomBytes: crypto.randomBytes,
    connect: dialer.connect,
    isPaired: peerId => view.table.peer(peerId) !== undefined,
    heard,
    onEnded: () => relay.review(),
    addressesOf: peerId => view.table.peer(peerId)?.addresses ?? []
  })

  const relay: Relay = yield* makeRelay({
    services,
    live,
    introduced,
    introducedHere,
    accept: connection => Effect.runFork(Effect.ignore(handshakes.tell("Answer", { connection })))
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
    live: peer => (isPeerId(peer) ? live.get(peer) : undefined),
    onBulk
  })

  const sllp = yield* makeSllpStreams({
    services,
    live,
    root,
    limits: options.sllp,
    connect: dialer.connect,
    listening: () => address
  })

  const onChannel: PeerNode["Service"]["onChannel"] = (name, attach) =>
    registered(services.rpc, name, (stream: MuxStream, session: Session) =>
      attach(sessionChannel(session, stream), { peer: session.peer.peerId })
    )

  const serve: PeerNode["Service"]["serve"] = Effect.fnUntraced(function* (name, group, options) {
    const server = yield* RpcPeer.serve(group, options)
    yield* onChannel(name, (channel, caller) => Effect.runSync(server.attach(channel, caller)))
  })

  const node: PeerNode["Service"] = {
    identity,
    get address() {
      return address
    },
    registry,
    invite: invitations.invite,
    join: invitations.join,
    rotate,
    remove,
    connect: dialer.connect,
    reach: dialer.reach,
    session: live.get,
    introduce,
    trustIntroducer,
    relays: relay.status,
    serve,
    onChannel,
    expose: (name, ref, options) => exposeActor(attach => onChannel(name, attach), ref, options),
    actor,
    client: Effect.fnUntraced(function* (session, name, group) {
      const stream = yield* session.openStream(streamClasses.rpc, name)
      yield* Effect.addFinalizer(() => Effect.sync(() => stream.reset("NORMAL")))
      return yield* RpcPeer.client(group, sessionChannel(session, stream))
    }),
    onBulk,
    tensors,
    sllp,
    supervisor: root,
    dialFailures: peerId => dialFailures.of(peerId),
    failure: root.failure
  }
  return node
})
