import { Effect } from "effect"
import { ComputeThread } from "../../src/compute/ComputeThread.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"

const shared = (length: number): Float32Array => new Float32Array(new SharedArrayBuffer(length * 4))
const copyOf = (floats: Float32Array): Buffer =>
  Buffer.from(new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength))

/**
 * The job computed in a straight loop, without any cluster: each step's gradient is that of the whole lane tree, divided by the lanes.
 * `initialWeights` and `firstGradient` are little-endian float32.
 */
export const trainedAlone = (path: string, set: ReadonlyArray<readonly [string, string]> = []) =>
  Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const job = yield* TrainingJob.load(path, { set })
        const compute = yield* ComputeThread.make({ jobUrl: TrainingJob.url(path), set })
        yield* compute.initialise
        const { parameterCount, stepsPerEpoch } = compute.info
        const initialWeights = copyOf(compute.parameters)
        let firstGradient: Buffer = Buffer.alloc(0)
        const gradient = shared(parameterCount)
        let trainLoss = 0
        for (let epoch = 1; epoch <= job.epochs; epoch++) {
          let lossSum = 0
          for (let step = 0; step < stepsPerEpoch; step++) {
            const { loss } = yield* compute.computeNode({ epoch, step, from: 0, to: job.lanes, output: gradient })
            for (let index = 0; index < parameterCount; index++) gradient[index] = (gradient[index] ?? 0) / job.lanes
            if (firstGradient.length === 0) firstGradient = copyOf(gradient)
            yield* compute.applyStep(gradient)
            lossSum += loss
          }
          trainLoss = lossSum / (job.lanes * stepsPerEpoch)
        }
        return { weightsSha256: yield* compute.weightsSha256, trainLoss, initialWeights, firstGradient }
      })
    )
  )
