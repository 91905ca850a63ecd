import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { CompressionError, type Codec } from "../../src/compute/Codec.ts"
import { makeCodec, readCompression } from "../../src/compute/Compression.ts"
import { int8BlockElements } from "../../src/compute/Int8Codec.ts"
import { JobOptionError } from "../../src/compute/Options.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const kinds = ["none", "fp16", "int8", "topK"] as const
const codecOf = (compression: Codec["kind"], density = 0.25): Codec => makeCodec({ compression, density })

const largest = 2 ** 128 * (1 - 2 ** -24)

/** Finite values of every magnitude that float32 has, with many that are close to each other, equal or zero. */
const finite = fc.oneof(
  fc.float({ noNaN: true, noDefaultInfinity: true }),
  fc.float({ min: -1, max: 1, noNaN: true }),
  fc.constantFrom(0, -0, 1, -1, 0.5, largest, -largest, 2 ** -126, 2 ** -149, 2 ** -14, 2 ** -25)
)
const arrays = fc.array(finite, { maxLength: 600 }).map(values => Float32Array.from(values))
/** What float16 can hold. */
const moderate = arrays.map(values =>
  values.map(value => (Math.abs(value) < 65_520 ? value : Math.sign(value) * 65_519))
)
const valuesFor = (kind: Codec["kind"]) => (kind === "fp16" ? moderate : arrays)

const encoded = (codec: Codec, values: Float32Array, error?: Float32Array): Uint8Array => {
  const bytes = new Uint8Array(codec.encodedBytes(values.length))
  codec.encode(values, bytes, error)
  return bytes
}
const decoded = (codec: Codec, bytes: Uint8Array, elements: number): Float32Array => {
  const into = new Float32Array(elements).fill(Number.NaN)
  codec.decode(bytes, into)
  return into
}

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof CompressionError) return error.reason
    throw error
  }
  return "none"
}

const squares = (values: Float32Array): number => values.reduce((sum, value) => sum + value * value, 0)

describe.each(kinds)("The compression %s", kind => {
  const codec = codecOf(kind)

  it("loses exactly what it says it loses: value = decoded + error, whatever the values", () => {
    fc.assert(
      fc.property(valuesFor(kind), values => {
        const error = new Float32Array(values.length)
        const back = decoded(codec, encoded(codec, values, error), values.length)
        for (const [index, value] of values.entries())
          assert.isTrue((back[index] ?? NaN) + (error[index] ?? NaN) === value, `element ${index}: ${value}`)
      }),
      { numRuns: 500, seed: 1 }
    )
  })

  it("gives the same bytes with or without the error, and may overwrite the values with it", () => {
    fc.assert(
      fc.property(valuesFor(kind), values => {
        const error = new Float32Array(values.length)
        const bytes = encoded(codec, values, error)
        assert.deepStrictEqual(encoded(codec, values), bytes)
        const inPlace = values.slice()
        assert.deepStrictEqual(encoded(codec, inPlace, inPlace), bytes)
        assert.deepStrictEqual(inPlace, error)
      }),
      { numRuns: 200, seed: 2 }
    )
  })

  it("adds what it decodes, each sum rounded to float32", () => {
    fc.assert(
      fc.property(valuesFor(kind), finite, (values, start) => {
        const bytes = encoded(codec, values)
        const target = new Float32Array(values.length).fill(start)
        const expected = decoded(codec, bytes, values.length).map(value => Math.fround(start) + value)
        codec.decodeAdd(bytes, target)
        // What top-k does not send is not added: a negative zero stays one.
        for (const [index, value] of expected.entries()) assert.isTrue(value === target[index])
      }),
      { numRuns: 200, seed: 3 }
    )
  })

  it("refuses values that are not finite, wherever they are", () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
      for (const at of [0, 255, 256, 299]) {
        const values = new Float32Array(300).fill(0.5)
        values[at] = bad
        assert.strictEqual(
          reasonOf(() => encoded(codec, values)),
          "NonFinite"
        )
      }
  })

  it("refuses bytes of another length, and a start that is not aligned, on both sides", () => {
    const values = Float32Array.of(1, -2, 3, -4, 5)
    const bytes = encoded(codec, values)
    for (const wrong of [
      bytes.subarray(1),
      bytes.subarray(0, -1),
      new Uint8Array(bytes.length + 1),
      new Uint8Array(0)
    ]) {
      assert.strictEqual(
        reasonOf(() => codec.decode(wrong, new Float32Array(5))),
        "Length"
      )
      assert.strictEqual(
        reasonOf(() => codec.encode(values, wrong)),
        "Length"
      )
    }
    const shifted = new Uint8Array(bytes.length + 2).subarray(2)
    shifted.set(bytes)
    assert.strictEqual(
      reasonOf(() => codec.decode(shifted, new Float32Array(5))),
      "Length"
    )
  })

  it("makes of hostile bytes a typed error or finite values, and leaves the sum alone in the first case", () => {
    const random = new SeededRandom(7)
    let refused = 0
    for (let run = 0; run < 3_000; run++) {
      const elements = random.below(400)
      const values = Float32Array.from({ length: elements }, () => random.u32() / 2 ** 31 - 1)
      const bytes = encoded(codec, values)
      if (random.chance(20)) bytes.set(random.bytes(bytes.length))
      const hostile = random.chance(60) ? random.mutate(bytes) : bytes
      const target = new Float32Array(elements).fill(0.25)
      const into = new Float32Array(elements)
      const reason = reasonOf(() => codec.decode(hostile, into))
      assert.strictEqual(
        reasonOf(() => codec.decodeAdd(hostile, target)),
        reason
      )
      if (reason === "none") assert.isTrue(into.every(Number.isFinite))
      else {
        refused++
        assert.isTrue(target.every(value => value === 0.25))
      }
    }
    assert.isAbove(refused, 500)
  })

  it("reads and writes buffers of shared memory", () => {
    const values = Float32Array.from({ length: 300 }, (_, index) => Math.sin(index))
    const bytes = encoded(codec, values)
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
    const source = new Float32Array(new SharedArrayBuffer(1_200))
    source.set(values)
    codec.encode(source, shared)
    assert.deepStrictEqual(Uint8Array.from(shared), bytes)
  })
})

describe("Compression to float16", () => {
  const codec = codecOf("fp16")

  it("rounds each value to the nearest binary16, and keeps its error bound", () => {
    fc.assert(
      fc.property(moderate, values => {
        const back = decoded(codec, encoded(codec, values), values.length)
        assert.deepStrictEqual(back, values.map(Math.f16round))
        for (const [index, value] of values.entries()) {
          const lost = Math.abs(value - (back[index] ?? NaN))
          assert.isAtMost(lost, Math.abs(value) >= 2 ** -14 ? Math.abs(value) * 2 ** -11 : 2 ** -25)
        }
      }),
      { numRuns: 500, seed: 4 }
    )
  })

  it("refuses a magnitude that would become infinite, from either side", () => {
    const overflow = (value: number) => reasonOf(() => encoded(codec, Float32Array.of(0, value)))
    assert.strictEqual(overflow(65_519), "none")
    assert.strictEqual(overflow(-65_520), "Overflow")
    const bytes = encoded(codec, Float32Array.of(0, 1))
    for (const bits of [0x7c00, 0xfc00, 0x7e01]) {
      new DataView(bytes.buffer).setUint16(2, bits, true)
      assert.strictEqual(
        reasonOf(() => codec.decode(bytes, new Float32Array(2))),
        "NonFinite"
      )
    }
  })

  it("takes half the bytes", () => {
    assert.deepStrictEqual([0, 1, 1_000].map(codec.encodedBytes), [0, 2, 2_000])
  })
})

describe("Blockwise 8-bit compression", () => {
  const codec = codecOf("int8")
  const blocksOf = (values: Float32Array): ReadonlyArray<Float32Array> =>
    Array.from({ length: Math.ceil(values.length / int8BlockElements) }, (_, block) =>
      values.subarray(block * int8BlockElements, (block + 1) * int8BlockElements)
    )
  /** To the nearest integer, ties to even. */
  const rounded = (value: number): number => {
    const low = Math.floor(value)
    const up = value - low > 0.5 || (value - low === 0.5 && low % 2 !== 0)
    return up ? low + 1 : low
  }

  it("gives each block the scale max|x| / 127 and each element round(127 · x / max|x|), as the definition says", () => {
    fc.assert(
      fc.property(fc.array(fc.float({ min: -1e6, max: 1e6, noNaN: true }), { maxLength: 900 }), given => {
        const values = Float32Array.from(given)
        const bytes = encoded(codec, values)
        const blocks = blocksOf(values)
        const scales = new Float32Array(bytes.buffer, 0, blocks.length)
        const quanta = new Int8Array(bytes.buffer, 4 * blocks.length)
        blocks.forEach((block, index) => {
          const magnitude = Math.max(...block.map(Math.abs))
          const scale = Math.fround(magnitude / 127)
          if (scale < 2 ** -126) return
          assert.strictEqual(scales[index], scale)
          const expected = Array.from(block, value => rounded(value * (127 / magnitude)))
          const from = index * int8BlockElements
          assert.deepStrictEqual(
            [...quanta.subarray(from, from + block.length)],
            expected.map(q => q + 0)
          )
        })
      }),
      { numRuns: 300, seed: 5 }
    )
  })

  it("keeps every error within scale · (½ + 2⁻¹⁶), for values of any magnitude", () => {
    fc.assert(
      fc.property(arrays, values => {
        const back = decoded(codec, encoded(codec, values), values.length)
        blocksOf(values).forEach((block, index) => {
          const magnitude = Math.max(...block.map(Math.abs))
          const scale = magnitude / 127
          const atTheTop = magnitude > largest * (127 / 128) ? 2 : 1
          const bound = scale < 2 ** -126 ? 127 * 2 ** -126 : scale * (0.5 + 2 ** -16) * atTheTop
          block.forEach((value, at) => {
            assert.isAtMost(Math.abs(value - (back[index * int8BlockElements + at] ?? NaN)), bound)
          })
        })
      }),
      { numRuns: 500, seed: 6 }
    )
  })

  it("does not let an outlier spoil other blocks", () => {
    const values = new Float32Array(2 * int8BlockElements).fill(0.001)
    values[0] = 1_000
    const back = decoded(codec, encoded(codec, values), values.length)
    assert.strictEqual(back[1], 0)
    assert.closeTo(back[int8BlockElements] ?? NaN, 0.001, 1e-9)
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY, -1, -0, 2 ** -127, largest])("refuses the scale %d", scale => {
    const bytes = encoded(codec, Float32Array.of(1, 2, 3))
    new DataView(bytes.buffer).setFloat32(0, scale, true)
    assert.strictEqual(
      reasonOf(() => codec.decode(bytes, new Float32Array(3))),
      "Scale"
    )
  })

  it("takes one byte for each element and a scale for every 256", () => {
    assert.deepStrictEqual([0, 1, 256, 257].map(codec.encodedBytes), [0, 5, 260, 265])
  })
})

describe("Top-k compression", () => {
  /** Straight from the definition: sort by magnitude, of equal ones the lower index first, and take k. */
  const reference = (values: Float32Array, density: number): Float32Array => {
    const k = Math.min(values.length, Math.ceil(density * values.length))
    const order = Array.from(values.keys()).toSorted(
      (a, b) => Math.abs(values[b] ?? 0) - Math.abs(values[a] ?? 0) || a - b
    )
    const out = new Float32Array(values.length)
    for (const index of order.slice(0, k)) out[index] = values[index] ?? 0
    return out
  }
  const densities = fc.double({ min: 0.001, max: 1, noNaN: true })

  it("sends exactly the k largest magnitudes, of equal ones those with the lowest index", () => {
    fc.assert(
      fc.property(arrays, densities, (values, density) => {
        const codec = codecOf("topK", density)
        const bytes = encoded(codec, values)
        const k = Math.min(values.length, Math.ceil(density * values.length))
        assert.strictEqual(bytes.length, 8 * k)
        assert.deepStrictEqual(decoded(codec, bytes, values.length), reference(values, density))
        const indices = [...new Uint32Array(bytes.buffer, 0, k)]
        assert.deepStrictEqual(
          indices,
          [...new Set(indices)].toSorted((a, b) => a - b)
        )
      }),
      { numRuns: 1_000, seed: 8 }
    )
  })

  it("finds them among values that agree in all but the last bits, and among equal ones", () => {
    const random = new SeededRandom(11)
    for (const spread of [1, 3, 1_000, 2_000_000]) {
      const bits = Uint32Array.from(
        { length: 5_000 },
        () => 0x3f80_0000 + random.below(spread) + (random.u32() & (2 ** 31))
      )
      const values = new Float32Array(bits.buffer)
      const codec = codecOf("topK", 0.1)
      assert.deepStrictEqual(decoded(codec, encoded(codec, values), 5_000), reference(values, 0.1))
    }
  })

  it("contracts: what it loses is at most (1 − k/n) of the square norm (Stich et al., definition 2.1)", () => {
    const ordinary = fc.array(fc.float({ min: -1e3, max: 1e3, noNaN: true }), { minLength: 1, maxLength: 600 })
    fc.assert(
      fc.property(ordinary, densities, (given, density) => {
        const values = Float32Array.from(given)
        const error = new Float32Array(values.length)
        const sent = encoded(codecOf("topK", density), values, error).length / 8
        assert.isAtMost(squares(error), (1 - sent / values.length) * squares(values) * (1 + 1e-12))
      }),
      { numRuns: 500, seed: 9 }
    )
  })

  it.each([
    { name: "an index beyond the end", indices: [1, 8] },
    { name: "an index twice", indices: [3, 3] },
    { name: "indices out of order", indices: [5, 2] }
  ])("refuses $name", ({ indices }) => {
    const bytes = new Uint8Array(16)
    new Uint32Array(bytes.buffer).set(indices)
    assert.strictEqual(
      reasonOf(() => codecOf("topK").decode(bytes, new Float32Array(8))),
      "Index"
    )
  })

  it("refuses a value that is not finite", () => {
    const bytes = new Uint8Array(16)
    new Uint32Array(bytes.buffer).set([1, 2])
    new Float32Array(bytes.buffer)[3] = Number.NaN
    assert.strictEqual(
      reasonOf(() => codecOf("topK").decode(bytes, new Float32Array(8))),
      "NonFinite"
    )
  })
})

describe("The options of compression", () => {
  it("default to none, and to a hundredth of the elements", () => {
    assert.deepStrictEqual(readCompression({}), { compression: "none", density: 0.01 })
    assert.deepStrictEqual(readCompression({ compression: "topK", density: 0.5 }), {
      compression: "topK",
      density: 0.5
    })
  })

  it.each([
    [{ compression: "zip" }, "strategy.compression", "one of none, fp16, int8, topK"],
    [{ density: 0 }, "strategy.density", "a number above 0 to 1"],
    [{ densty: 1 }, "strategy.densty", "strategy.density"]
  ])("refuse %j", (given, path, allowed) => {
    const refused = () => readCompression(given, { prefix: "strategy" })
    assert.throws(refused, JobOptionError, path)
    assert.throws(refused, JobOptionError, allowed)
  })
})
