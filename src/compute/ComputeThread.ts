import { Worker } from "node:worker_threads"
import { Effect, Schema, type Scope } from "effect"
import type { ComputeReply, ComputeRequest, ComputeStart, ComputeValues } from "./ComputeMessages.ts"
import type { ComputeInfo, EvaluationResult, NodeRequest, NodeResult } from "./Engine.ts"
import { isTreeNode } from "./LaneTree.ts"
import type { OptimizerState } from "./Optimizer.ts"

/** Requests that may wait in the main thread, of both priorities together. */
export const maxQueuedRequests = 1_024

/** Examples that one call of `evaluate` may cover; more would keep a step waiting for too long. */
export const maxEvaluationExamples = 4_096

/**
 * The compute thread cannot do its work. It never recovers: every later call fails with the same error, unless `reason` is
 * `Request`.
 *
 * - `Option`, `Model`, `Dataset`: the job is at fault; the message says how
 * - `Job`: code of the job threw something else
 * - `Crashed`: the thread ended by itself
 * - `Closed`: the scope of the thread was closed
 * - `Request`: this one call was not possible
 */
export class ComputeError extends Schema.TaggedError<ComputeError>()("ComputeError", {
  reason: Schema.Literals(["Option", "Model", "Dataset", "Job", "Crashed", "Closed", "Request"]),
  message: Schema.String,
  /** Where in the thread it happened; empty when that is unknown. For logs at debug level. */
  threadStack: Schema.String
}) {}

/** The node computation was abandoned by `cancel`. */
export class ComputeCancelled extends Schema.TaggedError<ComputeCancelled>()("ComputeCancelled", {}) {
  override get message(): string {
    return "The computation was cancelled"
  }
}

const reasons: Readonly<Record<string, ComputeError["reason"]>> = {
  JobOptionError: "Option",
  ModelError: "Model",
  DatasetError: "Dataset"
}

const refuse = (message: string): ComputeError => new ComputeError({ reason: "Request", message, threadStack: "" })

/** The package runs from its TypeScript source and from its compiled form. */
const entry = new URL(`./ComputeWorker.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`, import.meta.url)

const isIndex = (value: number, bound: number): boolean => Number.isInteger(value) && value >= 0 && value < bound

interface Pending {
  readonly request: ComputeRequest
  readonly settle: (result: Effect.Effect<ComputeValues[keyof ComputeValues], ComputeError | ComputeCancelled>) => void
}

type Ready = Extract<ComputeReply, { kind: "ready" }>

/** The main thread's side of the conversation: two queues, at most one request in the thread at a time. */
class Conversation {
  readonly #worker: Worker
  readonly #control: Int32Array
  /** Queues of work for steps and of work that may wait, in this order of priority. */
  readonly #queues: readonly [Array<Pending>, Array<Pending>] = [[], []]
  #running: Pending | undefined
  #fault: ComputeError | undefined
  #onReady: ((result: Effect.Effect<Ready, ComputeError>) => void) | undefined

  constructor(start: Omit<ComputeStart, "control">) {
    this.#control = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
    const workerData: ComputeStart = { ...start, control: this.#control }
    this.#worker = new Worker(entry, { workerData, stdout: true })
    // Standard output carries machine-readable events; what a job prints is for people.
    this.#worker.stdout.on("data", (chunk: Uint8Array) => process.stderr.write(chunk))
    this.#worker.on("message", (reply: ComputeReply) => this.#receive(reply))
    this.#worker.on("error", error =>
      this.#fail("Crashed", `The compute thread crashed: ${error.message}`, error.stack ?? "")
    )
    this.#worker.on("messageerror", error =>
      this.#fail("Crashed", `The compute thread cannot be understood: ${error.message}`)
    )
    this.#worker.on("exit", code => this.#fail("Crashed", `The compute thread ended by itself with code ${code}`))
  }

  /** Waits until the job is loaded. */
  ready: Effect.Effect<Ready, ComputeError> = Effect.callback<Ready, ComputeError>(resume => {
    if (this.#fault !== undefined) resume(Effect.fail(this.#fault))
    else this.#onReady = resume
  })

  #receive(reply: ComputeReply): void {
    if (reply.kind === "ready") {
      this.#onReady?.(Effect.succeed(reply))
      this.#onReady = undefined
      return
    }
    if (reply.kind === "failed") return this.#fail(reasons[reply.tag] ?? "Job", reply.message, reply.stack)
    const finished = this.#running
    this.#running = undefined
    finished?.settle(reply.kind === "cancelled" ? Effect.fail(new ComputeCancelled()) : Effect.succeed(reply.value))
    this.#dispatch()
  }

  #fail(reason: ComputeError["reason"], message: string, threadStack = ""): void {
    if (this.#fault !== undefined) return
    const fault = new ComputeError({ reason, message, threadStack })
    this.#fault = fault
    this.#onReady?.(Effect.fail(fault))
    this.#onReady = undefined
    const waiting = [this.#running, ...this.#queues[0].splice(0), ...this.#queues[1].splice(0)]
    this.#running = undefined
    for (const pending of waiting) pending?.settle(Effect.fail(fault))
  }

  #dispatch(): void {
    if (this.#running !== undefined || this.#fault !== undefined) return
    const next = this.#queues[0].shift() ?? this.#queues[1].shift()
    if (next === undefined) return
    this.#running = next
    Atomics.store(this.#control, 0, 0)
    this.#worker.postMessage(next.request)
  }

  /** Asks the thread. Interruption withdraws a waiting request; of a running one it waits for the thread to let go of its arrays. */
  submit<Kind extends keyof ComputeValues>(
    request: ComputeRequest & { readonly kind: Kind }
  ): Effect.Effect<ComputeValues[Kind], ComputeError | ComputeCancelled> {
    return Effect.callback<ComputeValues[Kind], ComputeError | ComputeCancelled>(resume => {
      if (this.#fault !== undefined) return resume(Effect.fail(this.#fault))
      if (this.#queues[0].length + this.#queues[1].length >= maxQueuedRequests)
        return resume(Effect.fail(refuse(`${maxQueuedRequests} requests are waiting for the compute thread already`)))
      let settled = (): void => undefined
      const pending: Pending = {
        request,
        settle: result => {
          // The thread answers a request of a kind with the value of that kind.
          resume(result as Effect.Effect<ComputeValues[Kind], ComputeError | ComputeCancelled>)
          settled()
        }
      }
      const queue = this.#queues[request.kind === "evaluate" ? 1 : 0]
      queue.push(pending)
      this.#dispatch()
      return Effect.callback<void>(resumeInterruption => {
        if (this.#running !== pending) {
          const position = queue.indexOf(pending)
          if (position >= 0) queue.splice(position, 1)
          return resumeInterruption(Effect.void)
        }
        settled = () => resumeInterruption(Effect.void)
        Atomics.store(this.#control, 0, 1)
      })
    })
  }

  /** Abandons every node computation, waiting or running. */
  cancel(): void {
    const queue = this.#queues[0]
    const abandoned = queue.filter(({ request }) => request.kind === "node")
    queue.splice(0, queue.length, ...queue.filter(({ request }) => request.kind !== "node"))
    for (const pending of abandoned) pending.settle(Effect.fail(new ComputeCancelled()))
    if (this.#running?.request.kind === "node") Atomics.store(this.#control, 0, 1)
  }

  close(): Effect.Effect<void> {
    return Effect.promise(() => {
      this.#fail("Closed", "The compute thread was closed")
      return this.#worker.terminate()
    })
  }
}

/**
 * A worker thread that computes one job over shared memory.
 *
 * Calls are served in the order they were made, one at a time; `evaluate` waits until nothing else is asked for. Arrays
 * that are handed over must be shared memory of the shape named, and must be left alone until the call is over.
 */
export class ComputeThread {
  readonly info: ComputeInfo
  /** The flat parameters, shape `[parameterCount]`, shared with the thread. */
  readonly parameters: Float32Array
  /** The optimizer's vectors (each of shape `[parameterCount]`) and scalars, shared with the thread. */
  readonly optimizerState: OptimizerState
  /** Length of the state as one block of bytes, see {@link readState}. */
  readonly stateByteLength: number
  readonly #conversation: Conversation
  readonly #stateParts: ReadonlyArray<Uint8Array>

  /**
   * Starts a thread that loads the job module at `jobUrl` (an absolute file URL) with the overrides `set`; it ends with the
   * scope. Fails with the reason `Option`, `Model`, `Dataset` or `Job` when the job cannot be computed.
   */
  static readonly make = Effect.fn("ComputeThread.make")(function* (
    options: Omit<ComputeStart, "control">
  ): Effect.fn.Return<ComputeThread, ComputeError, Scope.Scope> {
    const conversation = yield* Effect.acquireRelease(
      Effect.sync(() => new Conversation(options)),
      conversation => conversation.close()
    )
    return new ComputeThread(conversation, yield* conversation.ready)
  })

  private constructor(conversation: Conversation, { info, parameters, vectors, scalars }: Ready) {
    this.info = info
    this.parameters = parameters
    this.optimizerState = { vectors, scalars }
    this.#conversation = conversation
    this.#stateParts = [parameters, ...vectors, scalars].map(
      part => new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
    )
    this.stateByteLength = this.#stateParts.reduce((sum, part) => sum + part.byteLength, 0)
  }

  #without<A>(effect: Effect.Effect<A, ComputeError | ComputeCancelled>): Effect.Effect<A, ComputeError> {
    return effect.pipe(Effect.catchTag("ComputeCancelled", cancelled => Effect.die(cancelled)))
  }

  #sharedFault(array: Float32Array): ComputeError | undefined {
    if (!(array.buffer instanceof SharedArrayBuffer)) return refuse("The array must be shared memory")
    return array.length === this.info.parameterCount
      ? undefined
      : refuse(`The array has ${array.length} elements, the model ${this.info.parameterCount} parameters`)
  }

  /** Fills the parameters by the model's `init` and the job's seed, and resets the optimizer. Yields {@link weightsSha256}. */
  get initialise(): Effect.Effect<string, ComputeError> {
    return this.#without(this.#conversation.submit({ kind: "initialise" }))
  }

  /**
   * The value of the tree node [from, to) of a step at the current parameters, into `output` (shape `[parameterCount]`).
   * Fails with `ComputeCancelled` when `cancel` is called before it is done.
   */
  computeNode({
    output,
    ...request
  }: NodeRequest & { readonly output: Float32Array }): Effect.Effect<NodeResult, ComputeError | ComputeCancelled> {
    const { lanes, stepsPerEpoch } = this.info
    if (!isTreeNode(request, lanes) || !isIndex(request.epoch, 2 ** 32) || !isIndex(request.step, stepsPerEpoch))
      return Effect.fail(
        refuse(`There is no node ${JSON.stringify(request)} in ${stepsPerEpoch} steps of ${lanes} lanes`)
      )
    const fault = this.#sharedFault(output)
    return fault === undefined ? this.#conversation.submit({ kind: "node", request, output }) : Effect.fail(fault)
  }

  /** Abandons node computations: waiting ones at once, a running one after the lane it is at. They fail with `ComputeCancelled`. */
  get cancel(): Effect.Effect<void> {
    return Effect.sync(() => this.#conversation.cancel())
  }

  /** One optimizer update from the mean gradient of a step, shape `[parameterCount]`. */
  applyStep(reduced: Float32Array): Effect.Effect<void, ComputeError> {
    const fault = this.#sharedFault(reduced)
    return fault === undefined
      ? this.#without(this.#conversation.submit({ kind: "apply", reduced }))
      : Effect.fail(fault)
  }

  /**
   * Sums over the test examples [from, to) in index order, at most {@link maxEvaluationExamples}, at `parameters` (shape
   * `[parameterCount]`, a copy that does not change meanwhile).
   */
  evaluate(options: {
    readonly parameters: Float32Array
    readonly from: number
    readonly to: number
  }): Effect.Effect<EvaluationResult, ComputeError> {
    const { from, to } = options
    const last = Math.min(this.info.dataset.testExamples, from + maxEvaluationExamples)
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= last))
      return Effect.fail(
        refuse(
          `Cannot evaluate [${from}, ${to}) of ${this.info.dataset.testExamples} test examples, at most ${maxEvaluationExamples} at once`
        )
      )
    const fault = this.#sharedFault(options.parameters)
    return fault === undefined
      ? this.#without(this.#conversation.submit({ kind: "evaluate", parameters: options.parameters, from, to }))
      : Effect.fail(fault)
  }

  /** SHA-256 of the flat float32 parameters, little-endian, in hex. */
  get weightsSha256(): Effect.Effect<string, ComputeError> {
    return this.#without(this.#conversation.submit({ kind: "weights" }))
  }

  /** SHA-256 in hex of `step` (steps applied, unsigned 64-bit) ‖ the bytes of {@link readState}, little-endian. */
  stateSha256(step: number): Effect.Effect<string, ComputeError> {
    return this.#without(this.#conversation.submit({ kind: "state", step }))
  }

  /**
   * Copies the state to `into` (length `stateByteLength`): parameters ‖ the optimizer's vectors in order ‖ its scalars,
   * float32 but for the float64 scalars, little-endian. Nothing may be computing.
   */
  readState(into: Uint8Array): void {
    let offset = 0
    for (const part of this.#stateParts) {
      into.set(part, offset)
      offset += part.byteLength
    }
  }

  /**
   * Replaces the state by what {@link readState} copied, here or on another member. Nothing may be computing.
   * @throws RangeError when `from` has another length than `stateByteLength`
   */
  writeState(from: Uint8Array): void {
    if (from.byteLength !== this.stateByteLength)
      throw new RangeError(`The state has ${this.stateByteLength} bytes, the given block ${from.byteLength}`)
    let offset = 0
    for (const part of this.#stateParts) {
      part.set(from.subarray(offset, offset + part.byteLength))
      offset += part.byteLength
    }
  }
}
