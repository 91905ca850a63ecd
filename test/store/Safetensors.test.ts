import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import fc from "fast-check"
import { assert, beforeEach, describe, it } from "vitest"
import { concat, utf8 } from "../../src/protocol/Bytes.ts"
import {
  decodeHeader,
  decodeLength,
  dtypeBytes,
  encodeHeader,
  lengthBytes,
  maxHeaderBytes,
  SafetensorsError,
  type Dtype,
  type Tensor
} from "../../src/store/Safetensors.ts"
import { need, pythonService } from "../support/services.ts"

const u64 = (value: bigint): Uint8Array => {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, true)
  return bytes
}

const decode = (json: string, dataBytes: number) => decodeHeader(utf8(json), dataBytes)
const message = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    if (error instanceof SafetensorsError) return error.message
    throw error
  }
  return assert.fail("it was taken")
}

const dtypes = Object.keys(dtypeBytes).filter((name): name is Dtype => name in dtypeBytes)

describe("A safetensors header", () => {
  it("is the bytes that the format's page describes", () => {
    const { bytes, dataBytes } = encodeHeader([
      { name: "b", dtype: "F64", shape: [2] },
      { name: "10", dtype: "F32", shape: [1, 3] },
      { name: "2", dtype: "F32", shape: [] }
    ])
    const json =
      '{"b":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},' +
      '"10":{"dtype":"F32","shape":[1,3],"data_offsets":[16,28]},' +
      '"2":{"dtype":"F32","shape":[],"data_offsets":[28,32]}}'
    const padding = " ".repeat((8 - (json.length % 8)) % 8)
    assert.deepStrictEqual(bytes, concat(u64(BigInt(json.length + padding.length)), utf8(json + padding)))
    assert.strictEqual(bytes.length % 8, 0)
    assert.strictEqual(dataBytes, 32)
  })

  it("reads back as it was written", () => {
    const tensors = fc.uniqueArray(
      fc.record<Tensor>({
        name: fc.string({ unit: "grapheme" }).filter(name => name !== "__metadata__"),
        dtype: fc.constantFrom(...dtypes),
        shape: fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 4 })
      }),
      { selector: ({ name }) => name, maxLength: 20 }
    )
    const metadata = fc.dictionary(
      fc.string({ minLength: 1 }).filter(key => key !== "__proto__"),
      fc.string()
    )
    fc.assert(
      fc.property(tensors, metadata, (tensors, metadata) => {
        const { bytes, dataBytes } = encodeHeader(tensors, metadata)
        const length = decodeLength(bytes.subarray(0, lengthBytes), bytes.length + dataBytes)
        assert.strictEqual(length, bytes.length - lengthBytes)
        const header = decodeHeader(bytes.subarray(lengthBytes), dataBytes)
        const byName = new Map(header.tensors.map(tensor => [tensor.name, tensor]))
        let begin = 0
        for (const tensor of tensors) {
          const end = begin + tensor.shape.reduce((product, each) => product * each, dtypeBytes[tensor.dtype])
          assert.deepStrictEqual(byName.get(tensor.name), { ...tensor, begin, end })
          begin = end
        }
        assert.strictEqual(header.tensors.length, tensors.length)
        assert.deepStrictEqual({ ...header.metadata }, { ...metadata })
      })
    )
  })

  it.each([
    { what: "a name twice", names: ["a", "b", "a"] },
    { what: "the format's own name", names: ["__metadata__"] }
  ])("is not written with $what", ({ names }) => {
    const tensors = names.map((name): Tensor => ({ name, dtype: "F32", shape: [1] }))
    assert.match(
      message(() => encodeHeader(tensors)),
      /the name is taken/
    )
  })

  const entry = (begin: number, end: number, more = '"dtype":"U8"', shape = `[${end - begin}]`) =>
    `{${more},"shape":${shape},"data_offsets":[${begin},${end}]}`

  it.each([
    { what: "nothing", json: "", dataBytes: 0, says: /does not begin with \{/ },
    { what: "a list", json: "[]", dataBytes: 0, says: /does not begin with \{/ },
    { what: "leading space", json: " {}", dataBytes: 0, says: /does not begin with \{/ },
    { what: "text that is no JSON", json: "{a}", dataBytes: 0, says: /not JSON/ },
    { what: "a gap", json: `{"a":${entry(0, 4)},"b":${entry(5, 8)}}`, dataBytes: 8, says: /begins at 5, where 4/ },
    { what: "an overlap", json: `{"a":${entry(0, 4)},"b":${entry(3, 8)}}`, dataBytes: 8, says: /begins at 3, where 4/ },
    { what: "the same bytes twice", json: `{"a":${entry(0, 4)},"b":${entry(0, 4)}}`, dataBytes: 4, says: /where 4/ },
    {
      what: "a name twice",
      json: `{"a":${entry(0, 4)},"a":${entry(4, 8)}}`,
      dataBytes: 8,
      says: /begins at 4, where 0/
    },
    { what: "data left over", json: `{"a":${entry(0, 4)}}`, dataBytes: 5, says: /fill 4 bytes of 5/ },
    { what: "more than the data", json: `{"a":${entry(0, 4)}}`, dataBytes: 3, says: /fill 4 bytes of 3/ },
    { what: "an end before its begin", json: `{"a":${entry(4, 0, undefined, "[4]")}}`, dataBytes: 4, says: /-4 bytes/ },
    {
      what: "a shape of another size",
      json: `{"a":${entry(0, 4, undefined, "[5]")}}`,
      dataBytes: 4,
      says: /its shape 5/
    },
    {
      what: "a dtype of another size",
      json: `{"a":${entry(0, 4, '"dtype":"F32"')}}`,
      dataBytes: 4,
      says: /its shape 16/
    },
    { what: "an unknown dtype", json: `{"a":${entry(0, 4, '"dtype":"F4"')}}`, dataBytes: 4, says: /unknown dtype/ },
    { what: "a negative length", json: `{"a":${entry(0, 4, undefined, "[-4]")}}`, dataBytes: 4, says: /unknown dtype/ },
    {
      what: "a length that is no integer",
      json: `{"a":${entry(0, 4, undefined, "[0.5]")}}`,
      dataBytes: 4,
      says: /not one/
    },
    {
      what: "a size beyond counting",
      json: `{"a":${entry(0, 4, undefined, "[9007199254740991,2]")}}`,
      dataBytes: 4,
      says: /counted/
    },
    {
      what: "too many dimensions",
      json: `{"a":${entry(0, 1, undefined, `[${"1,".repeat(32)}1]`)}}`,
      dataBytes: 1,
      says: /not one/
    },
    {
      what: "an offset as text",
      json: '{"a":{"dtype":"U8","shape":[1],"data_offsets":["0",1]}}',
      dataBytes: 1,
      says: /not one/
    },
    { what: "an entry that is null", json: '{"a":null}', dataBytes: 0, says: /not one/ },
    { what: "metadata that are numbers", json: '{"__metadata__":{"a":1}}', dataBytes: 0, says: /metadata/ }
  ])("is refused with $what", ({ json, dataBytes, says }) => {
    assert.match(
      message(() => decode(json, dataBytes)),
      says
    )
  })

  it("is refused when it is not UTF-8", () => {
    assert.match(
      message(() => decodeHeader(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0)),
      /UTF-8/
    )
  })

  it.each([
    { what: "a file without a whole length", first: new Uint8Array(7), fileBytes: 7, says: /no header/ },
    { what: "a length beyond the file", first: u64(93n), fileBytes: 100, says: /but the file has 100/ },
    {
      what: "a length above the bound",
      first: u64(BigInt(maxHeaderBytes) + 1n),
      fileBytes: 2 ** 40,
      says: /more than/
    },
    { what: "the largest length", first: u64(2n ** 64n - 1n), fileBytes: 2 ** 52, says: /more than/ }
  ])("is not read from $what", ({ first, fileBytes, says }) => {
    assert.match(
      message(() => decodeLength(first, fileBytes)),
      says
    )
  })

  it("may reach to the end of the file, and be as long as the bound", () => {
    assert.strictEqual(decodeLength(u64(92n), 100), 92)
    assert.strictEqual(decodeLength(u64(BigInt(maxHeaderBytes)), 2 ** 40), maxHeaderBytes)
  })
})

describe("A safetensors file", () => {
  beforeEach(context => need(pythonService, context))

  it("is read by another program", () => {
    const folder = mkdtempSync(join(tmpdir(), "artifice-safetensors-"))
    try {
      const tensors: ReadonlyArray<Tensor> = [
        { name: "scalars", dtype: "F64", shape: [1] },
        { name: "hidden.weight", dtype: "F32", shape: [2, 1] },
        { name: "größe", dtype: "U8", shape: [3] },
        { name: "empty", dtype: "F32", shape: [0, 4] }
      ]
      const { bytes, dataBytes } = encodeHeader(tensors, { made: "by a test" })
      const data = Uint8Array.from({ length: dataBytes }, (_, index) => index)
      const path = join(folder, "some.safetensors")
      writeFileSync(path, concat(bytes, data))
      const script = join(import.meta.dirname, "../support/read_safetensors.py")
      const { status, stdout, stderr } = spawnSync("python3", [script, path], { encoding: "utf8" })
      assert.strictEqual(status, 0, stderr)
      const [, ...lines] = stdout.trim().split("\n")
      const hex = (from: number, to: number): string => Buffer.from(data.subarray(from, to)).toString("hex")
      assert.deepStrictEqual(
        lines.map(line => JSON.parse(line)),
        [
          ["empty", "F32", [0, 4], ""],
          ["größe", "U8", [3], hex(16, 19)],
          ["hidden.weight", "F32", [2, 1], hex(8, 16)],
          ["scalars", "F64", [1], hex(0, 8)]
        ]
      )
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
