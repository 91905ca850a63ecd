import { JaxModel, nn, np, Optimizer, random, TrainingJob, type Tensor } from "artifice"
import { Mnist } from "./Mnist.ts"

const classes = 10

/** He initialisation: weights of variance 2 / inputs, biases zero. */
const layer = (key: Tensor, inputs: number, outputs: number) => ({
  weight: random.normal(key, [inputs, outputs]).mul(Math.sqrt(2 / inputs)),
  bias: np.zeros([outputs])
})

type Layer = ReturnType<typeof layer>
type Parameters = { readonly hidden1: Layer; readonly hidden2: Layer; readonly output: Layer }
type Batch = { readonly image: Tensor; readonly label: Tensor }

const dense = (input: Tensor, { weight, bias }: Layer) => np.dot(input, weight).add(bias)

/** Scores of the ten digits, shape [batch, 10]. */
const logits = ({ hidden1, hidden2, output }: Parameters, image: Tensor) =>
  dense(nn.relu(dense(nn.relu(dense(image, hidden1)), hidden2)), output)

const init = (key: Tensor): Parameters => {
  const keys = random.split(key, 3)
  return {
    hidden1: layer(keys.slice(0), 784, 256),
    hidden2: layer(keys.slice(1), 256, 128),
    output: layer(keys.slice(2), 128, classes)
  }
}

/** Mean cross-entropy in natural-log units. */
const loss = (parameters: Parameters, { image, label }: Batch) =>
  nn.logSoftmax(logits(parameters, image)).mul(nn.oneHot(label, classes)).sum(-1).mean().neg()

/** Share of the examples whose highest score is the right digit, 0 to 1. */
const accuracy = (parameters: Parameters, { image, label }: Batch) =>
  np.argmax(logits(parameters, image), -1).equal(label).astype(np.float32).mean()

export default TrainingJob.make({
  name: "mnist",
  model: JaxModel.make({ init, loss, metrics: { accuracy } }),
  dataset: Mnist.dataset,
  optimizer: Optimizer.adam({ learningRate: 1e-3 }),
  microBatch: 32,
  lanes: 8,
  epochs: 3,
  seed: 42
})
