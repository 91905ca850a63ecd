import { bytesOf } from "../node/GradientExchanger.ts"
import { tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { StepGradient } from "./AllGather.ts"
import { sharedFloats } from "./Replica.ts"
import type { ExchangeOptions } from "./ViewExchange.ts"

/** Where an announced tensor goes, and what its arrival does. */
export interface GiftPlace {
  readonly target: Uint8Array
  readonly arrived: () => void
}

/** What brings members to the base of a view that are not there: its whole state, or the gradient of its last step. Pure. */
export class Gifts {
  /** What a donor has sent to this member. */
  state: Uint8Array | undefined
  gradient: StepGradient | undefined
  readonly #options: ExchangeOptions

  constructor(options: ExchangeOptions) {
    this.#options = options
  }

  /** The place of a tensor that was announced; undefined for a reduced gradient that is none, as it belongs to a step to come. */
  place(header: TensorHeader, from: PeerId): GiftPlace | undefined {
    const { base } = this.#options.plan
    if (header.kind === tensorKinds.state) return this.#placeState(header, from)
    return header.step === base && this.#isFrom(from, "gradient") ? this.#placeGradient(header) : undefined
  }

  #placeGradient({ segment, loss, step }: TensorHeader): GiftPlace {
    const { elements, free } = this.#options
    if (this.gradient !== undefined || segment.from !== 0 || segment.to !== elements)
      throw new ProtocolError("UNEXPECTED", "a part of a gradient, or another one, where one was announced")
    const values = free.pop() ?? sharedFloats(elements)
    const arrived = (): void => {
      this.gradient = { step, values, loss }
    }
    return { target: bytesOf(values), arrived }
  }

  #placeState({ step, segment }: TensorHeader, from: PeerId): GiftPlace {
    const { stateBytes, plan } = this.#options
    if (!this.#isFrom(from, "state") || this.state !== undefined || step !== plan.base)
      throw new ProtocolError("UNEXPECTED", `a state after step ${step}, which was not announced`)
    if (segment.from !== 0 || segment.to !== stateBytes) throw new ProtocolError("MALFORMED", "a part of a state")
    const target = new Uint8Array(stateBytes)
    const arrived = (): void => {
      this.state = target
    }
    return { target, arrived }
  }

  #isFrom(from: PeerId, what: "state" | "gradient"): boolean {
    const { plan, self } = this.#options
    return plan.gifts.some(gift => gift.from === from && gift.to === self && gift.what === what)
  }

  /** Queues what this member gives. `state` is asked at most once; `gradient` is that of the last applied step. */
  give(
    header: (kind: TensorHeader["kind"], to: number, loss: number) => TensorHeader,
    state: () => Uint8Array,
    gradient: StepGradient | undefined
  ): void {
    const { self, elements, stateBytes, send, plan } = this.#options
    let copy: Uint8Array | undefined
    for (const { from, to, what } of plan.gifts) {
      if (from !== self) continue
      if (what === "state") {
        copy ??= state()
        send(to, header(tensorKinds.state, stateBytes, 0), copy)
      } else if (gradient?.step === plan.base) {
        send(to, header(tensorKinds.reduced, elements, gradient.loss), bytesOf(gradient.values.slice()))
      }
    }
  }
}
