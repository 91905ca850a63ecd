import { assert, describe, it } from "vitest"
import { sllpCloseCodes } from "../../src/protocol/sllp/CloseCodes.ts"
import * as constants from "../../src/protocol/sllp/constants.ts"
import { frameTypes } from "../../src/protocol/sllp/Frames.ts"
import { codeOf, constantsOf, numberOf, readText, rowsOf, section } from "./Pages.ts"

const page = readText("docs/protocol/sllp.md")
const plain = (name: string): string => name.replaceAll(/[_\s]/g, "").toLowerCase()
const sorted = (values: Iterable<readonly [string, number]>) => [...values].toSorted(([, a], [, b]) => a - b)

/** Ratios are written as such. */
const valueOf = (written: string): number => {
  const [over, under] = written.split("/")
  return under === undefined ? Number(numberOf(written)) : Number(over) / Number(under)
}

describe("docs/protocol/sllp.md", () => {
  it("names every constant of SLLP, with its value", () => {
    const written = constantsOf(page)
    const named: Readonly<Record<string, number>> = constants
    for (const [name, value] of written) assert.strictEqual(valueOf(value), named[name], `${name}: "${value}"`)
    assert.sameMembers(
      written.map(([name]) => name),
      Object.keys(constants)
    )
  })

  it("numbers frames as the code does", () => {
    const rows = rowsOf(section(page, "4.3 Frames")).filter(row => row["frame"] !== undefined)
    assert.deepStrictEqual(
      sorted(rows.map(row => [plain(row["frame"] ?? ""), Number(row["type"])] as const)),
      sorted(Object.entries(frameTypes).map(([name, type]) => [plain(name), type]))
    )
  })

  it("numbers the codes of CLOSE as the code does", () => {
    const rows = rowsOf(section(page, "4.6 End")).filter(row => row["name"] !== undefined)
    assert.deepStrictEqual(
      rows.map(row => [codeOf(row["name"]), Number(row["code"])]),
      Object.entries(sllpCloseCodes)
    )
  })
})
