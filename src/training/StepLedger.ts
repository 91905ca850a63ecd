/** A step of which a member has told the loss, at the time it was first told. */
export interface ToldStep {
  readonly step: number
  /** Tree sum of the lane losses. */
  readonly loss: number
}

/** An epoch whose last step is applied. */
export interface EndedEpoch {
  readonly epoch: number
  readonly step: number
  /** Sum of the step losses, float64, in the order of steps. */
  readonly lossSum: number
}

/**
 * Which steps are applied, as members tell it: each is counted once, in order, whoever tells of it first and however often it is told. Pure.
 */
export class StepLedger {
  readonly #stepsPerEpoch: number
  #applied = 0
  /** Sums of the step losses of the epoch before that of the last applied step, and of that one. */
  #lossSums: readonly [number, number] = [0, 0]

  constructor(stepsPerEpoch: number) {
    this.#stepsPerEpoch = stepsPerEpoch
  }

  get applied(): number {
    return this.#applied
  }

  get lossSums(): readonly [number, number] {
    return this.#lossSums
  }

  /** A member has applied steps up to `applied`; `losses` are those of the last of them. */
  told(
    applied: number,
    losses: ReadonlyArray<number>
  ): { steps: ReadonlyArray<ToldStep>; ended: ReadonlyArray<EndedEpoch> } {
    const steps: Array<ToldStep> = []
    const ended: Array<EndedEpoch> = []
    for (const [index, loss] of losses.entries()) {
      const step = applied - losses.length + 1 + index
      if (step !== this.#applied + 1) continue
      this.#applied = step
      const [before, current] = this.#lossSums
      this.#lossSums = (step - 1) % this.#stepsPerEpoch === 0 ? [current, loss] : [before, current + loss]
      steps.push({ step, loss })
      if (step % this.#stepsPerEpoch === 0) ended.push(this.#end(step, this.#lossSums[1]))
    }
    return { steps, ended }
  }

  #end(step: number, lossSum: number): EndedEpoch {
    return { epoch: step / this.#stepsPerEpoch, step, lossSum }
  }

  /**
   * A view begins with these steps applied. They may be more than were told of, where those that applied them could not tell; or fewer,
   * where all that held the state are lost. Gives the epochs that have ended meanwhile, of which the sums of the last two are known.
   */
  rebase(base: number, lossSums: readonly [number, number]): ReadonlyArray<EndedEpoch> {
    const before = this.#applied
    if (base === before) return []
    this.#applied = base
    this.#lossSums = lossSums
    const inProgress = Math.ceil(base / this.#stepsPerEpoch)
    const known = [
      { epoch: inProgress - 1, lossSum: lossSums[0] },
      { epoch: inProgress, lossSum: lossSums[1] }
    ]
    return known
      .map(({ epoch, lossSum }) => this.#end(epoch * this.#stepsPerEpoch, lossSum))
      .filter(({ step }) => step > before && step <= base)
  }
}
