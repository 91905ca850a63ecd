import { assert, describe, it } from "@effect/vitest"
import { gathered, RecordOpener, RecordSealer, release } from "../../src/protocol/Records.ts"

const secret = new Uint8Array(32).fill(7)
const filled = (length: number, value: number) => new Uint8Array(length).fill(value)

describe("Parts of a write", () => {
  it.each([
    ["only small ones", [3, 5, 16]],
    ["a large one between small ones", [4, 22, 65_536, 16, 4]],
    ["large ones side by side", [65_536, 4_096]],
    ["empty ones", [0, 7, 0]],
    ["many small ones that make up more than a small one", Array.from({ length: 50 }, () => 1_000)]
  ])("are the same bytes in the same order in no more arrays: %s", (_, lengths) => {
    const parts = lengths.map((length, index) => filled(length, index + 1))
    const fewer = gathered(parts)
    assert.deepStrictEqual(Buffer.concat(fewer), Buffer.concat(parts))
    assert.isAtMost(fewer.length, parts.length)
  })

  it("are joined where they are small and left where they are large", () => {
    const large = filled(65_536, 9)
    const fewer = gathered([filled(4, 1), filled(22, 2), large, filled(16, 3), filled(4, 4)])
    assert.deepStrictEqual(
      fewer.map(({ length }) => length),
      [26, 65_536, 20]
    )
    assert.strictEqual(fewer[1], large)
  })
})

describe("Memory that is given back", () => {
  it("is empty at once where it is large, and left alone where it is small or shared", () => {
    const large = filled(65_536, 1)
    const small = Buffer.from("a part of a pool that others use")
    const shared = new Uint8Array(new SharedArrayBuffer(65_536))
    for (const bytes of [large, small, shared]) release(bytes)
    assert.strictEqual(large.length, 0)
    assert.strictEqual(small.toString(), "a part of a pool that others use")
    assert.strictEqual(shared.length, 65_536)
  })

  it("takes nothing from other records: sealed and opened ones stay whole when their neighbours go", () => {
    const sealer = new RecordSealer(secret)
    const opener = new RecordOpener(secret)
    const wire = [1, 2, 3].map(value => {
      const parts = sealer.seal(0, 0, 1, [filled(65_536, value)])
      const bytes = Buffer.concat(parts)
      parts.forEach(release)
      return bytes
    })
    const opened: Array<Uint8Array> = []
    // Cut so that every record spans two reads.
    const stream = Buffer.concat(wire)
    for (let at = 0; at < stream.length; at += 40_000)
      opener.push(stream.subarray(at, at + 40_000), ({ payload }) => opened.push(payload))
    if (opened[1] !== undefined) release(opened[1])
    assert.deepStrictEqual(
      opened.map(payload => [payload.length, payload[0], payload[payload.length - 1]]),
      [
        [65_536, 1, 1],
        [0, undefined, undefined],
        [65_536, 3, 3]
      ]
    )
  })

  it("leaves what the reader was given to its owner: the same memory may be read into again", () => {
    const sealer = new RecordSealer(secret)
    const opener = new RecordOpener(secret)
    const readBuffer = new Uint8Array(1_000)
    const opened: Array<string> = []
    const stream = Buffer.concat(
      ["first", "second", "third"].flatMap(text => sealer.seal(0, 0, 1, [Buffer.from(text.repeat(100))]))
    )
    for (let at = 0; at < stream.length; at += 333) {
      const chunk = stream.subarray(at, at + 333)
      readBuffer.set(chunk)
      opener.push(readBuffer.subarray(0, chunk.length), ({ payload }) => opened.push(Buffer.from(payload).toString()))
      readBuffer.fill(0)
    }
    assert.deepStrictEqual(
      opened,
      ["first", "second", "third"].map(text => text.repeat(100))
    )
  })
})
