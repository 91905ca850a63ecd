import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { isRecord } from "../src/compute/Options.ts"
import job from "../examples/mnist/job.ts"
import { atLeast, rounded, type Benchmark, type BenchmarkOptions } from "./support/Benchmark.ts"
import { alternate, median } from "./support/Statistics.ts"

const root = fileURLToPath(new URL("../", import.meta.url))
const artifice = `${root}apps/cli/bin/artifice.mjs`
const alone = fileURLToPath(new URL("./training/Alone.ts", import.meta.url))

/** Jobs by strategy: all are the MNIST example. */
const jobs = {
  allReduce: `${root}bench/training/AllReduce.ts`,
  parameterServer: `${root}bench/training/ParameterServer.ts`
} as const
type StrategyName = keyof typeof jobs

interface Length {
  /** Steps that are not measured: the compiler and the processor's clock settle in them. */
  readonly warmUp: number
  readonly steps: number
}

interface Subject {
  /** Undefined: the compute thread in a loop, without a cluster. */
  readonly strategy: StrategyName | undefined
  readonly workers: number
  readonly microBatch: number
}

/** The example as it is, and one in which computing decides how long a step takes. */
const exampleBatch = job.microBatch
const largeBatch = 256
const workerCounts = [1, 2, 4] as const
/** Epochs that no measurement comes to the end of. */
const epochs = 100

/** Within an epoch, as its end is an evaluation: it has 234 steps of the example, and 29 of the large batch. */
const lengthOf = ({ microBatch }: Subject, quick: boolean): Length => {
  if (microBatch === largeBatch) return quick ? { warmUp: 3, steps: 8 } : { warmUp: 4, steps: 20 }
  return quick ? { warmUp: 20, steps: 60 } : { warmUp: 30, steps: 180 }
}

const examplesPerStep = ({ microBatch }: Subject): number => job.lanes * microBatch

/** The lines that a program prints, until it ends or `onLine` has had enough. */
const run = (args: ReadonlyArray<string>, onLine: (line: unknown) => boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] })
    let enough = false
    let complaint = ""
    child.stderr.on("data", (chunk: Buffer) => (complaint = String(chunk).trim()))
    createInterface({ input: child.stdout }).on("line", line => {
      if (enough) return
      enough = onLine(JSON.parse(line))
      if (enough) child.kill("SIGTERM")
    })
    child.on("close", () => (enough ? resolve() : reject(new Error(`${args.join(" ")} ended too early: ${complaint}`))))
  })

const aloneSpeed = async (subject: Subject, { warmUp, steps }: Length): Promise<number> => {
  let seconds = NaN
  await run([alone, jobs.allReduce, ...[warmUp, steps, subject.microBatch].map(String)], line => {
    if (isRecord(line)) seconds = Number(line.seconds)
    return true
  })
  return (steps * examplesPerStep(subject)) / seconds
}

/** From the times at which `artifice run` reports steps, a few each second. */
const clusterSpeed = async (
  subject: Subject & { readonly strategy: StrategyName },
  { warmUp, steps }: Length
): Promise<number> => {
  const { strategy, workers, microBatch } = subject
  let first: { readonly step: number; readonly at: number } | undefined
  let speed = NaN
  const set = ["--set", `microBatch=${microBatch}`, "--set", `epochs=${epochs}`]
  await run([artifice, "run", jobs[strategy], "--workers", String(workers), ...set, "--json"], line => {
    if (!isRecord(line) || line.event !== "step") return false
    const now = { step: Number(line.step), at: Date.parse(String(line.at)) }
    if (now.step < warmUp) return false
    first ??= now
    if (now.step - first.step < steps) return false
    speed = ((now.step - first.step) * examplesPerStep(subject)) / ((now.at - first.at) / 1000)
    return true
  })
  return speed
}

const speedOf = (subject: Subject, length: Length): Promise<number> => {
  const { strategy } = subject
  return strategy === undefined ? aloneSpeed(subject, length) : clusterSpeed({ ...subject, strategy }, length)
}

const nameOf = ({ strategy, workers }: Subject): string =>
  strategy === undefined ? "one process, no cluster" : `${strategy}, ${workers} ${workers === 1 ? "worker" : "workers"}`

/** A quick run leaves out what only the full table needs: four workers, and the direct exchange of the example as it is. */
const subjectsOf = (quick: boolean): ReadonlyArray<Subject> =>
  [exampleBatch, largeBatch].flatMap(microBatch => {
    const brief = quick && microBatch === exampleBatch
    const strategies: ReadonlyArray<StrategyName> = brief ? ["parameterServer"] : ["allReduce", "parameterServer"]
    const counts = quick ? workerCounts.filter(workers => workers <= 2) : workerCounts
    return [
      { strategy: undefined, workers: 1, microBatch },
      ...strategies.flatMap(strategy => counts.map(workers => ({ strategy, workers, microBatch })))
    ]
  })

const bench = async ({ quick, note }: BenchmarkOptions) => {
  const subjects = subjectsOf(quick)
  const measured = await alternate(subjects, quick ? 1 : 3, async subject => {
    const speed = await speedOf(subject, lengthOf(subject, quick))
    note(`${nameOf(subject)}, ${subject.microBatch} examples a lane: ${Math.round(speed)} examples/s`)
    return speed
  })
  const medianOf = (strategy: StrategyName | undefined, workers: number, microBatch: number): number => {
    const found = subjects.find(
      subject => subject.strategy === strategy && subject.workers === workers && subject.microBatch === microBatch
    )
    return median((found === undefined ? undefined : measured.get(found)) ?? [])
  }
  const aloneOf = (microBatch: number): number => medianOf(undefined, 1, microBatch)
  const scaling = (strategy: StrategyName) =>
    atLeast(
      `two workers / one, ${strategy}, ${largeBatch} examples a lane`,
      medianOf(strategy, 2, largeBatch) / medianOf(strategy, 1, largeBatch),
      1.7
    )
  const star = (workers: number): number => medianOf("parameterServer", workers, exampleBatch) / aloneOf(exampleBatch)
  return {
    rows: subjects.map(subject => {
      const { strategy, workers, microBatch } = subject
      const speed = medianOf(strategy, workers, microBatch)
      return {
        training: nameOf(subject),
        "examples a lane": microBatch,
        "examples/s": rounded(speed),
        "ms per step": rounded((examplesPerStep(subject) / speed) * 1000),
        "× one process": rounded(speed / aloneOf(microBatch)),
        "× one worker": strategy === undefined ? "" : rounded(speed / medianOf(strategy, 1, microBatch))
      }
    }),
    goals: [
      atLeast("one worker / one process without a cluster", star(1), 0.9),
      atLeast("two workers / one process without a cluster", star(2), 1.5),
      scaling("allReduce"),
      scaling("parameterServer")
    ]
  }
}

export default { needsPeers: false, run: bench } satisfies Benchmark
