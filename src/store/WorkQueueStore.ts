import { randomUUID } from "node:crypto"
import { Cause, Clock, Deferred, Effect, Exit, Schedule, Schema, type Option, type Scope } from "effect"
import {
  LeaseLost,
  lockMs,
  maxItemBytes,
  maxItemsPerAdd,
  releaseDeadlineMs,
  renewalMs,
  TermOver,
  validShare,
  WorkQueueError,
  type ItemState,
  type ItemStatus,
  type Lease,
  type NamedQueue,
  type QueueDefinition,
  type WorkItem
} from "./WorkQueue.ts"

/** An item as a store keeps it: every option filled in and checked. */
export interface StoredItem {
  readonly id: string
  readonly label: string
  readonly data: Schema.Json
  readonly priority: number
  readonly attempts: number
  readonly backoffMs: number
}

/** An item that was just locked. `data` is as it was stored, by whom it may be; `token` is new. */
export interface TakenItem {
  readonly id: string
  readonly data: unknown
  readonly attempt: number
  readonly token: string
}

/** Where one queue is kept. Items are named by their id; who holds one, by a token. Whatever takes a token does nothing for another's. */
export interface QueueStore {
  /** Items whose id is known are left alone. */
  readonly add: (items: ReadonlyArray<StoredItem>) => Effect.Effect<void, WorkQueueError>
  /** Waits for an item and locks it for {@link lockMs}. Interruption may leave it locked: the lock then runs out. */
  readonly take: Effect.Effect<TakenItem, WorkQueueError>
  /** Holds for another {@link lockMs}, also where the lock ran out and nobody has held the item since. */
  readonly renew: (id: string, token: string) => Effect.Effect<"held" | "cancelled" | "lost", WorkQueueError>
  readonly progress: (id: string, token: string, value: Schema.Json) => Effect.Effect<boolean, WorkQueueError>
  /** A number: the job's term, which is not the one expected. */
  readonly complete: (
    id: string,
    token: string,
    result: Schema.Json,
    expected: { readonly job: string; readonly term: number } | undefined
  ) => Effect.Effect<"done" | "cancelled" | "lost" | number, WorkQueueError>
  readonly fail: (
    id: string,
    token: string,
    why: string,
    final: boolean
  ) => Effect.Effect<"again" | "dead" | "lost", WorkQueueError>
  readonly release: (id: string, token: string) => Effect.Effect<void, WorkQueueError>
  readonly cancel: (id: string) => Effect.Effect<boolean, WorkQueueError>
  readonly get: (id: string) => Effect.Effect<Option.Option<ItemStatus>, WorkQueueError>
  readonly list: (state: ItemState, limit: number) => Effect.Effect<ReadonlyArray<ItemStatus>, WorkQueueError>
  /** Makes items available again whose lock has run out. */
  readonly recover: Effect.Effect<void, WorkQueueError>
}

const defaultListLimit = 100

const invalid = (message: string, hint: string) => new WorkQueueError({ reason: "Invalid", message, hint })

/** Milliseconds before the attempt that follows so many failed ones. */
export const backoffAfter = (failures: number, backoffMs: number, maxMs: number): number =>
  Math.min(maxMs, backoffMs * 2 ** (failures - 1))

export const checkQueueName = (name: string): Effect.Effect<void, WorkQueueError> =>
  /^[A-Za-z0-9._-]{1,200}$/.test(name)
    ? Effect.void
    : Effect.fail(
        invalid(`"${name}" is no name of a queue`, "Use 1 to 200 letters, digits, dots, dashes and underscores.")
      )

export const checkTerm = (job: string, seen: number): Effect.Effect<void, WorkQueueError> =>
  Number.isSafeInteger(seen + 1) && seen >= 0 && job !== "" && job.length <= 200
    ? Effect.void
    : Effect.fail(invalid(`${seen} of "${job}" is no term`, "A term is an integer from 0 to 2⁵³ − 2."))

const between = (value: number, minimum: number, maximum: number): boolean =>
  Number.isInteger(value) && value >= minimum && value <= maximum

const checkItem = (item: StoredItem): Effect.Effect<StoredItem, WorkQueueError> => {
  const { id, priority, attempts, backoffMs, label } = item
  const problem = !/^(?![0-9]+$)[A-Za-z0-9._-]{1,128}$/.test(id)
    ? "its id must be 1 to 128 letters, digits, dots, dashes and underscores, and not only digits"
    : !between(priority, -1_000, 1_000)
      ? "its priority must be an integer from −1,000 to 1,000"
      : !between(attempts, 1, 1_000)
        ? "its attempts must be an integer from 1 to 1,000"
        : !between(backoffMs, 0, 60_000)
          ? "its backoffMs must be an integer from 0 to 60,000"
          : label.length < 1 || label.length > 200
            ? "its label must have 1 to 200 characters"
            : jsonBytes(item.data) > maxItemBytes
              ? `its data must be at most ${maxItemBytes} bytes of JSON; put what is larger into a file and name it`
              : undefined
  return problem === undefined
    ? Effect.succeed(item)
    : Effect.fail(invalid(`the item "${id}" cannot be added`, `${problem}.`))
}

const jsonBytes = (value: Schema.Json): number => Buffer.byteLength(JSON.stringify(value))

interface Instant {
  readonly monotonicMs: number
  readonly dayMs: number
}

const instantOf = (clock: Clock.Clock): Instant => ({
  monotonicMs: Number(clock.monotonicTimeNanosUnsafe()) / 1e6,
  dayMs: clock.currentTimeMillisUnsafe()
})

class HeldLease<A> implements Lease<A> {
  readonly id: string
  readonly data: A
  readonly token: string
  readonly attempt: number
  readonly #store: QueueStore
  readonly #clock: Clock.Clock
  readonly #lost = Deferred.makeUnsafe<LeaseLost>()
  #renewedAt: Instant
  #why: LeaseLost["why"] | undefined

  constructor(
    store: QueueStore,
    clock: Clock.Clock,
    renewedAt: Instant,
    item: Pick<Lease<A>, "id" | "data" | "token" | "attempt">
  ) {
    this.id = item.id
    this.data = item.data
    this.token = item.token
    this.attempt = item.attempt
    this.#store = store
    this.#clock = clock
    this.#renewedAt = renewedAt
  }

  get valid(): boolean {
    const now = instantOf(this.#clock)
    const elapsedMs = Math.max(now.monotonicMs - this.#renewedAt.monotonicMs, now.dayMs - this.#renewedAt.dayMs)
    return this.#why === undefined && elapsedMs < lockMs * validShare
  }

  get lost(): Effect.Effect<LeaseLost> {
    return Deferred.await(this.#lost)
  }

  #lose(why: LeaseLost["why"]): LeaseLost {
    this.#why ??= why
    const lost = new LeaseLost({ id: this.id, why: this.#why })
    Deferred.doneUnsafe(this.#lost, Effect.succeed(lost))
    return lost
  }

  #held<B, E>(act: Effect.Effect<B, E>): Effect.Effect<B, E | LeaseLost> {
    return Effect.suspend<B, E | LeaseLost, never>(() =>
      this.#why === undefined ? act : Effect.fail(new LeaseLost({ id: this.id, why: this.#why }))
    )
  }

  get renew(): Effect.Effect<void, LeaseLost | WorkQueueError> {
    return this.#held(
      Effect.suspend(() => {
        const at = instantOf(this.#clock)
        return Effect.flatMap(this.#store.renew(this.id, this.token), outcome => {
          if (outcome !== "held") return Effect.fail(this.#lose(outcome === "cancelled" ? "Cancelled" : "TakenOver"))
          if (at.monotonicMs > this.#renewedAt.monotonicMs) this.#renewedAt = at
          return Effect.void
        })
      })
    )
  }

  progress(value: Schema.Json): Effect.Effect<void, LeaseLost | WorkQueueError> {
    return this.#held(
      Effect.andThen(
        checkResult("progress", value),
        Effect.flatMap(this.#store.progress(this.id, this.token, value), held =>
          held ? Effect.void : Effect.fail(this.#lose("TakenOver"))
        )
      )
    )
  }

  complete(
    result: Schema.Json,
    expected?: { readonly job: string; readonly term: number }
  ): Effect.Effect<void, LeaseLost | TermOver | WorkQueueError> {
    return this.#held(
      Effect.andThen(
        checkResult("result", result),
        Effect.flatMap(
          this.#store.complete(this.id, this.token, result, expected),
          (outcome): Effect.Effect<void, LeaseLost | TermOver> => {
            if (typeof outcome === "number" && expected !== undefined)
              return Effect.fail(new TermOver({ ...expected, current: outcome }))
            if (outcome !== "done") return Effect.fail(this.#lose(outcome === "cancelled" ? "Cancelled" : "TakenOver"))
            this.#lose("Settled")
            return Effect.void
          }
        )
      )
    )
  }

  fail(
    why: string,
    { final = false }: { readonly final?: boolean } = {}
  ): Effect.Effect<"again" | "dead", LeaseLost | WorkQueueError> {
    return this.#held(
      Effect.flatMap(this.#store.fail(this.id, this.token, why, final), outcome => {
        if (outcome === "lost") return Effect.fail(this.#lose("TakenOver"))
        this.#lose("Settled")
        return Effect.succeed(outcome)
      })
    )
  }

  get release(): Effect.Effect<void, WorkQueueError> {
    return Effect.suspend(() => {
      if (this.#why !== undefined) return Effect.void
      this.#lose("Settled")
      return this.#store.release(this.id, this.token)
    })
  }

  /** The end of the scope that the item was taken in. */
  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    const settled =
      this.#why === "Cancelled"
        ? this.#store.fail(this.id, this.token, "cancelled", true)
        : countsAsFailure(exit)
          ? this.fail(reasonOf(exit))
          : this.release
    // Past the deadline the lock runs out by itself, with the same effect.
    return Effect.ignore(Effect.timeout(settled, releaseDeadlineMs))
  }
}

const checkResult = (what: string, value: Schema.Json): Effect.Effect<void, WorkQueueError> =>
  jsonBytes(value) > maxItemBytes
    ? Effect.fail(invalid(`the ${what} has more than ${maxItemBytes} bytes of JSON`, "Put it into a file and name it."))
    : Effect.void

const causeOf = (exit: Exit.Exit<unknown, unknown>): Cause.Cause<unknown> =>
  Exit.isFailure(exit) ? exit.cause : Cause.empty

/** A coordinator that another has replaced did not fail at the job. */
const countsAsFailure = (exit: Exit.Exit<unknown, unknown>): boolean => {
  if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return false
  const error = Cause.squash(exit.cause)
  return !(error instanceof TermOver || error instanceof LeaseLost)
}

const maxReasonLength = 1_000

const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  const error = Cause.squash(causeOf(exit))
  return (error instanceof Error ? `${error.name}: ${error.message}` : String(error)).slice(0, maxReasonLength)
}

/** A typed queue over a store. Renewal and recovery begin with the first `take`, and end with the scope. */
export const namedQueue = Effect.fnUntraced(function* <S extends Schema.Constraint>(
  definition: QueueDefinition<S>,
  store: QueueStore
): Effect.fn.Return<NamedQueue<S["Type"]>, never, Scope.Scope | S["EncodingServices"] | S["DecodingServices"]> {
  const { name } = definition
  const codec = Schema.toCodecJson(definition.schema)
  const services = yield* Effect.context<S["EncodingServices"] | S["DecodingServices"]>()
  const clock = yield* Effect.clockWith(Effect.succeed)
  const scope = yield* Effect.scope
  const renewed = new Set<HeldLease<S["Type"]>>()

  // Renewal before recovery: after a time without the store, what we hold is ours again before anybody looks for what nobody holds.
  const tend = Effect.andThen(
    Effect.suspend(() => Effect.forEach(renewed, ({ renew }) => Effect.ignore(renew), { concurrency: "unbounded" })),
    Effect.ignore(store.recover)
  )
  const tending = yield* Effect.cached(
    Effect.forkIn(Effect.repeat(tend, Schedule.fixed(renewalMs)), scope, { startImmediately: true })
  )

  const encode = (item: WorkItem<S["Type"]>): Effect.Effect<StoredItem, WorkQueueError> =>
    Schema.encodeUnknownEffect(codec)(item.data).pipe(
      Effect.provideContext(services),
      Effect.mapError(error => invalid(`an item of the queue ${name} does not fit: ${error.message}`, "Correct it.")),
      Effect.flatMap(data =>
        checkItem({
          id: item.id ?? randomUUID(),
          label: item.label ?? name,
          data,
          priority: item.priority ?? 0,
          attempts: item.attempts ?? 3,
          backoffMs: item.backoffMs ?? 1_000
        })
      )
    )

  const takeOne = (): Effect.Effect<HeldLease<S["Type"]>, WorkQueueError> =>
    Effect.gen(function* () {
      const item = yield* store.take
      const { token } = item
      const at = instantOf(clock)
      const outcome = yield* store.renew(item.id, token)
      if (outcome === "cancelled") yield* store.fail(item.id, token, "cancelled", true)
      if (outcome !== "held") return yield* takeOne()
      const decoded = yield* Effect.exit(Effect.provideContext(Schema.decodeUnknownEffect(codec)(item.data), services))
      if (Exit.isSuccess(decoded))
        return new HeldLease(store, clock, at, { id: item.id, data: decoded.value, token, attempt: item.attempt })
      yield* store.fail(item.id, token, `this process cannot read it: ${reasonOf(decoded)}`, true)
      return yield* takeOne()
    })

  return {
    name,
    add: items =>
      items.length > maxItemsPerAdd
        ? Effect.fail(
            invalid(`${items.length} items are too many for one call`, `Add at most ${maxItemsPerAdd} at once.`)
          )
        : Effect.forEach(items, encode).pipe(
            Effect.tap(store.add),
            Effect.map(stored => stored.map(({ id }) => id))
          ),
    take: ({ renewal = "automatic" } = {}) =>
      Effect.acquireRelease(
        Effect.andThen(tending, takeOne()),
        (lease, exit) =>
          Effect.ensuring(
            lease.close(exit),
            Effect.sync(() => renewed.delete(lease))
          ),
        { interruptible: true }
      ).pipe(Effect.tap(lease => (renewal === "automatic" ? Effect.sync(() => renewed.add(lease)) : Effect.void))),
    cancel: store.cancel,
    get: store.get,
    list: (state, limit = defaultListLimit) => store.list(state, limit)
  }
})
