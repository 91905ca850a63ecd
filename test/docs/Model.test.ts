import { assert, describe, it } from "vitest"
import { codeOf, readText, rowsOf } from "./Pages.ts"

const folder = "docs/protocol"
const rows = rowsOf(readText(`${folder}/README.md`))

/** What ProVerif said of a scenario; nothing where it came to no end. */
const recorded = new Map(
  ["results-paired.txt", "results-invite.txt"].flatMap(file =>
    readText(`${folder}/${file}`)
      .split(/^== /m)
      .slice(1)
      .map(part => {
        const [name = ""] = part.split(" ")
        const lines = part.split("\n").filter(line => line.startsWith("RESULT") && !line.startsWith("RESULT (even"))
        const seconds = /rc=0 (\d+)s/.exec(part)?.[1] ?? ""
        const ended = (how: string) => lines.filter(line => line.endsWith(`is ${how}.`)).length
        return [name, { true: ended("true"), false: ended("false"), seconds }] as const
      })
  )
)

const countIn = (text: string, what: RegExp): number => Number(what.exec(text)?.[1] ?? 0)

describe("docs/protocol/README.md", () => {
  it("has a row for every scenario of the scripts, and no other", () => {
    const scripts = ["paired.py", "invite.py"].flatMap(file => [
      ...readText(`${folder}/${file}`).matchAll(/^ {4}'(\w+)': dict\(/gm)
    ])
    assert.sameMembers(
      rows.map(row => codeOf(row["scenario"])),
      scripts.map(([, name]) => name)
    )
  })

  it("gives of each the result and the time that were recorded", () => {
    assert.isAbove(rows.length, 15)
    for (const row of rows) {
      const name = codeOf(row["scenario"]) ?? ""
      const result = row["result"] ?? ""
      const found = recorded.get(name)
      if (found === undefined || found.seconds === "") {
        assert.include(result, "no result", name)
        continue
      }
      assert.deepStrictEqual(
        { true: countIn(result, /(\d+) true/), false: countIn(result, /(\d+) (?:false|reachable)/), seconds: row["s"] },
        found,
        name
      )
    }
  })
})
