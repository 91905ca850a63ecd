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
const jobPath = `${root}examples/mnist/job.ts`

const examplesPerStep = job.lanes * job.microBatch

interface Length {
  /** Steps that are not measured: the compiler and the processor's clock settle in them. */
  readonly warmUp: number
  readonly steps: number
}

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

const aloneSpeed = async ({ warmUp, steps }: Length): Promise<number> => {
  let seconds = NaN
  await run([alone, jobPath, String(warmUp), String(steps)], line => {
    if (isRecord(line)) seconds = Number(line.seconds)
    return true
  })
  return (steps * examplesPerStep) / seconds
}

/** From the times at which `artifice run` reports steps, a few each second. */
const clusterSpeed = async (workers: number, { warmUp, steps }: Length): Promise<number> => {
  let first: { readonly step: number; readonly at: number } | undefined
  let speed = NaN
  await run([artifice, "run", jobPath, "--workers", String(workers), "--json"], line => {
    if (!isRecord(line) || line.event !== "step") return false
    const now = { step: Number(line.step), at: Date.parse(String(line.at)) }
    if (now.step < warmUp) return false
    first ??= now
    if (now.step - first.step < steps) return false
    speed = ((now.step - first.step) * examplesPerStep) / ((now.at - first.at) / 1000)
    return true
  })
  return speed
}

const subjects = [0, 1, 2] as const

const bench = async ({ quick, note }: BenchmarkOptions) => {
  const length: Length = quick ? { warmUp: 30, steps: 90 } : { warmUp: 60, steps: 400 }
  const measured = await alternate(subjects, quick ? 1 : 5, async workers => {
    const speed = await (workers === 0 ? aloneSpeed(length) : clusterSpeed(workers, length))
    note(`${workers === 0 ? "alone" : `workers: ${workers}`}: ${Math.round(speed)} examples/s`)
    return speed
  })
  const speedOf = (workers: (typeof subjects)[number]): number => median(measured.get(workers) ?? [])
  return {
    rows: subjects.map(workers => ({
      training: workers === 0 ? "one process, no cluster" : `artifice run --workers ${workers}`,
      "examples/s": rounded(speedOf(workers)),
      "ms per step": rounded((examplesPerStep / speedOf(workers)) * 1000),
      "× one process": rounded(speedOf(workers) / speedOf(0))
    })),
    goals: [
      atLeast("one worker / one process without a cluster", speedOf(1) / speedOf(0), 0.9),
      atLeast("two workers / one process without a cluster", speedOf(2) / speedOf(0), 1.5)
    ]
  }
}

export default { needsPeers: false, run: bench } satisfies Benchmark
