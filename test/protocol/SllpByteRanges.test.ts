import { describe, expect, it } from "vitest"
import { ByteRanges } from "../../src/protocol/sllp/ByteRanges.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const listed = (ranges: ByteRanges): ReadonlyArray<readonly [number, number]> =>
  Array.from({ length: ranges.count }, (_, at) => [ranges.from(at), ranges.to(at)])

const of = (...added: ReadonlyArray<readonly [number, number]>): ByteRanges => {
  const ranges = new ByteRanges()
  for (const [from, to] of added) ranges.add(from, to)
  return ranges
}

describe("ranges of bytes", () => {
  it("join where they touch or overlap, and count what is new", () => {
    const ranges = new ByteRanges()
    const table: ReadonlyArray<readonly [from: number, to: number, added: number, then: ReadonlyArray<unknown>]> = [
      [10, 20, 10, [[10, 20]]],
      [20, 30, 10, [[10, 30]]],
      [
        40,
        50,
        10,
        [
          [10, 30],
          [40, 50]
        ]
      ],
      [
        12,
        18,
        0,
        [
          [10, 30],
          [40, 50]
        ]
      ],
      [
        5,
        10,
        5,
        [
          [5, 30],
          [40, 50]
        ]
      ],
      [25, 45, 10, [[5, 50]]],
      [0, 60, 15, [[0, 60]]]
    ]
    for (const [from, to, added, then] of table) {
      expect(ranges.add(from, to)).toBe(added)
      expect(listed(ranges)).toEqual(then)
    }
    expect(ranges.bytes).toBe(60)
  })

  it("can be cut, in the middle too", () => {
    const ranges = of([0, 100])
    ranges.remove(40, 60)
    expect(listed(ranges)).toEqual([
      [0, 40],
      [60, 100]
    ])
    ranges.remove(0, 10)
    ranges.remove(30, 70)
    ranges.remove(99, 200)
    expect(listed(ranges)).toEqual([
      [10, 30],
      [70, 99]
    ])
    expect(ranges.bytes).toBe(49)
  })

  it("agree with a row of bits, whatever is added and removed", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = new SeededRandom(seed)
      const ranges = new ByteRanges()
      const bits = new Uint8Array(64)
      for (let step = 0; step < 60; step++) {
        const from = random.below(60)
        const to = from + 1 + random.below(Math.min(12, 64 - from))
        const before = bits.reduce((sum, bit) => sum + bit, 0)
        const adding = random.chance(65)
        bits.fill(adding ? 1 : 0, from, to)
        const count = bits.reduce((sum, bit) => sum + bit, 0)
        if (adding) expect(ranges.add(from, to)).toBe(count - before)
        else ranges.remove(from, to)
        expect(ranges.bytes).toBe(count)
        const shown = new Uint8Array(64)
        for (const [first, end] of listed(ranges)) shown.fill(1, first, end)
        expect(shown).toEqual(bits)
        const missing = bits.indexOf(0, from)
        expect(ranges.nextMissing(from, 64)).toBe(missing < 0 ? 64 : missing)
        const present = bits.indexOf(1, from)
        expect(ranges.nextPresent(from, 64)).toBe(present < 0 ? 64 : present)
        for (let at = 1; at < ranges.count; at++) expect(ranges.from(at)).toBeGreaterThan(ranges.to(at - 1))
      }
    }
  })
})
