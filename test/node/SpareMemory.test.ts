import { assert, describe, it } from "vitest"
import { SpareMemory } from "../../src/node/SpareMemory.ts"

describe("spare memory", () => {
  it("is used again for the same number of bytes, and gone for who gave it", () => {
    const memory = new SpareMemory(1_000)
    const first = memory.take(600).fill(7)
    memory.give(first.buffer)
    assert.lengthOf(first, 0)
    assert.lengthOf(memory.take(599), 599)
    const second = memory.take(600)
    assert.deepStrictEqual([second.length, second[0]], [600, 7])
    assert.lengthOf(memory.take(600), 600)
  })

  it("is bounded: what is too much is given back to the system", () => {
    const memory = new SpareMemory(1_000)
    const arrays = [memory.take(600).fill(1), memory.take(600).fill(2)]
    for (const { buffer } of arrays) memory.give(buffer)
    for (const array of arrays) assert.lengthOf(array, 0)
    assert.strictEqual(memory.take(600)[0], 1)
    memory.give(new ArrayBuffer(0))
    memory.give(new Uint8Array(1_000).fill(3).buffer)
    assert.strictEqual(memory.take(1_000)[0], 3)
  })
})
