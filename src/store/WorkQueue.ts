import { Context, Effect, Schema, type Option, type Scope } from "effect"

/** Work that many processes share: whole jobs, and units of work within one job. Memory or Redis behind one service. */

/** How long an item stays with a holder that no longer renews it. */
export const lockMs = 3_000
/** How often a holder renews, and how often items of holders that are gone are looked for. */
export const renewalMs = 1_000
/** A holder that has not renewed for this share of the lock no longer counts itself as one. */
export const validShare = 2 / 3
/** Largest item and largest result, as JSON text in UTF-8. */
export const maxItemBytes = 65_536
/** Items that one queue in memory may hold, finished ones included. */
export const maxItems = 1_000_000
/** Items that are added in one call. */
export const maxItemsPerAdd = 10_000
/** Longest wait before another attempt. */
export const maxBackoffMs = 600_000
/** How long a given-back item may take to reach a store that is away; past it its lock runs out by itself. */
export const releaseDeadlineMs = 2_000

/** The queue cannot do what it was asked. While Redis is away nothing fails: everything waits until it is back. */
export class WorkQueueError extends Schema.TaggedError<WorkQueueError>()("WorkQueueError", {
  reason: Schema.Literals([
    /** The store could not be reached when it was opened. */
    "Unreachable",
    /** It was reached and did not let us in: password or certificate. */
    "Refused",
    /** It has no room. */
    "Full",
    /** An item, a name or an option is not allowed. */
    "Invalid",
    /** The queue was closed meanwhile. */
    "Closed",
    /** The store answered with an error. */
    "Store"
  ]),
  message: Schema.String,
  /** What to do. */
  hint: Schema.String
}) {}

/** The holder no longer has the item: what it has done for it does not count. */
export class LeaseLost extends Schema.TaggedError<LeaseLost>()("LeaseLost", {
  id: Schema.String,
  why: Schema.Literals([
    /** Its lock ran out and somebody else has it, or will. */
    "TakenOver",
    "Cancelled",
    /** It was completed, failed or given back already. */
    "Settled"
  ])
}) {
  override get message() {
    const said = { TakenOver: "was taken over", Cancelled: "was cancelled", Settled: "is settled" }[this.why]
    return `the item ${this.id} ${said}; stop working on it`
  }
}

/** A job's term has risen: another coordinator has begun, and this one must stop. */
export class TermOver extends Schema.TaggedError<TermOver>()("TermOver", {
  job: Schema.String,
  term: Schema.Int,
  current: Schema.Int
}) {
  override get message() {
    return `term ${this.term} of the job ${this.job} is over: term ${this.current} has begun; stop this coordinator`
  }
}

export const itemStates = ["queued", "active", "completed", "failed", "cancelled"] as const
/** `queued` also while it waits for another attempt; `failed` when no attempt is left: the dead letters. */
export type ItemState = (typeof itemStates)[number]

/** One item to add. */
export interface WorkItem<A> {
  /** Names the item; adding it again does nothing. Default: a random one. 1 to 128 of `A-Z a-z 0-9 . _ -`, not only digits. */
  readonly id?: string
  readonly data: A
  /** What people see of it in lists. Default: the queue's name. */
  readonly label?: string
  /** −1,000 to 1,000; a higher one is taken sooner, equal ones in order. Default 0. */
  readonly priority?: number
  /** How often it may fail, 1 to 1,000. Default 3. */
  readonly attempts?: number
  /** Wait before the second attempt, 0 to 60,000 ms; it doubles with each further one up to {@link maxBackoffMs}. Default 1,000. */
  readonly backoffMs?: number
}

/** What is known of an item. Times are Unix milliseconds by the clock of whoever wrote them. */
export interface ItemStatus {
  readonly id: string
  readonly label: string
  readonly state: ItemState
  readonly data: Schema.Json
  readonly priority: number
  /** Attempts that failed. */
  readonly failures: number
  /** How often it was taken, whatever became of it. */
  readonly starts: number
  readonly progress: Schema.Json
  readonly result: Schema.Json
  /** Why it failed last. */
  readonly failure: string | undefined
  readonly addedAt: number
  readonly startedAt: number | undefined
  readonly finishedAt: number | undefined
}

/**
 * An item that this process has taken. It is renewed every {@link renewalMs} until its scope ends; then an item that is not settled is given
 * back (after success or interruption, which counts as no attempt) or failed (after an error, which does).
 */
export interface Lease<A> {
  readonly id: string
  readonly data: A
  /** Names this very lease; no other ever has the same. */
  readonly token: string
  /** Counted from 1: how many attempts have failed, and this one. */
  readonly attempt: number
  /**
   * True while nobody else can have the item: it was renewed within two thirds of the lock by the monotonic clock (and by the time of day,
   * as the monotonic clock stands still while some machines sleep). Ask before every act that another holder must not see.
   */
  readonly valid: boolean
  /** Ends when the lease is lost, and says why. */
  readonly lost: Effect.Effect<LeaseLost>
  readonly renew: Effect.Effect<void, LeaseLost | WorkQueueError>
  readonly progress: (value: Schema.Json) => Effect.Effect<void, LeaseLost | WorkQueueError>
  /** Completes the item, only where this lease still holds it and, where a term is given, that is still its job's. */
  readonly complete: (
    result: Schema.Json,
    expected?: { readonly job: string; readonly term: number }
  ) => Effect.Effect<void, LeaseLost | TermOver | WorkQueueError>
  /** Counts a failed attempt: the item comes again after its backoff, or is a dead letter where none is left or `final` is true. */
  readonly fail: (
    why: string,
    options?: { readonly final?: boolean }
  ) => Effect.Effect<"again" | "dead", LeaseLost | WorkQueueError>
  /** Gives the item back at once; no attempt is counted. */
  readonly release: Effect.Effect<void, WorkQueueError>
}

export interface TakeOptions {
  /**
   * `automatic`: this process renews while its main thread runs. `manual`: only `renew` does, for a lease that stands for somebody else
   * whose signs of life are at hand. Default `automatic`.
   */
  readonly renewal?: "automatic" | "manual"
}

/** One queue by its name. Items are delivered at least once; a result counts once, by the item's id. */
export interface NamedQueue<A> {
  readonly name: string
  /** Adds items, up to {@link maxItemsPerAdd}. Those whose id is known, in whatever state, are left alone. Gives the ids, in order. */
  readonly add: (items: ReadonlyArray<WorkItem<A>>) => Effect.Effect<ReadonlyArray<string>, WorkQueueError>
  /** Waits for an item. One that this process cannot read becomes a dead letter. */
  readonly take: (options?: TakeOptions) => Effect.Effect<Lease<A>, WorkQueueError, Scope.Scope>
  /** Cancels an item; its holder, if there is one, loses its lease within {@link renewalMs}. False where it is unknown or finished. */
  readonly cancel: (id: string) => Effect.Effect<boolean, WorkQueueError>
  readonly get: (id: string) => Effect.Effect<Option.Option<ItemStatus>, WorkQueueError>
  /** Queued ones: the next first. Others: the newest first. */
  readonly list: (state: ItemState, limit?: number) => Effect.Effect<ReadonlyArray<ItemStatus>, WorkQueueError>
}

export interface QueueDefinition<S extends Schema.Constraint> {
  /** 1 to 200 of `A-Z a-z 0-9 . _ -`. */
  readonly name: string
  readonly schema: S
  /** Completed items, and dead ones, that are kept to be listed; those gone may be added anew. Default 1,000. */
  readonly keepFinished?: number
}

/** Queues, and the terms that fence coordinators. `WorkQueueMemory` and `WorkQueueRedis` have the layers. */
export class WorkQueue extends Context.Service<
  WorkQueue,
  {
    readonly open: <S extends Schema.Constraint>(
      definition: QueueDefinition<S>
    ) => Effect.Effect<
      NamedQueue<S["Type"]>,
      WorkQueueError,
      Scope.Scope | S["EncodingServices"] | S["DecodingServices"]
    >
    /** Forgets a queue with all its items; leases of it are lost. */
    readonly drop: (name: string) => Effect.Effect<void, WorkQueueError>
    /** A term above every earlier one of this job, and above `seen`: the highest that any member or checkpoint tells of. Durable when it returns. */
    readonly nextTerm: (job: string, seen?: number) => Effect.Effect<number, WorkQueueError>
    /** The term that the job is in; 0 before its first. */
    readonly currentTerm: (job: string) => Effect.Effect<number, WorkQueueError>
    /** False while the store is away; everything waits then. */
    readonly connected: Effect.Effect<boolean>
  }
>()("artifice/store/WorkQueue") {}

/** A training job in a queue: what `artifice submit` adds and a coordinator takes. */
export const QueuedJob = Schema.Struct({
  /** The job's name, as in its module or overridden. */
  name: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/)),
  /** Where its module is, as the coordinators find it. */
  module: Schema.String.check(Schema.isMaxLength(4_096)),
  /** Options that replace the module's, as path and text. */
  set: Schema.Array(Schema.Tuple([Schema.String, Schema.String])).check(Schema.isMaxLength(256))
})
export type QueuedJob = typeof QueuedJob.Type

/** The queue of whole jobs. */
export const jobQueue = { name: "jobs", schema: QueuedJob } satisfies QueueDefinition<typeof QueuedJob>
