import { Option, Schema } from "effect"
import { describe, expect, it } from "vitest"
import { codecFor } from "../../src/rpc/RpcCodec.ts"

interface Tree {
  readonly leaf: Uint8Array
  readonly branches: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  leaf: Schema.Uint8Array,
  branches: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})
class Shard extends Schema.Class<Shard>("Shard")({ id: Schema.Number, data: Schema.Uint8Array }) {}

const bytes = new Uint8Array([1, 2, 3])

/** Every Uint8Array inside a value. */
const bytesIn = (value: unknown): Array<Uint8Array> =>
  value instanceof Uint8Array
    ? [value]
    : typeof value === "object" && value !== null
      ? Object.values(value).flatMap(bytesIn)
      : []

describe("the codec of RPC payloads", () => {
  it.each<[string, Schema.Codec<unknown, unknown>, unknown]>([
    ["alone", Schema.Uint8Array, bytes],
    ["in a struct", Schema.Struct({ a: Schema.Uint8Array, n: Schema.Number }), { a: bytes, n: 1 }],
    ["under an optional key", Schema.Struct({ a: Schema.optional(Schema.Uint8Array) }), { a: bytes }],
    ["in an array", Schema.Array(Schema.Uint8Array), [bytes, bytes]],
    ["in a tuple", Schema.Tuple([Schema.String, Schema.Uint8Array]), ["x", bytes]],
    ["in a record", Schema.Record(Schema.String, Schema.Uint8Array), { any: bytes }],
    ["in a union", Schema.Union([Schema.String, Schema.Uint8Array]), bytes],
    ["in a class", Shard, new Shard({ id: 1, data: bytes })],
    ["in an Option", Schema.Option(Schema.Uint8Array), Option.some(bytes)],
    ["in a Map", Schema.ReadonlyMap(Schema.String, Schema.Uint8Array), new Map([["a", bytes]])],
    ["in a recursive schema", Tree, { leaf: bytes, branches: [{ leaf: bytes, branches: [] }] }],
    ["under a check", Schema.Uint8Array.check(Schema.makeFilter(value => value.length < 10)), bytes]
  ])("leaves bytes %s as bytes, and decodes them again", (_, schema, value) => {
    const codec = codecFor(schema)
    const encoded = Schema.encodeSync(codec)(value)
    expect(bytesIn(encoded).length).toBeGreaterThan(0)
    for (const each of bytesIn(encoded)) expect(each).toEqual(bytes)
    expect(JSON.stringify(encoded)).not.toContain("AQID")
    expect(Schema.decodeUnknownSync(codec)(encoded)).toEqual(value)
  })

  it("is else the JSON codec: dates, bigints and undefined take forms that msgpack has", () => {
    const schema = Schema.Struct({ at: Schema.Date, big: Schema.BigInt, none: Schema.Undefined, nan: Schema.Number })
    const value = { at: new Date(0), big: 2n ** 70n, none: undefined, nan: NaN }
    const encoded = Schema.encodeSync(codecFor(schema))(value)
    expect(encoded).toEqual({ at: "1970-01-01T00:00:00.000Z", big: String(2n ** 70n), none: null, nan: "NaN" })
    expect(Schema.decodeUnknownSync(codecFor(schema))(encoded)).toEqual(value)
  })

  it.each([
    ["a string", "AQID"],
    ["an array", [1, 2, 3]],
    ["null", null]
  ])("does not take %s for bytes", (_, encoded) => {
    expect(() => Schema.decodeUnknownSync(codecFor(Schema.Uint8Array))(encoded)).toThrow(/Uint8Array/)
  })

  it("still checks the bytes", () => {
    const short = Schema.Uint8Array.check(Schema.makeFilter(value => value.length < 2))
    expect(() => Schema.decodeUnknownSync(codecFor(short))(bytes)).toThrow(/filter/)
  })
})
