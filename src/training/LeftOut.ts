import type { LeftOutEvent } from "./JobEvent.ts"
import { isRobust, type StrategyOptions } from "./Strategy.ts"

/** What was not finite and a robust rule has left out, told once for each step and member, by however many owners it is reported. Pure. */
export class LeftOut {
  readonly #isRobust: boolean
  /** The last step that was told of each member. */
  readonly #told = new Map<string, number>()

  constructor(strategy: StrategyOptions) {
    this.#isRobust = isRobust(strategy)
  }

  /** Whether what is reported was left out: one member's part, under a robust rule, and not the result. */
  covers({ lane, peer }: { readonly lane: number | undefined; readonly peer: string | undefined }): boolean {
    return this.#isRobust && (lane !== undefined || peer !== undefined)
  }

  /** The event to tell, unless it was told. */
  told(report: {
    readonly step: number
    readonly lane: number | undefined
    readonly peer: string
  }): LeftOutEvent | undefined {
    const { step, lane, peer } = report
    if ((this.#told.get(peer) ?? 0) >= step) return undefined
    this.#told.set(peer, step)
    return { event: "left-out", step, peer, ...(lane === undefined ? {} : { lane }) }
  }
}
