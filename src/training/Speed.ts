/** Steps over which the current speed is measured. */
const window = 32

/** How fast steps are applied, from the clock's nanoseconds. */
export class Speed {
  readonly #examplesPerStep: number
  #times: Array<bigint> = []
  #start = 0n
  #last = 0n
  #steps = 0

  constructor(examplesPerStep: number) {
    this.#examplesPerStep = examplesPerStep
  }

  /** The first step begins. */
  start(nanos: bigint): void {
    this.#start = nanos
    this.#last = nanos
    this.#times = [nanos]
  }

  /** A step was applied: examples per second over the last steps. */
  step(nanos: bigint): number {
    this.#last = nanos
    this.#steps++
    this.#times.push(nanos)
    if (this.#times.length > window + 1) this.#times.shift()
    const first = this.#times[0] ?? nanos
    const elapsed = Number(nanos - first) / 1e9
    return elapsed > 0 ? ((this.#times.length - 1) * this.#examplesPerStep) / elapsed : 0
  }

  /** From the start of the first step to the last step applied. */
  get seconds(): number {
    return Number(this.#last - this.#start) / 1e9
  }

  /** Over all steps that were applied since the start, which are not those of the job where it went on from a checkpoint. */
  get examplesPerSecond(): number {
    return this.seconds > 0 ? (this.#steps * this.#examplesPerStep) / this.seconds : 0
  }
}
