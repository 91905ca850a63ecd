export {
  Dataset,
  DatasetError,
  type Batch,
  type BatchArray,
  type LoadedDataset,
  type Split
} from "./compute/Dataset.ts"
export { lax, nn, np, random, type Tensor } from "./compute/Jax.ts"
export { JaxModel, type BatchTensors, type JaxModelDefinition, type ParameterTree } from "./compute/JaxModel.ts"
export {
  ModelError,
  type Backend,
  type CompiledModel,
  type Evaluation,
  type Leaf,
  type Model
} from "./compute/Model.ts"
export { Optimizer, type OptimizerOptions } from "./compute/Optimizer.ts"
export { JobOptionError } from "./compute/Options.ts"
export { ComputeCancelled, ComputeError, ComputeThread } from "./compute/ComputeThread.ts"
export { Strategy, type StrategyOptions } from "./training/Strategy.ts"
export { JobLoadError, TrainingJob, type TrainingJobOptions } from "./training/TrainingJob.ts"
export * from "./training/JobEvent.ts"
