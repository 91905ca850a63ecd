import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { maximalSubtrees } from "../../src/compute/LaneTree.ts"
import { assignByTime, AssignmentError, type MemberSpeed } from "../../src/training/Assignment.ts"

interface Candidate {
  readonly counts: ReadonlyArray<number>
  readonly seconds: number
  readonly partials: number
}

/** Every way to give `lanes` in order to `members`, each one lane or more, or one or none where there are too few. */
const compositions = (members: number, lanes: number): ReadonlyArray<ReadonlyArray<number>> => {
  const spares = members > lanes
  const visit = (left: number, members: number): ReadonlyArray<ReadonlyArray<number>> => {
    if (members === 0) return left === 0 ? [[]] : []
    const counts = spares ? [0, 1] : Array.from({ length: Math.max(0, left - members + 1) }, (_, index) => index + 1)
    return counts
      .filter(count => count <= left)
      .flatMap(count => visit(left - count, members - 1).map(rest => [count, ...rest]))
  }
  return visit(lanes, members)
}

/** TRAINING's definition, word by word. */
const candidatesOf = (members: ReadonlyArray<MemberSpeed>, lanes: number, bytes: number): ReadonlyArray<Candidate> =>
  compositions(members.length, lanes).map(counts => {
    let from = 0
    let partials = 0
    let seconds = 0
    for (const [index, { laneSeconds, bytesPerSecond }] of members.entries()) {
      const count = counts[index] ?? 0
      const range = Array.from({ length: count }, (_, lane) => from + lane)
      const p = maximalSubtrees(range, lanes).length
      const share = ((p + 1) * (members.length - 1)) / members.length
      seconds = Math.max(seconds, count * laneSeconds + (share * bytes) / bytesPerSecond)
      partials += p
      from += count
    }
    return { counts, seconds, partials }
  })

const isBefore = (a: Candidate, b: Candidate): boolean => {
  if (a.seconds !== b.seconds) return a.seconds < b.seconds
  if (a.partials !== b.partials) return a.partials < b.partials
  const first = a.counts.findIndex((count, index) => count !== b.counts[index])
  return first >= 0 && (a.counts[first] ?? 0) > (b.counts[first] ?? 0)
}

const peers = (count: number): ReadonlyArray<string> => Array.from({ length: count }, (_, index) => `peer-${index}`)

const speeds = (count: number) =>
  fc
    .array(
      fc.record({
        // Few values, so that there are ties to break.
        laneSeconds: fc.oneof(fc.constantFrom(0.01, 0.02, 0.04), fc.double({ min: 0.001, max: 1, noNaN: true })),
        bytesPerSecond: fc.constantFrom(1e6, 1e8, 1e9, Infinity)
      }),
      { minLength: count, maxLength: count }
    )
    .map(given => given.map((speed, index) => ({ peer: `peer-${index}`, ...speed })))

const countsOf = (members: ReadonlyArray<MemberSpeed>, lanes: number, bytes = 0): ReadonlyArray<number> =>
  assignByTime(members, lanes, bytes).members.map(member => member.lanes.length)

describe("Lanes by measured speed", () => {
  it("are the best of all contiguous assignments, ties going to fewer sums and then to the first members", () => {
    const scenario = fc
      .tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 6 }), fc.constantFrom(0, 1e5, 1e7))
      .chain(([lanes, members, bytes]) => fc.tuple(fc.constant(lanes), speeds(members), fc.constant(bytes)))
    fc.assert(
      fc.property(scenario, ([lanes, members, bytes]) => {
        const best = candidatesOf(members, lanes, bytes).reduce((a, b) => (isBefore(b, a) ? b : a))
        const assigned = assignByTime(members, lanes, bytes)
        assert.deepStrictEqual(
          assigned.members.map(member => member.lanes.length),
          best.counts
        )
        assert.strictEqual(assigned.stepSeconds, best.seconds)
      }),
      { numRuns: 1_000, seed: 1 }
    )
  })

  it("are the best at sixteen lanes for eight members", () => {
    fc.assert(
      fc.property(speeds(8), members => {
        const best = candidatesOf(members, 16, 1e6).reduce((a, b) => (isBefore(b, a) ? b : a))
        assert.deepStrictEqual(countsOf(members, 16, 1e6), best.counts)
      }),
      { numRuns: 5, seed: 2 }
    )
  })

  it("are contiguous, in order, and leave none out, for any number of members", () => {
    const scenario = fc
      .tuple(fc.integer({ min: 1, max: 256 }), fc.integer({ min: 1, max: 40 }))
      .chain(([lanes, members]) => fc.tuple(fc.constant(lanes), speeds(members)))
    fc.assert(
      fc.property(scenario, ([lanes, members]) => {
        const assigned = assignByTime(members, lanes, 1e6).members
        assert.deepStrictEqual(
          assigned.map(({ peer }) => peer),
          peers(members.length)
        )
        assert.deepStrictEqual(
          assigned.flatMap(member => member.lanes),
          Array.from({ length: lanes }, (_, lane) => lane)
        )
        if (members.length <= lanes) for (const member of assigned) assert.isNotEmpty(member.lanes)
      }),
      { numRuns: 50, seed: 3 }
    )
  })

  it("go to the faster member in proportion, and to the slowest still one", () => {
    const member = (peer: string, laneSeconds: number) => ({ peer, laneSeconds, bytesPerSecond: Infinity })
    assert.deepStrictEqual(countsOf([member("a", 0.01), member("b", 0.03)], 8), [6, 2])
    assert.deepStrictEqual(countsOf([member("a", 1), member("b", 0.001), member("c", 0.001)], 8), [1, 3, 4])
  })

  it("are aligned to whole subtrees where a slow line makes each further sum cost more than a lane", () => {
    const member = (peer: string, laneSeconds: number) => ({ peer, laneSeconds, bytesPerSecond: 1e6 })
    const members = [member("a", 0.01), member("b", 0.012)]
    assert.deepStrictEqual(countsOf(members, 8, 0), [4, 4])
    assert.deepStrictEqual(countsOf([member("a", 0.01), member("b", 0.02)], 8, 0), [6, 2])
    assert.deepStrictEqual(countsOf([member("a", 0.01), member("b", 0.02)], 8, 1e6), [4, 4])
  })

  it("leave as spares those without whom the step is as fast, the last ones first", () => {
    const member = (peer: string, laneSeconds: number) => ({ peer, laneSeconds, bytesPerSecond: Infinity })
    const members = [member("a", 9), member("b", 1), member("c", 2), member("d", 2), member("e", 1)]
    assert.deepStrictEqual(countsOf(members, 3), [0, 1, 1, 1, 0])
    assert.deepStrictEqual(countsOf(members, 5), [1, 1, 1, 1, 1])
  })

  it.each([
    [0, 1],
    [-1, 1],
    [Number.NaN, 1],
    [Infinity, 1],
    [1, 0],
    [1, Number.NaN]
  ])("refuse a member that takes %d s for a lane and sends %d bytes per second", (laneSeconds, bytesPerSecond) => {
    assert.throws(() => assignByTime([{ peer: "a", laneSeconds, bytesPerSecond }], 2, 8), AssignmentError, "a cannot")
  })
})
