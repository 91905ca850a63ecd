import { execFile } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { np } from "../../src/compute/Jax.ts"
import { JaxModel } from "../../src/compute/JaxModel.ts"
import { Dataset } from "../../src/compute/Dataset.ts"
import { Optimizer } from "../../src/compute/Optimizer.ts"
import { JobOptionError } from "../../src/compute/Options.ts"
import { Strategy } from "../../src/training/Strategy.ts"
import { TrainingJob, type TrainingJobOptions } from "../../src/training/TrainingJob.ts"

const model = JaxModel.make({ init: () => ({ w: np.zeros([1]) }), loss: ({ w }) => w.sum() })
const dataset = Dataset.make({ name: "none", load: () => Dataset.fromArrays({ train: {}, test: {} }) })
const required = { name: "job", model, dataset }

/** What TypeScript refuses, JavaScript lets through. */
const makeUntyped = (options: unknown) => TrainingJob.make(options as TrainingJobOptions)

const errorOf = (run: () => unknown): JobOptionError => {
  try {
    run()
  } catch (error) {
    assert.instanceOf(error, JobOptionError)
    return error
  }
  return assert.fail("Nothing was refused")
}

describe("The options of a job", () => {
  it("have documented defaults", () => {
    const job = TrainingJob.make(required)
    assert.deepStrictEqual(
      { microBatch: job.microBatch, lanes: job.lanes, epochs: job.epochs, seed: job.seed, strategy: job.strategy },
      { microBatch: 32, lanes: 8, epochs: 1, seed: 0, strategy: Strategy.allReduce() }
    )
    assert.deepStrictEqual(job.checkpoint, { everySteps: 200, keep: 3 })
    assert.deepStrictEqual(job.optimizer, { kind: "adam", learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 })
  })

  it.each([
    { path: "name", options: { name: undefined }, given: "missing", allowed: "1 to 64 letters" },
    { path: "name", options: { name: "../escape" }, given: '"../escape"', allowed: "starting with a letter or digit" },
    { path: "model", options: { model: {} }, given: "{}", allowed: "JaxModel.make" },
    { path: "dataset", options: { dataset: "mnist" }, given: '"mnist"', allowed: "Dataset.make" },
    {
      path: "microBatch",
      options: { microBatch: 0 },
      given: "0",
      allowed: "an integer from 1 to 65536 (examples per lane)"
    },
    { path: "microBatch", options: { microBatch: "32" }, given: '"32"', allowed: "an integer" },
    { path: "lanes", options: { lanes: 257 }, given: "257", allowed: "an integer from 1 to 256 (lanes per step)" },
    { path: "epochs", options: { epochs: 1.5 }, given: "1.5", allowed: "an integer" },
    { path: "epochs", options: { epochs: Number.NaN }, given: "NaN", allowed: "an integer" },
    { path: "epochs", options: { epochs: null }, given: "null", allowed: "an integer" },
    { path: "seed", options: { seed: -1 }, given: "-1", allowed: "an integer from 0 to 9007199254740991" },
    { path: "optimizer", options: { optimizer: "adam" }, given: '"adam"', allowed: "Optimizer.adam" },
    {
      path: "optimizer.kind",
      options: { optimizer: { kind: "lion" } },
      given: '"lion"',
      allowed: "one of sgd, momentum, adam, adamW"
    },
    {
      path: "optimizer.learningRate",
      options: { optimizer: Optimizer.sgd({ learningRate: -1 }) },
      given: "-1",
      allowed: "a number above 0 to 1000"
    },
    {
      path: "optimizer.beta3",
      options: { optimizer: { kind: "adam", beta3: 1 } },
      given: "1",
      allowed: "optimizer.beta1"
    },
    { path: "strategy", options: { strategy: () => 1 }, given: "a function", allowed: "Strategy.allReduce()" },
    {
      path: "strategy.compression",
      options: { strategy: Strategy.allReduce({ aggregation: "krum", compression: "topK" }) },
      given: '"topK"',
      allowed: "none or fp16 with krum"
    },
    {
      path: "strategy.hostile",
      options: { strategy: Strategy.allReduce({ aggregation: "trimmedMean", hostile: 4 }) },
      given: "4",
      allowed: "at most 3 with trimmedMean and 8 lanes"
    },
    {
      path: "strategy.kind",
      options: { strategy: { kind: "ring" } },
      given: '"ring"',
      allowed: "one of allReduce, parameterServer"
    },
    {
      path: "strategy.staleness",
      options: { strategy: { ...Strategy.parameterServer(), staleness: 2 } },
      given: "2",
      allowed: "one of the known options"
    },
    { path: "checkpoint", options: { checkpoint: 200 }, given: "200", allowed: "{ everySteps: 200, keep: 3 }" },
    {
      path: "checkpoint.keep",
      options: { checkpoint: { keep: 0 } },
      given: "0",
      allowed: "an integer from 1 to 1000 (checkpoints that are kept)"
    },
    {
      path: "checkpoint.every",
      options: { checkpoint: { every: 10 } },
      given: "10",
      allowed: "checkpoint.everySteps, checkpoint.keep"
    },
    {
      path: "augment",
      options: { augment: { flip: true } },
      given: '{"flip":true}',
      allowed: "name, microBatch, lanes, epochs, seed, model, dataset, optimizer, strategy, checkpoint"
    }
  ])("refuse $options at $path, with what was given and what is allowed", ({ path, options, given, allowed }) => {
    const error = errorOf(() => makeUntyped({ ...required, ...options }))
    assert.strictEqual(error.path, path)
    assert.strictEqual(error.given, given)
    assert.include(error.allowed, allowed)
    assert.include(error.message, `${path} is ${given}, but must be `)
  })

  it("say when checkpoints are saved, which is no part of the fingerprint", () => {
    const job = TrainingJob.make({ ...required, checkpoint: { keep: 7 } })
    const changed = job.override([["checkpoint.everySteps", "0"]])
    assert.deepStrictEqual(changed.checkpoint, { everySteps: 0, keep: 7 })
    assert.deepStrictEqual(changed.optionTexts, TrainingJob.make(required).optionTexts)
  })

  it("can be overridden by text, typed by their schemas", () => {
    const job = TrainingJob.make({ ...required, optimizer: Optimizer.momentum() })
    const changed = job.override([
      ["epochs", "7"],
      ["name", "42"],
      ["optimizer.learningRate", "1e-2"],
      ["optimizer.nesterov", "true"],
      ["epochs", "9"]
    ])
    assert.strictEqual(changed.epochs, 9)
    assert.strictEqual(changed.name, "42")
    assert.deepStrictEqual(changed.optimizer, { kind: "momentum", learningRate: 0.01, momentum: 0.9, nesterov: true })
    assert.strictEqual(changed.model, model)
    assert.strictEqual(job.epochs, 1)
    assert.deepStrictEqual(job.override([]).optionTexts, job.optionTexts)
  })

  it.each([
    { set: ["epochs", "many"], path: "epochs", given: "NaN" },
    { set: ["epochs", ""], path: "epochs", given: '""' },
    { set: ["epochs", "0"], path: "epochs", given: "0" },
    { set: ["optimizer.learningRate", "fast"], path: "optimizer.learningRate", given: "NaN" },
    { set: ["optimizer.momentum", "0.9"], path: "optimizer.momentum", given: '"0.9"' },
    { set: ["epoch", "1"], path: "epoch", given: '"1"' },
    { set: ["model", "x"], path: "model", given: '"x"' },
    { set: ["constructor", "x"], path: "constructor", given: '"x"' }
  ] as const)("refuse the override $set", ({ set, path, given }) => {
    const error = errorOf(() => TrainingJob.make(required).override([set]))
    assert.strictEqual(error.path, path)
    assert.strictEqual(error.given, given)
  })
})

describe("Loading a job module", () => {
  let folder = ""
  let results: Readonly<Record<string, { readonly tag: string; readonly reason?: string; readonly message: string }>> =
    {}

  const sound = `
    import { Dataset, JaxModel, np, TrainingJob } from "artifice"
    import { numpy } from "@jax-js/jax"
    const model = JaxModel.make({ init: () => ({ w: np.zeros([1]) }), loss: ({ w }) => w.sum() })
    const dataset = Dataset.make({ name: "none", load: () => Dataset.fromArrays({ train: {}, test: {} }) })
    if (np.array([1]).constructor !== numpy.array([1]).constructor) throw new Error("two copies of jax-js")
  `
  const modules = {
    "sound.ts": `${sound} const epochs: number = 5; export default TrainingJob.make({ name: "sound", model, dataset, epochs })`,
    "throws.ts": `throw new Error("cannot start")`,
    "syntax.ts": `export default {`,
    "missing-import.ts": `import "no-such-package"`,
    "no-default.ts": `export const job = 1`,
    "plain-object.ts": `export default { name: "x" }`,
    "bad-option.ts": `${sound} export default TrainingJob.make({ name: "bad", model, dataset, lanes: 1000 })`
  }

  // The modules are loaded by a plain Node, far from any node_modules, as the command line does.
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "artifice-job-"))
    for (const [name, source] of Object.entries(modules)) writeFileSync(join(folder, name), source)
    const script = `
      import { Effect } from "effect"
      import { pathToFileURL } from "node:url"
      import { TrainingJob } from "./src/training/TrainingJob.ts"
      const folder = ${JSON.stringify(folder)}
      const results = {}
      const load = async (name, specifier, set = []) => {
        results[name] = await Effect.runPromise(TrainingJob.load(specifier, { set }).pipe(
          Effect.match({
            onSuccess: job => ({ tag: "job", message: job.name + " " + job.epochs }),
            onFailure: error => ({ tag: error._tag, reason: error.reason, message: error.message })
          })
        ))
      }
      for (const name of ${JSON.stringify(Object.keys(modules))}) await load(name, folder + "/" + name)
      await load("absent.ts", folder + "/absent.ts")
      await load("a folder", folder)
      await load("no URL", "file://elsewhere/%zz")
      await load("file URL", pathToFileURL(folder + "/sound.ts").href)
      await load("set", folder + "/sound.ts", [["epochs", "2"]])
      await load("bad set", folder + "/sound.ts", [["epochs", "0"]])
      process.chdir(folder)
      await load("relative", "./sound.ts")
      await load("bare relative", "sound.ts")
      console.log(JSON.stringify(results))`
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", script], {
      cwd: new URL("../..", import.meta.url)
    })
    results = JSON.parse(stdout)
  })

  afterAll(() => rmSync(folder, { recursive: true }))

  it.each(["sound.ts", "file URL", "relative", "bare relative"])("finds it anywhere on disk: %s", name => {
    assert.deepStrictEqual(results[name], { tag: "job", message: "sound 5" })
  })

  it("replaces options", () => {
    assert.deepStrictEqual(results.set, { tag: "job", message: "sound 2" })
  })

  it.each([
    { name: "absent.ts", tag: "JobLoadError", reason: "NotFound", message: "There is no job module at" },
    { name: "a folder", tag: "JobLoadError", reason: "NotFound", message: "There is no job module at" },
    { name: "no URL", tag: "JobLoadError", reason: "NotFound", message: "There is no job module at" },
    { name: "throws.ts", tag: "JobLoadError", reason: "ImportFailed", message: "cannot start" },
    { name: "syntax.ts", tag: "JobLoadError", reason: "ImportFailed", message: "Loading" },
    { name: "missing-import.ts", tag: "JobLoadError", reason: "ImportFailed", message: "no-such-package" },
    {
      name: "no-default.ts",
      tag: "JobLoadError",
      reason: "NoDefaultExport",
      message: "export default TrainingJob.make"
    },
    {
      name: "plain-object.ts",
      tag: "JobLoadError",
      reason: "NotAJob",
      message: 'is {"name":"x"}, not what TrainingJob.make returns'
    },
    {
      name: "bad-option.ts",
      tag: "JobOptionError",
      reason: undefined,
      message: "lanes is 1000, but must be an integer from 1 to 256"
    },
    { name: "bad set", tag: "JobOptionError", reason: undefined, message: "epochs is 0, but must be" }
  ])("reports $tag $reason for $name", ({ name, tag, reason, message }) => {
    const result = results[name]
    assert.strictEqual(result?.tag, tag)
    assert.strictEqual(result?.reason, reason)
    assert.include(result?.message, message)
  })
})
