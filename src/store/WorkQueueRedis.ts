import { readFile } from "node:fs/promises"
import { Effect, Layer, Redacted, type Scope } from "effect"
import type { Redis, RedisOptions } from "ioredis"
import { WorkQueue, WorkQueueError } from "./WorkQueue.ts"
import { RedisQueue, redisError } from "./WorkQueueRedisQueue.ts"
import { checkQueueName, checkTerm, namedQueue } from "./WorkQueueStore.ts"

/** How long Redis may take to answer for the first time, unless told otherwise. */
export const defaultConnectMs = 10_000
/** Without an answer for so long a connection is dead, and another is made. */
export const answerDeadlineMs = 5_000
/** Longest wait between two attempts to connect. */
export const reconnectMs = 1_000
/** What the keys of all queues begin with, unless told otherwise; BullMQ and bull-board call it `prefix`. */
export const defaultPrefix = "artifice"

const defaultKeepFinished = 1_000

export interface RedisLayerOptions {
  /** `redis://host:port/database`, or `rediss://` for TLS; `user:password@` before the host where it has one. */
  readonly url: string | Redacted.Redacted
  /** In place of one in the URL. */
  readonly password?: Redacted.Redacted
  /** A file of PEM certificates that are trusted in place of the system's, for a certificate of one's own. Only with `rediss://`. */
  readonly caFile?: string
  /** Default {@link defaultPrefix}. Clusters with different ones do not see each other. */
  readonly prefix?: string
  /** How long to try until Redis answers for the first time. Default {@link defaultConnectMs}. */
  readonly connectMs?: number
}

/** ARGV: the highest term seen. The counter and the terms told of, whichever is higher, and one more: read, compared and written in one step. */
const nextTermScript = `
local term = math.max(tonumber(redis.call("GET", KEYS[1]) or "0"), tonumber(ARGV[1])) + 1
redis.call("SET", KEYS[1], string.format("%.0f", term))
return string.format("%.0f", term)
`

const invalidUrl = (detail: string) =>
  new WorkQueueError({
    reason: "Invalid",
    message: `the address of Redis is not one: ${detail}`,
    hint: "Give redis://host:port, or rediss://host:port for TLS."
  })

type ConnectionSettings = Omit<RedisOptions, "replyMapping">

/** What ioredis is told, and how the server is called in messages: never with its password. */
const connectionOf = Effect.fnUntraced(function* (
  options: RedisLayerOptions
): Effect.fn.Return<{ readonly name: string; readonly redis: ConnectionSettings }, WorkQueueError> {
  const { url: given, password, caFile } = options
  const url = yield* Effect.try({
    try: () => new URL(typeof given === "string" ? given : Redacted.value(given)),
    catch: () => invalidUrl("it is no URL")
  })
  const secure = url.protocol === "rediss:"
  if (!secure && url.protocol !== "redis:") return yield* invalidUrl(`it begins with ${url.protocol}`)
  if (caFile !== undefined && !secure) return yield* invalidUrl("a CA file is given, but no rediss://")
  const db = url.pathname.replace(/^\//, "")
  if (!/^[0-9]{0,4}$/.test(db)) return yield* invalidUrl("its path is no number of a database")
  const ca =
    caFile === undefined
      ? undefined
      : yield* Effect.tryPromise({
          try: () => readFile(caFile, "utf8"),
          catch: error => invalidUrl(`the CA file cannot be read: ${error instanceof Error ? error.message : error}`)
        })
  const host = url.hostname.replace(/^\[|\]$/g, "")
  const port = url.port === "" ? 6379 : Number(url.port)
  const secret = password === undefined ? decodeURIComponent(url.password) : Redacted.value(password)
  return {
    name: `${url.hostname}:${port}`,
    redis: {
      host,
      port,
      db: Number(db),
      ...(url.username === "" ? {} : { username: decodeURIComponent(url.username) }),
      ...(secret === "" ? {} : { password: secret }),
      ...(secure ? { tls: ca === undefined ? {} : { ca } } : {}),
      // Commands wait for as long as Redis is away, in their order, and are sent again where no answer came.
      maxRetriesPerRequest: null,
      socketTimeout: answerDeadlineMs,
      retryStrategy: times => Math.min(reconnectMs, 50 * 2 ** Math.min(times, 10)) * (0.8 + 0.4 * Math.random()),
      // A replica that was promoted, or a primary that no longer is one: look again whom the address leads to.
      reconnectOnError: error => (error.message.startsWith("READONLY") ? 2 : false)
    }
  }
})

const certificateCodes = /CERT|SELF_SIGNED|UNABLE_TO|ERR_TLS|ERR_SSL|EPROTO/

const connectError = (name: string, error: unknown): WorkQueueError => {
  const text = error instanceof Error ? error.message : String(error)
  const code = error instanceof Error && "code" in error ? String(error.code) : ""
  if (certificateCodes.test(code))
    return new WorkQueueError({
      reason: "Refused",
      message: `there is no secure connection to Redis at ${name}: ${text}`,
      hint: "Give the file of the authority that signed its certificate, and the host name that it is made out to."
    })
  const answered = redisError(error)
  if (answered.reason === "Refused") return answered
  return new WorkQueueError({
    reason: "Unreachable",
    message: `Redis at ${name} cannot be reached: ${text || code || "no answer"}`,
    hint: "Start it, or correct its address; a server with TLS needs rediss://."
  })
}

/** Tries until the deadline while nobody answers; a refusal counts at once. */
const connect = (name: string, redis: Redis, connectMs: number): Effect.Effect<void, WorkQueueError> =>
  Effect.callback<void, WorkQueueError>(resume => {
    let last: unknown = new Error("no answer")
    const settle = (result: Effect.Effect<void, WorkQueueError>): void => {
      clearTimeout(timer)
      redis.off("ready", onReady).off("error", onError)
      resume(result)
    }
    const onReady = (): void => settle(Effect.void)
    const onError = (error: unknown): void => {
      last = error
      const told = connectError(name, error)
      if (told.reason === "Refused") settle(Effect.fail(told))
    }
    const timer = setTimeout(() => settle(Effect.fail(connectError(name, last))), connectMs)
    redis.on("ready", onReady).on("error", onError)
    return Effect.sync(() => clearTimeout(timer))
  })

const minimumVersion = [6, 2]

const checkVersion = (name: string, redis: Redis): Effect.Effect<void, WorkQueueError> =>
  Effect.flatMap(Effect.tryPromise({ try: () => redis.info("server"), catch: redisError }), info => {
    const [major = 0, minor = 0] = (/redis_version:([0-9.]+)/.exec(info)?.[1] ?? "0").split(".").map(Number)
    const [leastMajor = 0, leastMinor = 0] = minimumVersion
    return major > leastMajor || (major === leastMajor && minor >= leastMinor)
      ? Effect.void
      : Effect.fail(
          new WorkQueueError({
            reason: "Store",
            message: `Redis at ${name} is of version ${major}.${minor}, older than ${minimumVersion.join(".")}`,
            hint: "Use a newer Redis, or Valkey."
          })
        )
  })

/** Says when Redis goes away and comes back; everything waits in between. */
const watch = Effect.fnUntraced(function* (name: string, redis: Redis) {
  const run = Effect.runForkWith(yield* Effect.context())
  let away = false
  redis.on("close", () => {
    if (!away && redis.status !== "end")
      run(Effect.logWarning(`Redis at ${name} is away; queued work waits until it is back`))
    away = true
  })
  redis.on("ready", () => {
    if (away) run(Effect.logInfo(`Redis at ${name} is back`))
    away = false
  })
})

const connected = Effect.fnUntraced(function* (
  options: RedisLayerOptions
): Effect.fn.Return<Redis, WorkQueueError, Scope.Scope> {
  const { name, redis: settings } = yield* connectionOf(options)
  const ioredis = yield* Effect.promise(() => import("ioredis"))
  const redis = yield* Effect.acquireRelease(
    Effect.sync(() =>
      // Without a listener ioredis prints errors by itself. Not `lazyConnect`: BullMQ's second connection would have it too, and be lost for good
      // if Redis went away while it is made.
      new ioredis.Redis(settings).on("error", () => undefined)
    ),
    redis => Effect.sync(() => redis.disconnect())
  )
  yield* connect(name, redis, options.connectMs ?? defaultConnectMs)
  yield* checkVersion(name, redis)
  yield* watch(name, redis)
  return redis
})

/**
 * Queues in Redis, by BullMQ: any number of processes, on any number of machines, share them, and they outlive all of those. Fails with
 * `Unreachable` or `Refused` where there is no Redis within `connectMs`; later, everything waits while Redis is away.
 */
const layer = (options: RedisLayerOptions): Layer.Layer<WorkQueue, WorkQueueError> =>
  Layer.effect(
    WorkQueue,
    Effect.gen(function* () {
      const redis = yield* connected(options)
      const bull = yield* Effect.promise(() => import("bullmq"))
      const { prefix = defaultPrefix } = options
      const termKey = (job: string): string => `${prefix}-term:${job}`
      const ask = <A>(use: () => Promise<A>): Effect.Effect<A, WorkQueueError> =>
        Effect.tryPromise({ try: use, catch: redisError })
      return WorkQueue.of({
        open: definition =>
          checkQueueName(definition.name).pipe(
            Effect.andThen(
              RedisQueue.open({
                redis,
                bull,
                prefix,
                name: definition.name,
                keepFinished: definition.keepFinished ?? defaultKeepFinished,
                termKey
              })
            ),
            Effect.flatMap(({ store }) => namedQueue(definition, store))
          ),
        drop: name =>
          Effect.andThen(
            checkQueueName(name),
            Effect.acquireUseRelease(
              Effect.sync(() => new bull.Queue(name, { connection: redis, prefix, skipVersionCheck: true })),
              queue => ask(() => queue.obliterate({ force: true })),
              queue => Effect.promise(() => queue.close())
            )
          ),
        nextTerm: (job, seen = 0) =>
          Effect.andThen(
            checkTerm(job, seen),
            Effect.map(
              ask(() => redis.eval(nextTermScript, 1, termKey(job), seen)),
              Number
            )
          ),
        currentTerm: job =>
          Effect.map(
            ask(() => redis.get(termKey(job))),
            Number
          ),
        connected: Effect.sync(() => redis.status === "ready")
      })
    })
  )

export const WorkQueueRedis = { layer }
