import { assert, describe, it } from "@effect/vitest"
import { outerOptimizer, readLocalSgd, replicaDelta } from "../../src/compute/LocalSgd.ts"
import { applyOptimizer } from "../../src/compute/Optimizer.ts"
import { JobOptionError } from "../../src/compute/Options.ts"
import { Reduction } from "../../src/training/Reduction.ts"
import { normals } from "../support/attacks.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const n = 700

/** Replicas minimise ½‖x − c‖² weighted by curvature, each seeing noise of its own. */
const makeProblem = (seed: number) => {
  const random = new SeededRandom(seed)
  const optimum = normals(random, n)
  const curvature = Float32Array.from({ length: n }, (_, index) => 0.05 + (0.95 * index) / n)
  const gradient = (x: Float32Array, noise: number): Float32Array =>
    x.map(
      (value, index) => (curvature[index] ?? 0) * (value - (optimum[index] ?? 0)) + noise * (random.u32() / 2 ** 31 - 1)
    )
  return { optimum, gradient }
}

const distance = (left: Float32Array, right: Float32Array): number =>
  Math.sqrt(left.reduce((sum, value, index) => sum + (value - (right[index] ?? 0)) ** 2, 0))

/** DiLoCo by the modules: deltas of replicas averaged along the tree, the outer step by the optimizer. */
const diloco = (options: { rounds: number; replicas: number; innerSteps: number; noise: number; seed: number }) => {
  const { optimum, gradient } = makeProblem(options.seed)
  const outer = outerOptimizer(readLocalSgd({}))
  const state = { vectors: [new Float32Array(n)], scalars: new Float64Array(0) }
  const parameters = new Float32Array(n)
  const reduction = new Reduction(options.replicas, n)
  const nodes = Array.from({ length: options.replicas }, (_, from) => ({ from, to: from + 1 }))
  const mean = new Float32Array(n)
  for (let round = 0; round < options.rounds; round++) {
    reduction.begin(nodes)
    for (const node of nodes) {
      const local = parameters.slice()
      for (let step = 0; step < options.innerSteps; step++) {
        const slope = gradient(local, options.noise)
        local.forEach((value, index) => (local[index] = value - 0.1 * (slope[index] ?? 0)))
      }
      replicaDelta(parameters, local, reduction.slot(node))
      reduction.place(node, 0)
    }
    reduction.finish(mean)
    applyOptimizer(outer, parameters, mean, state)
  }
  return distance(parameters, optimum) / distance(new Float32Array(n), optimum)
}

describe("Local SGD", () => {
  it("takes as the way of a replica what it started from less what it came to, rounded to float32", () => {
    const random = new SeededRandom(1)
    const start = normals(random, n)
    const end = normals(random, n)
    const out = new Float32Array(n)
    replicaDelta(start, end, out)
    assert.deepStrictEqual(
      out,
      start.map((value, index) => value - (end[index] ?? 0))
    )
    replicaDelta(start, end, end)
    assert.deepStrictEqual(end, out)
  })

  it("applies the mean way with Nesterov momentum as the paper says: v ← μv + d, p ← p − η(d + μv)", () => {
    const random = new SeededRandom(2)
    const options = readLocalSgd({ outerLearningRate: 0.6, outerMomentum: 0.8 })
    const parameters = normals(random, n)
    const state = { vectors: [new Float32Array(n)], scalars: new Float64Array(0) }
    const expected = Float64Array.from(parameters)
    const velocity = new Float64Array(n)
    for (let round = 0; round < 10; round++) {
      const way = normals(random, n)
      applyOptimizer(outerOptimizer(options), parameters, way, state)
      way.forEach((d, index) => {
        velocity[index] = 0.8 * (velocity[index] ?? 0) + d
        expected[index] = (expected[index] ?? 0) - 0.6 * (d + 0.8 * (velocity[index] ?? 0))
      })
    }
    for (const [index, value] of parameters.entries()) assert.closeTo(value, expected[index] ?? NaN, 1e-4)
  })

  it("meets the optimum with a hundred times fewer exchanges than steps", () => {
    assert.isBelow(diloco({ rounds: 40, replicas: 4, innerSteps: 100, noise: 0, seed: 3 }), 0.01)
  })

  it("averages the noise of its replicas away", () => {
    const one = diloco({ rounds: 60, replicas: 1, innerSteps: 50, noise: 2, seed: 4 })
    const eight = diloco({ rounds: 60, replicas: 8, innerSteps: 50, noise: 2, seed: 4 })
    assert.isBelow(eight, 0.6 * one)
  })

  it("has the paper's outer learning rate and momentum unless told otherwise, and refuses others out of range", () => {
    assert.deepStrictEqual(readLocalSgd({}), { innerSteps: 50, outerLearningRate: 0.7, outerMomentum: 0.9 })
    assert.throws(
      () => readLocalSgd({ outerMomentum: 1 }, { prefix: "strategy" }),
      JobOptionError,
      "strategy.outerMomentum"
    )
    assert.throws(() => readLocalSgd({ innerSteps: 0 }), JobOptionError, "innerSteps")
  })
})
