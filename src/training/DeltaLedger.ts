import { Schema } from "effect"
import { segmentOf } from "./Segments.ts"

/** One piece of work of local SGD: what one replica does in one round. Both count from 0. */
export interface Unit {
  readonly round: number
  readonly replica: number
}

/** How a job's shards are cut into rounds. */
export interface RoundPlan {
  /** Steps of the whole job. */
  readonly steps: number
  readonly lanes: number
  /** Replicas in every round, whoever works on them; no more than lanes. */
  readonly replicas: number
  /** Steps per round; the last one may have fewer. */
  readonly innerSteps: number
}

/** Shards of a unit: those of these lanes in these steps (0-based, over the whole job). */
export interface UnitShards {
  readonly steps: { readonly from: number; readonly to: number }
  readonly lanes: { readonly from: number; readonly to: number }
  readonly count: number
}

/** How many rounds a job has. */
export const roundCount = ({ steps, innerSteps }: RoundPlan): number => Math.ceil(steps / innerSteps)

/** Exactly the shards that one delta covers. Over all units of a job, each shard is in one of them. */
export const unitShards = (plan: RoundPlan, { round, replica }: Unit): UnitShards => {
  const steps = { from: round * plan.innerSteps, to: Math.min(plan.steps, (round + 1) * plan.innerSteps) }
  const lanes = segmentOf(plan.lanes, replica, plan.replicas)
  return { steps, lanes, count: (steps.to - steps.from) * (lanes.to - lanes.from) }
}

/** A delta is refused whole, and why. */
export class DeltaRefused extends Schema.TaggedError<DeltaRefused>()("DeltaRefused", {
  /**
   * `StaleTerm`: it was leased by another coordinator; `NotThisRound`: its round is over, has not begun, or has no such replica; `NotLeased`: its
   * token is not the one given out last, or not to this peer; `HasCome`: this unit's delta was accepted already.
   */
  reason: Schema.Literals(["StaleTerm", "NotThisRound", "NotLeased", "HasCome"]),
  message: Schema.String
}) {}

/** The right to deliver one unit: given out by a coordinator to one peer, until it is given out again. */
export interface DeltaLease {
  readonly term: number
  readonly unit: Unit
  /** From 1; never given out twice under one term. */
  readonly token: number
}

interface UnitState {
  holder: string | undefined
  token: number
  accepted: boolean
}

/**
 * Which delta counts. For each unit of the round in progress the first delta that shows the current lease (term, token, holder) is accepted, and
 * any other is refused whole; when all units have come the round is applied and the next one begins. So each shard is counted once, however
 * often a unit is leased, delivered or delivered late. Pure.
 */
export class DeltaLedger {
  readonly #plan: RoundPlan
  readonly #term: number
  #units: ReadonlyArray<UnitState>
  #round: number
  #lastToken = 0

  /** Begins with `round`, 0 for a new job, and else as it stands in the checkpoint. */
  constructor(plan: RoundPlan, term: number, round = 0) {
    this.#plan = plan
    this.#term = term
    this.#round = round
    this.#units = this.#newRound()
  }

  #newRound(): ReadonlyArray<UnitState> {
    const replicas = this.#round < roundCount(this.#plan) ? this.#plan.replicas : 0
    return Array.from({ length: replicas }, () => ({ holder: undefined, token: 0, accepted: false }))
  }

  /** The round in progress; the number of rounds when all are applied. */
  get round(): number {
    return this.#round
  }

  /** Shards of the rounds that were applied. */
  get countedShards(): number {
    return Math.min(this.#plan.steps, this.#round * this.#plan.innerSteps) * this.#plan.lanes
  }

  /** Replicas whose delta has not come. */
  missing(): ReadonlyArray<number> {
    return this.#units.flatMap(({ accepted }, replica) => (accepted ? [] : [replica]))
  }

  /** True when every delta of the round has come. */
  get complete(): boolean {
    return this.#units.length > 0 && this.#units.every(({ accepted }) => accepted)
  }

  /** Gives a replica of the round in progress to a peer; whoever held it before holds it no longer. Undefined where its delta has come. */
  lease(replica: number, holder: string): DeltaLease | undefined {
    const state = this.#units[replica]
    if (state === undefined || state.accepted) return undefined
    state.holder = holder
    state.token = ++this.#lastToken
    return { term: this.#term, unit: { round: this.#round, replica }, token: state.token }
  }

  /** Why a delta would be refused, from its header; undefined where it may come. It is judged again when it has come whole. */
  judge({ term, unit, token }: DeltaLease, from: string): DeltaRefused | undefined {
    const refuse = (reason: DeltaRefused["reason"], why: string) =>
      new DeltaRefused({ reason, message: `The delta of replica ${unit.replica} in round ${unit.round} ${why}` })
    if (term !== this.#term) return refuse("StaleTerm", `was leased under term ${term}; this is ${this.#term}`)
    const state = this.#units[unit.replica]
    if (unit.round !== this.#round || state === undefined)
      return refuse("NotThisRound", `is none of round ${this.#round}`)
    if (state.accepted) return refuse("HasCome", "has come already")
    if (token !== state.token || from !== state.holder)
      return refuse("NotLeased", `has token ${token}, which ${from} does not hold`)
    return undefined
  }

  /**
   * A delta has come whole: it counts from now on.
   * @throws DeltaRefused
   */
  accept(lease: DeltaLease, from: string): void {
    const refused = this.judge(lease, from)
    if (refused !== undefined) throw refused
    const state = this.#units[lease.unit.replica]
    if (state !== undefined) state.accepted = true
  }

  /** The round's mean is applied: the next one begins. False, and nothing happens, while a delta is missing. */
  advance(): boolean {
    if (!this.complete) return false
    this.#round++
    this.#units = this.#newRound()
    return true
  }
}
