import { assert, describe, it } from "vitest"
import { Dataset } from "../../src/compute/Dataset.ts"
import { JaxModel } from "../../src/compute/JaxModel.ts"
import { np } from "../../src/compute/Jax.ts"
import { optimizerFields } from "../../src/compute/Optimizer.ts"
import { JobOptionError } from "../../src/compute/Options.ts"
import { tensorHeaderBytes, tensorKinds } from "../../src/node/TensorHeader.ts"
import * as Coordination from "../../src/training/Coordination.ts"
import { waitingReportMs } from "../../src/training/MemberReports.ts"
import { stateHashSteps } from "../../src/training/DirectReplica.ts"
import { evaluationBatch } from "../../src/training/Evaluation.ts"
import { evaluationDeadlineMs, maxPendingEvaluations } from "../../src/training/EvaluationDesk.ts"
import { heartbeatIntervalMs, maxSilenceMs } from "../../src/training/FailureDetector.ts"
import { maxMembers } from "../../src/training/Membership.ts"
import { rebalanceSteps } from "../../src/training/Pace.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { pairAttempts, pairPatienceMs } from "../../src/training/Troubles.ts"
import { maxBacklogBytes } from "../../src/training/AllGather.ts"
import { maxObserverQueueBytes } from "../../src/training/ViewStreams.ts"
import { coordinatorPatienceMs } from "../../src/training/Worker.ts"
import { codeOf, constantsOf, numberOf, readText, rowsOf, section, type Row } from "./Pages.ts"

const page = readText("docs/training.md")
const optionRows = rowsOf(section(page, "Options"))
const isOfOptimizer = (row: Row): boolean => row["optimizer"] !== undefined

const job = TrainingJob.make({
  name: "documented",
  model: JaxModel.make({ init: () => ({ weight: np.zeros([1]) }), loss: ({ weight }) => weight.sum() }),
  dataset: Dataset.make({ name: "none", load: () => Dataset.fromArrays({ train: {}, test: {} }) })
})

/** The options that `--set` takes for a job, as the error of an unknown one lists them. */
const settable = (of: TrainingJob): ReadonlyArray<string> => {
  try {
    of.override([["nothing", "1"]])
  } catch (error) {
    if (error instanceof JobOptionError) return error.allowed.replace(/^[^:]*: /, "").split(", ")
  }
  return assert.fail("an unknown option was taken")
}

/** What an error says is allowed for an option; every option refuses this text. */
const allowedFor = (path: string): string => {
  try {
    job.override([[path, "\u0000"]])
  } catch (error) {
    if (error instanceof JobOptionError) return error.allowed
  }
  return assert.fail(`${path} took nonsense`)
}

describe("docs/training.md", () => {
  it("lists the options of a job with the defaults and ranges that the code has", () => {
    const rows = optionRows.filter(row => row["option"] !== undefined && !isOfOptimizer(row))
    const byName = new Map(rows.map(row => [codeOf(row["option"]) ?? "", row]))
    const texts = new Map(job.optionTexts)
    const names = settable(job).filter(path => !path.includes("."))
    assert.sameMembers([...byName.keys()], [...names, "strategy", "optimizer", "checkpoint"])
    for (const name of names) {
      assert.strictEqual(byName.get(name)?.["allowed"], allowedFor(name), name)
      if (name !== "name") assert.strictEqual(byName.get(name)?.["default"], texts.get(name), name)
    }
    assert.strictEqual(texts.get("optimizer.kind"), '"adam"')
    assert.strictEqual(texts.get("strategy.kind"), '"allReduce"')
  })

  it("lists the options of checkpoints with the defaults and ranges that the code has", () => {
    const rows = optionRows.flatMap(row => (codeOf(row["checkpoint"]) === undefined ? [] : [row]))
    assert.deepStrictEqual(
      rows.map(row => [codeOf(row["checkpoint"]), Number(row["default"]), row["allowed"]]),
      Object.entries(job.checkpoint).map(([name, value]) => [name, value, allowedFor(`checkpoint.${name}`)])
    )
    assert.sameMembers(
      settable(job).filter(path => path.startsWith("checkpoint.")),
      Object.keys(job.checkpoint).map(name => `checkpoint.${name}`)
    )
  })

  it("lists the options of every optimizer with the defaults and ranges that the code has", () => {
    const rows = optionRows.filter(isOfOptimizer)
    const kinds = [...new Set(rows.map(row => codeOf(row["optimizer"]) ?? ""))]
    assert.throws(() => optimizerFields({ kind: "none" }), `one of ${kinds.join(", ")}`)
    for (const kind of kinds) {
      const fields = Object.entries(optimizerFields({ kind }))
      const written = rows.filter(row => codeOf(row["optimizer"]) === kind)
      assert.deepStrictEqual(
        written.map(row => [codeOf(row["option"]), row["allowed"]]),
        fields.map(([name, option]) => [name, option.allowed])
      )
      for (const [name, option] of fields) {
        const row = written.find(each => codeOf(each["option"]) === name)
        assert.strictEqual(option.parse(row?.["default"] ?? ""), option.default, `${kind}.${name}`)
      }
    }
  })

  it("gives the deadlines and bounds that the code has", () => {
    const values: Readonly<Record<string, unknown>> = {
      ...Coordination,
      evaluationDeadlineMs,
      maxPendingEvaluations,
      heartbeatIntervalMs,
      maxSilenceMs,
      waitingReportMs,
      pairPatienceMs,
      pairAttempts,
      stateHashSteps,
      maxBacklogBytes,
      maxObserverQueueBytes,
      rebalanceSteps,
      coordinatorPatienceMs,
      evaluationBatch,
      maxMembers
    }
    const written = constantsOf(page)
    assert.lengthOf(written, 17)
    for (const [name, value] of written) assert.strictEqual(Number(numberOf(value)), values[name], name)
  })

  it("describes a tensor's header to the byte", () => {
    const text = section(page, "Tensors on the wire")
    const bytes = rowsOf(text).flatMap(row => (row["bytes"] ?? "").split(" + ").map(Number))
    assert.strictEqual(
      bytes.reduce((sum, each) => sum + each, 0),
      tensorHeaderBytes
    )
    assert.include(text, `a header of ${tensorHeaderBytes} bytes`)
    const { partial, reduced, state, evaluation, products } = tensorKinds
    assert.include(
      text,
      `${partial} partial sum, ${reduced} reduced gradient, ${state} state, ${evaluation} parameters to evaluate, ${products} products (float64)`
    )
  })
})
