import { createHash } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { ComputeThread, maxEvaluationExamples } from "../../src/compute/ComputeThread.ts"
import { addInto } from "../../src/compute/LaneTree.ts"
import { permutation } from "../../src/compute/Permutation.ts"
import type { Fault } from "./jobs/faulty.ts"

const jobUrl = (name: string) => new URL(`./jobs/${name}`, import.meta.url).href
const line = (set: ReadonlyArray<readonly [string, string]> = []) =>
  ComputeThread.make({ jobUrl: jobUrl("line.ts"), set })
const faulty = (fault: Fault) => ComputeThread.make({ jobUrl: jobUrl(`faulty.ts?fault=${fault}`), set: [] })

const shared = (elements: number): Float32Array => new Float32Array(new SharedArrayBuffer(elements * 4))
const slot = (thread: ComputeThread): Float32Array => shared(thread.info.parameterCount)
const sha256 = (...parts: ReadonlyArray<Uint8Array>) => {
  const hash = createHash("sha256")
  for (const part of parts) hash.update(part)
  return hash.digest("hex")
}
const bytes = (values: Float32Array) => new Uint8Array(values.slice().buffer)

/** Lets the event loop turn until `happened`. */
const until = (happened: () => boolean): Effect.Effect<void> =>
  Effect.promise(async () => {
    while (!happened()) await new Promise(resolve => setImmediate(resolve))
  })

describe("The compute thread", () => {
  it.live("tells what the job turned out to be, with overrides applied", () =>
    Effect.gen(function* () {
      const { info } = yield* line([
        ["lanes", "3"],
        ["microBatch", "100"]
      ])
      assert.deepStrictEqual(info.leaves, [
        { path: "offset", shape: [1] },
        { path: "slope", shape: [1, 1] }
      ])
      assert.strictEqual(info.parameterCount, 2)
      assert.deepStrictEqual(info.backend, { name: "jax-js/wasm", version: "0.1.25", strict: true, threads: 1 })
      assert.strictEqual(info.dataset.trainExamples, 4_096)
      assert.strictEqual(info.dataset.testExamples, 100)
      assert.match(info.dataset.digest, /^[0-9a-f]{64}$/)
      assert.strictEqual(info.lanes, 3)
      assert.strictEqual(info.stepsPerEpoch, 13)
      assert.strictEqual(info.droppedExamples, 196)
    })
  )

  it.live("gives a node the value of the tree over its lanes, whatever node it is asked for", () =>
    Effect.gen(function* () {
      const thread = yield* line([["lanes", "8"]])
      yield* thread.initialise
      const whole = slot(thread)
      const { loss } = yield* thread.computeNode({ epoch: 1, step: 2, from: 0, to: 8, output: whole })
      const halves = [slot(thread), slot(thread)] as const
      const left = yield* thread.computeNode({ epoch: 1, step: 2, from: 0, to: 4, output: halves[0] })
      const right = yield* thread.computeNode({ epoch: 1, step: 2, from: 4, to: 8, output: halves[1] })
      addInto(halves[0], halves[1])
      assert.deepStrictEqual(halves[0], whole)
      assert.strictEqual(Math.fround(left.loss + right.loss), loss)
      assert.isAbove(left.milliseconds, 0)
      assert.isTrue(whole.every(value => value !== 0))
    })
  )

  it.live("trains: the line is found", () =>
    Effect.gen(function* () {
      const thread = yield* line([
        ["lanes", "16"],
        ["microBatch", "64"],
        ["optimizer.learningRate", "0.1"]
      ])
      yield* thread.initialise
      const gradient = slot(thread)
      for (let step = 0; step < 200; step++) {
        yield* thread.computeNode({ epoch: 1 + (step >> 2), step: step & 3, from: 0, to: 16, output: gradient })
        for (let index = 0; index < gradient.length; index++) gradient[index] = (gradient[index] ?? 0) / 16
        yield* thread.applyStep(gradient)
      }
      assert.closeTo(thread.parameters[0] ?? 0, 1, 0.02)
      assert.closeTo(thread.parameters[1] ?? 0, 2, 0.04)
      const first = yield* thread.evaluate({ parameters: thread.parameters, from: 0, to: 60 })
      const rest = yield* thread.evaluate({ parameters: thread.parameters, from: 60, to: 100 })
      assert.strictEqual(first.count + rest.count, 100)
      assert.isBelow((first.lossSum + rest.lossSum) / 100, 1e-3)
      assert.isBelow(((first.metricSums.absoluteError ?? 1) + (rest.metricSums.absoluteError ?? 1)) / 100, 0.02)
    })
  )

  it.live("ships its state as one block: a joiner that writes it continues with the same bits", () =>
    Effect.gen(function* () {
      const [donor, joiner] = [yield* line(), yield* line()]
      const initial = yield* donor.initialise
      assert.strictEqual(initial, sha256(bytes(donor.parameters)))
      const gradient = slot(donor).fill(0.25)
      yield* donor.applyStep(gradient)
      assert.strictEqual(donor.stateByteLength, 2 * 4 + 2 * 2 * 4 + 2 * 8)
      const block = new Uint8Array(donor.stateByteLength)
      donor.readState(block)
      joiner.writeState(block)
      yield* donor.applyStep(gradient)
      yield* joiner.applyStep(gradient)
      assert.deepStrictEqual(joiner.parameters, donor.parameters)
      assert.deepStrictEqual(joiner.optimizerState, donor.optimizerState)
      joiner.readState(block)
      assert.strictEqual(yield* donor.stateSha256(2), sha256(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0), block))
      assert.strictEqual(yield* joiner.stateSha256(2), yield* donor.stateSha256(2))
      assert.notStrictEqual(yield* joiner.stateSha256(3), yield* donor.stateSha256(2))
      assert.strictEqual(yield* joiner.weightsSha256, sha256(bytes(donor.parameters)))
      assert.throws(() => joiner.writeState(block.subarray(1)), RangeError)
    })
  )

  it.live("initialises from the seed alone, and resets the optimizer", () =>
    Effect.gen(function* () {
      const thread = yield* line()
      const first = yield* thread.initialise
      yield* thread.applyStep(slot(thread).fill(1))
      assert.strictEqual(yield* thread.initialise, first)
      assert.isTrue(thread.optimizerState.vectors.every(vector => vector.every(value => value === 0)))
      assert.deepStrictEqual(Array.from(thread.optimizerState.scalars), [1, 1])
    })
  )

  it.live("names the first lane that is not finite", () =>
    Effect.gen(function* () {
      const thread = yield* faulty("infinite")
      yield* thread.initialise
      const position = permutation(64, 0, 1).indexOf(63)
      const step = Math.floor(position / 8)
      const result = yield* thread.computeNode({ epoch: 1, step, from: 0, to: 2, output: slot(thread) })
      assert.strictEqual(result.nonFiniteLane, Math.floor((position % 8) / 4))
      const other = yield* thread.computeNode({ epoch: 1, step: (step + 1) % 8, from: 0, to: 2, output: slot(thread) })
      assert.isUndefined(other.nonFiniteLane)
    })
  )

  it.live("lets evaluation wait for the work of steps", () =>
    Effect.gen(function* () {
      const thread = yield* line()
      yield* thread.initialise
      const order: Array<string> = []
      const evaluate = (name: string) =>
        thread
          .evaluate({ parameters: thread.parameters, from: 0, to: 1 })
          .pipe(Effect.tap(() => Effect.sync(() => order.push(name))))
      const node = (name: string) =>
        thread
          .computeNode({ epoch: 1, step: 0, from: 0, to: 1, output: slot(thread) })
          .pipe(Effect.tap(() => Effect.sync(() => order.push(name))))
      yield* Effect.all(
        [evaluate("running evaluation"), evaluate("waiting evaluation"), node("node 1"), node("node 2")],
        {
          concurrency: "unbounded"
        }
      )
      assert.deepStrictEqual(order, ["running evaluation", "node 1", "node 2", "waiting evaluation"])
    })
  )

  it.live("abandons waiting and running nodes on cancel, and nothing else", () =>
    Effect.gen(function* () {
      const thread = yield* line()
      yield* thread.initialise
      const output = slot(thread).fill(Number.NaN)
      const running = yield* Effect.forkChild(thread.computeNode({ epoch: 1, step: 0, from: 0, to: 256, output }))
      const waiting = yield* Effect.forkChild(
        thread.computeNode({ epoch: 1, step: 0, from: 0, to: 1, output: slot(thread) })
      )
      const hash = yield* Effect.forkChild(thread.weightsSha256)
      yield* until(() => !Number.isNaN(output[0]))
      yield* thread.cancel
      assert.strictEqual((yield* Effect.flip(Fiber.join(waiting)))._tag, "ComputeCancelled")
      assert.strictEqual((yield* Effect.flip(Fiber.join(running)))._tag, "ComputeCancelled")
      assert.strictEqual(yield* Fiber.join(hash), sha256(bytes(thread.parameters)))
      const again = yield* thread.computeNode({ epoch: 1, step: 0, from: 0, to: 2, output })
      assert.isTrue(Number.isFinite(again.loss))
    })
  )

  it.live("lets go of the output before an interruption is over", () =>
    Effect.gen(function* () {
      const thread = yield* line()
      yield* thread.initialise
      const output = slot(thread).fill(Number.NaN)
      const running = yield* Effect.forkChild(thread.computeNode({ epoch: 1, step: 0, from: 0, to: 256, output }))
      yield* until(() => !Number.isNaN(output[0]))
      yield* Fiber.interrupt(running)
      const left = output.slice()
      yield* thread.weightsSha256
      assert.deepStrictEqual(output, left)
    })
  )

  it.live(
    "refuses arrays that are not shared or have another shape, and examples that are not there, and goes on",
    () =>
      Effect.gen(function* () {
        const thread = yield* line()
        const at = { epoch: 1, step: 0, from: 0, to: 1 }
        const faults = [
          yield* Effect.flip(thread.computeNode({ ...at, output: new Float32Array(2) })),
          yield* Effect.flip(thread.applyStep(shared(3))),
          yield* Effect.flip(thread.computeNode({ ...at, to: 257, output: slot(thread) })),
          yield* Effect.flip(thread.computeNode({ ...at, to: 3, output: slot(thread) })),
          yield* Effect.flip(thread.computeNode({ ...at, from: 1, to: 1, output: slot(thread) })),
          yield* Effect.flip(thread.computeNode({ ...at, step: 4, output: slot(thread) })),
          yield* Effect.flip(thread.evaluate({ parameters: thread.parameters, from: 0, to: 101 })),
          yield* Effect.flip(thread.evaluate({ parameters: thread.parameters, from: 0, to: maxEvaluationExamples + 1 }))
        ]
        for (const fault of faults) assert.propertyVal(fault, "reason", "Request")
        yield* thread.initialise
      })
  )

  it.live.each([
    { fault: "damaged", reason: "Dataset", message: "file.bin is damaged; fetch it again" },
    {
      fault: "small",
      reason: "Dataset",
      message: "7 training examples, fewer than one global batch of 2 lanes × 4 examples"
    },
    { fault: "vector", reason: "Model", message: "loss must return a scalar, but its result has the shape [4, 1]" }
  ] as const)("fails to start with what cannot be computed: $fault", ({ fault, reason, message }) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(faulty(fault))
      assert.strictEqual(error.reason, reason)
      assert.include(error.message, message)
    })
  )

  it.live("fails to start with a module that is no job, is not there, or refuses an override", () =>
    Effect.gen(function* () {
      const noJob = yield* Effect.flip(ComputeThread.make({ jobUrl: jobUrl("parts.ts"), set: [] }))
      assert.strictEqual(noJob.reason, "Job")
      assert.include(noJob.message, "is no TrainingJob")
      assert.strictEqual(
        (yield* Effect.flip(ComputeThread.make({ jobUrl: jobUrl("absent.ts"), set: [] }))).reason,
        "Job"
      )
      const option = yield* Effect.flip(line([["lanes", "0"]]))
      assert.strictEqual(option.reason, "Option")
      assert.include(option.message, "lanes is 0, but must be an integer from 1 to 256")
    })
  )

  it.live.each([
    { fault: "throws", reason: "Job", message: "no such example" },
    { fault: "exits", reason: "Crashed", message: "ended by itself with code 3" },
    { fault: "rejects", reason: "Crashed", message: "forgotten promise" }
  ] as const)("fails the running, the waiting and every later call when the job $fault", ({ fault, reason, message }) =>
    Effect.gen(function* () {
      const thread = yield* faulty(fault)
      const node = thread.computeNode({ epoch: 1, step: 0, from: 0, to: 2, output: slot(thread) })
      const [first, second] = yield* Effect.all([Effect.exit(node), Effect.exit(node)], { concurrency: "unbounded" })
      // A forgotten promise ends the thread only after the reply to the request that forgot it.
      const fails = fault === "rejects" ? [second] : [first, second]
      for (const exit of fails) assert.isTrue(Exit.isFailure(exit))
      const later = yield* Effect.flip(thread.weightsSha256)
      assert.strictEqual(later.reason, reason)
      assert.include(later.message, message)
    })
  )

  it.live("ends with its scope: what runs and what comes later fails", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const thread = yield* line().pipe(Effect.provideService(Scope.Scope, scope))
      yield* thread.initialise
      const output = slot(thread).fill(Number.NaN)
      const running = yield* Effect.forkChild(thread.computeNode({ epoch: 1, step: 0, from: 0, to: 256, output }))
      yield* until(() => !Number.isNaN(output[0]))
      yield* Scope.close(scope, Exit.void)
      assert.propertyVal(yield* Effect.flip(Fiber.join(running)), "reason", "Closed")
      assert.propertyVal(yield* Effect.flip(thread.initialise), "reason", "Closed")
    })
  )
})
