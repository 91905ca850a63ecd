// `npm run --silent bench -- NAME [--quick] [--json]`
import { spawnSync } from "node:child_process"
import { existsSync, statSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import type { Benchmark } from "./support/Benchmark.ts"
import { machine, textOf } from "./support/Output.ts"

const benchmarks: Readonly<Record<string, () => Promise<{ readonly default: Benchmark }>>> = {
  database: () => import("./database.ts"),
  actor: () => import("./actor.ts"),
  rpc: () => import("./rpc.ts"),
  exchange: () => import("./exchange.ts"),
  compression: () => import("./compression.ts"),
  training: () => import("./training.ts"),
  transport: () => import("./transport.ts"),
  "session-key": () => import("./session-key.ts"),
  sllp: () => import("./sllp.ts")
}

const note = (line: string): void => void process.stderr.write(`${line}\n`)

const folder = fileURLToPath(new URL(".", import.meta.url))

/** What only benchmarks need has a lockfile of its own and is installed when it is first asked for. */
const installPeers = (): boolean => {
  const installed = `${folder}node_modules/.package-lock.json`
  const lock = `${folder}package-lock.json`
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return true
  note("Installing what is measured against, once: npm ci --prefix bench")
  const npm = spawnSync("npm", ["ci", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund"], {
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32"
  })
  return npm.status === 0
}

const usage = `npm run --silent bench -- NAME [--quick] [--json], where NAME is one of ${Object.keys(benchmarks).join(", ")}`

const main = async (): Promise<number> => {
  const options = { quick: { type: "boolean" }, json: { type: "boolean" } } as const
  let parsed
  try {
    parsed = parseArgs({ options, allowPositionals: true })
  } catch (error) {
    note(`${error instanceof Error ? error.message : String(error)}\n${usage}`)
    return 2
  }
  const { values, positionals } = parsed
  const name = positionals[0] ?? ""
  const load = Object.hasOwn(benchmarks, name) ? benchmarks[name] : undefined
  if (load === undefined || positionals.length > 1) {
    note(usage)
    return 2
  }
  const { default: benchmark } = await load()
  if (benchmark.needsPeers && !installPeers()) {
    note("What this benchmark measures against could not be installed; see npm's message above")
    return 1
  }
  const report = await benchmark.run({ quick: values.quick === true, note })
  console.log(values.json === true ? JSON.stringify({ name, machine: machine(), ...report }) : textOf(name, report))
  return 0
}

process.exitCode = await main()
