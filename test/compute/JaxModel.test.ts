import { execFile } from "node:child_process"
import { promisify } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import type { Batch } from "../../src/compute/Dataset.ts"
import { jaxBackend, nn, np, random, type Tensor } from "../../src/compute/Jax.ts"
import { JaxModel, type JaxModelDefinition, type ParameterTree } from "../../src/compute/JaxModel.ts"
import { ModelError } from "../../src/compute/Model.ts"

const key = Uint32Array.of(1, 2)

const batchOf = (values: ReadonlyArray<number>): Batch => ({
  x: { data: Float32Array.from(values), shape: [values.length] }
})

type Inputs = { readonly x: Tensor }

const compile = <P extends ParameterTree>(definition: JaxModelDefinition<P, Inputs>) =>
  JaxModel.make(definition).compile()

const sum = { init: () => ({ w: np.ones([3]) }), loss: ({ w }: { w: Tensor }, { x }: Inputs) => w.mul(x).sum() }

/** Runs `script` as a module of this repository in a process of its own; yields what it prints. */
const runScript = async (script: string, ...flags: ReadonlyArray<string>): Promise<string> => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...flags, "--input-type=module-typescript", "--eval", script],
    {
      cwd: new URL("../..", import.meta.url)
    }
  )
  return stdout.trim()
}

describe("A jax-js model", () => {
  it("lays its leaves out in the order of their key paths, sorted by UTF-16 code unit", async () => {
    const model = await compile({
      init: () => ({
        b: [np.full([2], 1), { z: np.full([], 2), Z: np.full([1, 2], 3) }],
        "a-b": np.full([1], 4),
        a: { c: np.full([1], 5) },
        é: np.full([1], 6)
      }),
      loss: ({ a }) => a.c.sum()
    })
    assert.deepStrictEqual(model.leaves, [
      { path: "a-b", shape: [1] },
      { path: "a.c", shape: [1] },
      { path: "b.0", shape: [2] },
      { path: "b.1.Z", shape: [1, 2] },
      { path: "b.1.z", shape: [] },
      { path: "é", shape: [1] }
    ])
    const parameters = new Float32Array(model.parameterCount)
    model.initialise(key, parameters)
    assert.deepStrictEqual(Array.from(parameters), [4, 5, 1, 1, 3, 3, 2, 6])
    const gradient = new Float32Array(model.parameterCount)
    model.setParameters(parameters)
    model.gradient(batchOf([1]), key, gradient)
    assert.deepStrictEqual(Array.from(gradient), [0, 1, 0, 0, 0, 0, 0, 0])
  })

  it("computes at the parameters it was given last, which may be shared memory", async () => {
    const model = await compile(sum)
    const gradient = new Float32Array(new SharedArrayBuffer(12))
    for (const values of [
      [1, 2, 3],
      [4, 5, 6]
    ]) {
      const parameters = new Float32Array(new SharedArrayBuffer(12))
      parameters.set(values)
      model.setParameters(parameters)
      const loss = model.gradient(batchOf([10, 100, 1000]), key, gradient)
      assert.strictEqual(
        loss,
        values.reduce((total, value, index) => total + value * 10 ** (index + 1), 0)
      )
      assert.deepStrictEqual(Array.from(gradient), [10, 100, 1000])
    }
  })

  it("shows the operations of its loss: the same twice, another for another constant, memory untouched", async () => {
    const model = await compile(sum)
    const batch = batchOf([1, 2, 3])
    const program = model.program(batch, key)
    assert.strictEqual(model.program(batch, key), program)
    assert.strictEqual((await compile(sum)).program(batch, key), program)
    const other = await compile({ ...sum, loss: ({ w }, { x }) => w.mul(x).sum().mul(2) })
    assert.notStrictEqual(other.program(batch, key), program)
    const parameters = Float32Array.of(1, 1, 1)
    const gradient = new Float32Array(3)
    model.setParameters(parameters)
    assert.strictEqual(model.gradient(batch, key, gradient), 6)
    assert.deepStrictEqual([...gradient], [1, 2, 3])
  })

  it("needs no manual references: arrays, rows of arrays and captured values can be used again and again", async () => {
    const scale = np.array([1, 2, 3])
    const model = await compile({
      init: () => ({ w: np.ones([3]) }),
      loss: ({ w }, { x }) => {
        const y = w.mul(x).mul(scale).add(w.mul(scale))
        const [first] = np.stack([y, y])
        const squares = np.square(y).add(y.mul(y)).sub(np.add(y, y))
        return squares
          .add(first ?? y)
          .add(w)
          .sum()
          .add(np.concatenate([w, w]).sum())
      },
      metrics: {
        largest: ({ w }, { x }) => np.max(w.mul(x)),
        again: ({ w }, { x }) => np.max(w.mul(x)).add(scale.sum())
      }
    })
    const gradient = new Float32Array(3)
    model.setParameters(Float32Array.of(1, 1, 1))
    for (let repeat = 0; repeat < 3; repeat++) {
      // With y = w·s·(x + 1): loss = Σ 2y² − 2y + y + w + 2w, gradient = (4y − 1)·s·(x + 1) + 3.
      assert.strictEqual(model.gradient(batchOf([1, 2, 3]), key, gradient), 8 - 2 + 72 - 6 + 288 - 12 + 9)
      assert.deepStrictEqual(Array.from(gradient), [7 * 2 + 3, 23 * 6 + 3, 47 * 12 + 3])
      assert.deepStrictEqual(model.evaluate(batchOf([1, 2, 3])).metrics, { largest: 3, again: 9 })
    }
  })

  it("gives parts of an array their own gradient, also where the derivative that reaches them is constant", async () => {
    const model = await compile({
      init: () => ({ w: np.zeros([2, 3]) }),
      loss: ({ w }) => {
        const [left] = np.split(w, [1], 1)
        return w
          .slice(1, [1, 3])
          .mean()
          .add((left ?? w).sum().mul(10))
      }
    })
    model.setParameters(new Float32Array(6))
    const gradient = new Float32Array(6)
    model.gradient(batchOf([1]), key, gradient)
    assert.deepStrictEqual(Array.from(gradient), [10, 0, 0, 10, 0.5, 0.5])
  })

  it("gives loss a random key per lane in training, and none in evaluation", async () => {
    const model = await compile({
      init: () => ({ w: np.zeros([1]) }),
      loss: ({ w }, _, given) => (given === undefined ? w.sum() : w.sum().add(random.uniform(given, [])))
    })
    model.setParameters(new Float32Array(1))
    const gradient = new Float32Array(1)
    const first = model.gradient(batchOf([1]), Uint32Array.of(1, 2), gradient)
    assert.strictEqual(model.gradient(batchOf([1]), Uint32Array.of(1, 2), gradient), first)
    assert.notStrictEqual(model.gradient(batchOf([1]), Uint32Array.of(1, 3), gradient), first)
    assert.strictEqual(model.evaluate(batchOf([1])).loss, 0)
  })

  it("initialises by the key alone", async () => {
    const model = await compile({ init: given => ({ w: random.normal(given, [100]) }), loss: ({ w }) => w.sum() })
    const draw = (given: Uint32Array) => {
      const parameters = new Float32Array(100)
      model.initialise(given, parameters)
      return parameters
    }
    assert.deepStrictEqual(draw(key), draw(key))
    assert.notDeepEqual(draw(key), draw(Uint32Array.of(2, 1)))
  })

  it("runs the user's functions only while they are traced: once for each shape of batch", async () => {
    const calls = { init: 0, loss: 0 }
    const model = await compile({
      init: () => (calls.init++, sum.init()),
      loss: (parameters, batch) => (calls.loss++, sum.loss(parameters, batch))
    })
    const parameters = new Float32Array(3)
    for (let repeat = 0; repeat < 5; repeat++) {
      model.initialise(key, parameters)
      model.setParameters(parameters)
      model.gradient(batchOf([1, 2, 3]), Uint32Array.of(repeat, repeat), new Float32Array(3))
      model.evaluate(batchOf([1, 2, 3]))
      model.evaluate(batchOf([1]))
    }
    assert.deepStrictEqual(calls, { init: 2, loss: 3 })
  })

  it.each([
    { fault: "a leaf that is no array", init: () => ({ w: np.zeros([1]), n: 3 }), message: "`n` is number" },
    { fault: "no leaf", init: () => ({}), message: "init returned no array" },
    { fault: "null", init: () => null, message: "its result is null" },
    {
      fault: "integers",
      init: () => ({ w: np.zeros([2], { dtype: np.int32 }) }),
      message: "init must return float32, but `w` is int32"
    },
    {
      fault: "an empty leaf",
      init: () => ({ w: np.zeros([0, 2]) }),
      message: "`w` has no element: its shape is [0, 2]"
    },
    {
      fault: "one path twice",
      init: () => ({ "a.b": np.zeros([1]), a: { b: np.zeros([1]) } }),
      message: "Two leaves have the path `a.b`"
    }
  ])("refuses an init that returns $fault", async ({ init, message }) => {
    const error: unknown = await JaxModel.make({
      // What TypeScript refuses, JavaScript lets through.
      init: init as () => ParameterTree,
      loss: () => np.zeros([])
    })
      .compile()
      .then(undefined, (reason: unknown) => reason)
    assert.instanceOf(error, ModelError)
    assert.include(error.message, message)
    assert.strictEqual(error.function, "init")
  })

  it("refuses initial parameters that are not finite, by the leaf's path", async () => {
    const model = await compile({
      init: () => ({ a: np.zeros([4]), b: { c: np.log(np.array([1, -1])) } }),
      loss: ({ a }) => a.sum()
    })
    assert.throws(() => model.initialise(key, new Float32Array(6)), ModelError, "init gave `b.c` the value NaN")
  })

  it.each([
    {
      fault: "a vector",
      loss: ({ w }: { w: Tensor }) => w,
      message: "loss must return a scalar, but its result has the shape [3]"
    },
    {
      fault: "an integer",
      loss: ({ w }: { w: Tensor }) => w.sum().astype(np.int32),
      message: "loss must return float32, not int32"
    },
    {
      fault: "no array",
      loss: () => 3 as unknown as Tensor,
      message: "loss must return an array without dimensions, not number"
    }
  ])("refuses a loss that is $fault", async ({ loss, message }) => {
    const model = await compile({ init: sum.init, loss })
    model.setParameters(new Float32Array(3))
    assert.throws(() => model.gradient(batchOf([1, 2, 3]), key, new Float32Array(3)), ModelError, message)
    assert.throws(() => model.evaluate(batchOf([1, 2, 3])), ModelError, message)
  })

  it("refuses a metric that is no scalar, by name", async () => {
    const model = await compile({ ...sum, metrics: { wide: ({ w }) => w } })
    model.setParameters(new Float32Array(3))
    assert.throws(() => model.evaluate(batchOf([1, 2, 3])), ModelError, "metric wide must return a scalar")
  })

  it("refuses training batches that change their shapes", async () => {
    const model = await compile(sum)
    model.setParameters(new Float32Array(3))
    model.gradient(batchOf([1, 2, 3]), key, new Float32Array(3))
    assert.throws(
      () => model.gradient(batchOf([1]), key, new Float32Array(3)),
      ModelError,
      'changed from [["x",[3]]] to [["x",[1]]]'
    )
  })

  it("works in strict mode: a product is rounded before it is added", () => {
    assert.isTrue(jaxBackend().strict)
  })

  it("compiles no kernel with a relaxed instruction, as jax-js alone would", async () => {
    const script = (first: string) => `
      const relaxedMadd = Buffer.from("fd8502", "hex")
      let found = 0
      const Module = WebAssembly.Module
      WebAssembly.Module = class extends Module {
        constructor(bytes) { super(bytes); if (Buffer.from(bytes).includes(relaxedMadd)) found++ }
      }
      ${first}
      const { numpy } = await import("@jax-js/jax")
      const ones = numpy.array(new Float32Array(4096).map((_, i) => i)).reshape([64, 64])
      numpy.dot(ones.ref, ones.transpose()).dataSync()
      console.log(found)`
    assert.isAbove(Number(await runScript(script(""))), 0)
    assert.strictEqual(await runScript(script(`await import("./src/compute/StrictWebAssembly.ts")`)), "0")
  })

  it("keeps memory flat over 2,000 steps", async () => {
    const grown = await runScript(
      `
      import { bitsJob } from "./bench/bits.ts"
      import { ComputeEngine } from "./src/compute/Engine.ts"
      const engine = await ComputeEngine.load(bitsJob)
      engine.initialise()
      const output = new Float32Array(engine.info.parameterCount)
      const run = async (steps: number) => {
        for (let step = 0; step < steps; step++) {
          engine.computeNode({ epoch: 1, step: step % 4, from: 0, to: 1 }, output)
          engine.applyStep(output)
          if (step % 10 === 0) engine.evaluate(engine.parameters, 0, 10)
        }
        for (let pass = 0; pass < 4; pass++) {
          gc()
          await new Promise(resolve => setImmediate(resolve))
        }
        const { heapUsed, external } = process.memoryUsage()
        return heapUsed + external
      }
      const before = await run(500)
      console.log((await run(2000)) - before)`,
      "--expose-gc"
    )
    // One array of the model left behind per step would be 8 MB.
    assert.isBelow(Number(grown), 1_500_000)
  })
})

describe("np, nn and random", () => {
  it("compute like jax-js, eagerly too", () => {
    const x = np.array([1, 2, 3])
    assert.deepStrictEqual(x.add(x).mul(x).js(), [2, 8, 18])
    assert.deepStrictEqual(nn.relu(np.subtract(x, 2)).js(), [0, 0, 1])
    assert.strictEqual(np.linalg.norm(np.array([3, 4])).js(), 5)
    assert.deepStrictEqual(
      np
        .array([
          [1, 2],
          [3, 4]
        ])
        .slice(1)
        .js(),
      [3, 4]
    )
    assert.deepStrictEqual(random.uniform(random.key(1), [2]).shape, [2])
    assert.deepStrictEqual([x.shape, x.dtype, x.size, x.ndim], [[3], "float32", 3, 1])
    assert.strictEqual(np.pi, Math.PI)
  })

  it("accept code that manages references as jax-js asks for", () => {
    const x = np.array([1, 2, 3])
    assert.deepStrictEqual(x.ref.mul(x.ref).js(), [1, 4, 9])
    x.dispose()
    assert.deepStrictEqual(x.js(), [1, 2, 3])
  })

  it("call back with arrays of the same kind", () => {
    const rows = np.array([
      [1, 2],
      [3, 4]
    ])
    assert.deepStrictEqual(np.applyAlongAxis(row => row.add(row).sum(), 1, rows).js(), [6, 14])
  })
})
