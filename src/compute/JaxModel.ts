import * as jax from "@jax-js/jax"
import type { Batch } from "./Dataset.ts"
import { jaxBackend, lend, present, toDevice, type Tensor } from "./Jax.ts"
import { ModelError, type CompiledModel, type Evaluation, type Leaf, type Model } from "./Model.ts"
import { isRecord } from "./Options.ts"

/** Parameters of a model: arrays in nested objects and lists. */
export type ParameterTree = Tensor | { readonly [name: string]: ParameterTree } | ReadonlyArray<ParameterTree>

/** The arrays of a batch by name, as the dataset yields them. */
export type BatchTensors = { readonly [name: string]: Tensor }

/** A model as pure functions over a tree of arrays, written with `np`, `nn` and `random` of this package. */
export interface JaxModelDefinition<Parameters extends ParameterTree, Inputs extends BatchTensors> {
  /** The initial parameters, float32, from a random key (shape [2], uint32). Their names and shapes never change. */
  readonly init: (key: Tensor) => Parameters
  /**
   * The mean loss over the batch, a float32 scalar. `key` (shape [2], uint32) differs for each (epoch, step, lane); in
   * evaluation there is none: leave out dropout and the like then.
   */
  readonly loss: (parameters: Parameters, batch: Inputs, key: Tensor | undefined) => Tensor
  /** Means over the batch to report beside the loss, each a scalar. */
  readonly metrics?: { readonly [name: string]: (parameters: Parameters, batch: Inputs) => Tensor }
}

/** The leaves of a parameter tree by path; an array in the order found. */
const collect = (tree: unknown, path: string, found: Array<readonly [string, Tensor]>): void => {
  if (isTraced(tree)) found.push([path, tree])
  else if (Array.isArray(tree) || (isRecord(tree) && !ArrayBuffer.isView(tree)))
    for (const [key, child] of Object.entries(tree)) collect(child, path === "" ? key : `${path}.${key}`, found)
  else
    throw new ModelError({
      function: "init",
      message: `init must return a tree of arrays, but ${path === "" ? "its result" : `\`${path}\``} is ${tree === null ? "null" : typeof tree}`
    })
}

const isTraced = (value: unknown): value is Tensor => isRecord(value) && "aval" in value && "dtype" in value

/** A tree of the same form, with the array of each leaf's path. */
const rebuild = (tree: unknown, path: string, leaf: (path: string) => unknown): unknown => {
  if (isTraced(tree)) return leaf(path)
  const child = ([key, value]: [string, unknown]) => rebuild(value, path === "" ? key : `${path}.${key}`, leaf)
  if (Array.isArray(tree)) return Object.entries(tree).map(child)
  return isRecord(tree) ? Object.fromEntries(Object.entries(tree).map(entry => [entry[0], child(entry)])) : tree
}

const sizeOf = (shape: ReadonlyArray<number>): number => shape.reduce((product, length) => product * length, 1)

const firstNonFinite = (values: Float32Array): number => values.findIndex(value => !Number.isFinite(value))

/** Checks what `loss` or a metric returned: one array without dimensions. */
const scalarOf = (result: unknown, kind: "loss" | "metric", name: string): Tensor => {
  if (!isTraced(result))
    throw new ModelError({
      function: kind,
      message: `${name} must return an array without dimensions, not ${typeof result}`
    })
  if (result.shape.length !== 0)
    throw new ModelError({
      function: kind,
      message: `${name} must return a scalar, but its result has the shape [${result.shape.join(", ")}]; take the mean over the batch`
    })
  if (kind === "loss" && result.dtype !== "float32")
    throw new ModelError({ function: kind, message: `${name} must return float32, not ${result.dtype}` })
  return result
}

class CompiledJaxModel<Parameters extends ParameterTree, Inputs extends BatchTensors> implements CompiledModel {
  readonly backend = jaxBackend()
  readonly leaves: ReadonlyArray<Leaf>
  readonly parameterCount: number
  readonly #init: (key: Tensor) => Array<Tensor>
  readonly #step: (leaves: Array<Tensor>, batch: BatchTensors, key: Tensor, one: Tensor) => [Tensor, Array<Tensor>]
  readonly #trace: (
    leaves: Array<Tensor>,
    batch: BatchTensors,
    key: Tensor,
    one: Tensor
  ) => { readonly jaxpr: { readonly toString: () => string; readonly dispose: () => void } }
  readonly #evaluation: (leaves: Array<Tensor>, batch: BatchTensors) => Array<Tensor>
  readonly #metrics: ReadonlyArray<string>
  readonly #one = toDevice(Float32Array.of(1), [])
  #uploaded: Array<Tensor> = []
  #trainShapes = ""

  constructor(definition: JaxModelDefinition<Parameters, Inputs>) {
    const { tree, leaves } = traceInit(definition)
    this.leaves = leaves
    this.parameterCount = leaves.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
    const position = new Map(leaves.map(({ path }, index) => [path, index]))
    // jax-js hands back what it was given: the tree that init returned, with other arrays in the same places.
    const parametersOf = (arrays: Array<Tensor>) =>
      present(rebuild(tree, "", path => arrays[position.get(path) ?? 0])) as Parameters
    const inputsOf = (batch: BatchTensors) => present(batch) as Inputs

    this.#init = jax.jit((key: Tensor) => {
      const found: Array<readonly [string, Tensor]> = []
      collect(lend(definition.init(present(key) as Tensor)), "", found)
      const byPath = new Map(found)
      return leaves.map(({ path }) => byPath.get(path) ?? shapesChanged(path))
    })
    const loss = (arrays: Array<Tensor>, batch: BatchTensors, key: Tensor | undefined): Tensor =>
      scalarOf(
        lend(definition.loss(parametersOf(arrays), inputsOf(batch), present(key) as Tensor | undefined)),
        "loss",
        "loss"
      )
    // jax-js 0.1.25 loses the padding of a padded literal, and so the gradient of `x.slice(0).sum()`, where the derivative
    // that reaches the slice is the literal 1. A factor that it cannot know to be 1 keeps literals out; the bits stay.
    const step = jax.valueAndGrad((arrays: Array<Tensor>, batch: BatchTensors, key: Tensor, one: Tensor) =>
      loss(arrays, batch, key).mul(one)
    )
    this.#trace = jax.makeJaxpr((arrays: Array<Tensor>, batch: BatchTensors, key: Tensor, one: Tensor) => {
      const [value, gradients] = step(arrays, batch, key, one)
      return [value, ...gradients]
    })
    this.#step = jax.jit(step)
    const metrics = Object.entries(definition.metrics ?? {})
    this.#metrics = metrics.map(([name]) => name)
    this.#evaluation = jax.jit((arrays: Array<Tensor>, batch: BatchTensors) => [
      loss(arrays, batch, undefined),
      ...metrics.map(([name, metric]) =>
        scalarOf(lend(metric(parametersOf(arrays), inputsOf(batch))), "metric", `metric ${name}`)
      )
    ])
  }

  initialise(key: Uint32Array, parameters: Float32Array): void {
    this.#read(this.#init(toDevice(key, [2])), parameters)
    const fault = firstNonFinite(parameters)
    if (fault < 0) return
    let offset = 0
    const leaf = this.leaves.find(({ shape }) => (offset += sizeOf(shape)) > fault)
    throw new ModelError({
      function: "init",
      message: `init gave \`${leaf?.path ?? "a leaf"}\` the value ${parameters[fault]}; initial parameters must be finite`
    })
  }

  setParameters(parameters: Float32Array): void {
    for (const array of this.#uploaded) array.dispose()
    let offset = 0
    this.#uploaded = this.leaves.map(({ shape }) => {
      const size = sizeOf(shape)
      const part = parameters.subarray(offset, offset + size)
      offset += size
      return toDevice(part, shape)
    })
  }

  program(batch: Batch, key: Uint32Array): string {
    const leaves = this.leaves.map(({ shape }) => toDevice(new Float32Array(sizeOf(shape)), shape))
    const { jaxpr } = this.#trace(leaves, upload(batch), toDevice(key, [2]), this.#one.ref)
    const text = jaxpr.toString()
    jaxpr.dispose()
    return text
  }

  gradient(batch: Batch, key: Uint32Array, gradient: Float32Array): number {
    const shapes = JSON.stringify(Object.entries(batch).map(([name, { shape }]) => [name, shape]))
    if (this.#trainShapes === "") this.#trainShapes = shapes
    if (shapes !== this.#trainShapes)
      throw new ModelError({
        function: "batch",
        message: `The dataset's batches changed from ${this.#trainShapes} to ${shapes}; names and shapes must stay the same`
      })
    const [loss, gradients] = this.#step(this.#lent(), upload(batch), toDevice(key, [2]), this.#one.ref)
    this.#read(gradients, gradient)
    return loss.dataSync()[0] ?? Number.NaN
  }

  evaluate(batch: Batch): Evaluation {
    const [loss, ...metrics] = this.#evaluation(this.#lent(), upload(batch))
    const values = metrics.map(metric => Number(metric.dataSync()[0]))
    return {
      loss: loss?.dataSync()[0] ?? Number.NaN,
      metrics: Object.fromEntries(this.#metrics.map((name, index) => [name, values[index] ?? Number.NaN]))
    }
  }

  #lent(): Array<Tensor> {
    return this.#uploaded.map(array => array.ref)
  }

  /**
   * Copies arrays in the order of the leaves to one flat array, and frees them. What `dataSync` gives is a copy of its own: let go at once,
   * or the megabytes of each step wait for the garbage collector.
   */
  #read(arrays: ReadonlyArray<Tensor>, flat: Float32Array): void {
    let offset = 0
    for (const array of arrays) {
      const data = array.dataSync()
      flat.set(data, offset)
      offset += data.length
      if (data.buffer instanceof ArrayBuffer) data.buffer.transfer(0)
    }
  }
}

const upload = (batch: Batch): BatchTensors =>
  Object.fromEntries(Object.entries(batch).map(([name, { data, shape }]) => [name, toDevice(data, shape)]))

const shapesChanged = (path: string): never => {
  throw new ModelError({
    function: "init",
    message: `init returned \`${path}\` once and not the next time; its names and shapes must depend on nothing`
  })
}

/** Runs `init` without computing anything, to learn the tree it returns and the shapes of its leaves. */
const traceInit = <Parameters extends ParameterTree, Inputs extends BatchTensors>(
  definition: JaxModelDefinition<Parameters, Inputs>
): { readonly tree: unknown; readonly leaves: ReadonlyArray<Leaf> } => {
  let tree: unknown
  const found: Array<readonly [string, Tensor]> = []
  jax.makeJaxpr((key: Tensor) => {
    tree = definition.init(present(key) as Tensor)
    collect(lend(tree), "", found)
    return found.map(([, array]) => array)
  })(toDevice(Uint32Array.of(0, 1), [2]))
  if (found.length === 0) throw new ModelError({ function: "init", message: "init returned no array" })
  const sorted = found.toSorted(([left], [right]) => (left < right ? -1 : left > right ? 1 : 0))
  for (const [index, [path, array]] of sorted.entries()) {
    if (array.dtype !== "float32")
      throw new ModelError({ function: "init", message: `init must return float32, but \`${path}\` is ${array.dtype}` })
    if (array.shape.includes(0))
      throw new ModelError({
        function: "init",
        message: `\`${path}\` has no element: its shape is [${array.shape.join(", ")}]`
      })
    if (path === sorted[index + 1]?.[0])
      throw new ModelError({
        function: "init",
        message: `Two leaves have the path \`${path}\`; do not use dots in names`
      })
  }
  return { tree, leaves: sorted.map(([path, array]) => ({ path, shape: [...array.shape] })) }
}

/** Models written with jax-js, computed by its WebAssembly kernels in strict mode. */
export const JaxModel = {
  /**
   * @example
   * JaxModel.make({
   *   init: key => ({ weight: random.normal(key, [784, 10]).mul(0.01), bias: np.zeros([10]) }),
   *   loss: ({ weight, bias }, { image, label }: { image: Tensor; label: Tensor }) =>
   *     nn.logSoftmax(np.dot(image, weight).add(bias)).mul(nn.oneHot(label, 10)).sum(-1).mean().neg(),
   *   metrics: { … }
   * })
   */
  make: <Parameters extends ParameterTree, Inputs extends BatchTensors>(
    definition: JaxModelDefinition<Parameters, Inputs>
  ): Model => ({ compile: async () => new CompiledJaxModel(definition) })
}
