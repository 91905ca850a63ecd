import type { PeerId } from "../protocol/Identity.ts"
import { assignByTime } from "./Assignment.ts"
import type { ViewPlan } from "./DirectProtocol.ts"
import { equalMembers } from "./EqualLanes.ts"
import { assignLanes, type ViewMember } from "./Round.ts"
import { segmentOf } from "./Segments.ts"
import type { Decision } from "./ViewChange.ts"

/** What a member's line is taken for, as nobody measures it: an assignment that saves messages wins where computing decides nothing. */
const assumedBytesPerSecond = 100e6

export interface PlanOptions {
  readonly term: number
  readonly view: number
  readonly decision: Decision
  readonly lossSums: readonly [number, number]
  readonly lanes: number
  readonly elements: number
  /** Joiners that compute at once, and are waited for, as they have fallen behind as observers before. */
  readonly impatient: ReadonlySet<PeerId>
  /** Seconds that a member takes for a lane, where that is known. */
  readonly laneSeconds: (peer: PeerId) => number | undefined
  /** All that compute have equally many lanes, and those left over are spares: what a robust rule needs. */
  readonly equalLanes?: boolean
}

/** Lanes by measured speed where that of every member is known and may count, else as equal as can be. `members` are sorted by PeerID. */
export const lanesBySpeed = (
  members: ReadonlyArray<PeerId>,
  {
    lanes,
    elements,
    laneSeconds,
    equalLanes = false
  }: Pick<PlanOptions, "lanes" | "elements" | "laneSeconds" | "equalLanes">
): ReadonlyArray<ViewMember<PeerId>> => {
  if (equalLanes) return assignLanes(members.slice(0, equalMembers(lanes, members.length)), lanes)
  const speeds = members.map(peer => ({
    peer,
    laneSeconds: laneSeconds(peer) ?? 0,
    bytesPerSecond: assumedBytesPerSecond
  }))
  return speeds.every(({ laneSeconds }) => laneSeconds > 0)
    ? assignByTime(speeds, lanes, elements * Float32Array.BYTES_PER_ELEMENT).members
    : assignLanes(members, lanes)
}

/**
 * The view that follows from where everyone stands: those that hold the base's state, or lack one step of it, compute; joiners observe until
 * they have caught up. Pure.
 */
export const planView = (options: PlanOptions, isPeer: (peer: string) => peer is PeerId): ViewPlan => {
  const { term, view, decision, lossSums, elements, impatient } = options
  const current = decision.current.filter(isPeer)
  const behind = decision.behind.filter(isPeer)
  const joiners = decision.joiners.filter(isPeer)
  const ready = [...current, ...behind, ...joiners.filter(peer => impatient.has(peer))].toSorted()
  const assigned = lanesBySpeed(ready, options)
  const computing = assigned.filter(({ lanes }) => lanes.length > 0)
  const members = computing.map(({ peer, lanes }, owner) => {
    const { from, to } = segmentOf(elements, owner, computing.length)
    return { peer, lanes, segment: [from, to] as const }
  })
  const computes = new Set(computing.map(({ peer }) => peer))
  const observers = [...current, ...behind, ...joiners].filter(peer => !computes.has(peer)).toSorted()
  const donors = current.filter(peer => computes.has(peer))
  const donorOf = (index: number): PeerId | undefined =>
    (donors.length > 0 ? donors : current)[index % Math.max(1, donors.length)]
  const gifts = [
    ...behind.map(peer => ({ to: peer, what: "gradient" as const })),
    ...joiners.map(peer => ({ to: peer, what: "state" as const }))
  ].flatMap(({ to, what }, index) => {
    const from = donorOf(index)
    return from === undefined ? [] : [{ from, to, what }]
  })
  return { term, view, base: decision.base, stateSha256: decision.stateSha256, lossSums, members, observers, gifts }
}
