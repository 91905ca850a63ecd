import { randomUUID } from "node:crypto"
import { Effect, Layer, Option, Schema, Semaphore, type Clock, type Scope } from "effect"
import { utf8 } from "../protocol/Bytes.ts"
import { readFileWhole, replaceFile } from "./AtomicFile.ts"
import { StoreFiles, type StoreFilesOperations } from "./StoreFiles.ts"
import {
  lockMs,
  maxBackoffMs,
  maxItems,
  WorkQueue,
  WorkQueueError,
  type ItemState,
  type ItemStatus
} from "./WorkQueue.ts"
import {
  backoffAfter,
  checkQueueName,
  checkTerm,
  namedQueue,
  type QueueStore,
  type StoredItem,
  type TakenItem
} from "./WorkQueueStore.ts"

interface Held extends StoredItem {
  state: ItemState
  failures: number
  starts: number
  progress: Schema.Json
  result: Schema.Json
  failure: string | undefined
  readonly addedAt: number
  startedAt: number | undefined
  finishedAt: number | undefined
  /** Who holds it, and since it was last renewed; a holder stays named when its lock has run out. */
  holder: string | undefined
  lockedUntilMs: number
  cancelled: boolean
  /** Waits for another attempt. */
  delayed: boolean
}

interface Waiter {
  readonly resume: (item: TakenItem) => void
}

const maxWaiters = 1_024

const defaultKeepFinished = 1_000

const full = (what: string) =>
  new WorkQueueError({
    reason: "Full",
    message: `${what} is the most that a queue in memory holds`,
    hint: "Drop queues that are done, or use Redis."
  })

/** One queue in this process's memory. */
class MemoryQueue {
  readonly #clock: Clock.Clock
  readonly #scope: Scope.Scope
  readonly #keepFinished: number
  readonly #items = new Map<string, Held>()
  /** Waiting items by priority, the next first. */
  readonly #waiting = new Map<number, Array<Held>>()
  readonly #active = new Set<Held>()
  readonly #finished: Array<Held> = []
  readonly #waiters: Array<Waiter> = []

  constructor(clock: Clock.Clock, scope: Scope.Scope, keepFinished: number) {
    this.#clock = clock
    this.#scope = scope
    this.#keepFinished = keepFinished
  }

  get #nowMs(): number {
    return Number(this.#clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  /** The operations, with those of terms given by the layer. */
  store(currentTerm: (job: string) => number): QueueStore {
    const sync = <A>(use: () => A): Effect.Effect<A> => Effect.sync(use)
    return {
      add: items => Effect.suspend(() => this.#add(items)),
      take: this.#take,
      renew: (id, token) => sync(() => this.#renew(id, token)),
      progress: (id, token, value) =>
        sync(() => {
          const item = this.#heldBy(id, token)
          if (item !== undefined) item.progress = value
          return item !== undefined
        }),
      complete: (id, token, result, expected) =>
        sync(() => {
          const item = this.#heldBy(id, token)
          if (item === undefined) return "lost"
          if (item.cancelled) return "cancelled"
          const term = expected === undefined ? 0 : currentTerm(expected.job)
          if (expected !== undefined && term !== expected.term) return term
          item.result = result
          this.#finish(item, "completed")
          return "done"
        }),
      fail: (id, token, why, final) => Effect.suspend(() => this.#fail(id, token, why, final)),
      release: (id, token) =>
        sync(() => {
          const item = this.#heldBy(id, token)
          if (item !== undefined) this.#requeue(item, "first")
        }),
      cancel: id => sync(() => this.#cancel(id)),
      get: id => sync(() => Option.map(Option.fromUndefinedOr(this.#items.get(id)), statusOf)),
      list: (state, limit) => sync(() => this.#list(state).slice(0, limit).map(statusOf)),
      recover: sync(() => {
        const now = this.#nowMs
        for (const item of this.#active) if (item.lockedUntilMs <= now) this.#requeue(item, "first")
      })
    }
  }

  #add(items: ReadonlyArray<StoredItem>): Effect.Effect<void, WorkQueueError> {
    const unknown = items.filter(({ id }) => !this.#items.has(id))
    if (this.#items.size + unknown.length > maxItems) return Effect.fail(full(`${maxItems} items`))
    for (const stored of unknown) {
      const item: Held = {
        ...stored,
        state: "queued",
        failures: 0,
        starts: 0,
        progress: 0,
        result: null,
        failure: undefined,
        addedAt: this.#clock.currentTimeMillisUnsafe(),
        startedAt: undefined,
        finishedAt: undefined,
        holder: undefined,
        lockedUntilMs: 0,
        cancelled: false,
        delayed: false
      }
      this.#items.set(item.id, item)
      this.#enqueue(item, "last")
    }
    return Effect.void
  }

  #enqueue(item: Held, place: "first" | "last"): void {
    item.state = "queued"
    item.delayed = false
    const waiter = this.#waiters.shift()
    if (waiter !== undefined) {
      return waiter.resume(this.#lock(item))
    }
    const line = this.#waiting.get(item.priority)
    if (line === undefined) this.#waiting.set(item.priority, [item])
    else if (place === "first") line.unshift(item)
    else line.push(item)
  }

  #requeue(item: Held, place: "first" | "last"): void {
    this.#active.delete(item)
    if (item.cancelled) this.#finish(item, "cancelled")
    else this.#enqueue(item, place)
  }

  #lock(item: Held): TakenItem {
    const token = randomUUID()
    item.state = "active"
    item.starts++
    item.startedAt = this.#clock.currentTimeMillisUnsafe()
    item.holder = token
    item.lockedUntilMs = this.#nowMs + lockMs
    this.#active.add(item)
    return { id: item.id, data: item.data, attempt: item.failures + 1, token }
  }

  #next(): Held | undefined {
    const highest = [...this.#waiting.keys()].reduce((most, each) => Math.max(most, each), -Infinity)
    const line = this.#waiting.get(highest)
    const item = line?.shift()
    if (line?.length === 0) this.#waiting.delete(highest)
    return item
  }

  readonly #take: Effect.Effect<TakenItem, WorkQueueError> = Effect.callback(resume => {
    const item = this.#next()
    if (item !== undefined) return resume(Effect.succeed(this.#lock(item)))
    if (this.#waiters.length >= maxWaiters) return resume(Effect.fail(full(`${maxWaiters} takers`)))
    const waiter: Waiter = { resume: taken => resume(Effect.succeed(taken)) }
    this.#waiters.push(waiter)
    return Effect.sync(() => {
      const place = this.#waiters.indexOf(waiter)
      if (place >= 0) this.#waiters.splice(place, 1)
    })
  })

  #heldBy(id: string, token: string): Held | undefined {
    const item = this.#items.get(id)
    return item !== undefined && item.state === "active" && item.holder === token ? item : undefined
  }

  #renew(id: string, token: string): "held" | "cancelled" | "lost" {
    const item = this.#heldBy(id, token)
    if (item === undefined) return "lost"
    item.lockedUntilMs = this.#nowMs + lockMs
    return item.cancelled ? "cancelled" : "held"
  }

  #fail(id: string, token: string, why: string, final: boolean): Effect.Effect<"again" | "dead" | "lost"> {
    const item = this.#heldBy(id, token)
    if (item === undefined) return Effect.succeed("lost")
    if (item.cancelled) {
      this.#finish(item, "cancelled")
      return Effect.succeed("dead")
    }
    item.failures++
    item.failure = why
    if (final || item.failures >= item.attempts) {
      this.#finish(item, "failed")
      return Effect.succeed("dead")
    }
    this.#active.delete(item)
    item.state = "queued"
    item.holder = undefined
    item.delayed = true
    const again = Effect.sync(() => {
      if (this.#items.get(id) === item && item.delayed) this.#enqueue(item, "last")
    })
    const wait = Effect.sleep(backoffAfter(item.failures, item.backoffMs, maxBackoffMs))
    return Effect.as(Effect.forkIn(Effect.andThen(wait, again), this.#scope), "again")
  }

  #cancel(id: string): boolean {
    const item = this.#items.get(id)
    if (item === undefined || item.cancelled || (item.state !== "queued" && item.state !== "active")) return false
    item.cancelled = true
    if (item.state === "active") return true
    const line = this.#waiting.get(item.priority) ?? []
    const place = line.indexOf(item)
    if (place >= 0) line.splice(place, 1)
    if (line.length === 0) this.#waiting.delete(item.priority)
    this.#finish(item, "cancelled")
    return true
  }

  #finish(item: Held, state: "completed" | "failed" | "cancelled"): void {
    this.#active.delete(item)
    item.state = state
    item.delayed = false
    item.finishedAt = this.#clock.currentTimeMillisUnsafe()
    this.#finished.push(item)
    const alike = (each: Held): boolean => (each.state === "completed") === (state === "completed")
    if (this.#finished.length <= this.#keepFinished || this.#finished.filter(alike).length <= this.#keepFinished) return
    const [oldest] = this.#finished.splice(this.#finished.findIndex(alike), 1)
    if (oldest !== undefined) this.#items.delete(oldest.id)
  }

  #list(state: ItemState): ReadonlyArray<Held> {
    switch (state) {
      case "queued": {
        const lines = [...this.#waiting].toSorted(([a], [b]) => b - a).flatMap(([, line]) => line)
        return [...lines, ...[...this.#items.values()].filter(({ delayed }) => delayed)]
      }
      case "active":
        return [...this.#active].toReversed()
      default:
        return this.#finished.filter(item => item.state === state).toReversed()
    }
  }

  /** Nobody holds anything any longer; takers wait on. */
  clear(): void {
    this.#items.clear()
    this.#waiting.clear()
    this.#active.clear()
    this.#finished.length = 0
  }
}

const statusOf = (item: Held): ItemStatus => ({
  id: item.id,
  label: item.label,
  state: item.state,
  data: item.data,
  priority: item.priority,
  failures: item.failures,
  starts: item.starts,
  progress: item.progress,
  result: item.result,
  failure: item.failure,
  addedAt: item.addedAt,
  startedAt: item.startedAt,
  finishedAt: item.finishedAt
})

const Terms = Schema.Record(Schema.String, Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)))
const termsCodec = Schema.fromJsonString(Schema.toCodecJson(Terms))

const maxTermsBytes = 16 * 1024 * 1024

const storeError = (error: unknown) =>
  new WorkQueueError({
    reason: "Store",
    message: `the terms of jobs cannot be kept: ${error instanceof Error ? error.message : String(error)}`,
    hint: "Make the file readable and writable, or move it away: terms then begin above what members and checkpoints tell of."
  })

const readTerms = (
  files: StoreFilesOperations,
  path: string
): Effect.Effect<Readonly<Record<string, number>>, WorkQueueError> =>
  Effect.tryPromise({ try: () => readFileWhole(files, path, maxTermsBytes), catch: storeError }).pipe(
    Effect.flatMap(bytes =>
      bytes === undefined
        ? Effect.succeed({})
        : Effect.mapError(Schema.decodeUnknownEffect(termsCodec)(Buffer.from(bytes).toString("utf8")), storeError)
    )
  )

export interface MemoryOptions {
  /** A file in which terms outlive this process, in a home that no other process uses. Without it they begin at 1 each time. */
  readonly termsFile?: string
}

/**
 * Queues in this process: the embedded default, without a server. Items end with the process, which is enough for a cache that is refilled
 * from the ledger. Terms are durable where a file is given.
 */
const layer = ({ termsFile }: MemoryOptions = {}): Layer.Layer<WorkQueue, WorkQueueError> =>
  Layer.effect(
    WorkQueue,
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const clock = yield* Effect.clockWith(Effect.succeed)
      const queues = new Map<string, MemoryQueue>()
      const files = yield* StoreFiles
      const read = termsFile === undefined ? {} : yield* readTerms(files, termsFile)
      const terms = new Map(Object.entries(read))
      const writing = yield* Semaphore.make(1)
      const currentTerm = (job: string): number => terms.get(job) ?? 0

      const nextTerm = Effect.fn("WorkQueue.nextTerm")(function* (job: string, seen = 0) {
        yield* checkTerm(job, seen)
        const term = Math.max(currentTerm(job), seen) + 1
        if (termsFile !== undefined) {
          const lines = yield* Effect.orDie(
            Schema.encodeEffect(termsCodec)(Object.fromEntries([...terms, [job, term]]))
          )
          yield* Effect.uninterruptible(
            Effect.tryPromise({ try: () => replaceFile(files, termsFile, utf8(lines)), catch: storeError })
          )
        }
        terms.set(job, term)
        return term
      })

      return WorkQueue.of({
        open: definition =>
          Effect.flatMap(checkQueueName(definition.name), () => {
            const { name, keepFinished = defaultKeepFinished } = definition
            const queue = queues.get(name) ?? new MemoryQueue(clock, scope, keepFinished)
            queues.set(name, queue)
            return namedQueue(definition, queue.store(currentTerm))
          }),
        drop: name => Effect.sync(() => queues.get(name)?.clear()),
        nextTerm: (job, seen) => writing.withPermits(1)(nextTerm(job, seen)),
        currentTerm: job => Effect.sync(() => currentTerm(job)),
        connected: Effect.succeed(true)
      })
    })
  )

export const WorkQueueMemory = { layer }
