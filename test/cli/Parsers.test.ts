import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { parseDuration } from "../../apps/cli/src/Duration.ts"
import { formatHostPort, parseHostPort } from "../../apps/cli/src/HostPort.ts"
import { LineSplitter } from "../../apps/cli/src/LineSplitter.ts"
import { parseOverride } from "../../apps/cli/src/Override.ts"
import { choosePeer, parsePeerPrefix } from "../../apps/cli/src/PeerChoice.ts"

describe("HOST:PORT", () => {
  it.each([
    { text: "127.0.0.1:0", host: "127.0.0.1", port: 0 },
    { text: "0.0.0.0:65535", host: "0.0.0.0", port: 65_535 },
    { text: "box.example.org:7000", host: "box.example.org", port: 7000 },
    { text: "localhost:1", host: "localhost", port: 1 },
    { text: "[::1]:7000", host: "::1", port: 7000 },
    { text: "[fe80::1]:80", host: "fe80::1", port: 80 }
  ])("reads $text and writes it back", ({ text, host, port }) => {
    assert.deepStrictEqual(parseHostPort(text), Result.succeed({ host, port }))
    assert.strictEqual(formatHostPort({ host, port }), text)
  })

  it.each([
    { text: "7000", expected: "HOST:PORT" },
    { text: "host", expected: "HOST:PORT" },
    { text: "host:", expected: "HOST:PORT" },
    { text: "host:http", expected: "HOST:PORT" },
    { text: "host:-1", expected: "HOST:PORT" },
    { text: ":7000", expected: "a host before the colon" },
    { text: "host:65536", expected: "a port from 0 to 65535" },
    { text: "::1:7000", expected: "in brackets" },
    { text: "::1", expected: "in brackets" },
    { text: "[127.0.0.1]:80", expected: "IPv6 address between the brackets" },
    { text: "a b:80", expected: "a host name" },
    { text: "-x:80", expected: "a host name" }
  ])("refuses $text and says what is expected", ({ text, expected }) => {
    const parsed = parseHostPort(text)
    assert.isTrue(Result.isFailure(parsed))
    if (Result.isFailure(parsed)) assert.include(parsed.failure, expected)
  })
})

describe("--set path=value", () => {
  it.each([
    { text: "epochs=5", path: "epochs", value: "5" },
    { text: "optimizer.learningRate=1e-3", path: "optimizer.learningRate", value: "1e-3" },
    { text: "name=a=b", path: "name", value: "a=b" },
    { text: "name=", path: "name", value: "" }
  ])("reads $text", ({ text, path, value }) => {
    assert.deepEqual(Result.getOrThrow(parseOverride(text)), [path, value])
  })

  it.each(["epochs", "=5", ".a=1", "a..b=1", "a b=1", "a.=1", "9=1"])("refuses %s", text => {
    assert.isTrue(Result.isFailure(parseOverride(text)))
  })
})

describe("a peer id", () => {
  const known = ["3f9a".repeat(16), "3f9b".repeat(16), "ab".repeat(32)]

  it("is 64 hex digits or their beginning, in whatever case, with the colons of the short form or without", () => {
    assert.deepStrictEqual(parsePeerPrefix("AB".repeat(32)), Result.succeed("ab".repeat(32)))
    assert.deepStrictEqual(parsePeerPrefix("3F9A:3f9a"), Result.succeed("3f9a3f9a"))
    for (const text of ["", "abc", "ab".repeat(33), `${"ab".repeat(31)}zz`, "xyzw"]) {
      assert.isTrue(Result.isFailure(parsePeerPrefix(text)))
    }
  })

  it.effect("means the one known peer whose id begins so", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* choosePeer("3f9a", known), known[0])
      assert.strictEqual(yield* choosePeer("ab".repeat(32), known), known[2])
      const several = yield* Effect.flip(choosePeer("3f9", known))
      assert.deepStrictEqual([several.code, several.exitCode], ["AMBIGUOUS_PEER", 2])
      for (const id of known.slice(0, 2)) assert.include(several.message, id)
      const nobody = yield* Effect.flip(choosePeer("cdef", known))
      assert.deepStrictEqual([nobody.code, nobody.exitCode], ["NOT_PAIRED", 3])
    })
  )
})

describe("a duration", () => {
  it("is a whole number with its unit, from 10 s to 7 d", () => {
    for (const [text, ms] of [
      ["10s", 10_000],
      ["90s", 90_000],
      ["10m", 600_000],
      ["2h", 7_200_000],
      ["7d", 604_800_000]
    ] as const)
      assert.deepStrictEqual(parseDuration(text), Result.succeed(ms))
    for (const text of ["", "10", "m", "1.5h", "-5m", "9s", "8d", "5w", "10 m", "1e3s", "9999999999d"])
      assert.isTrue(Result.isFailure(parseDuration(text)), text)
  })
})

describe("lines", () => {
  it("come whole, however the text is cut", () => {
    const text = "one\ntwo\r\n\nfour"
    for (let cut = 0; cut <= text.length; cut++) {
      const lines = new LineSplitter(100)
      const got = [...lines.push(text.slice(0, cut)), ...lines.push(text.slice(cut)), ...lines.end()]
      assert.deepStrictEqual(got, ["one", "two", "", "four"])
    }
  })

  it("that are too long are dropped and counted, and the next ones are read", () => {
    const lines = new LineSplitter(4)
    assert.deepStrictEqual(lines.push("12345"), [])
    assert.deepStrictEqual(lines.push("67890\n1234\n"), ["1234"])
    assert.deepStrictEqual(lines.push("123456\nok"), [])
    assert.deepStrictEqual(lines.end(), ["ok"])
    assert.strictEqual(lines.dropped, 2)
  })
})
