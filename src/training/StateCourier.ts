import { Effect, Semaphore } from "effect"
import type { ActorRef } from "../actor/ActorRef.ts"
import { gradientExchanger, Placement, sendTensor, type ExchangerRpcs } from "../node/GradientExchanger.ts"
import type { PeerNode } from "../node/PeerNode.ts"
import { tensorKinds, type TensorHeader } from "../node/TensorHeader.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { Changed } from "./Changed.ts"
import { tensorDeadlineMs } from "./JobMember.ts"
import type { ViewId } from "./ViewChange.ts"

/** A state that another peer has sent. */
export interface ArrivedState {
  readonly from: PeerId
  readonly step: number
  readonly state: Uint8Array
}

/** Moves whole states between coordinator and members of a direct exchange, for checkpoints: one at a time comes in, from whom it is awaited. */
export class StateCourier {
  readonly #exchanger: ActorRef<ExchangerRpcs>
  readonly #job: Uint8Array
  readonly #stateBytes: number
  readonly #inbox: Inbox

  private constructor(exchanger: ActorRef<ExchangerRpcs>, job: Uint8Array, stateBytes: number, inbox: Inbox) {
    this.#exchanger = exchanger
    this.#job = job
    this.#stateBytes = stateBytes
    this.#inbox = inbox
  }

  /** `admits` decides from whom states are taken when none is awaited from a certain one. */
  static readonly make = Effect.fn("StateCourier.make")(function* (
    node: PeerNode["Service"],
    name: string,
    job: Uint8Array,
    stateBytes: number,
    admits: (from: PeerId) => boolean
  ) {
    const inbox = new Inbox(stateBytes, admits)
    const actor = `states-${name}`
    const exchanger = yield* Effect.acquireRelease(
      node.supervisor.spawn(actor, gradientExchanger(node, job, inbox.place)),
      () => node.supervisor.stop(actor, { mode: "now" })
    )
    return new StateCourier(exchanger, job, stateBytes, inbox)
  })

  send(session: Session, { term, view }: ViewId, step: number, state: Uint8Array): Effect.Effect<void, SessionError> {
    const header: TensorHeader = {
      kind: tensorKinds.state,
      job: this.#job,
      term,
      view,
      step,
      lanes: { from: 0, to: 0 },
      segment: { from: 0, to: this.#stateBytes },
      loss: 0
    }
    return sendTensor(this.#exchanger, session, header, state)
  }

  /** Asks a peer by `ask`, and gives the answer with the state that comes from it for the step that the answer names. */
  fetch<A extends { readonly step: number }, E, R>(
    from: PeerId,
    ask: Effect.Effect<A, E, R>
  ): Effect.Effect<{ readonly answer: A; readonly state: Uint8Array } | undefined, E, R> {
    return this.#inbox.from(
      from,
      Effect.flatMap(ask, answer =>
        Effect.map(this.taken(from, answer.step), arrived =>
          arrived === undefined ? undefined : { answer, state: arrived.state }
        )
      )
    )
  }

  /** Waits for the state of a step from a peer; undefined where it does not come. */
  taken(from: PeerId, step: number): Effect.Effect<ArrivedState | undefined> {
    return this.#inbox.take(from, step)
  }
}

class Inbox {
  readonly #stateBytes: number
  readonly #admits: (from: PeerId) => boolean
  readonly #changed = new Changed()
  readonly #one = Semaphore.makeUnsafe(1)
  #awaited: PeerId | undefined
  #placement: Placement | undefined
  #arrived: ArrivedState | undefined

  constructor(stateBytes: number, admits: (from: PeerId) => boolean) {
    this.#stateBytes = stateBytes
    this.#admits = admits
  }

  readonly place = ({ kind, segment, step }: TensorHeader, from: PeerId): Placement | undefined => {
    if (kind !== tensorKinds.state || segment.from !== 0 || segment.to !== this.#stateBytes)
      throw new ProtocolError("UNEXPECTED", "a tensor that is no whole state")
    // Late, or from one that nobody has asked.
    if (from !== this.#awaited && !this.#admits(from)) return undefined
    // A newer one takes its place: at most one is in memory.
    this.#placement?.revoke()
    const state = new Uint8Array(this.#stateBytes)
    this.#placement = new Placement(state, () => {
      this.#placement = undefined
      this.#arrived = { from, step, state }
      this.#changed.notify()
    })
    return this.#placement
  }

  from<A, E, R>(peer: PeerId, use: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return this.#one.withPermits(1)(
      Effect.suspend(() => {
        this.#awaited = peer
        this.#arrived = undefined
        return Effect.ensuring(
          use,
          Effect.sync(() => {
            this.#awaited = undefined
            this.#placement?.revoke()
            this.#placement = undefined
            this.#arrived = undefined
          })
        )
      })
    )
  }

  take(from: PeerId, step: number): Effect.Effect<ArrivedState | undefined> {
    return this.#changed
      .until(() => (this.#arrived?.from === from && this.#arrived.step === step ? this.#arrived : undefined))
      .pipe(
        Effect.tap(() => Effect.sync(() => (this.#arrived = undefined))),
        Effect.timeoutOrElse({ duration: tensorDeadlineMs, orElse: () => Effect.succeed(undefined) })
      )
  }
}
