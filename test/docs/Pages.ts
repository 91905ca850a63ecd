/** Reads the pages of documentation: their headings, tables, code blocks and links, so that tests can hold them against the code. */
import { readdirSync, readFileSync } from "node:fs"
import { join, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../../", import.meta.url))

export const readText = (path: string): string => readFileSync(join(root, path), "utf8")

const filesUnder = (folder: string): ReadonlyArray<string> =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && !entry.parentPath.split(sep).includes("node_modules"))
    .map(entry => relative(root, join(entry.parentPath, entry.name)).replaceAll(sep, "/"))

export const pages: ReadonlyArray<string> = [
  "README.md",
  ...["docs", "examples"].flatMap(filesUnder).filter(path => path.endsWith(".md"))
]

export const sourcesUnder = (...folders: ReadonlyArray<string>): ReadonlyArray<string> =>
  folders.flatMap(filesUnder).filter(path => path.endsWith(".ts"))

/** A row of a table by its column names, in lower case; cells as they are written. */
export type Row = Readonly<Record<string, string>>

const cellsOf = (line: string): ReadonlyArray<string> =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map(cell => cell.trim().replaceAll("\\|", "|"))

/** Every row of every table of a text; with two tables' columns side by side, each half is a row. */
export const rowsOf = (text: string): ReadonlyArray<Row> => {
  const rows: Array<Row> = []
  let columns: ReadonlyArray<string> | undefined
  for (const line of text.split("\n")) {
    if (!line.trimStart().startsWith("|")) columns = undefined
    else if (columns === undefined) columns = cellsOf(line).map(name => name.toLowerCase())
    else if (!/^[\s|:-]+$/.test(line)) {
      const cells = cellsOf(line)
      const names = columns
      const half = names.indexOf(names[0] ?? "", 1)
      const cut = half > 0 ? half : names.length
      for (const from of half > 0 ? [0, cut] : [0])
        rows.push(Object.fromEntries(names.slice(from, from + cut).map((name, at) => [name, cells[from + at] ?? ""])))
    }
  }
  return rows
}

/** The part of a page under a heading, up to the next heading of the same level or above. */
export const section = (text: string, title: string): string => {
  const lines = text.split("\n")
  const start = lines.findIndex(line => /^#+ /.test(line) && line.replace(/^#+ /, "") === title)
  if (start < 0) throw new Error(`there is no heading "${title}"`)
  const level = /^#+/.exec(lines[start] ?? "")?.[0].length ?? 0
  let inCode = false
  const length = lines.slice(start + 1).findIndex(line => {
    if (line.startsWith("```")) inCode = !inCode
    return !inCode && (/^(#+) /.exec(line)?.[1]?.length ?? Infinity) <= level
  })
  return lines.slice(start, length < 0 ? undefined : start + 1 + length).join("\n")
}

/** The fenced blocks of one language. */
export const blocksOf = (text: string, language: string): ReadonlyArray<string> =>
  [...text.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].flatMap(([, found, code]) =>
    found === language && code !== undefined ? [code] : []
  )

/** The text of a cell that is nothing but code. */
export const codeOf = (cell: string | undefined): string | undefined => /^`([^`]+)`$/.exec(cell ?? "")?.[1]

const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹"

const units: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000
}

/** A number as it is written on a page: `65,536`, `2²⁴`, `2⁶⁴−1`, `` `0x0001` ``, `8 KiB`, `10 s`. Times are milliseconds. */
export const numberOf = (cell: string): bigint => {
  const match = /^`?(?:(0x[0-9a-f]+)|([0-9][0-9,]*)([⁰¹²³⁴⁵⁶⁷⁸⁹]*))(?:−([0-9]+))?`?(?: (\w+))?$/.exec(cell)
  if (match === null) throw new Error(`"${cell}" is no number`)
  const [, hex, digits = "", power = "", minus = "0", unit = "B"] = match
  const factor = units[unit]
  if (factor === undefined) throw new Error(`"${cell}" has an unknown unit`)
  if (hex !== undefined) return BigInt(hex)
  const exponent = [...power].map(digit => superscripts.indexOf(digit)).join("")
  const base = BigInt(digits.replaceAll(",", ""))
  return (exponent === "" ? base : base ** BigInt(exponent)) * BigInt(factor) - BigInt(minus)
}

/** What the rows of a page say of the constants that they name: pairs of name and what is written. */
export const constantsOf = (text: string): ReadonlyArray<readonly [name: string, written: string]> =>
  rowsOf(text).flatMap(row => {
    const name = codeOf(row["constant"])
    return name === undefined ? [] : [[name, row["value"] ?? row["largest body"] ?? ""] as const]
  })

/** A constant in the unit of `numberOf`: those in seconds as milliseconds. */
export const valueOf = (name: string, value: number | bigint): bigint =>
  BigInt(value) * (name.endsWith("Seconds") ? 1_000n : 1n)
