import { Effect, Fiber, Semaphore, type Scope } from "effect"
import type { EvaluationResult } from "../compute/Engine.ts"
import type { Changed } from "./Changed.ts"
import { figuresOf, type EpochFigures } from "./Evaluation.ts"
import type { JobEvent } from "./JobEvent.ts"
import type { Member, Membership } from "./Membership.ts"

/** How long an evaluation of all test examples may take at a worker before another one does it. */
export const evaluationDeadlineMs = 10 * 60_000
/** Epochs whose evaluation may be outstanding; each keeps one copy of the parameters. Training waits at this bound. */
export const maxPendingEvaluations = 4

/** What is known of an epoch when its evaluation is done. */
export type KnownFigures = EpochFigures & { readonly trainLoss: number }

/** The field of an event where the model has such a metric, and nothing where it has none. */
export const accuracyField = (accuracy: number | undefined) =>
  accuracy === undefined ? {} : { testAccuracy: accuracy }

/** How one epoch's parameters are evaluated: at a member, or here where there is none; `undefined`: it cannot be done there. */
export type EvaluateAt = (
  member: Member | undefined
) => Effect.Effect<EvaluationResult, { readonly message: string }> | undefined

/**
 * Has the parameters at the end of each epoch evaluated while training goes on: by the first member by PeerID; when it is lost the next one
 * repeats it.
 */
export class EvaluationDesk {
  readonly figures = new Map<number, KnownFigures>()
  readonly #members: Membership
  readonly #changed: Changed
  readonly #emit: (event: JobEvent) => Effect.Effect<void>
  readonly #oneAtATime = Semaphore.makeUnsafe(1)
  readonly #fibers: Array<Fiber.Fiber<void>> = []
  #pending = 0

  constructor(members: Membership, changed: Changed, emit: (event: JobEvent) => Effect.Effect<void>) {
    this.#members = members
    this.#changed = changed
    this.#emit = emit
  }

  /** Evaluations that are begun and not done. */
  get pending(): number {
    return this.#pending
  }

  /** Begins the evaluation of an epoch; `done` follows it, whatever came of it. */
  begin(
    epoch: number,
    trainLoss: number,
    at: EvaluateAt,
    done: Effect.Effect<void> = Effect.void
  ): Effect.Effect<void, never, Scope.Scope> {
    return Effect.gen({ self: this }, function* () {
      this.#pending++
      const counted = Effect.sync(() => {
        this.#pending--
        this.#changed.notify()
      })
      const evaluation = this.#oneAtATime.withPermits(1)(this.#evaluate(epoch, trainLoss, at))
      this.#fibers.push(yield* Effect.forkScoped(Effect.ensuring(evaluation, Effect.andThen(counted, done))))
    })
  }

  /** Waits until every evaluation that was begun is done. */
  get settled(): Effect.Effect<void> {
    return Effect.forEach(this.#fibers, fiber => Fiber.join(fiber), { discard: true })
  }

  readonly #evaluate = Effect.fnUntraced(function* (
    this: EvaluationDesk,
    epoch: number,
    trainLoss: number,
    at: EvaluateAt
  ): Effect.fn.Return<void> {
    const unable = new Set<Member>()
    for (;;) {
      const member = this.#members.list.find(each => !unable.has(each))
      const attempt = at(member)
      if (attempt === undefined) {
        if (member === undefined) return yield* Effect.logWarning(`no member can evaluate epoch ${epoch}`)
        unable.add(member)
        continue
      }
      const result = yield* Effect.result(attempt)
      if (result._tag === "Success") {
        const { testLoss, testAccuracy } = figuresOf(result.success)
        this.figures.set(epoch, { testLoss, testAccuracy, trainLoss })
        yield* this.#emit({ event: "epoch", epoch, trainLoss, testLoss, ...accuracyField(testAccuracy) })
        return
      }
      if (member === undefined) return yield* Effect.die(result.failure)
      yield* this.#members.expel(member, `it could not evaluate: ${result.failure.message}`)
    }
  })
}
