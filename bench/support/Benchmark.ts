/** What every benchmark gives and is given. */

/** One line of a table; figures carry their unit in the name of their column. */
export type Row = Readonly<Record<string, string | number>>

export interface Goal {
  readonly name: string
  readonly value: number
  readonly goal: number
  readonly better: "higher" | "lower"
  readonly met: boolean
}

export interface Report {
  readonly rows: ReadonlyArray<Row>
  readonly goals: ReadonlyArray<Goal>
}

export interface BenchmarkOptions {
  /** Fewer repetitions: the whole benchmark ends within a minute. */
  readonly quick: boolean
  /** Says what is going on; never part of the result. */
  readonly note: (line: string) => void
}

export interface Benchmark {
  /** Whether it measures peers that only `bench/package.json` brings. */
  readonly needsPeers: boolean
  readonly run: (options: BenchmarkOptions) => Promise<Report>
}

export const atLeast = (name: string, value: number, goal: number): Goal => ({
  name,
  value: rounded(value),
  goal,
  better: "higher",
  met: value >= goal
})

export const atMost = (name: string, value: number, goal: number): Goal => ({
  name,
  value: rounded(value),
  goal,
  better: "lower",
  met: value <= goal
})

/** Four significant digits: more would claim a precision that no shared machine has. */
export const rounded = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(4)) : value)
