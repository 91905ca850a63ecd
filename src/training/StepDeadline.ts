/** A member's time for its part of a step before it has done one: it may still load and trace its model. */
export const firstStepDeadlineMs = 120_000
/** The least time that a member has for its part of a step. */
export const minStepDeadlineMs = 10_000
/** A member may take so many times its own median. */
export const stepDeadlineMedians = 8
/** Steps over which the median is taken. */
export const stepDeadlineWindow = 31

/**
 * How long one member may take for its part of a step: max(10 s, 8 × its own median), and 120 s until it has done one in this process. Times
 * are per lane, so that a member that is given more lanes is given more time. Pure.
 */
export class StepDeadline {
  readonly #laneMs: Array<number> = []
  #overruns = 0

  /** For a step with so many lanes; a spare, which has none, is asked for as little as with one. */
  deadlineMs(lanes: number): number {
    const median = this.#median()
    return median === undefined
      ? firstStepDeadlineMs
      : Math.max(minStepDeadlineMs, stepDeadlineMedians * median * Math.max(1, lanes))
  }

  /** Its part of a step has come after so long. */
  completed(milliseconds: number, lanes: number): void {
    this.#overruns = 0
    this.#laneMs.push(milliseconds / Math.max(1, lanes))
    if (this.#laneMs.length > stepDeadlineWindow) this.#laneMs.shift()
  }

  /** Its part has not come in time: what is to be done. The second overrun without a step between removes it. */
  overran(): "shrink" | "remove" {
    this.#overruns++
    return this.#overruns === 1 ? "shrink" : "remove"
  }

  #median(): number | undefined {
    const sorted = this.#laneMs.toSorted((a, b) => a - b)
    const middle = sorted.length >> 1
    const upper = sorted[middle]
    return sorted.length % 2 === 1 || upper === undefined ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2
  }
}
