/** Introductions (§2.7) between live sessions: what a coordinator gives out, and what a worker takes. */
import { Clock, Effect, Schema, type Scope } from "effect"
import { toHex } from "../protocol/Bytes.ts"
import { tagEpochSeconds } from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { decodeTicket, encodeTicket, makeTicket, type Ticket } from "../protocol/Ticket.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, SessionError } from "../transport/SessionError.ts"
import type { AdminChannel } from "./AdminChannel.ts"
import { maxRosterMembers, Roster, TicketGrant } from "./AdminKinds.ts"
import { IntroducedPeers } from "./IntroducedPeers.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import { answerAdmin, type StreamServices } from "./SessionRouter.ts"

/** How long a ticket lets handshakes begin unless told otherwise: longer than a session lasts before it is made anew. */
export const defaultTicketTtlMs = 2 * 24 * 3_600_000
/** How long a member may take to answer a roster or a ticket. */
const answerTimeoutMs = 10_000
/** Tickets on their way to one member at once. */
const ticketsAtOnce = 16

/** Some members of a job have not taken their introductions; all others have taken theirs to one another. */
export class IntroductionError extends Schema.TaggedError<IntroductionError>()("IntroductionError", {
  /** The job's id in hexadecimal digits. */
  job: Schema.String,
  refused: Schema.Array(Schema.Struct({ peer: Schema.String, reason: Schema.String }))
}) {
  override get message() {
    const reasons = this.refused.map(({ peer, reason }) => `${peer.slice(0, 16)}… (${reason})`)
    return `not introduced in job ${this.job}: ${reasons.join(", ")}`
  }
}

export interface Introduction {
  /** The 16 bytes of the job's id. */
  readonly job: Uint8Array
  /** Those that are to reach one another: paired with this host, with a session or an address to make one. At most `maxRosterMembers`. */
  readonly peers: ReadonlyArray<PeerId>
  /** Milliseconds in which handshakes between them may begin. Default two days. Their sessions last as long as the job. */
  readonly ttlMs?: number
}

export interface Introductions {
  readonly introduce: (introduction: Introduction) => Effect.Effect<void, IntroductionError, Scope.Scope>
  readonly trustIntroducer: (peerId: PeerId, job: Uint8Array) => Effect.Effect<void, SessionError, Scope.Scope>
  /** Whether this host has introduced these two to one another for a job that still runs. */
  readonly introducedHere: (one: PeerId, other: PeerId) => boolean
}

export const makeIntroductions = Effect.fnUntraced(function* (options: {
  readonly services: StreamServices
  readonly live: LiveSessions
  readonly introduced: IntroducedPeers
  readonly randomBytes: (length: number) => Uint8Array
  readonly connect: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  readonly isPaired: (peerId: PeerId) => boolean
  /** Waits until a peer has said in this session where it can be dialled. */
  readonly heard: (session: Session) => Effect.Effect<void>
  /** Told when peers may no longer be introduced by this host. */
  readonly onEnded: () => void
  /** Where a paired peer can be dialled by others. */
  readonly addressesOf: (peerId: PeerId) => ReadonlyArray<string>
}): Effect.fn.Return<Introductions> {
  const { services, live, introduced } = options
  const clock = yield* Clock.Clock
  const running = new Set<ReadonlySet<PeerId>>()

  const taking = (session: Session, take: () => void): Effect.Effect<null, SessionError> =>
    Effect.try({
      try: () => {
        take()
        return null
      },
      catch: error => sessionError(error, session.peer.peerId)
    })
  answerAdmin(services, Roster, ({ job, peers }, session) =>
    taking(session, () => introduced.roster(session.peer.peerId, job, peers))
  )
  answerAdmin(services, TicketGrant, ({ ticket }, session) =>
    taking(session, () => introduced.ticket(session.peer.peerId, decodeTicket(ticket)))
  )

  const trustIntroducer: Introductions["trustIntroducer"] = (peerId, job) =>
    Effect.gen(function* () {
      if (!options.isPaired(peerId)) {
        const detail = "only a paired peer can introduce others: join with a token of it"
        return yield* new SessionError({ code: "NOT_PAIRED", peer: peerId, detail })
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => introduced.trust(peerId, job)),
        end =>
          Effect.forEach(end(), forgotten => {
            const session = live.get(forgotten)
            return session?.mode === modes.introduced
              ? live.end(session, "NORMAL", "the job for which these peers were introduced is over")
              : Effect.void
          })
      )
      return undefined
    })

  interface Member {
    readonly peerId: PeerId
    readonly session: Session
    readonly admin: AdminChannel
  }

  const introduce: Introductions["introduce"] = Effect.fn("PeerNode.introduce")(function* ({
    job,
    peers,
    ttlMs = defaultTicketTtlMs
  }) {
    const refused: Array<{ readonly peer: string; readonly reason: string }> = []
    /** Goes on with the members for which a step succeeds. */
    const eachOf = <A extends { readonly peerId: PeerId }, B>(
      members: ReadonlyArray<A>,
      step: (member: A) => Effect.Effect<B, SessionError>
    ) =>
      Effect.forEach(
        members,
        member =>
          Effect.matchEffect(step(member), {
            onSuccess: result => Effect.succeed([result]),
            onFailure: error =>
              Effect.sync(() => {
                refused.push({ peer: member.peerId, reason: error.message })
                return []
              })
          }),
        { concurrency: "unbounded" }
      ).pipe(Effect.map(results => results.flat()))

    const distinct = [...new Set(peers)]
    const some = distinct.slice(0, maxRosterMembers).map(peerId => ({ peerId }))
    for (const peer of distinct.slice(maxRosterMembers))
      refused.push({ peer, reason: `at most ${maxRosterMembers} peers can be introduced to one another` })

    const reached = yield* eachOf(some, ({ peerId }) =>
      Effect.gen(function* () {
        const session = yield* options.connect(peerId)
        yield* options.heard(session)
        const admin = yield* (
          live.router(peerId)?.admin ?? Effect.fail(failure("TRUNCATED", "its session ended", peerId))
        )
        return { peerId, session, admin }
      })
    )
    const members = yield* eachOf<Member, Member>(reached, member => {
      const others = reached.filter(other => other !== member)
      const roster = others.map(({ peerId, session }) => ({
        document: session.peer.document,
        addresses: options.addressesOf(peerId)
      }))
      return Effect.as(member.admin.request(Roster, { job, peers: roster }, answerTimeoutMs), member)
    })

    const unixSeconds = Math.floor(clock.currentTimeMillisUnsafe() / 1000)
    const times = {
      // The clocks of two peers may differ by as much as their tags allow.
      notBefore: unixSeconds - tagEpochSeconds,
      expiresAt: unixSeconds + Math.ceil(ttlMs / 1000)
    }
    const tickets = new Map<Member, Array<Ticket>>(members.map(member => [member, []]))
    members.forEach((one, index) => {
      for (const other of members.slice(index + 1)) {
        const ids = [one.session.peer.id, other.session.peer.id] as const
        const ticket = makeTicket(options.randomBytes, { job, peers: ids, ...times })
        for (const member of [one, other]) tickets.get(member)?.push(ticket)
      }
    })
    const took = yield* eachOf<Member, PeerId>(members, member =>
      Effect.forEach(
        tickets.get(member) ?? [],
        ticket => member.admin.request(TicketGrant, { ticket: encodeTicket(ticket) }, answerTimeoutMs),
        { concurrency: ticketsAtOnce, discard: true }
      ).pipe(Effect.as(member.peerId))
    )
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const group: ReadonlySet<PeerId> = new Set(took)
        running.add(group)
        return group
      }),
      group =>
        Effect.sync(() => {
          running.delete(group)
          options.onEnded()
        })
    )
    if (refused.length > 0) return yield* new IntroductionError({ job: toHex(job), refused })
    return undefined
  })

  const introducedHere: Introductions["introducedHere"] = (one, other) =>
    one !== other && [...running].some(group => group.has(one) && group.has(other))

  return { introduce, trustIntroducer, introducedHere }
})
