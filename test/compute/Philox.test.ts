import { assert, describe, it } from "@effect/vitest"
import { initKey, lossKey, philox4x32, PhiloxStream, Purpose } from "../../src/compute/Philox.ts"

const block = (counter: ReadonlyArray<number>, key: ReadonlyArray<number>): Array<number> => {
  const output = new Uint32Array(4)
  philox4x32(Uint32Array.from(counter), Uint32Array.from(key), output)
  return Array.from(output)
}

describe("Philox4x32-10", () => {
  it.each([
    {
      name: "zeros",
      counter: [0, 0, 0, 0],
      key: [0, 0],
      expected: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
    },
    {
      name: "ones",
      counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      key: [0xffffffff, 0xffffffff],
      expected: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
    },
    {
      name: "digits of pi",
      counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      key: [0xa4093822, 0x299f31d0],
      expected: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    }
  ])("gives the known answer of Random123 for $name", ({ counter, key, expected }) => {
    assert.deepStrictEqual(block(counter, key), expected)
  })

  it("streams the blocks of consecutive counters under the seed's two words", () => {
    const seed = 5 + 7 * 2 ** 32
    const stream = new PhiloxStream(seed, Purpose.shuffle, 3)
    const drawn = Array.from({ length: 12 }, () => stream.nextUint32())
    assert.deepStrictEqual(
      drawn,
      [0, 1, 2].flatMap(index => block([index, 3, 0, Purpose.shuffle], [5, 7]))
    )
  })

  it("draws below a bound uniformly, even where the bound does not divide 2³²", () => {
    const bound = 3 * 2 ** 30
    const stream = new PhiloxStream(1, Purpose.data)
    const draws = 30_000
    let lowest = 0
    for (let index = 0; index < draws; index++) {
      const value = stream.nextBelow(bound)
      assert.isBelow(value, bound)
      if (value < 2 ** 30) lowest++
    }
    // A remainder without rejection would put half of all draws into the lowest third.
    assert.closeTo(lowest / draws, 1 / 3, 0.015)
  })

  it("gives every lane, step, epoch and purpose a random key of its own", () => {
    const keys = new Set<string>()
    for (const epoch of [1, 2])
      for (const step of [0, 1]) for (const lane of [0, 1]) keys.add(lossKey(9, epoch, step, lane).join())
    keys.add(initKey(9).join())
    keys.add(initKey(10).join())
    assert.strictEqual(keys.size, 10)
  })
})
