import type { PeerId } from "../protocol/Identity.ts"
import type { RunningView } from "./DirectViews.ts"
import type { Member } from "./Membership.ts"
import { lanesBySpeed } from "./PlanView.ts"
import { StepDeadline } from "./StepDeadline.ts"
import type { Remedy } from "./Troubles.ts"

/** How much of the old estimate of a member's speed stays when a step adds to it. */
const memory = 0.9
/** A member that overran its deadline is taken for so many times slower than it was. */
const overrunFactor = 4
/** Steps of a view before its lanes are given out anew for speed alone, and how much faster a step must become by it. */
export const rebalanceSteps = 100
export const rebalanceGain = 1.5

interface Measured {
  readonly deadline: StepDeadline
  laneSeconds: number | undefined
}

/** How fast the members of a direct exchange compute: their deadlines, and lanes that fit their speed. Pure. */
export class Pace {
  readonly #lanes: number
  readonly #elements: number
  readonly #members = new Map<PeerId, Measured & { readonly member: Member }>()
  /** Lanes of those that compute in this view, and since when each is at its step. */
  readonly #current = new Map<PeerId, { readonly lanes: number; sinceMs: number }>()
  readonly #equalLanes: boolean
  #applied = 0
  #nextLook = 0

  /** `equalLanes`: all that compute have equally many, whatever their speed. */
  constructor(lanes: number, elements: number, equalLanes = false) {
    this.#lanes = lanes
    this.#elements = elements
    this.#equalLanes = equalLanes
  }

  /** Seconds that a member takes for a lane, where it has computed one. */
  laneSeconds(peer: PeerId): number | undefined {
    return this.#members.get(peer)?.laneSeconds
  }

  begin({ plan, members }: RunningView, nowMs: number): void {
    this.#current.clear()
    this.#applied = plan.base
    this.#nextLook = plan.base + rebalanceSteps
    for (const [peer, member] of members) {
      // A process that has come back may be another machine's.
      if (this.#members.get(peer)?.member !== member)
        this.#members.set(peer, { member, deadline: new StepDeadline(), laneSeconds: undefined })
    }
    for (const { peer, lanes } of plan.members) this.#current.set(peer, { lanes: lanes.length, sinceMs: nowMs })
  }

  /** A member has applied a step of this view, of which it has computed its part in so many milliseconds. */
  applied(member: Member, applied: number, computeMs: number, nowMs: number): void {
    this.#applied = Math.max(this.#applied, applied)
    const current = this.#current.get(member.peerId)
    const known = this.#members.get(member.peerId)
    if (current === undefined || known?.member !== member) return
    current.sinceMs = nowMs
    if (!(computeMs > 0)) return
    known.deadline.completed(computeMs, current.lanes)
    const seconds = computeMs / current.lanes / 1_000
    known.laneSeconds = memory * (known.laneSeconds ?? seconds) + (1 - memory) * seconds
  }

  /** What is to be done about members that take too long for their own part; one that waits for others has done it. */
  remedy(nowMs: number, waits: (peer: PeerId) => boolean): Remedy | undefined {
    for (const [peer, current] of this.#current) {
      const known = this.#members.get(peer)
      if (known === undefined || waits(peer)) continue
      const deadlineMs = known.deadline.deadlineMs(current.lanes)
      if (nowMs - current.sinceMs < deadlineMs) continue
      const reason = `it has not done its part of a step within ${Math.round(deadlineMs / 1_000)} s`
      current.sinceMs = nowMs
      if (known.deadline.overran() === "remove") return { remedy: "remove", peer, reason }
      known.laneSeconds = (known.laneSeconds ?? deadlineMs / 1_000 / current.lanes) * overrunFactor
      return {
        remedy: "view",
        reason: `${peer} is given ${this.#equalLanes ? "another try" : "fewer lanes"}: ${reason}`
      }
    }
    return this.#rebalance()
  }

  /** Whether lanes that fit the speeds by now would make steps much faster. */
  #rebalance(): Remedy | undefined {
    if (this.#equalLanes || this.#applied < this.#nextLook) return undefined
    this.#nextLook = this.#applied + rebalanceSteps
    const peers = [...this.#current.keys()].toSorted()
    const secondsOf = (lanesOf: (peer: PeerId) => number): number =>
      Math.max(...peers.map(peer => (this.laneSeconds(peer) ?? 0) * lanesOf(peer)))
    const options = {
      lanes: this.#lanes,
      elements: this.#elements,
      laneSeconds: (peer: PeerId) => this.laneSeconds(peer)
    }
    const better = new Map(lanesBySpeed(peers, options).map(({ peer, lanes }) => [peer, lanes.length]))
    const now = secondsOf(peer => this.#current.get(peer)?.lanes ?? 0)
    const then = secondsOf(peer => better.get(peer) ?? 0)
    return now > rebalanceGain * then ? { remedy: "view", reason: "lanes are given out anew, by speed" } : undefined
  }
}
