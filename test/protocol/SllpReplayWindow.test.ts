import { describe, expect, it } from "vitest"
import { AckRanges } from "../../src/protocol/sllp/AckRanges.ts"
import { maxPacketNumber } from "../../src/protocol/sllp/constants.ts"
import { ReplayWindow } from "../../src/protocol/sllp/ReplayWindow.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

/** Offers a number as a datagram that verifies: whether it was taken. */
const offer = (window: ReplayWindow, number: number): boolean => {
  const accepted = window.accepts(number)
  if (accepted) window.mark(number)
  return accepted
}

const rangesOf = (window: ReplayWindow): ReadonlyArray<readonly [number, number]> => {
  const ranges = new AckRanges()
  window.acknowledge(ranges)
  return Array.from({ length: ranges.count }, (_, at) => [ranges.low[at] ?? -1, ranges.high[at] ?? -1])
}

describe("the replay window of RFC 6479 over 2,048 numbers", () => {
  const table: ReadonlyArray<readonly [number, boolean]> = [
    [0, true],
    [1, true],
    [1, false],
    [9, true],
    [8, true],
    [7, true],
    [7, false],
    [2_048, true],
    [2_047, true],
    [2_047, false],
    [2, true],
    [2, false],
    [2_064, true],
    [3, false],
    [16, false],
    [17, true],
    [2_080, true],
    [32, false],
    [33, true],
    [2 ** 40, true],
    [2 ** 40 - 2_047, true],
    [2 ** 40 - 2_047, false],
    [2 ** 40 - 2_048, false],
    [2 ** 40 - 1, true],
    [maxPacketNumber, true],
    [maxPacketNumber, false],
    [maxPacketNumber + 1, false]
  ]

  it("takes each number once, and none that is 2,048 or more behind the highest", () => {
    const window = new ReplayWindow()
    for (const [number, taken] of table) expect([number, offer(window, number)]).toEqual([number, taken])
  })

  it.each([1, 31, 32, 33, 63, 64, 2_047, 2_048, 2_049, 4_095, 4_096, 4_097, 100_000])(
    "forgets nothing it must know when it moves by %i",
    step => {
      const window = new ReplayWindow()
      const base = 5_000
      for (let number = base - 2_047; number <= base; number += 3) offer(window, number)
      const highest = base + step
      expect(offer(window, highest)).toBe(true)
      const seen = (number: number) => number === highest || (number <= base && (number - base + 2_047) % 3 === 0)
      const wrong: Array<number> = []
      for (let number = base - 2_047; number <= highest; number++)
        if (window.accepts(number) !== (number > highest - 2_048 && !seen(number))) wrong.push(number)
      expect(wrong).toEqual([])
    }
  )

  it("is not moved by asking", () => {
    const window = new ReplayWindow()
    offer(window, 10)
    expect(window.accepts(2 ** 45)).toBe(true)
    expect(window.largest).toBe(10)
    expect(offer(window, 9)).toBe(true)
  })

  it("agrees with a set over random orders", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = new SeededRandom(seed)
      const window = new ReplayWindow()
      const seen = new Set<number>()
      let highest = -1
      for (let step = 0; step < 4_000; step++) {
        const jump = random.chance(1) ? 3_000 : random.chance(20) ? 100 : 3
        const number = Math.max(0, highest - random.below(random.chance(5) ? 4_000 : 60) + random.below(jump))
        const expected = !seen.has(number) && number > highest - 2_048
        if (offer(window, number) !== expected) expect.fail(`${number} after ${highest}, seed ${seed}`)
        if (expected) seen.add(number)
        highest = Math.max(highest, number)
      }
      const covered = new Set<number>()
      for (const [low, high] of rangesOf(window)) for (let at = low; at <= high; at++) covered.add(at)
      for (const number of covered) expect(seen.has(number)).toBe(true)
      const lowest = Math.min(...covered)
      for (const number of seen) if (number >= lowest) expect(covered.has(number)).toBe(true)
    }
  })
})

describe("what is acknowledged", () => {
  const after = (...numbers: ReadonlyArray<number>) => {
    const window = new ReplayWindow()
    for (const number of numbers) offer(window, number)
    return rangesOf(window)
  }

  it.each([
    { arrived: [], ranges: [] },
    { arrived: [0], ranges: [[0, 0]] },
    { arrived: [0, 1, 2], ranges: [[0, 2]] },
    { arrived: [5], ranges: [[5, 5]] },
    {
      arrived: [0, 2, 3, 7],
      ranges: [
        [7, 7],
        [2, 3],
        [0, 0]
      ]
    },
    {
      arrived: [31, 32, 64, 63, 95],
      ranges: [
        [95, 95],
        [63, 64],
        [31, 32]
      ]
    }
  ])("of $arrived are the ranges $ranges, the newest first", ({ arrived, ranges }) => {
    expect(after(...arrived)).toEqual(ranges)
  })

  it("are at most 33 ranges, and none older than the window", () => {
    const odd = Array.from({ length: 200 }, (_, at) => 2 * at + 1)
    const ranges = after(...odd)
    expect(ranges.length).toBe(33)
    expect(ranges[0]).toEqual([399, 399])
    expect(ranges[32]).toEqual([335, 335])
    const all = Array.from({ length: 5_000 }, (_, at) => at)
    expect(after(...all)).toEqual([[4_999 - 2_047, 4_999]])
  })
})
