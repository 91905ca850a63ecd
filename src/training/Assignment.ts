import { Schema } from "effect"
import { splitPoint } from "../compute/LaneTree.ts"
import type { ViewMember } from "./Round.ts"
import { sentShare } from "./Segments.ts"

/** A measurement is not one: it is not a number, or not above zero. */
export class AssignmentError extends Schema.TaggedError<AssignmentError>()("AssignmentError", {
  peer: Schema.String,
  message: Schema.String
}) {}

/** How fast a member is, as measured. */
export interface MemberSpeed<Peer extends string = string> {
  readonly peer: Peer
  /** Seconds that it takes to compute one lane. */
  readonly laneSeconds: number
  /** Bytes per second that it can send; `Infinity` where its line is no limit. */
  readonly bytesPerSecond: number
}

/** Who computes what, and how long a step of it is estimated to take. */
export interface Assignment<Peer extends string = string> {
  readonly stepSeconds: number
  /** In the order given, each with a contiguous range of lanes; a spare has none. */
  readonly members: ReadonlyArray<ViewMember<Peer>>
}

/** Estimated seconds of a step for one member: its lanes, then its share of the exchange. */
const secondsOf = (
  { laneSeconds, bytesPerSecond }: MemberSpeed,
  lanes: number,
  partials: number,
  members: number,
  gradientBytes: number
): number => lanes * laneSeconds + (sentShare(partials, members) * gradientBytes) / bytesPerSecond

/** How many maximal complete subtrees of the tree over [0, lanes) make up [from, to): a table by `from · (lanes + 1) + to`. */
const countPartials = (lanes: number): Uint8Array => {
  const counts = new Uint8Array((lanes + 1) * (lanes + 1))
  const count = (from: number, to: number, low: number, high: number): number => {
    if (from >= to) return 0
    if (from === low && to === high) return 1
    const middle = splitPoint(low, high)
    return count(from, Math.min(to, middle), low, middle) + count(Math.max(from, middle), to, middle, high)
  }
  for (let from = 0; from < lanes; from++)
    for (let to = from + 1; to <= lanes; to++) counts[from * (lanes + 1) + to] = count(from, to, 0, lanes)
  return counts
}

const positive = (value: number): boolean => value > 0

const check = ({ peer, laneSeconds, bytesPerSecond }: MemberSpeed): void => {
  if (!positive(laneSeconds) || !Number.isFinite(laneSeconds))
    throw new AssignmentError({ peer, message: `${peer} cannot take ${laneSeconds} s for a lane` })
  if (!positive(bytesPerSecond))
    throw new AssignmentError({ peer, message: `${peer} cannot send ${bytesPerSecond} bytes per second` })
}

/**
 * The ranges with the least estimated time of a step, which is that of its slowest member: lanes × laneSeconds + (P + 1)·(N − 1)/N ×
 * gradientBytes / bytesPerSecond, where P counts the maximal subtrees of its range. Ranges follow the order of `members` (by PeerID). Every
 * member has a lane at least, so that its speed stays known; where there are more members than lanes, those left over are spares.
 *
 * Of equally fast assignments the one with the fewest subtrees in all is taken, and of those the one that gives the first member most lanes,
 * then the second, and so on. Exact for any number of lanes; takes members × lanes² steps.
 * Without members there is no assignment: `stepSeconds` is infinite.
 * @throws AssignmentError for a time or speed that is not above zero
 */
export const assignByTime = <Peer extends string>(
  members: ReadonlyArray<MemberSpeed<Peer>>,
  lanes: number,
  gradientBytes: number
): Assignment<Peer> => {
  members.forEach(check)
  const width = lanes + 1
  const partials = countPartials(lanes)
  const seconds = (member: number, from: number, to: number): number => {
    const speed = members[member]
    if (speed === undefined) return Infinity
    return secondsOf(speed, to - from, partials[from * width + to] ?? 0, members.length, gradientBytes)
  }

  // Either everyone has one lane or more, or everyone has one or none.
  const hasSpares = members.length > lanes
  const least = hasSpares ? 0 : 1
  /** The furthest that the range of `member` may reach from `from` on: those after it must have theirs. */
  const furthest = (member: number, from: number): number =>
    Math.min(lanes - least * (members.length - member - 1), hasSpares ? from + 1 : lanes)
  /** At `member · width + from`: the least to be had by giving [from, lanes) to the members from `member` on; `combine` weighs a range and the rest. */
  const solve = (combine: (member: number, from: number, to: number, rest: number) => number) => {
    const best = new Float64Array((members.length + 1) * width).fill(Infinity)
    best[members.length * width + lanes] = 0
    for (let member = members.length - 1; member >= 0; member--)
      for (let from = least * member; from <= lanes; from++) {
        let value = Infinity
        for (let to = from + least; to <= furthest(member, from); to++)
          value = Math.min(value, combine(member, from, to, best[(member + 1) * width + to] ?? Infinity))
        best[member * width + from] = value
      }
    return best
  }

  const slowest = solve((member, from, to, rest) => Math.max(seconds(member, from, to), rest))
  const stepSeconds = slowest[0] ?? 0
  const combinePartials = (member: number, from: number, to: number, rest: number): number =>
    seconds(member, from, to) <= stepSeconds ? (partials[from * width + to] ?? 0) + rest : Infinity
  const fewest = solve(combinePartials)

  let from = 0
  const assigned = members.map(({ peer }, member) => {
    const wanted = fewest[member * width + from] ?? 0
    let to = furthest(member, from)
    while (to > from && combinePartials(member, from, to, fewest[(member + 1) * width + to] ?? Infinity) !== wanted)
      to--
    const range = Array.from({ length: to - from }, (_, index) => from + index)
    from = to
    return { peer, lanes: range }
  })
  return { stepSeconds, members: assigned }
}
