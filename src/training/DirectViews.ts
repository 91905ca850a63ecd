import { Effect, Scope } from "effect"
import type { SessionError } from "../transport/SessionError.ts"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import type * as RpcPeer from "../rpc/RpcPeer.ts"
import type { RestorePoint } from "./CheckpointDesk.ts"
import { stepDeadlineMs, viewDeadlineMs, type Coordination } from "./Coordination.ts"
import { CoordinatorError } from "./CoordinatorError.ts"
import { DirectMemberProtocol, directMemberService, type DirectMemberRpcs, type ViewPlan } from "./DirectProtocol.ts"
import { computingMembers, leastMembers } from "./EqualLanes.ts"
import type { Member } from "./Membership.ts"
import { planView } from "./PlanView.ts"
import { remoteCall } from "./RemoteCall.ts"
import { isRobust } from "./Strategy.ts"
import type { StateCourier } from "./StateCourier.ts"
import { compareViews, ViewChange, type Answer, type Decision, type ViewId } from "./ViewChange.ts"

/** Times that a joiner may fall behind as an observer before the others wait for it. */
const observerAttempts = 2

/** A view that has started at all its members. */
export interface RunningView {
  readonly plan: ViewPlan
  readonly members: ReadonlyMap<PeerId, Member>
}

/** What changes of view have to know of the job beside who its members are. */
export interface ViewContext {
  readonly laneSeconds: (peer: PeerId) => number | undefined
  readonly courier: StateCourier
  /** The checkpoint to go back to where nobody holds a state that is as new. */
  readonly restorePoint: () => RestorePoint | undefined
  /** Steps from one checkpoint to the next; 0 where none are saved. */
  readonly checkpointSteps: number
  /** A base was found: called before anybody is told to start. */
  readonly onBase: (decision: Decision, lossSums: readonly [number, number]) => Effect.Effect<void>
}

/** What a member says of itself when a view is prepared. */
type Prepared = Answer & { readonly lossSums: readonly [number, number] }

/** Where a prepared view stands: who holds its base, and of which view that is. */
export interface PreparedBase {
  readonly decision: Decision
  readonly id: ViewId
  readonly lossSums: readonly [number, number]
}

/** Changes of view of a direct exchange, under one term. */
export class DirectViews {
  readonly #coordination: Coordination
  readonly #context: ViewContext
  readonly #clients = new WeakMap<Member, RpcPeer.Client<DirectMemberRpcs>>()
  /** How often each has been given the state without having caught up. */
  readonly #given = new WeakMap<Member, number>()
  /** Since which step a member has held the state. */
  readonly #holds = new WeakMap<Member, number>()
  #introduced = new Set<Member>()
  term: number
  /** The highest number of a view that was prepared. */
  #lastView = 0

  constructor(coordination: Coordination, term: number, context: ViewContext) {
    this.#coordination = coordination
    this.term = term
    this.#context = context
  }

  /** Whether a member has held the state at this step. */
  held(member: Member, step: number): boolean {
    return (this.#holds.get(member) ?? Infinity) <= step
  }

  client(member: Member): Effect.Effect<RpcPeer.Client<DirectMemberRpcs>, SessionError> {
    const known = this.#clients.get(member)
    if (known !== undefined) return Effect.succeed(known)
    return this.#coordination.node.client(member.session, directMemberService, DirectMemberProtocol).pipe(
      Scope.provide(member.scope),
      Effect.tap(client => Effect.sync(() => this.#clients.set(member, client)))
    )
  }

  /** Makes a view of all members that are here, however often it takes; undefined where none is left, or too few for the job's rule. */
  readonly change = Effect.fnUntraced(function* (
    this: DirectViews
  ): Effect.fn.Return<RunningView | undefined, CoordinatorError, Scope.Scope> {
    const { members } = this.#coordination
    const parties = new Map(members.list.map(member => [member.peerId, member]))
    const change = new ViewChange(this.#lastView, parties.keys())
    const answers = new Map<string, Prepared>()
    let plan: ViewPlan | undefined
    for (;;) {
      for (const [peer, member] of parties) if (!members.has(member)) change.lost(peer)
      const move = change.next()
      this.#lastView = Math.max(this.#lastView, change.view)
      yield* Effect.logDebug(`view ${change.view}: ${move.move}`)
      switch (move.move) {
        case "none":
          return undefined
        case "prepare":
          yield* this.#prepare(change, move.view, parties, answers)
          break
        case "start": {
          const { decision } = move
          const { id, lossSums } = baseOf(decision, answers)
          const point = this.#context.restorePoint()
          if (point !== undefined && (compareViews(point.id, id) || point.step - decision.base) > 0) {
            yield* this.#restore(point, { term: this.term, view: move.view }, parties)
            return yield* this.change()
          }
          for (const peer of decision.diverged) {
            const member = isPeerId(peer) ? parties.get(peer) : undefined
            if (member !== undefined) yield* this.stop(member, `its state after step ${decision.base} differs`)
          }
          if (decision.diverged.length > 0) break
          if (!this.#isEnough(decision)) return undefined
          yield* this.#context.onBase(decision, lossSums)
          plan = this.#plan(move.view, decision, lossSums, parties)
          yield* this.#introduce(parties)
          if ([...parties.values()].every(member => members.has(member))) yield* this.#start(change, plan, parties)
          break
        }
        case "wait":
          // Whoever is waited for has failed to answer, and has been let go.
          for (const peer of move.for) change.lost(peer)
          break
        case "done":
          if (plan === undefined) return yield* Effect.die(new Error("a view has started without a plan"))
          return { plan, members: new Map([...parties].filter(([, member]) => members.has(member))) }
      }
    }
  })

  /**
   * Has all members stop where they are, without a view to follow: gives the state that most of them hold, and those that hold it. Undefined
   * where nobody is here.
   */
  readonly halt = Effect.fnUntraced(function* (
    this: DirectViews
  ): Effect.fn.Return<(PreparedBase & { readonly holders: ReadonlyArray<Member> }) | undefined, CoordinatorError> {
    const { members } = this.#coordination
    const parties = new Map(members.list.map(member => [member.peerId, member]))
    const change = new ViewChange(this.#lastView, parties.keys())
    const answers = new Map<string, Prepared>()
    for (;;) {
      const move = change.next()
      this.#lastView = Math.max(this.#lastView, change.view)
      if (move.move === "prepare") yield* this.#prepare(change, move.view, parties, answers)
      else if (move.move === "wait") for (const peer of move.for) change.lost(peer)
      else if (move.move === "none") return undefined
      else {
        const { decision } = move
        const holders = decision.current.flatMap(peer => (isPeerId(peer) ? (parties.get(peer) ?? []) : []))
        return { decision, ...baseOf(decision, answers), holders }
      }
    }
  })

  /** Gives every member the state of a checkpoint; those that cannot take it are let go. */
  readonly #restore = Effect.fnUntraced(function* (
    this: DirectViews,
    point: RestorePoint,
    prepared: ViewId,
    parties: ReadonlyMap<PeerId, Member>
  ): Effect.fn.Return<void, CoordinatorError> {
    const { members } = this.#coordination
    const { courier } = this.#context
    const state = yield* point.load
    const { id: started, step, stateSha256, lossSums } = point
    yield* Effect.forEach(
      parties.values(),
      member =>
        Effect.gen({ self: this }, function* () {
          if (!members.has(member)) return
          const client = yield* this.client(member)
          yield* courier.send(member.session, prepared, step, state)
          yield* client.TakeState({ prepared, started, step, stateSha256, lossSums })
        }).pipe(
          remoteCall(stepDeadlineMs),
          Effect.catch(error => members.expel(member, error.message))
        ),
      { concurrency: "unbounded", discard: true }
    )
  })

  #prepare(
    change: ViewChange,
    view: number,
    parties: ReadonlyMap<PeerId, Member>,
    answers: Map<string, Prepared>
  ): Effect.Effect<void, CoordinatorError> {
    const { members } = this.#coordination
    return Effect.forEach(
      [...parties.values()].filter(member => members.has(member)),
      member =>
        Effect.flatMap(this.client(member), client => client.PrepareView({ term: this.term, view })).pipe(
          remoteCall(viewDeadlineMs),
          Effect.map(answer => {
            answers.set(member.peerId, answer)
            change.answered(view, member.peerId, answer)
          }),
          Effect.catch(error => {
            if (error._tag !== "StaleTerm") return members.expel(member, error.message)
            if (error.term > this.term) return Effect.fail(CoordinatorError.staleTerm(error.term))
            // It was in a view that this coordinator does not know of, before it began anew: the next one gets a higher number.
            this.#lastView = Math.max(this.#lastView, error.view)
            return Effect.sync(() => change.lost(member.peerId))
          })
        ),
      { concurrency: "unbounded", discard: true }
    )
  }

  /** Whether the job's rule holds with those that are here, or nothing is left to do. */
  #isEnough({ base, current, behind, joiners }: Decision): boolean {
    const { job, steps } = this.#coordination
    const available = current.length + behind.length + joiners.length
    return base >= steps || computingMembers(job, available) >= leastMembers(job)
  }

  #plan(
    view: number,
    decision: Decision,
    lossSums: readonly [number, number],
    parties: ReadonlyMap<PeerId, Member>
  ): ViewPlan {
    const { job, info } = this.#coordination
    const impatient = new Set<PeerId>()
    const { base, current, behind } = decision
    const equalLanes = isRobust(job.strategy)
    // A rule that has too few members without them waits for joiners.
    const isShort = computingMembers(job, current.length + behind.length) < leastMembers(job)
    for (const [peer, member] of parties) {
      const given = this.#given.get(member) ?? 0
      if (decision.joiners.includes(peer)) {
        if (given >= observerAttempts || isShort) impatient.add(peer)
        this.#given.set(member, given + 1)
        this.#holds.set(member, base)
      } else {
        this.#given.delete(member)
        if (!this.#holds.has(member)) this.#holds.set(member, base)
      }
    }
    const { term } = this
    const { laneSeconds } = this.#context
    const elements = info.parameterCount
    const plan = planView(
      { term, view, decision, lossSums, lanes: job.lanes, elements, impatient, laneSeconds, equalLanes },
      isPeerId
    )
    const { checkpointSteps } = this.#context
    return checkpointSteps === 0 ? plan : { ...plan, checkpointSteps }
  }

  /** New tickets for all where one is here who has none: a lone member needs none. */
  #introduce(parties: ReadonlyMap<PeerId, Member>): Effect.Effect<void, never, Scope.Scope> {
    const { members, node, jobId } = this.#coordination
    const present = [...parties.values()].filter(member => members.has(member))
    if (present.length < 2 || present.every(member => this.#introduced.has(member))) return Effect.void
    return node.introduce({ job: jobId, peers: present.map(({ peerId }) => peerId) }).pipe(
      Effect.catch(({ refused }) =>
        Effect.forEach(
          refused,
          ({ peer, reason }) => {
            const member = present.find(({ peerId }) => peerId === peer)
            return member === undefined ? Effect.void : members.expel(member, `it cannot be introduced: ${reason}`)
          },
          { discard: true }
        )
      ),
      Effect.tap(() => Effect.sync(() => (this.#introduced = new Set(present))))
    )
  }

  /** Has all members introduced anew before the next view: some cannot reach each other. */
  introduceAgain(): void {
    this.#introduced.clear()
  }

  #start(change: ViewChange, plan: ViewPlan, parties: ReadonlyMap<PeerId, Member>): Effect.Effect<void> {
    const { members } = this.#coordination
    return Effect.forEach(
      parties.values(),
      member =>
        Effect.flatMap(this.client(member), client => client.StartView({ plan })).pipe(
          remoteCall(viewDeadlineMs),
          Effect.map(() => change.started(plan.view, member.peerId)),
          Effect.catch(error => members.expel(member, error.message))
        ),
      { concurrency: "unbounded", discard: true }
    )
  }

  /** Lets a member go for good: it is told why, and does not come back. */
  stop(member: Member, reason: string): Effect.Effect<void> {
    const { members } = this.#coordination
    return Effect.andThen(
      Effect.ignore(member.client.Stop({ reason }).pipe(remoteCall(viewDeadlineMs))),
      members.drop(member, reason)
    )
  }
}

/** The newest view that a holder of the base has started in, and what it says of the losses. */
const baseOf = (
  { current }: Decision,
  answers: ReadonlyMap<string, Prepared>
): { readonly id: ViewId; readonly lossSums: readonly [number, number] } => {
  const newest = current
    .flatMap(peer => answers.get(peer) ?? [])
    .reduce<Prepared | undefined>(
      (a, b) => (a === undefined || compareViews(b.started, a.started) > 0 ? b : a),
      undefined
    )
  return { id: newest?.started ?? { term: 0, view: 0 }, lossSums: newest?.lossSums ?? [0, 0] }
}
