import { createHash } from "node:crypto"
import { JaxModel } from "../src/compute/JaxModel.ts"
import { Dataset } from "../src/compute/Dataset.ts"
import { ComputeEngine, cancelled } from "../src/compute/Engine.ts"
import { nn, np, random, type Tensor } from "../src/compute/Jax.ts"
import { maximalSubtrees } from "../src/compute/LaneTree.ts"
import { Optimizer } from "../src/compute/Optimizer.ts"
import { PhiloxStream, Purpose } from "../src/compute/Philox.ts"
import { Reduction } from "../src/training/Reduction.ts"
import { TrainingJob } from "../src/training/TrainingJob.ts"

/**
 * Trains a tiny job for 20 steps in this process and prints the hashes of all its gradients and of its final weights: one
 * line that must be the same on every machine, under every Node. Its data come from Philox; no file is read.
 */

const seed = 20_260
const steps = 20
const features = 24
const hidden = 40
const classes = 5
const examples = 320
const lanes = 5
const microBatch = 16

const randomSplit = (count: number, epoch: number) => {
  const stream = new PhiloxStream(seed, Purpose.data, epoch)
  return {
    x: {
      data: Float32Array.from({ length: count * features }, () => stream.nextUnit() * 2 - 1),
      shape: [count, features]
    },
    y: { data: Int32Array.from({ length: count }, () => stream.nextBelow(classes)), shape: [count] }
  }
}

type Parameters = { readonly first: Tensor; readonly bias: Tensor; readonly second: Tensor }

// Every kind of kernel that a small network needs: products, exp, log, tanh, division, square roots, random bits.
const logits = ({ first, bias, second }: Parameters, x: Tensor, kept: Tensor | number) => {
  const inner = np.tanh(np.dot(x, first).add(bias))
  const scale = np.sqrt(np.square(inner).mean(-1, { keepdims: true }).add(1e-5))
  return np.dot(inner.div(scale).mul(kept), second)
}

export const bitsJob = TrainingJob.make({
  name: "bits",
  model: JaxModel.make({
    init: (key): Parameters => ({
      first: random.normal(key, [features, hidden]).mul(0.3),
      bias: np.zeros([hidden]),
      second: random.uniform(key, [hidden, classes], { minval: -0.3, maxval: 0.3 })
    }),
    loss: (parameters, { x, y }: { x: Tensor; y: Tensor }, key) => {
      const kept = key === undefined ? 1 : random.bernoulli(key, 0.9, [microBatch, hidden]).astype(np.float32)
      return nn
        .logSoftmax(logits(parameters, x, kept))
        .mul(nn.oneHot(y, classes))
        .sum(-1)
        .mean()
        .neg()
    }
  }),
  dataset: Dataset.make({
    name: "random",
    load: () => Dataset.fromArrays({ train: randomSplit(examples, 0), test: randomSplit(microBatch, 1) })
  }),
  optimizer: Optimizer.adamW({ learningRate: 3e-3 }),
  microBatch,
  lanes,
  seed
})

/** The two hashes, in hex. */
export const trainBits = async (): Promise<{ readonly gradientSha256: string; readonly weightsSha256: string }> => {
  const engine = await ComputeEngine.load(bitsJob)
  engine.initialise()
  const reduction = new Reduction(lanes, engine.info.parameterCount)
  const gradient = new Float32Array(engine.info.parameterCount)
  const hash = createHash("sha256")
  for (let index = 0; index < steps; index++) {
    const step = index % engine.info.stepsPerEpoch
    const epoch = 1 + (index - step) / engine.info.stepsPerEpoch
    // As two members would share the lanes, one of them without contiguous ones.
    const nodes = [...maximalSubtrees([0, 1, 3], lanes), ...maximalSubtrees([2, 4], lanes)]
    reduction.begin(nodes)
    for (const node of nodes) {
      const result = engine.computeNode({ epoch, step, ...node }, reduction.slot(node))
      if (result === cancelled || result.nonFiniteLane !== undefined) throw new Error(`Step ${index} gave no gradient`)
      reduction.place(node, result.loss)
    }
    reduction.finish(gradient)
    hash.update(new Uint8Array(gradient.buffer))
    engine.applyStep(gradient)
  }
  return { gradientSha256: hash.digest("hex"), weightsSha256: engine.weightsSha256() }
}

if (import.meta.main) console.log(JSON.stringify({ ...(await trainBits()), node: process.version, arch: process.arch }))
