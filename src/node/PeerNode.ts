import { Context, Effect, Layer, type Scope } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import type * as Supervisor from "../actor/Supervisor.ts"
import type { SupervisorFailed } from "../actor/ActorError.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import type { LocalIdentity, PeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import type { SessionParameters } from "../protocol/SessionParameters.ts"
import type { RpcChannel } from "../rpc/RpcChannel.ts"
import type * as RpcPeer from "../rpc/RpcPeer.ts"
import type { PeerStore } from "../store/PeerStore.ts"
import type { Cryptography } from "../transport/Cryptography.ts"
import type { LanDiscoveryOptions } from "../transport/LanDiscovery.ts"
import type { Address, Network } from "../transport/Network.ts"
import type { PeerList } from "../transport/Handshakes.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import type { DialFailure } from "./Dialling.ts"
import type { Introductions } from "./Introductions.ts"
import type { Invitations } from "./Invitations.ts"
import type { KeyRotation } from "./KeyRotation.ts"
import type { Confirm } from "./Pairing.ts"
import type { RegistryRpcs } from "./PeerRegistry.ts"
import type { RemoteRef } from "./RemoteActor.ts"
import type { RelayStatus } from "./Relay.ts"
import type { Remove } from "./Revocation.ts"
import type { SllpLimits, SllpStreams } from "./SllpStreams.ts"
import type { TensorLimits, Tensors } from "./TensorExchange.ts"
import { makePeerNode } from "./PeerNodeTree.ts"

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
  /**
   * Which of the paired peers may come in, asked at each of their sessions before a byte is read. Default: all of them. Introduced peers come in
   * by the word of whom `trustIntroducer` names.
   */
  readonly allow?: PeerList
  /** Decides on the guests of invitations that ask for it (`confirm` of `invite`) and were made by an earlier process of this peer. */
  readonly confirm?: Confirm
  /** Milliseconds after which a session is replaced by a new one. Default one day; the same on both sides. */
  readonly sessionAgeMs?: number
  /** Milliseconds after which a pair key is replaced by the next generation. Default 30 days. */
  readonly pairKeyAgeMs?: number
  /** What each peer may make this one hold of tensors by reference. */
  readonly tensors?: Partial<TensorLimits>
  /** What this peer allows of SLLP associations. */
  readonly sllp?: Partial<SllpLimits>
  /**
   * Announces this peer on the local network, if it listens, and dials what others announce there as the paired peers that it has no session
   * with (§2.8). `key`: 32 bytes that the machines of one operator share; `port`: their UDP port, where it is not `beaconPort`. Default: off.
   */
  readonly discovery?: Pick<LanDiscoveryOptions, "key" | "port">
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
    /** Makes a one-time token by which another machine pairs with this one. */
    readonly invite: Invitations["invite"]
    /** Pairs with the host that made the token and gives the session. */
    readonly join: Invitations["join"]
    /** Agrees with a paired peer on the next generation of their pair key, on a live session, and gives its number. Happens by age too. */
    readonly rotate: KeyRotation["rotate"]
    /** Ends a pairing: see `Remove`. */
    readonly remove: Remove
    /** The session with a paired or introduced peer: the live one, or a new one to the given or remembered addresses. One dial at a time per peer. */
    readonly connect: (peerId: PeerId, addresses?: ReadonlyArray<string>) => Effect.Effect<Session, SessionError>
    /** Like `connect`, for callers that come again by themselves: after a failed dial it fails at once for a growing while. */
    readonly reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>
    /** Why addresses of a peer gave no session: the last reason of each, until it gives one, oldest first; bounded, of this process. */
    readonly dialFailures: (peerId: PeerId) => ReadonlyArray<DialFailure>
    /** The live session with a peer. */
    readonly session: (peerId: PeerId) => Session | undefined
    /**
     * Introduces paired peers to one another for a job, so that they reach each other without this host, which cannot read what they then
     * say. May be called again as members come. IntroductionError names those who did not take it; the others have been introduced.
     * What this host does for them beyond that, relaying, ends with the scope: give it the job's.
     */
    readonly introduce: Introductions["introduce"]
    /**
     * Takes introductions for a job by this paired peer, until the scope ends: then the introduced peers are forgotten and the sessions with
     * them closed. Until then `connect`, `reach`, `actor` and `tensors` treat them as paired ones, and they may call what this host serves.
     */
    readonly trustIntroducer: Introductions["trustIntroducer"]
    /** The connections between others that pass through this host, sealed, because they cannot reach one another. */
    readonly relays: () => ReadonlyArray<RelayStatus>
    /** Serves an RPC group under a name until the scope ends, to all paired and introduced peers or to those that `authorize` lets call. */
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
    /** Lets peers call a local actor under a name, as `serve` does for handlers, until the scope ends or the actor is gone for good. */
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
    /** Encrypted streaming over UDP beside the session, where late data are worth less than new ones. */
    readonly sllp: SllpStreams
    /** The supervisor under which a job's own actors run. */
    readonly supervisor: Supervisor.Supervisor
    /** Never succeeds; fails when the tree has given up. */
    readonly failure: Effect.Effect<never, SupervisorFailed>
  }
>()("artifice/node/PeerNode") {
  static readonly layer = (
    options: PeerNodeOptions
  ): Layer.Layer<PeerNode, SessionError, Network | Cryptography | PeerStore> =>
    Layer.effect(PeerNode, makePeerNode(options))
}
