/** Elements [from, to) of the flat gradient. */
export interface Segment {
  readonly from: number
  readonly to: number
}

/**
 * The part of `elements` that owner `owner` (counted from 0) of `owners` reduces: [⌊n·o/N⌋, ⌊n·(o+1)/N⌋). The segments of all owners
 * cover the gradient once, differ by one element at most, and are empty for some where there are fewer elements than owners.
 */
export const segmentOf = (elements: number, owner: number, owners: number): Segment => ({
  from: Math.floor((elements * owner) / owners),
  to: Math.floor((elements * (owner + 1)) / owners)
})

/**
 * What a member sends in one step of the direct exchange, as a share of the gradient: of each of its `partials` sums all segments but its
 * own, and its own reduced segment to each other member. (P + 1)·(N − 1)/N.
 */
export const sentShare = (partials: number, members: number): number => ((partials + 1) * (members - 1)) / members

/** The same to the element, for the member with index `member`: it differs from the share by the rounding of the segments only. */
export const sentElements = (elements: number, member: number, members: number, partials: number): number => {
  const { from, to } = segmentOf(elements, member, members)
  return partials * (elements - (to - from)) + (members - 1) * (to - from)
}
