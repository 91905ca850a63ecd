import { createHash } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { np } from "../../src/compute/Jax.ts"
import { JaxModel } from "../../src/compute/JaxModel.ts"
import { Dataset } from "../../src/compute/Dataset.ts"
import type { ComputeInfo } from "../../src/compute/Engine.ts"
import { Optimizer } from "../../src/compute/Optimizer.ts"
import {
  Fingerprint,
  fingerprintOf,
  fingerprintSha256,
  firstDifference,
  packageVersion
} from "../../src/training/Fingerprint.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"

const job = TrainingJob.make({
  name: "job",
  model: JaxModel.make({ init: () => ({ w: np.zeros([1]) }), loss: ({ w }) => w.sum() }),
  dataset: Dataset.make({ name: "data", load: () => Dataset.fromArrays({ train: {}, test: {} }) }),
  optimizer: Optimizer.sgd()
})

const info: ComputeInfo = {
  lanes: 8,
  stepsPerEpoch: 3,
  droppedExamples: 1,
  parameterCount: 6,
  leaves: [{ path: "w", shape: [2, 3] }],
  backend: { name: "jax-js/wasm", version: "0.1.25", strict: true, threads: 1 },
  programSha256: "cd".repeat(32),
  dataset: { digest: "ab".repeat(32), trainExamples: 769, testExamples: 10 }
}

describe("The fingerprint of a job", () => {
  it("names everything that decides the bits", () => {
    assert.deepStrictEqual(fingerprintOf(job, info), [
      ["package.version", packageVersion()],
      ["name", '"job"'],
      ["microBatch", "32"],
      ["lanes", "8"],
      ["epochs", "1"],
      ["seed", "0"],
      ["optimizer.kind", '"sgd"'],
      ["optimizer.learningRate", "0.01"],
      ["strategy.aggregation", '"mean"'],
      ["strategy.compression", '"none"'],
      ["strategy.density", "0.01"],
      ["strategy.hostile", "1"],
      ["strategy.iterations", "3"],
      ["strategy.kind", '"allReduce"'],
      ["strategy.memberMomentum", "0.9"],
      ["strategy.nonFinite", '"fail"'],
      ["strategy.radius", "0"],
      ["dataset.name", '"data"'],
      ["dataset.sha256", "ab".repeat(32)],
      ["dataset.trainExamples", "769"],
      ["dataset.testExamples", "10"],
      ["backend.name", "jax-js/wasm"],
      ["backend.version", "0.1.25"],
      ["backend.strict", "true"],
      ["backend.threads", "1"],
      ["model.parameters", "6"],
      ["model.leaf.w", "[2,3]"],
      ["model.program.sha256", "cd".repeat(32)]
    ])
  })

  it.each([
    { field: "epochs", ours: "1", theirs: "2", fingerprint: fingerprintOf(job.override([["epochs", "2"]]), info) },
    {
      field: "optimizer.learningRate",
      ours: "0.01",
      theirs: "0.02",
      fingerprint: fingerprintOf(job.override([["optimizer.learningRate", "0.02"]]), info)
    },
    {
      field: "strategy.aggregation",
      ours: '"mean"',
      theirs: '"krum"',
      fingerprint: fingerprintOf(job.override([["strategy.aggregation", "krum"]]), info)
    },
    {
      field: "backend.strict",
      ours: "true",
      theirs: "false",
      fingerprint: fingerprintOf(job, { ...info, backend: { ...info.backend, strict: false } })
    },
    {
      field: "dataset.sha256",
      ours: "ab".repeat(32),
      theirs: "cd".repeat(32),
      fingerprint: fingerprintOf(job, { ...info, dataset: { ...info.dataset, digest: "cd".repeat(32) } })
    },
    {
      field: "model.leaf.w",
      ours: "[2,3]",
      theirs: "[3,2]",
      fingerprint: fingerprintOf(job, { ...info, leaves: [{ path: "w", shape: [3, 2] }] })
    },
    {
      field: "model.leaf.w",
      ours: "[2,3]",
      theirs: undefined,
      fingerprint: fingerprintOf(job, { ...info, leaves: [] })
    },
    {
      field: "model.leaf.z",
      ours: undefined,
      theirs: "[1]",
      fingerprint: fingerprintOf(job, { ...info, leaves: [...info.leaves, { path: "z", shape: [1] }] })
    }
  ])("tells the first difference: $field is $ours here and $theirs there", ({ field, ours, theirs, fingerprint }) => {
    const mine = fingerprintOf(job, info)
    assert.deepStrictEqual(firstDifference(mine, fingerprint), { field, ours, theirs })
    assert.notStrictEqual(fingerprintSha256(mine), fingerprintSha256(fingerprint))
  })

  it("survives the journey over RPC unchanged", () => {
    const mine = fingerprintOf(job, info)
    const received = Schema.decodeUnknownSync(Fingerprint)(
      JSON.parse(JSON.stringify(Schema.encodeSync(Fingerprint)(mine)))
    )
    assert.isUndefined(firstDifference(mine, received))
    assert.strictEqual(fingerprintSha256(received), createHash("sha256").update(JSON.stringify(mine)).digest("hex"))
  })

  it("is refused when a field or its value is longer than any job needs", () => {
    assert.throws(() => Schema.decodeUnknownSync(Fingerprint)([["name", "x".repeat(4_097)]]))
  })
})
