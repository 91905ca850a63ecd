import { createHash } from "node:crypto"
import { Effect, type Scope } from "effect"
import { drainDeadlineMs, stepDeadlineMs, viewDeadlineMs, type Coordination } from "./Coordination.ts"
import type { CoordinatorError } from "./CoordinatorError.ts"
import type { DirectViews, RunningView } from "./DirectViews.ts"
import type { Member } from "./Membership.ts"
import { remoteCall } from "./RemoteCall.ts"
import type { StateCourier } from "./StateCourier.ts"
import type { StateHashes } from "./StateHashes.ts"

/** Hashed between two looks at what else there is to do. */
const hashChunkBytes = 4 * 1024 ** 2

/** SHA-256 of a state as `ComputeThread.stateSha256` gives it; the event loop is not held up. */
const stateSha256 = (step: number, state: Uint8Array): Effect.Effect<string> =>
  Effect.gen(function* () {
    const head = new Uint8Array(8)
    new DataView(head.buffer).setBigUint64(0, BigInt(step), true)
    const hash = createHash("sha256").update(head)
    for (let from = 0; from < state.length; from += hashChunkBytes) {
      hash.update(state.subarray(from, from + hashChunkBytes))
      yield* Effect.sleep(0)
    }
    return hash.digest("hex")
  })

interface Context {
  readonly views: DirectViews
  readonly courier: StateCourier
  readonly hashes: StateHashes
  /** Whether every member of the view in progress has applied a step. */
  readonly allHave: (step: number) => boolean
}

/** Checkpoints of a direct exchange: the coordinator, which holds no replica, fetches the state from a member and saves it. */
export class DirectCheckpoints {
  readonly #coordination: Coordination
  readonly #context: Context
  #isDue = false
  #saving = false

  constructor(coordination: Coordination, context: Context) {
    this.#coordination = coordination
    this.#context = context
  }

  /** A step was applied, perhaps one whose state is to be saved. */
  applied(step: number): void {
    this.#isDue ||= this.#coordination.checkpoints.isDue(step)
  }

  /** A checkpoint is due, and none is being saved. One that comes due while another is saved waits, and the newest is taken then. */
  get ready(): boolean {
    return this.#isDue && !this.#saving
  }

  /** Saves the newest state that the first member of the view has kept, while training goes on. */
  begin({ plan, members }: RunningView): Effect.Effect<void, never, Scope.Scope> {
    this.#isDue = false
    this.#saving = true
    const keeper = members.get(plan.members[0]?.peer ?? plan.observers[0] ?? this.#coordination.node.identity.peerId)
    return this.#save(keeper === undefined ? [] : [keeper], 0, true).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          this.#saving = false
          this.#coordination.changed.notify()
        })
      ),
      Effect.forkScoped,
      Effect.asVoid
    )
  }

  /** Saves the state after the last step, which every member of the view holds. */
  last({ members }: RunningView): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { steps, checkpoints, changed } = this.#coordination
      const saved = changed.until(() => (this.#saving ? undefined : true))
      return Effect.andThen(
        saved,
        Effect.suspend(() => (checkpoints.lacks(steps) ? this.#save([...members.values()], steps, false) : Effect.void))
      )
    })
  }

  /** The job is interrupted: members stop after the step that they are applying, and what they hold then is saved. */
  get drain(): Effect.Effect<void> {
    const { checkpoints } = this.#coordination
    const draining: Effect.Effect<void, CoordinatorError> = Effect.gen({ self: this }, function* () {
      if (checkpoints.everySteps === 0) return
      const halted = yield* this.#context.views.halt()
      if (halted === undefined || !checkpoints.lacks(halted.decision.base)) return
      yield* this.#save(halted.holders, halted.decision.base, false)
    })
    return draining.pipe(Effect.ignore, Effect.timeoutOption(drainDeadlineMs), Effect.asVoid)
  }

  readonly #save = Effect.fnUntraced(function* (
    this: DirectCheckpoints,
    holders: ReadonlyArray<Member>,
    wanted: number,
    newest: boolean
  ): Effect.fn.Return<void> {
    const { checkpoints, changed, info } = this.#coordination
    const { views, courier, hashes, allHave } = this.#context
    let why = "nobody holds it"
    for (const member of holders) {
      const ask = Effect.flatMap(views.client(member), client => client.GiveState({ step: wanted, newest }))
      const fetched = yield* Effect.result(courier.fetch(member.peerId, ask).pipe(remoteCall(stepDeadlineMs)))
      if (fetched._tag === "Failure" || fetched.success === undefined) {
        why = fetched._tag === "Failure" ? fetched.failure.message : "it did not come"
        continue
      }
      const { answer, state } = fetched.success
      const { step, started } = answer
      if (!checkpoints.lacks(step)) return
      if ((yield* stateSha256(step, state)) !== answer.stateSha256) {
        why = `what ${member.peerId} has sent is not what it holds`
        continue
      }
      if (newest) {
        // A step counts once all have applied it: whoever is left of them can go on from there.
        yield* changed.until(() => (allHave(step) ? true : undefined)).pipe(Effect.timeoutOption(viewDeadlineMs))
        if (!allHave(step) || !hashes.agree(step, answer.stateSha256)) {
          why = "the members do not agree on it"
          continue
        }
      }
      const epoch = Math.max(1, Math.ceil(step / info.stepsPerEpoch))
      const [before, current] = answer.lossSums
      const lossSums = [[epoch - 1, before] as const, [epoch, current] as const]
      return yield* checkpoints.save({ id: started, step, lossSums, state })
    }
    yield* checkpoints.failed(wanted, {
      reason: "Missing",
      message: `the state could not be had from a member: ${why}`,
      hint: "Those saved before are still there."
    })
  })
}
