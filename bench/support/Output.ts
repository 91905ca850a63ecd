import { arch, cpus, platform, totalmem } from "node:os"
import type { Goal, Report, Row } from "./Benchmark.ts"

export const machine = () => ({
  cpu: cpus()[0]?.model.trim() ?? "unknown",
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  platform: platform(),
  arch: arch(),
  node: process.version
})

const cell = (value: string | number | undefined): string => (value === undefined ? "" : String(value))

/** Rows as text columns: names to the left, figures to the right. */
export const tableOf = (rows: ReadonlyArray<Row>): string => {
  const columns = [...new Set(rows.flatMap(row => Object.keys(row)))]
  const widths = columns.map(column => Math.max(column.length, ...rows.map(row => cell(row[column]).length)))
  const line = (cells: ReadonlyArray<string>, right: ReadonlyArray<boolean>) =>
    cells
      .map((text, index) =>
        right[index] === true ? text.padStart(widths[index] ?? 0) : text.padEnd(widths[index] ?? 0)
      )
      .join("  ")
      .trimEnd()
  const numeric = columns.map(column => rows.every(row => typeof row[column] !== "string"))
  return [
    line(columns, numeric),
    ...rows.map(row =>
      line(
        columns.map(column => cell(row[column])),
        numeric
      )
    )
  ].join("\n")
}

const goalLine = ({ name, value, goal, better, met }: Goal): string =>
  `${met ? "met   " : "missed"}  ${name}: ${value} (goal: at ${better === "higher" ? "least" : "most"} ${goal})`

/** Tables for people: rows with the same columns stand together. */
export const textOf = (name: string, { rows, goals }: Report): string => {
  const tables = Map.groupBy(rows, row => Object.keys(row).join())
  const { cpu, cores, node } = machine()
  return [
    `${name}: ${cpu}, ${cores} cores, Node ${node}`,
    ...[...tables.values()].map(tableOf),
    goals.map(goalLine).join("\n")
  ]
    .filter(text => text !== "")
    .join("\n\n")
}
