import { Effect } from "effect"
import type { ComputeError, ComputeThread } from "../compute/ComputeThread.ts"
import type { EvaluationResult } from "../compute/Engine.ts"

/** Test examples per request to the compute thread: a step waits for no more than one of these. */
export const evaluationBatch = 1_000

/** Means over the test examples of one epoch; `accuracy` only where the model has such a metric. */
export interface EpochFigures {
  readonly testLoss: number
  readonly testAccuracy: number | undefined
}

/** Evaluates all test examples in index order, in batches of 1,000, the last one shorter. Sums are float64. */
export const evaluateAll = Effect.fnUntraced(function* (
  compute: ComputeThread,
  parameters: Float32Array
): Effect.fn.Return<EvaluationResult, ComputeError> {
  const examples = compute.info.dataset.testExamples
  const metricSums: Record<string, number> = {}
  let lossSum = 0
  for (let from = 0; from < examples; from += evaluationBatch) {
    const part = yield* compute.evaluate({ parameters, from, to: Math.min(examples, from + evaluationBatch) })
    lossSum += part.lossSum
    for (const [name, sum] of Object.entries(part.metricSums)) metricSums[name] = (metricSums[name] ?? 0) + sum
  }
  return { count: examples, lossSum, metricSums }
})

export const figuresOf = ({ count, lossSum, metricSums }: EvaluationResult): EpochFigures => ({
  testLoss: count === 0 ? 0 : lossSum / count,
  testAccuracy: metricSums.accuracy === undefined || count === 0 ? undefined : metricSums.accuracy / count
})
