import { AggregationError } from "./Aggregation.ts"
import { blockElements } from "./Blocks.ts"

/** How many pairs there are among `members`. */
export const pairCount = (members: number): number => (members * (members - 1)) / 2

/** Where the pair of `left` and `right` (left < right) stands in an array of {@link pairCount} numbers. */
export const pairIndex = (left: number, right: number, members: number): number =>
  left * members - (left * (left + 1)) / 2 + right - left - 1

/** The square of the distance over one block, in float64; four sums, so that the processor need not wait for each addition. */
const distanceOfBlock = (left: Float32Array, right: Float32Array, from: number, to: number): number => {
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  let index = from
  for (; index + 3 < to; index += 4) {
    const first = (left[index] ?? 0) - (right[index] ?? 0)
    const second = (left[index + 1] ?? 0) - (right[index + 1] ?? 0)
    const third = (left[index + 2] ?? 0) - (right[index + 2] ?? 0)
    const fourth = (left[index + 3] ?? 0) - (right[index + 3] ?? 0)
    a += first * first
    b += second * second
    c += third * third
    d += fourth * fourth
  }
  for (; index < to; index++) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0)
    a += difference * difference
  }
  return a + b + (c + d)
}

/**
 * The squares of the distances between the vectors of all pairs of members over one segment, to `out` (shape `[pairCount]`): what owners give
 * each other before they can select. NaN and Infinity stay what they are.
 * @throws AggregationError Length
 */
export const pairDistances = (vectors: ReadonlyArray<Float32Array>, out: Float64Array): void => {
  const members = vectors.length
  if (out.length !== pairCount(members))
    throw new AggregationError({ reason: "Length", message: `${members} vectors have ${pairCount(members)} distances` })
  const length = vectors[0]?.length ?? 0
  const other = vectors.findIndex(vector => vector.length !== length)
  if (other >= 0)
    throw new AggregationError({
      reason: "Length",
      message: `The vectors have ${length} elements, that of member ${other} has ${vectors[other]?.length}`
    })
  out.fill(0)
  for (let from = 0; from < length; from += blockElements) {
    const to = Math.min(length, from + blockElements)
    let pair = 0
    for (const [index, left] of vectors.entries())
      for (let next = index + 1; next < members; next++) {
        const right = vectors[next]
        if (right !== undefined) out[pair] = (out[pair] ?? 0) + distanceOfBlock(left, right, from, to)
        pair++
      }
  }
}

/**
 * The `count` members with the smallest scores, in ascending order; the score of a member is the sum of its squared distances to the members −
 * hostile − 2 nearest others (Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
 * Descent", NIPS 2017, section 4). `count` 1 is Krum; with more of them, the mean of the selected is Multi-Krum: for up to members −
 * hostile − 2 it is shown to stand up to `hostile` liars (Damaskinos et al., "AggregaThor", MLSys 2019). Of equal scores the first member's is smaller.
 * A distance that is NaN counts as infinite.
 *
 * `distances`: sums over all segments, shape `[pairCount(members)]`.
 * @throws AggregationError TooFew unless members ≥ 2 · hostile + 3; NonFinite when fewer than `count` members are near enough others
 */
export const krumSelect = (
  distances: Float64Array,
  members: number,
  hostile: number,
  count = 1
): ReadonlyArray<number> => {
  if (members < 2 * hostile + 3)
    throw new AggregationError({
      reason: "TooFew",
      message: `Krum needs ${2 * hostile + 3} members to stand up to ${hostile}, and has ${members}`
    })
  if (distances.length !== pairCount(members))
    throw new AggregationError({
      reason: "Length",
      message: `${members} members have ${pairCount(members)} distances, not ${distances.length}`
    })
  const scores = Array.from({ length: members }, (_, member) => {
    const own = Array.from({ length: members - 1 }, (_, index) => {
      const other = index < member ? index : index + 1
      const distance = distances[pairIndex(Math.min(member, other), Math.max(member, other), members)] ?? Infinity
      return Number.isNaN(distance) ? Infinity : distance
    }).toSorted((a, b) => a - b)
    return { member, score: own.slice(0, members - hostile - 2).reduce((sum, distance) => sum + distance, 0) }
  })
  const selected = scores.toSorted((a, b) => a.score - b.score || a.member - b.member).slice(0, count)
  if (selected.some(({ score }) => !Number.isFinite(score)))
    throw new AggregationError({
      reason: "NonFinite",
      message: `More than ${hostile} of ${members} members sent values that are not finite`
    })
  return selected.map(({ member }) => member).toSorted((a, b) => a - b)
}

/** How many vectors Multi-Krum takes the mean of: as many as are shown to be safe. */
export const multiKrumCount = (members: number, hostile: number): number => members - hostile - 2
