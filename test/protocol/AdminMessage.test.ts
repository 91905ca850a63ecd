import { Packr } from "msgpackr"
import { describe, expect, it } from "vitest"
import { decodeAdmin, encodeAdmin, maxAdminDepth, maxAdminElements } from "../../src/protocol/AdminMessage.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"

const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(/\s/g, ""), "hex"))
const ascii = (text: string): string => Buffer.from(text).toString("hex")
/** A message of kind 1 whose map has the one key "a" with the given msgpack value. */
const holding = (value: string): Uint8Array => hex(`92 01 81 a161 ${value}`)

const codeOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof ProtocolError) return error.code
    throw error
  }
  return "accepted"
}

describe("an administrative message", () => {
  it("is [kind, body] in msgpack, and comes back as it was", () => {
    const body = {
      n: 7,
      big: 2 ** 40,
      float: 1.5,
      text: "naïve ☃",
      yes: true,
      none: null,
      list: [1, [2]],
      map: { x: -1 }
    }
    expect(Buffer.from(encodeAdmin(1, { a: 1 })).toString("hex")).toBe("920181a16101")
    expect(decodeAdmin(encodeAdmin(0xffff, body))).toEqual({ kind: 0xffff, body })
  })

  it("keeps bytes as bytes, and the decoded ones do not share memory with the message", () => {
    const message = encodeAdmin(1, { bytes: new Uint8Array([1, 2, 3]) })
    const { body } = decodeAdmin(message)
    message.fill(0)
    expect(body.bytes).toBeInstanceOf(Uint8Array)
    expect(body.bytes).not.toBeInstanceOf(Buffer)
    expect(Array.from(body.bytes as Uint8Array)).toEqual([1, 2, 3])
  })

  it("leaves out undefined properties", () => {
    expect(decodeAdmin(encodeAdmin(1, { a: undefined, b: 1 })).body).toEqual({ b: 1 })
  })

  it.each([
    ["a Date", new Date()],
    ["a bigint above 2^53", 2n ** 60n],
    ["a bigint above 2^64", 2n ** 70n],
    ["a symbol", Symbol("s")],
    ["a Map with number keys", new Map([[1, 2]])],
    ["a key __proto__", JSON.parse('{"__proto__": 1}')]
  ])("refuses to encode %s", (_, value) => {
    expect(codeOf(() => encodeAdmin(1, { value }))).toBe("MALFORMED")
  })

  it("sends a Set as an array, a function as nil, and never a lone surrogate", () => {
    const body = { set: new Set([1]), run: () => 1, long: "x".repeat(100) + "\udc00" }
    expect(decodeAdmin(encodeAdmin(1, body)).body).toEqual({ set: [1], run: null, long: "x".repeat(100) + "\ufffd" })
    expect(codeOf(() => encodeAdmin(1, { short: "\ud800" }))).toBe("MALFORMED")
  })

  it.each([-1, 65_536, 1.5, NaN])("refuses to encode the kind %d", kind => {
    expect(codeOf(() => encodeAdmin(kind, {}))).toBe("MALFORMED")
  })

  it.each([
    ["nothing", hex("")],
    ["a value that is not an array", hex("81a16101")],
    ["an array of one", hex("9101")],
    ["an array of three", hex("93018001")],
    ["a long form of the outer array", hex("dc00020180")],
    ["a negative kind", hex("92ff80")],
    ["a kind above u16", hex("92ce0001000080")],
    ["a fractional kind", hex("92cb3ff800000000000080")],
    ["a body that is an array", hex("920190")],
    ["a body that is nil", hex("9201c0")],
    ["a body that is bytes", hex("9201c400")],
    ["a trailing byte", hex("9201 80 00")],
    ["an extension (fixext 1)", holding("d40001")],
    ["an extension (a msgpackr record definition)", holding("d47240 92 a161 a162 01")],
    ["an extension (timestamp)", holding("d6ff00000000")],
    ["an extension (ext 8)", holding("c70001")],
    ["the unused type c1", holding("c1")],
    ["overlong UTF-8", holding("a2c080")],
    ["a UTF-8 surrogate", holding("a3eda080")],
    ["truncated UTF-8", holding("a1c3")],
    ["a key that is not UTF-8", hex("9201 81 a1ff 01")],
    ["the same key twice", hex("9201 82 a161 01 a161 02")],
    ["the same key twice in two encodings", hex("9201 82 a161 01 d90161 02")],
    ["a key that is a number", hex("9201 81 01 01")],
    ["a key that is bytes", hex("9201 81 c40161 01")],
    ["the key __proto__", hex(`9201 81 a9${ascii("__proto__")} 80`)],
    ["u64 2^53", holding("cf0020000000000000")],
    ["i64 -2^53", holding("d3ffe0000000000000")],
    ["an array longer than the rest", holding("dd0000ff00")],
    ["a map longer than the rest", holding("de4000")],
    ["a string longer than the rest", holding("dbffffffff")],
    ["bytes longer than the rest", holding("c6ffffffff00")]
  ])("is MALFORMED as %s", (_, bytes) => {
    expect(codeOf(() => decodeAdmin(bytes))).toBe("MALFORMED")
  })

  it("is MALFORMED at every truncation, and with any byte after it", () => {
    const message = encodeAdmin(300, {
      a: [1, 2.5, "text", new Uint8Array(300), { b: -70_000, c: 2 ** 33 }],
      long: "x".repeat(70_000)
    })
    for (let end = 0; end < message.length; end += end < 400 ? 1 : 997)
      expect(codeOf(() => decodeAdmin(message.subarray(0, end)))).toBe("MALFORMED")
    expect(codeOf(() => decodeAdmin(Buffer.concat([message, Buffer.of(0xc0)])))).toBe("MALFORMED")
  })

  it("takes 64-bit integers up to ±(2^53 - 1)", () => {
    expect(decodeAdmin(holding("cf001fffffffffffff")).body.a).toBe(Number.MAX_SAFE_INTEGER)
    expect(decodeAdmin(holding("d3ffe0000000000001")).body.a).toBe(Number.MIN_SAFE_INTEGER)
  })

  it("may nest 16 deep and not 17", () => {
    const nested = (depth: number) => holding("91".repeat(depth - 3) + "90")
    expect(codeOf(() => decodeAdmin(nested(maxAdminDepth)))).toBe("accepted")
    expect(codeOf(() => decodeAdmin(nested(maxAdminDepth + 1)))).toBe("TOO_LARGE")
    expect(codeOf(() => decodeAdmin(nested(100_000)))).toBe("TOO_LARGE")
  })

  it("may hold 65,536 elements and not one more", () => {
    // The outer array, the kind, the body, its key and the list take five.
    const list = (count: number) => ({ a: Array.from({ length: count }, () => 0) })
    expect(codeOf(() => encodeAdmin(1, list(maxAdminElements - 5)))).toBe("accepted")
    expect(codeOf(() => encodeAdmin(1, list(maxAdminElements - 4)))).toBe("TOO_LARGE")
    expect(codeOf(() => decodeAdmin(new Packr({ useRecords: false }).pack([1, list(maxAdminElements - 4)])))).toBe(
      "TOO_LARGE"
    )
  })

  it("cannot touch a prototype through any key", () => {
    const keys = ["constructor", "prototype", "toString", "hasOwnProperty"]
    const { body } = decodeAdmin(encodeAdmin(1, Object.fromEntries(keys.map(key => [key, { polluted: true }]))))
    expect(Object.keys(body)).toEqual(keys)
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
    expect(Object.getPrototypeOf({})).toBe(Object.prototype)
  })

  it("lets nothing but ProtocolError out of 100,000 mutated messages, and what passes encodes again to the same", () => {
    const random = mulberry32(20_261_123)
    const below = (n: number) => Math.floor(random() * n)
    const seeds = [
      encodeAdmin(256, {
        _tag: "Request",
        id: 1,
        tag: "Join",
        payload: { name: "ä", list: [1, 2.5, null, true] },
        headers: []
      }),
      encodeAdmin(257, { _tag: "Exit", requestId: 9, exit: { _tag: "Success", value: new Uint8Array(40) } }),
      encodeAdmin(4, { addresses: Array.from({ length: 20 }, (_, i) => ({ host: `10.0.0.${i}`, port: 7000 + i })) }),
      encodeAdmin(5, {
        a: { b: { c: { d: { e: [[[["deep"]]]] } } } },
        n: -(2 ** 31),
        m: 2 ** 32 - 1,
        s: "x".repeat(300)
      }),
      hex(`9201 83 a161 cf001fffffffffffff a162 d3ffe0000000000001 a163 ca3fc00000`)
    ]
    let accepted = 0
    for (let run = 0; run < 100_000; run++) {
      const seed = seeds[below(seeds.length)] ?? hex("")
      let bytes = new Uint8Array(seed)
      for (let edits = 1 + below(4); edits > 0; edits--) {
        const at = below(bytes.length)
        switch (below(5)) {
          case 0:
            bytes[at] = below(256)
            break
          case 1:
            bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8))
            break
          case 2:
            bytes = bytes.slice(0, at + 1)
            break
          case 3:
            bytes = new Uint8Array(Buffer.concat([bytes.subarray(0, at), bytes.subarray(below(at + 1))]))
            break
          default:
            // The bytes that begin containers, strings, extensions and wide numbers.
            bytes[at] = 0x80 + below(0x60)
        }
      }
      try {
        const { kind, body } = decodeAdmin(bytes)
        accepted++
        expect(decodeAdmin(encodeAdmin(kind, body))).toEqual({ kind, body })
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        expect(["MALFORMED", "TOO_LARGE"]).toContain(error.code)
      }
    }
    expect(accepted).toBeGreaterThan(1_000)
  })
})

/** A small seeded generator (Tommy Ettinger's mulberry32, public domain), so that a failure can be run again. */
function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
