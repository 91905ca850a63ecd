import { divideInto } from "../compute/Blocks.ts"
import { MemberMomentum } from "../compute/MemberMomentum.ts"
import type { AllReduceOptions } from "./Strategy.ts"

/** The rule by which members' vectors become one, and how much of its momentum each keeps. */
export type RobustRule = Pick<AllReduceOptions, "aggregation" | "hostile" | "radius" | "iterations" | "memberMomentum">

/**
 * What one member sends to a robust rule: the mean over its lanes, or the momentum of that. The momentum belongs to an attempt at a step, which
 * counts when the step is applied and is forgotten when it is computed again.
 */
export class MemberVector {
  readonly rule: RobustRule
  readonly #elements: number
  #momentum: MemberMomentum | undefined

  constructor(rule: RobustRule, elements: number) {
    this.rule = rule
    this.#elements = elements
    this.clear()
  }

  /**
   * What to send for the sum over so many lanes, shape `[elements]`: valid until the step after it is computed. The sum is divided in place. One
   * that is not finite is no part of the momentum.
   */
  of(sum: Float32Array, lanes: number, loss: number): Float32Array {
    const bad = divideInto(sum, sum, lanes)
    return this.#momentum === undefined || bad >= 0 || !Number.isFinite(loss) ? sum : this.#momentum.stage(sum)
  }

  /** The step is applied, or, where its result was not finite, counted and nothing else. */
  applied(skipped: boolean): void {
    if (skipped) this.#momentum?.abandon()
    else this.#momentum?.commit()
  }

  /** A view begins: an attempt that was not applied is forgotten. */
  begin(): void {
    this.#momentum?.abandon()
  }

  /** The state comes from another member: the momentum begins anew. */
  clear(): void {
    const { memberMomentum } = this.rule
    this.#momentum = memberMomentum > 0 ? new MemberMomentum(this.#elements, memberMomentum) : undefined
  }
}
