// Entry of the compute thread. Strictness must be set before a job module can bring in jax-js.
import "./StrictWebAssembly.ts"
import { parentPort, workerData } from "node:worker_threads"
import { isComputeJob } from "./ComputeJob.ts"
import type { ComputeReply, ComputeRequest, ComputeStart, ComputeValues } from "./ComputeMessages.ts"
import { cancelled, ComputeEngine } from "./Engine.ts"
import { provideToJobModules } from "./JobModule.ts"
import { isRecord } from "./Options.ts"

if (parentPort === null) throw new Error("This module is the entry of a worker thread")
const port = parentPort
const { jobUrl, set, control }: ComputeStart = workerData

const reply = (message: ComputeReply): void => port.postMessage(message)

const replyFailure = (error: unknown): void =>
  reply({
    kind: "failed",
    tag: isRecord(error) && typeof error._tag === "string" ? error._tag : "",
    message: error instanceof Error ? error.message : String(error),
    stack: error instanceof Error ? (error.stack ?? "") : ""
  })

const load = async (): Promise<ComputeEngine> => {
  provideToJobModules()
  const module: unknown = await import(jobUrl)
  const job = isRecord(module) ? module.default : undefined
  if (!isComputeJob(job)) throw new Error(`The default export of ${jobUrl} is no TrainingJob`)
  return ComputeEngine.load(job.override(set))
}

const isCancelled = (): boolean => Atomics.load(control, 0) !== 0

const answer = (
  engine: ComputeEngine,
  request: ComputeRequest
): ComputeValues[keyof ComputeValues] | typeof cancelled => {
  switch (request.kind) {
    case "initialise":
      return engine.initialise()
    case "node":
      return engine.computeNode(request.request, request.output, isCancelled)
    case "apply":
      engine.applyStep(request.reduced)
      return undefined
    case "evaluate":
      return engine.evaluate(request.parameters, request.from, request.to)
    case "weights":
      return engine.weightsSha256()
    case "state":
      return engine.stateSha256(request.step)
  }
}

try {
  const engine = await load()
  port.on("message", (request: ComputeRequest) => {
    try {
      const value = answer(engine, request)
      reply(value === cancelled ? { kind: "cancelled" } : { kind: "done", value })
    } catch (error) {
      replyFailure(error)
    }
  })
  const { info, parameters, optimizerState } = engine
  reply({ kind: "ready", info, parameters, vectors: optimizerState.vectors, scalars: optimizerState.scalars })
} catch (error) {
  replyFailure(error)
}
