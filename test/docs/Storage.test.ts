import { assert, describe, it } from "vitest"
import * as Safetensors from "../../src/store/Safetensors.ts"
import * as WorkQueue from "../../src/store/WorkQueue.ts"
import * as WorkQueueRedis from "../../src/store/WorkQueueRedis.ts"
import { CheckpointError } from "../../src/training/CheckpointError.ts"
import * as Manifest from "../../src/training/CheckpointManifest.ts"
import { blocksOf, constantsOf, numberOf, readText, valueOf } from "./Pages.ts"
import { runModule, typeErrors, withModules } from "./Snippets.ts"

describe.each([
  { page: "docs/work-queue.md", modules: { ...WorkQueue, ...WorkQueueRedis }, constants: 10 },
  { page: "docs/checkpoints.md", modules: { ...Safetensors, ...Manifest }, constants: 2 }
])("$page", ({ page, modules, constants }) => {
  const values: Readonly<Record<string, unknown>> = modules

  it("gives the bounds and deadlines that the code has", () => {
    const written = constantsOf(readText(page))
    assert.lengthOf(written, constants)
    for (const [name, value] of written) {
      const actual = values[name]
      assert.strictEqual(numberOf(value), typeof actual === "number" ? valueOf(name, actual) : actual, name)
    }
  })
})

describe("docs/work-queue.md", () => {
  const text = readText("docs/work-queue.md")

  it("has an example that fits the types and does what it says", () =>
    withModules({ queue: blocksOf(text, "ts")[0] ?? "" }, async (paths, folder) => {
      assert.strictEqual(await typeErrors(folder), "")
      assert.strictEqual(await runModule(paths.get("queue") ?? ""), '1-0 {"sum":0.5}\n')
    }))

  it("names every state of an item, every reason of an error, and the prefix", () => {
    for (const state of WorkQueue.itemStates) assert.include(text, `\`${state}\``)
    for (const reason of WorkQueue.WorkQueueError.fields.reason.literals) assert.include(text, `\`${reason}\``)
    assert.include(text, `prefix: "${WorkQueueRedis.defaultPrefix}"`)
    assert.include(text, `"${WorkQueue.jobQueue.name}"`)
  })
})

describe("docs/checkpoints.md", () => {
  it("names the errors of saving", () => {
    const text = readText("docs/checkpoints.md")
    const ofSaving = ["DiskFull", "Denied", "StaleTerm"]
    for (const reason of ofSaving) assert.include(text, `\`${reason}\``)
    assert.includeMembers([...CheckpointError.fields.reason.literals], ofSaving)
  })
})
