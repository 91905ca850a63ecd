import { Optimizer, TrainingJob } from "artifice"
import { lineDataset, lineModel } from "./parts.ts"

/** A job that trains in milliseconds. */
export default TrainingJob.make({
  name: "line",
  model: lineModel,
  dataset: lineDataset,
  optimizer: Optimizer.adam({ learningRate: 0.05 }),
  microBatch: 4,
  lanes: 256,
  seed: 1
})
