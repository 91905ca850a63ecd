import { parseArgs } from "node:util"
import { fuzz, fuzzInputs, fuzzSeed } from "../test/support/protocolFuzz.ts"
import { parserTargets } from "../test/support/protocolFuzzParsers.ts"
import { statefulTargets } from "../test/support/protocolFuzzSessions.ts"

/**
 * Mutated input for every parser of the protocol, for as long as one likes: `npm run --silent fuzz -- --runs 10000000 --seed 7`.
 * Exits with 1 on the first finding and prints the command that repeats it. `--target` takes one parser alone, `--from` its first round.
 */

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: String(fuzzInputs) },
    seed: { type: "string", default: String(fuzzSeed) },
    target: { type: "string" },
    from: { type: "string", default: "0" }
  }
})

const number = (name: "runs" | "seed" | "from"): number => {
  const value = Number(values[name])
  if (Number.isSafeInteger(value) && value >= 0) return value
  console.error(`--${name} takes a whole number, not ${values[name]}`)
  process.exit(2)
}

const targets = [...parserTargets, ...statefulTargets].filter(
  ({ name }) => values.target === undefined || values.target === name
)
if (targets.length === 0) {
  console.error(
    `no target is called ${values.target}: ${[...parserTargets, ...statefulTargets].map(({ name }) => name).join(", ")}`
  )
  process.exit(2)
}

for (const target of targets) {
  const start = performance.now()
  const { rounds, refused, heapGrowthBytes, finding } = await fuzz(
    target,
    number("runs"),
    number("seed"),
    number("from")
  )
  const seconds = (performance.now() - start) / 1000
  if (finding !== undefined) {
    console.error(`${target.name}: ${finding}`)
    process.exit(1)
  }
  const growth = (heapGrowthBytes / 2 ** 20).toFixed(1)
  console.log(`${target.name}: ${rounds} rounds, ${refused} refused, heap ${growth} MiB, ${seconds.toFixed(1)} s`)
}
