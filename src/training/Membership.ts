import { Deferred, Effect, Exit, Scope } from "effect"
import type { PeerNode } from "../node/PeerNode.ts"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import type { Changed } from "./Changed.ts"
import { firstDifference, type Fingerprint } from "./Fingerprint.ts"
import type { JobEvent } from "./JobEvent.ts"
import { remoteCall } from "./RemoteCall.ts"
import { JobMismatch, JobOver, mismatchOf, WorkerProtocol, workerService, type WorkerRpcs } from "./JobProtocol.ts"

/** A worker that has joined, by the session that it joined over. */
export interface Member {
  readonly peerId: PeerId
  readonly session: Session
  readonly client: RpcPeer.Client<WorkerRpcs>
  readonly scope: Scope.Closeable
  /** The highest term that it had worked under when it joined. */
  readonly term: number
}

/** How long a worker may take to hear that the job has ended. */
const stopDeadlineMs = 2_000

/** Members of one job at once: each gets lanes, of which there are at most 256, or waits as a spare. */
export const maxMembers = 512

/** Who works on the job: workers are let in when their job is the same to the bit, and out when their session ends. */
export class Membership {
  readonly #node: PeerNode["Service"]
  readonly #fingerprint: Fingerprint
  readonly #initialWeightsSha256: string
  readonly #changed: Changed
  readonly #emit: (event: JobEvent) => Effect.Effect<void>
  readonly #members = new Map<PeerId, Member>()
  /** Set when no more workers are wanted. */
  over = false
  /** Set when the result is known. */
  ended = false

  constructor(
    node: PeerNode["Service"],
    fingerprint: Fingerprint,
    initialWeightsSha256: string,
    changed: Changed,
    emit: (event: JobEvent) => Effect.Effect<void>
  ) {
    this.#node = node
    this.#fingerprint = fingerprint
    this.#initialWeightsSha256 = initialWeightsSha256
    this.#changed = changed
    this.#emit = emit
  }

  get size(): number {
    return this.#members.size
  }

  /** Sorted by PeerID. */
  get list(): ReadonlyArray<Member> {
    return [...this.#members.values()].toSorted((a, b) => (a.peerId < b.peerId ? -1 : 1))
  }

  /** True while this very member has not been lost or replaced. */
  has(member: Member): boolean {
    return this.#members.get(member.peerId) === member
  }

  get(peerId: PeerId): Member | undefined {
    return this.#members.get(peerId)
  }

  /** Handles `Join`: compares fingerprints and initial weights, then admits the caller. */
  join(
    fingerprint: Fingerprint,
    initialWeightsSha256: string,
    term: number
  ): Effect.Effect<void, JobMismatch | JobOver> {
    return Effect.gen({ self: this }, function* () {
      const { peer } = yield* RpcPeer.caller
      const difference = firstDifference(this.#fingerprint, fingerprint)
      if (difference !== undefined) return yield* mismatchOf(difference)
      if (initialWeightsSha256 !== this.#initialWeightsSha256) {
        return yield* new JobMismatch({
          field: "initial weights",
          coordinator: this.#initialWeightsSha256,
          worker: initialWeightsSha256
        })
      }
      const session = isPeerId(peer) ? this.#node.session(peer) : undefined
      if (session === undefined || this.over || this.size >= maxMembers) return yield* new JobOver()
      const { peerId } = session.peer
      const before = this.#members.get(peerId)
      if (before !== undefined) yield* this.drop(before, "it joined again")
      const scope = yield* Scope.make()
      const client = yield* this.#node.client(session, workerService, WorkerProtocol).pipe(
        Scope.provide(scope),
        Effect.mapError(() => new JobOver())
      )
      const member = { peerId, session, client, scope, term }
      this.#members.set(peerId, member)
      yield* Effect.forkIn(
        Effect.flatMap(Deferred.await(session.closed), reason => this.drop(member, reason.message)),
        scope
      )
      yield* this.#emit({ event: "member-joined", peer: peerId, members: this.size })
      this.#changed.notify()
    })
  }

  /** Lets a member go; does nothing where it is gone already. */
  drop(member: Member, reason: string): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.has(member)) return Effect.void
      this.#members.delete(member.peerId)
      this.#changed.notify()
      const closed = Effect.asVoid(Effect.forkDetach(Scope.close(member.scope, Exit.void)))
      // The job is done: whoever leaves now is not lost.
      if (this.ended) return closed
      const event = { event: "member-lost", peer: member.peerId, members: this.size, reason } as const
      // The fiber that watches the session lives in this scope, and may be the one that calls.
      return Effect.andThen(this.#emit(event), closed)
    })
  }

  /** Lets a member go and ends its session, so that it learns why and may come back. */
  expel(member: Member, reason: string): Effect.Effect<void> {
    return Effect.andThen(
      this.drop(member, reason),
      Effect.sync(() => member.session.fail("TIMEOUT", reason))
    )
  }

  /** Tells all members that the job ends for this reason, unless its result is known. */
  stop(reason: string): Effect.Effect<void> {
    if (this.ended) return Effect.void
    return Effect.forEach(
      this.list,
      ({ client }) => Effect.ignore(client.Stop({ reason }).pipe(remoteCall(stopDeadlineMs))),
      { concurrency: "unbounded", discard: true }
    )
  }
}
