import { randomUUID } from "node:crypto"
import type { Job, JobType, Queue, Worker } from "bullmq"
import { Effect, Option, Schema, type Scope } from "effect"
import type { Redis } from "ioredis"
import { lockMs, maxBackoffMs, releaseDeadlineMs, renewalMs, type ItemState, type ItemStatus } from "./WorkQueue.ts"
import { WorkQueueError } from "./WorkQueue.ts"
import { backoffAfter, type QueueStore, type StoredItem, type TakenItem } from "./WorkQueueStore.ts"

type BullModule = typeof import("bullmq")
type BullJob = Job<unknown, unknown, string>
type BullQueue = Queue<unknown, unknown, string, unknown, unknown, string>

/** How long a taker waits for a sign of new items before it looks by itself, in seconds. */
const drainDelaySeconds = 1
const retryMs = 1_000
/** Items of one state that are looked through for a list. */
const maxListed = 1_000

/**
 * Holds an item for longer, in one step: where the lock is ours; or where it ran out, the item is still active, and the last that held it was
 * us. Remembers who held it last. KEYS: lock, item, active list, stalled set, term of a job. ARGV: token, lock in ms, id, term or empty.
 */
const renewScript = `
local lock = redis.call("GET", KEYS[1])
if lock then
  if lock ~= ARGV[1] then return {"lost"} end
elseif redis.call("HGET", KEYS[2], "holder") ~= ARGV[1] or not redis.call("LPOS", KEYS[3], ARGV[3]) then
  return {"lost"}
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
redis.call("SREM", KEYS[4], ARGV[3])
redis.call("HSET", KEYS[2], "holder", ARGV[1])
if redis.call("HEXISTS", KEYS[2], "cancelled") == 1 then return {"cancelled"} end
if ARGV[4] ~= "" then
  local term = redis.call("GET", KEYS[5]) or "0"
  if term ~= ARGV[4] then return {"term", term} end
end
return {"held"}
`

/** KEYS: item. */
const cancelScript = `
if redis.call("EXISTS", KEYS[1]) == 0 or redis.call("HEXISTS", KEYS[1], "finishedOn") == 1 then return 0 end
return redis.call("HSETNX", KEYS[1], "cancelled", "1")
`

const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** What an answer of Redis, or none, means to the user. */
export const redisError = (error: unknown): WorkQueueError => {
  const text = errorText(error)
  if (/^OOM\b/.test(text))
    return new WorkQueueError({
      reason: "Full",
      message: "Redis has no memory left",
      hint: "Raise its maxmemory, or drop queues that are done."
    })
  if (/^(NOAUTH|WRONGPASS|NOPERM)\b/.test(text))
    return new WorkQueueError({
      reason: "Refused",
      message: `Redis refuses: ${text}`,
      hint: "Check user and password, and that the user may use all commands on the queue's keys."
    })
  if (/Connection is closed|closing/i.test(text))
    return new WorkQueueError({ reason: "Closed", message: "the work queue was closed", hint: "Open it anew." })
  return new WorkQueueError({
    reason: "Store",
    message: `Redis answers: ${text}`,
    hint: "Look at its log; it must be Redis 6.2 or newer, or Valkey."
  })
}

const attempt = <A>(use: () => Promise<A>): Effect.Effect<A, WorkQueueError> =>
  Effect.tryPromise({ try: use, catch: redisError })

/** BullMQ names what it finds by numbers below zero: the item or its lock are not there, or are somebody else's. */
const isNotHeld = (error: unknown): boolean =>
  error instanceof Error && "code" in error && typeof error.code === "number" && error.code < 0

type Completed = "done" | "cancelled" | "lost" | number

interface Waiter {
  readonly resume: (result: Effect.Effect<TakenItem, WorkQueueError>) => void
}

export interface RedisQueueOptions {
  readonly redis: Redis
  readonly bull: BullModule
  readonly prefix: string
  readonly name: string
  readonly keepFinished: number
  readonly termKey: (job: string) => string
}

/** One queue of BullMQ. It begins to take, to renew and to look for stalled items only with the first `take`. */
export class RedisQueue {
  readonly #options: RedisQueueOptions
  readonly #queue: BullQueue
  #worker: Worker<unknown, unknown, string> | undefined
  readonly #jobs = new Map<string, BullJob>()
  readonly #waiters: Array<Waiter> = []
  #fetching = false
  #closed = false

  static readonly open = (options: RedisQueueOptions): Effect.Effect<RedisQueue, never, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.sync(() => new RedisQueue(options)),
      // Without Redis its goodbyes would wait for ever.
      queue =>
        Effect.ignore(
          Effect.timeout(
            Effect.promise(() => queue.#close()),
            releaseDeadlineMs
          )
        )
    )

  private constructor(options: RedisQueueOptions) {
    const { bull, name, prefix, redis } = options
    this.#options = options
    this.#queue = new bull.Queue(name, { connection: redis, prefix, skipVersionCheck: true })
    // Errors of the connection are told by whoever owns it.
    this.#queue.on("error", () => undefined)
  }

  async #close(): Promise<void> {
    this.#closed = true
    await this.#worker?.close(true)
    await this.#queue.close()
  }

  get #taking(): Worker<unknown, unknown, string> {
    if (this.#worker !== undefined) return this.#worker
    const { bull, name, prefix, redis } = this.#options
    const worker = new bull.Worker<unknown, unknown, string>(name, null, {
      connection: redis,
      prefix,
      skipVersionCheck: true,
      autorun: false,
      lockDuration: lockMs,
      stalledInterval: renewalMs,
      // A coordinator that dies is no fault of the job: it is taken over as often as it takes.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
      drainDelay: drainDelaySeconds,
      settings: {
        backoffStrategy: (failures, _type, _error, job) => {
          const backoff = job?.opts.backoff
          return backoffAfter(failures, typeof backoff === "object" ? (backoff.delay ?? 0) : 0, maxBackoffMs)
        }
      }
    })
    worker.on("error", () => undefined)
    this.#worker = worker
    return worker
  }

  readonly store: QueueStore = {
    add: items => attempt(() => this.#queue.addBulk(items.map(item => this.#bullItem(item)))).pipe(Effect.asVoid),
    take: Effect.callback(resume => {
      const waiter: Waiter = { resume }
      this.#waiters.push(waiter)
      void this.#fetch()
      return Effect.sync(() => {
        const place = this.#waiters.indexOf(waiter)
        if (place >= 0) this.#waiters.splice(place, 1)
      })
    }),
    renew: (id, token) =>
      Effect.map(this.#renew(id, token), ([outcome]) => {
        if (outcome === "lost") this.#jobs.delete(id)
        return outcome === "term" ? "held" : outcome
      }),
    progress: (id, token, value) =>
      Effect.flatMap(this.#renew(id, token), ([outcome]) => {
        const job = this.#jobs.get(id)
        if (outcome === "lost" || job === undefined) return Effect.succeed(false)
        return Effect.as(
          attempt(() => job.updateProgress(progressOf(value))),
          true
        )
      }),
    complete: (id, token, result, expected) =>
      Effect.flatMap(this.#renew(id, token, expected), ([outcome, term]) => {
        const job = this.#jobs.get(id)
        if (outcome === "term") return Effect.succeed<Completed>(term)
        if (outcome !== "held" || job === undefined)
          return Effect.succeed<Completed>(outcome === "cancelled" ? outcome : "lost")
        return Effect.map(
          this.#settle(id, token, () => job.moveToCompleted(result, token, false)),
          (settled): Completed => (settled === "lost" ? "lost" : "done")
        )
      }),
    fail: (id, token, why, final) =>
      Effect.flatMap(this.#renew(id, token), ([outcome]) => {
        const job = this.#jobs.get(id)
        if (outcome === "lost" || job === undefined) return Effect.succeed("lost")
        const last = final || outcome === "cancelled"
        const error = last ? new this.#options.bull.UnrecoverableError(why) : new Error(why)
        // A stack names this machine's folders, and says nothing of the machine that failed.
        error.stack = ""
        return Effect.map(
          this.#settle(id, token, () => job.moveToFailed(error, token, false)),
          settled => {
            if (settled === "lost") return "lost"
            return settled === "failed" || job.finishedOn !== undefined ? "dead" : "again"
          }
        )
      }),
    release: (id, token) =>
      Effect.flatMap(this.#renew(id, token), ([outcome]) => {
        const job = this.#jobs.get(id)
        if (outcome === "lost" || job === undefined) return Effect.void
        if (outcome === "cancelled") return Effect.asVoid(this.store.fail(id, token, "cancelled", true))
        return Effect.asVoid(this.#settle(id, token, () => this.#giveBack(job, token)))
      }),
    cancel: id =>
      Effect.map(
        attempt(() => this.#options.redis.eval(cancelScript, 1, this.#queue.toKey(id))),
        set => set === 1
      ),
    get: id =>
      attempt(async () => {
        const job = await this.#queue.getJob(id)
        return job === undefined ? Option.none() : Option.some(await this.#status(job))
      }),
    list: (state, limit) => attempt(() => this.#list(state, limit)),
    recover: Effect.asVoid(attempt(() => this.#taking.backend.moveStalledJobsToWait()))
  }

  #bullItem({ id, label, data, priority, attempts, backoffMs }: StoredItem) {
    const keep = { count: this.#options.keepFinished }
    return {
      name: label,
      data,
      opts: {
        jobId: id,
        priority: bullPriority(priority),
        attempts,
        backoff: { type: "artifice", delay: backoffMs },
        removeOnComplete: keep,
        removeOnFail: keep
      }
    }
  }

  /** One fetch at a time, as long as somebody waits: an item that came for a taker who has gone is given back. */
  async #fetch(): Promise<void> {
    if (this.#fetching) return
    this.#fetching = true
    while (this.#waiters.length > 0) {
      const token = randomUUID()
      try {
        if (this.#closed) throw new Error("Connection is closed.")
        const job = await this.#taking.getNextJob(token)
        if (job === undefined) continue
        await this.#hand(job, token)
      } catch (error) {
        this.#waiters.shift()?.resume(Effect.fail(redisError(error)))
        await new Promise(resolve => setTimeout(resolve, this.#closed ? 0 : retryMs))
      }
    }
    this.#fetching = false
  }

  async #hand(job: BullJob, token: string): Promise<void> {
    const waiter = this.#waiters.shift()
    if (waiter === undefined || job.id === undefined) return this.#giveBack(job, token)
    this.#jobs.set(job.id, job)
    waiter.resume(Effect.succeed({ id: job.id, data: job.data, attempt: job.attemptsMade + 1, token }))
  }

  async #giveBack(job: BullJob, token: string): Promise<void> {
    await job.moveToWait(token)
    // BullMQ puts an item with a priority back without waking those who wait.
    await this.#options.redis.zadd(this.#queue.toKey("marker"), 0, "0")
  }

  #renew(
    id: string,
    token: string,
    expected?: { readonly job: string; readonly term: number }
  ): Effect.Effect<readonly ["held" | "cancelled" | "lost", undefined] | readonly ["term", number], WorkQueueError> {
    const { redis, termKey } = this.#options
    const key = (type: string): string => this.#queue.toKey(type)
    const keys = [`${key(id)}:lock`, key(id), key("active"), key("stalled"), termKey(expected?.job ?? "")]
    const term = expected === undefined ? "" : String(expected.term)
    return Effect.map(
      attempt(() => redis.eval(renewScript, keys.length, ...keys, token, lockMs, id, term)),
      answer => {
        const [outcome, current] = Array.isArray(answer) ? answer : []
        if (outcome === "term") return ["term", Number(current)]
        return [outcome === "held" || outcome === "cancelled" ? outcome : "lost", undefined]
      }
    )
  }

  /**
   * Ends a lease. When the connection broke while Redis was doing so, the command is sent once more, and is refused as nothing is held any
   * longer; then whoever was last to hold the item is who ended it, and the answer is what BullMQ calls the state that it is in.
   */
  #settle(id: string, token: string, settle: () => Promise<unknown>): Effect.Effect<string, WorkQueueError> {
    return attempt(async () => {
      try {
        await settle()
        return "settled"
      } catch (error) {
        if (!isNotHeld(error)) throw error
        const { redis } = this.#options
        const [holder, state] = await Promise.all([
          redis.hget(this.#queue.toKey(id), "holder"),
          this.#queue.getJobState(id)
        ])
        return holder === token && state !== "active" ? state : "lost"
      } finally {
        this.#jobs.delete(id)
      }
    })
  }

  async #status(job: BullJob): Promise<ItemStatus> {
    const id = job.id ?? ""
    const [bullState, cancelled, starts] = await Promise.all([
      job.getState(),
      this.#options.redis.hexists(this.#queue.toKey(id), "cancelled"),
      this.#options.redis.hget(this.#queue.toKey(id), "ats")
    ])
    return statusOf(job, stateOf(bullState, cancelled === 1), Number(starts ?? 0))
  }

  async #list(state: ItemState, limit: number): Promise<ReadonlyArray<ItemStatus>> {
    const types = bullStates[state]
    const perType = await Promise.all(
      types.map(type => this.#queue.getJobs([type], 0, maxListed - 1, type !== "completed" && type !== "failed"))
    )
    const jobs = perType.flat().filter(job => job !== undefined)
    const found: Array<ItemStatus> = []
    for (const job of state === "active" ? jobs.toReversed() : jobs) {
      if (found.length >= limit) break
      const status = await this.#status(job)
      if (status.state === state) found.push(status)
    }
    return found
  }
}

/** BullMQ takes what has no priority first, then low numbers: every item has one, the highest of ours the lowest of its. */
const bullPriority = (priority: number): number => 1_001 - priority

const bullStates: Readonly<Record<ItemState, ReadonlyArray<JobType>>> = {
  queued: ["wait", "prioritized", "delayed"],
  active: ["active"],
  completed: ["completed"],
  failed: ["failed"],
  cancelled: ["failed", "wait", "prioritized", "delayed"]
}

const stateOf = (bullState: string, cancelled: boolean): ItemState => {
  if (bullState === "completed" || bullState === "active") return bullState
  if (cancelled) return "cancelled"
  return bullState === "failed" ? "failed" : "queued"
}

const isJson = Schema.is(Schema.Json)
const jsonOf = (value: unknown, otherwise: Schema.Json): Schema.Json => (isJson(value) ? value : otherwise)

/** BullMQ's progress has fewer types than JSON. */
const progressOf = (value: Schema.Json): string | boolean | number | object => value ?? 0

const statusOf = (job: BullJob, state: ItemState, starts: number): ItemStatus => ({
  id: job.id ?? "",
  label: job.name,
  state,
  data: jsonOf(job.data, null),
  priority: bullPriority(job.priority),
  failures: state === "completed" ? Math.max(0, job.attemptsMade - 1) : job.attemptsMade,
  starts,
  progress: jsonOf(job.progress, 0),
  result: jsonOf(job.returnvalue, null),
  failure: job.failedReason,
  addedAt: job.timestamp,
  startedAt: job.processedOn,
  finishedAt: job.finishedOn
})
