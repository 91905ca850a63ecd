import { Deferred, Effect } from "effect"

/** Wakes whoever waits for something to become true: set by plain callbacks, awaited in Effect. */
export class Changed {
  #next = Deferred.makeUnsafe<void>()

  /** Something may be true now that was not before. */
  notify(): void {
    const waiting = this.#next
    this.#next = Deferred.makeUnsafe<void>()
    Deferred.doneUnsafe(waiting, Effect.void)
  }

  /** Waits until `condition` gives a value. It is asked now, and again after every `notify`. */
  until<A>(condition: () => A | undefined): Effect.Effect<A> {
    return Effect.suspend(() => {
      const value = condition()
      return value === undefined
        ? Effect.flatMap(Deferred.await(this.#next), () => this.until(condition))
        : Effect.succeed(value)
    })
  }
}
