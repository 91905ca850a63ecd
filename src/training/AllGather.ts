import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { sharedFloats } from "./Replica.ts"
import type { Segment } from "./Segments.ts"

/** Bytes of reduced gradients that an observer may hold unapplied, though always two steps; past it, it must be given the state again. */
export const maxBacklogBytes = 64 * 1024 ** 2

/** The mean gradient of a step, or what a robust rule gives in its place. */
export interface StepGradient {
  readonly step: number
  readonly values: Float32Array
  /** Tree sum of the lane losses; not finite where the step must not be applied. */
  readonly loss: number
}

interface Gathering {
  readonly step: number
  readonly values: Float32Array
  /** Owners whose segment has not come. */
  readonly missing: Set<PeerId>
  loss: number | undefined
}

/** The gradients of steps whose reduced segments come from their owners. Pure: it neither sends nor waits. */
export class AllGather {
  /** Of those that reduce a part of the gradient, in the order of members. */
  readonly segments: ReadonlyMap<PeerId, Segment>
  readonly #elements: number
  readonly #free: Array<Float32Array>
  readonly #believes: PeerId | undefined
  readonly #gathering = new Map<number, Gathering>()
  /** More than fits the backlog has come: it passes unread. */
  overrun = false

  /** `robust`: owners may have been told different losses; the first one's counts. */
  constructor(options: {
    readonly segments: ReadonlyMap<PeerId, Segment>
    readonly elements: number
    readonly free: Array<Float32Array>
    readonly robust: boolean
  }) {
    this.segments = new Map([...options.segments].filter(([, { from, to }]) => to > from))
    this.#elements = options.elements
    this.#free = options.free
    const [first] = this.segments.keys()
    this.#believes = options.robust ? first : undefined
  }

  /** Where the gradient of a step is gathered; undefined where the backlog is full. */
  at(step: number): Gathering | undefined {
    const known = this.#gathering.get(step)
    if (known !== undefined) return known
    const held = this.#gathering.size
    if (this.overrun || (held >= 2 && held * this.#elements * 4 >= maxBacklogBytes)) {
      this.overrun = true
      return undefined
    }
    const values = this.#free.pop() ?? sharedFloats(this.#elements)
    const gathering: Gathering = { step, values, missing: new Set(this.segments.keys()), loss: undefined }
    this.#gathering.set(step, gathering)
    return gathering
  }

  /** An owner's segment is in its place. */
  gathered(gathering: Gathering, from: PeerId, loss: number): void {
    gathering.missing.delete(from)
    const isFinite = Number.isFinite(loss)
    // Under a robust rule a liar may have told each owner another loss: what counts is what one of them makes of it.
    if (this.#believes !== undefined && isFinite && from !== this.#believes) return
    const before = gathering.loss ?? loss
    // Every owner has summed the same losses along the same tree.
    if (Number.isFinite(before) && isFinite && before !== loss)
      throw new ProtocolError("UNEXPECTED", `two owners tell different losses of step ${gathering.step}`)
    // One that is not finite says that the step must not be applied, whoever found out.
    gathering.loss = Number.isFinite(before) ? loss : before
  }

  /** The gradient of a step, once all of it is here. It is the caller's from then on. */
  take(step: number): StepGradient | undefined {
    const gathering = this.#gathering.get(step)
    if (gathering?.loss === undefined || gathering.missing.size > 0) return undefined
    this.#gathering.delete(step)
    return { step, values: gathering.values, loss: gathering.loss }
  }

  /** Whether the segment of this member is still to come. */
  awaits(step: number, peer: PeerId): boolean {
    const missing = this.#gathering.get(step)?.missing
    return missing === undefined ? this.segments.has(peer) : missing.has(peer)
  }

  /** Gradients that were not complete are given back. */
  close(): void {
    for (const { values } of this.#gathering.values()) this.#free.push(values)
    this.#gathering.clear()
  }
}
