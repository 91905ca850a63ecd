import { assert, describe, it } from "vitest"
import { AggregationError, aggregationFields, membersNeeded, readAggregation } from "../../src/compute/Aggregation.ts"
import { blockElements } from "../../src/compute/Blocks.ts"
import { CompressionError } from "../../src/compute/Codec.ts"
import { compressionFields, makeCodec, readCompression } from "../../src/compute/Compression.ts"
import { int8BlockElements } from "../../src/compute/Int8Codec.ts"
import { localSgdFields } from "../../src/compute/LocalSgd.ts"
import { AuditError } from "../../src/training/AuditStatement.ts"
import { evidenceKinds } from "../../src/training/AuditEvidence.ts"
import { DeltaRefused } from "../../src/training/DeltaLedger.ts"
import { codeOf, readText, rowsOf, section } from "./Pages.ts"

const compression = readText("docs/compression.md")
const aggregation = readText("docs/aggregation.md")
const audit = readText("docs/audit.md")
const localSgd = readText("docs/local-sgd.md")

const reasonsOf = (error: { readonly fields: { readonly reason: { readonly literals: ReadonlyArray<string> } } }) =>
  error.fields.reason.literals

describe.each([
  ["docs/compression.md", compression, compressionFields],
  ["docs/aggregation.md", aggregation, aggregationFields],
  ["docs/local-sgd.md", localSgd, localSgdFields]
])("%s", (_, page, fields) => {
  it("lists the options with the defaults and ranges that the code has", () => {
    const rows = rowsOf(page).filter(row => row["option"] !== undefined)
    assert.deepStrictEqual(
      rows.map(row => [codeOf(row["option"]), row["default"], row["allowed"]]),
      Object.entries(fields).map(([name, option]) => [name, String(option.default), option.allowed])
    )
  })
})

describe("docs/compression.md", () => {
  it("gives the bytes of each format, and the sizes of blocks", () => {
    const formulas: Readonly<Record<string, (n: number, density: number) => number>> = {
      "4n": n => 4 * n,
      "2n": n => 2 * n,
      "n + 4·⌈n / 256⌉": n => n + 4 * Math.ceil(n / 256),
      "8 · ⌈density · n⌉": (n, density) => 8 * Math.ceil(density * n)
    }
    const rows = rowsOf(compression).filter(row => row["bytes"] !== undefined)
    assert.lengthOf(rows, 4)
    for (const row of rows) {
      const codec = makeCodec(readCompression({ compression: codeOf(row["format"]) }))
      for (const n of [0, 1, 1_000, 235_146])
        assert.strictEqual(codec.encodedBytes(n), formulas[row["bytes"] ?? ""]?.(n, 0.01), row["bytes"])
    }
    assert.strictEqual(int8BlockElements, 256)
    assert.include(section(compression, "Speed"), `blocks of ${blockElements} elements`)
  })

  it("says what every error means", () => {
    const written = rowsOf(compression).flatMap(row =>
      row["reason"] === undefined ? [] : [codeOf(row["reason"]) ?? ""]
    )
    assert.sameMembers(written, [...reasonsOf(CompressionError)])
  })
})

describe("docs/aggregation.md", () => {
  it("says how many members each rule needs", () => {
    const rows = rowsOf(aggregation).filter(row => row["needs"] !== undefined)
    assert.lengthOf(rows, 4)
    for (const row of rows) {
      const [, factor, plus] = /^N ≥ (\d)f \+ (\d)$/.exec(row["needs"] ?? "") ?? []
      const needed = (hostile: number) => membersNeeded(readAggregation({ aggregation: codeOf(row["rule"]), hostile }))
      for (const hostile of [0, 1, 5]) assert.strictEqual(needed(hostile), Number(factor) * hostile + Number(plus))
    }
    for (const reason of reasonsOf(AggregationError)) assert.include(aggregation, `\`${reason}\``)
  })
})

describe("docs/audit.md and docs/local-sgd.md", () => {
  it("name every reason for which something is refused, and every kind of evidence", () => {
    for (const reason of reasonsOf(AuditError)) assert.include(audit, `\`${reason}\``)
    const kinds = rowsOf(audit).flatMap(row => codeOf(row["evidence"]) ?? [])
    assert.sameMembers([...new Set(kinds)], [...evidenceKinds])
    for (const reason of reasonsOf(DeltaRefused)) assert.include(localSgd, `\`${reason}\``)
  })
})
