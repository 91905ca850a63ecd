// Trains a job in this process alone, without peers: the compute thread, a loop, nothing else. Prints the seconds of the measured steps.
import { Effect } from "effect"
import { ComputeThread, TrainingJob } from "../../src/index.ts"
import { Reduction } from "../../src/training/Reduction.ts"

const [specifier = "", warmUpText = "", stepsText = "", microBatch = ""] = process.argv.slice(2)
const warmUp = Number(warmUpText)
const steps = Number(stepsText)

const program = Effect.gen(function* () {
  const compute = yield* ComputeThread.make({ jobUrl: TrainingJob.url(specifier), set: [["microBatch", microBatch]] })
  yield* compute.initialise
  const { lanes, parameterCount, stepsPerEpoch } = compute.info
  const whole = { from: 0, to: lanes }
  const reduction = new Reduction(lanes, parameterCount)
  const mean = new Float32Array(new SharedArrayBuffer(parameterCount * Float32Array.BYTES_PER_ELEMENT))
  let started = 0
  for (let index = 0; index < warmUp + steps; index++) {
    if (index === warmUp) started = performance.now()
    reduction.begin([whole])
    const node = { epoch: 1 + Math.floor(index / stepsPerEpoch), step: index % stepsPerEpoch, ...whole }
    const { loss } = yield* compute.computeNode({ ...node, output: reduction.slot(whole) })
    reduction.place(whole, loss)
    reduction.finish(mean)
    yield* compute.applyStep(mean)
  }
  return (performance.now() - started) / 1000
})

console.log(JSON.stringify({ seconds: await Effect.runPromise(Effect.scoped(program)) }))
