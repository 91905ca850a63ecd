import type { MemberAnswers, MemberRequest, Reduced } from "./exchange/Member.ts"
import { startGloo, whyNoGloo } from "./exchange/Gloo.ts"
import { atLeast, rounded, type Benchmark, type BenchmarkOptions, type Goal, type Row } from "./support/Benchmark.ts"
import { startChild, type Child } from "./support/Child.ts"
import { alternate, median } from "./support/Statistics.ts"

type Member = Child<MemberRequest, MemberAnswers>

interface Subject {
  readonly name: string
  readonly members: ReadonlyArray<Member>
  readonly close: () => void
}

const directModule = new URL("./exchange/Direct.ts", import.meta.url)
const ringModule = new URL("./exchange/Ring.ts", import.meta.url)
const ours = "artifice"
const gloo = "gloo"
const MB = 1e6
const floatBytes = Float32Array.BYTES_PER_ELEMENT

/** Floats of a gradient: the MNIST example's, and two round ones. */
const sizes = [235_146, 1_000_000, 10_000_000] as const
const groups = [2, 4] as const
/** All-reduces until the compiler has settled: with fewer, ours take twice the processor's time. */
const warmUpSteps = 50
/** Measured all-reduces in a row, by size. */
const stepsOf = (elements: number, quick: boolean): number => {
  if (elements >= 10_000_000) return quick ? 1 : 4
  return elements >= 1_000_000 ? (quick ? 5 : 10) : quick ? 10 : 30
}

/** @param links which member, by rank, offers to which other one */
const startOurs = async (
  name: string,
  module: URL,
  size: number,
  links: ReadonlyArray<readonly [number, number]>
): Promise<Subject> => {
  const members: ReadonlyArray<Member> = Array.from({ length: size }, () => startChild(module))
  const close = (): void => members.forEach(member => member.stop())
  try {
    for (const [from, to] of links) {
      const offer = await members[from]?.ask({ kind: "offer" })
      if (offer !== undefined) await members[to]?.ask({ kind: "accept", offer })
    }
  } catch (error) {
    close()
    throw error
  }
  return { name, members, close }
}

const start = async (size: number, withGloo: boolean): Promise<ReadonlyArray<Subject>> => {
  const ranks = Array.from({ length: size }, (_, rank) => rank)
  const mesh = ranks.flatMap(to => ranks.slice(0, to).map(from => [from, to] as const))
  const around = ranks.map(from => [from, (from + 1) % size] as const)
  const starting = await Promise.allSettled([
    startOurs(ours, directModule, size, mesh),
    startOurs("ring", ringModule, size, around),
    ...(withGloo ? [startGloo(size).then(started => ({ name: gloo, ...started }))] : [])
  ])
  const started = starting.flatMap(result => (result.status === "fulfilled" ? [result.value] : []))
  for (const result of starting) {
    if (result.status === "fulfilled") continue
    for (const { close } of started) close()
    throw result.reason
  }
  return started
}

/** All members at once; the slowest decides how long it took. Throws where one element of one result is wrong. */
const allReduce = async (
  { members, name }: Subject,
  elements: number,
  measuredSteps: number,
  profile = false
): Promise<{
  readonly milliseconds: number
  readonly cpuSeconds: number
  readonly reduced: ReadonlyArray<Reduced>
}> => {
  const all = <A>(ask: (member: Member, rank: number) => Promise<A>): Promise<Array<A>> =>
    Promise.all(members.map((member, rank) => ask(member, rank)))
  const names = await all(member => member.ask({ kind: "name" }))
  const steps = measuredSteps + 1
  await all((member, rank) => member.ask({ kind: "prepare", setting: { rank, members: names, elements, steps } }))
  const reduced = await all(member => member.ask({ kind: "reduce", profile }))
  await all(member => member.ask({ kind: "check" })).catch((error: unknown) => {
    throw new Error(`${name}, ${members.length} members: a wrong sum`, { cause: error })
  })
  return {
    milliseconds: (Math.max(...reduced.map(({ seconds }) => seconds)) / measuredSteps) * 1000,
    cpuSeconds: reduced.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0) / measuredSteps,
    reduced
  }
}

/** Where a member's time goes, from the slowest part on: the mean over the members. */
const profileOf = async (subject: Subject, elements: number, steps: number): Promise<ReadonlyArray<Row>> => {
  const { reduced } = await allReduce(subject, elements, steps, true)
  const totals = new Map<string, number>()
  for (const { profile = {} } of reduced)
    for (const [part, spent] of Object.entries(profile)) totals.set(part, (totals.get(part) ?? 0) + spent)
  const whole = [...totals.values()].reduce((sum, spent) => sum + spent, 0) / reduced.length / steps
  return [...totals]
    .map(([part, total]) => ({ part, spent: total / reduced.length / steps }))
    .toSorted((left, right) => right.spent - left.spent)
    .map(({ part, spent }) => ({
      [`part of an all-reduce of ${elements}, ${reduced.length} members, profiled`]: part,
      ms: rounded(spent),
      "%": rounded((spent / whole) * 100)
    }))
}

const bench = async ({ quick, note }: BenchmarkOptions) => {
  const reason = whyNoGloo(note)
  if (reason !== undefined) note(`not measured: gloo; ${reason}`)
  const rows: Array<Row> = []
  const profile: Array<Row> = []
  const goals: Array<Goal> = []
  for (const size of groups) {
    note(`starting ${size} processes for each subject`)
    const subjects = await start(size, reason === undefined)
    try {
      for (const subject of subjects) await allReduce(subject, sizes[0], warmUpSteps)
      for (const elements of sizes) {
        note(`${size} members, ${elements} floats`)
        const steps = stepsOf(elements, quick)
        const measured = await alternate(subjects, quick ? 3 : 7, subject => allReduce(subject, elements, steps))
        const of = (name: string, key: "milliseconds" | "cpuSeconds"): number => {
          const subject = subjects.find(known => known.name === name)
          return median((subject === undefined ? [] : (measured.get(subject) ?? [])).map(round => round[key]))
        }
        const speed = (name: string): number => (elements * floatBytes) / MB / (of(name, "milliseconds") / 1000)
        for (const { name } of subjects)
          rows.push({
            "all-reduce": name,
            members: size,
            floats: elements,
            ms: rounded(of(name, "milliseconds")),
            "MB/s": rounded(speed(name)),
            "CPU ms, all members": rounded(of(name, "cpuSeconds") * 1000),
            "× ring": rounded(speed(name) / speed("ring")),
            ...(reason === undefined && { "× gloo": rounded(speed(name) / speed(gloo)) })
          })
        if (size !== 2 || elements !== 10_000_000) continue
        if (reason === undefined) goals.push(atLeast("10 M floats, 2 members / gloo", speed(ours) / speed(gloo), 0.5))
        const [own] = subjects
        if (own !== undefined) profile.push(...(await profileOf(own, elements, steps)))
      }
    } finally {
      for (const { close } of subjects) close()
    }
  }
  return { rows: [...rows, ...profile], goals }
}

export default { needsPeers: false, run: bench } satisfies Benchmark
