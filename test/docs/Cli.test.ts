import type { Schema } from "effect"
import { assert, describe, it } from "vitest"
import { exitCodes } from "../../apps/cli/src/CliFailure.ts"
import { ComputeError } from "../../src/compute/ComputeThread.ts"
import { CoordinatorError } from "../../src/training/CoordinatorError.ts"
import { JobEvent } from "../../src/training/JobEvent.ts"
import { WorkerError } from "../../src/training/Worker.ts"
import { mainModule, run } from "../cli/Processes.ts"
import { codeOf, readText, rowsOf, section, sourcesUnder } from "./Pages.ts"

const page = readText("docs/cli.md")
const codesIn = (cell: string | undefined): ReadonlyArray<string> =>
  [...(cell ?? "").matchAll(/`([^`]+)`/g)].flatMap(([, code]) => code ?? [])

interface Flag {
  readonly flag: string
  readonly variable: string
  readonly help: string
}

/** The flags that a help text lists under a heading. */
const flagsOf = (help: ReadonlyArray<string>, heading: string): ReadonlyArray<Flag> => {
  const from = help.indexOf(heading)
  if (from < 0) return []
  const lines = help.slice(from + 1)
  return lines.slice(0, lines.indexOf("")).flatMap(line => {
    const [, flag, help = ""] = /^ {2}(--[\w-]+)(?:, -\w)?(?: \S+)? {2,}(.*)$/.exec(line) ?? []
    return flag === undefined ? [] : [{ flag, variable: /\[(ARTIFICE_\w+)\]/.exec(help)?.[1] ?? "", help }]
  })
}

const commands = [...page.matchAll(/^### `artifice (\w+)`$/gm)].flatMap(([, name]) => name ?? [])

const helpOf = async (...args: ReadonlyArray<string>): Promise<ReadonlyArray<string>> => {
  const { code, stdout } = await run([mainModule, ...args, "--help"])
  assert.strictEqual(code, 0)
  return stdout
}

const fieldsOf = (event: Schema.Top): ReadonlyArray<string> => {
  const { ast } = event
  if (ast._tag !== "Objects") return assert.fail(`an event that is no object: ${ast._tag}`)
  return ast.propertySignatures.map(
    ({ name, type }) => `${String(name)}${type.context?.isOptional === true ? "?" : ""}`
  )
}

describe("docs/cli.md", () => {
  it("has a section for every command of `artifice --help`, and no other", async () => {
    const help = await helpOf()
    const listed = help.slice(help.indexOf("SUBCOMMANDS") + 1).flatMap(line => /^ {2}(\w+) {2,}/.exec(line)?.[1] ?? [])
    assert.deepStrictEqual(commands, listed)
  })

  it.each(commands)(
    "lists the flags of `artifice %s` with the variables and defaults that its help tells",
    async name => {
      const help = await helpOf(name)
      const rows = rowsOf(section(page, `\`artifice ${name}\``))
      const flags = flagsOf(help, "FLAGS")
      assert.deepStrictEqual(
        rows.map(row => [codeOf(row["flag"]), codeOf(row["variable"]) ?? ""]),
        flags.map(({ flag, variable }) => [flag, variable])
      )
      for (const { flag, help: text } of flags) {
        const given = rows.find(row => codeOf(row["flag"]) === flag)?.["default"]?.replaceAll("`", "")
        const told = /default ([^[]+?) \[/.exec(text)?.[1] ?? ""
        assert.strictEqual(given === "required" ? "" : given, told, flag)
      }
    }
  )

  it("lists the flags that every command has", async () => {
    const rows = rowsOf(section(page, "Flags of every command"))
    const own = flagsOf(await helpOf(), "GLOBAL FLAGS").filter(({ variable }) => variable !== "")
    assert.deepStrictEqual(
      rows.map(row => [codeOf(row["flag"]), codeOf(row["variable"])]),
      own.map(({ flag, variable }) => [flag, variable])
    )
  })

  it("names every variable of the environment that the command reads", () => {
    for (const path of [...sourcesUnder("apps/cli/src"), "apps/cli/bin/artifice.mjs"])
      for (const [variable] of readText(path).matchAll(/\bARTIFICE_[A-Z_]+/g)) assert.include(page, `\`${variable}\``)
  })

  it("gives the exit codes that the code has", () => {
    const rows = rowsOf(section(page, "Exit codes"))
    assert.sameMembers(
      rows.map(row => Number(row["code"])),
      Object.values(exitCodes)
    )
  })

  it("lists every event with its fields", () => {
    const rows = rowsOf(section(page, "`--json`")).filter(row => row["event"] !== undefined)
    const events = JobEvent.members.map(member => {
      const [event, ...fields] = fieldsOf(member)
      assert.strictEqual(event, "event")
      return [member.fields.event.literal, fields] as const
    })
    assert.deepStrictEqual(
      rows.map(row => [codeOf(row["event"]), codesIn(row["fields"])]),
      events.map(([name, fields]) => [name, fields])
    )
  })

  it("lists every code of an error, and no other", () => {
    const literal = sourcesUnder("apps/cli/src").flatMap(path =>
      [...readText(path).matchAll(/\bcode: "([A-Z_]+)"/g)].flatMap(([, code]) => code ?? [])
    )
    const known = new Set([
      ...literal,
      ...CoordinatorError.fields.code.literals,
      ...WorkerError.fields.code.literals,
      ...ComputeError.fields.reason.literals.map(reason => `COMPUTE_${reason.toUpperCase()}`)
    ])
    const written = rowsOf(section(page, "Error codes")).flatMap(row => codesIn(row["code"]))
    assert.sameMembers(written, [...known])
  })
})
