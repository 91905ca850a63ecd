import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import { Count, Lanes, Sha256 } from "./JobProtocol.ts"

/** What coordinator and members of a direct exchange say to each other beside `JobProtocol`. Gradients go from member to member, as tensors. */

const maxListed = 512
const Peer = Schema.declare((value: unknown): value is PeerId => typeof value === "string" && isPeerId(value))
const Peers = Schema.Array(Peer).check(Schema.isMaxLength(maxListed))
const ViewNumber = Schema.Struct({ term: Count, view: Count })

/** The caller coordinates under a term, or a view, that is over: another has taken its place. */
export class StaleTerm extends Schema.TaggedError<StaleTerm>()("StaleTerm", { term: Count, view: Count }) {
  override get message() {
    return `this member has been told of term ${this.term}, view ${this.view}`
  }
}

/** A view of the direct exchange: who computes and reduces what, from which state on. */
export const ViewPlan = Schema.Struct({
  term: Count,
  view: Count,
  /** Steps applied in the state that the view begins with, and that state's SHA-256: it comes from the coordinator, not from a donor. */
  base: Count,
  stateSha256: Sha256,
  /** Sums of the step losses of the epoch before the one in progress, and of that one: float64, in the order of steps. */
  lossSums: Schema.Tuple([Schema.Number, Schema.Number]),
  /** Those that compute, by PeerID: their lanes and the part [from, to) of the flat gradient that each reduces. */
  members: Schema.Array(Schema.Struct({ peer: Peer, lanes: Lanes, segment: Schema.Tuple([Count, Count]) })).check(
    Schema.isMaxLength(maxListed)
  ),
  /** Those that only apply what is reduced: joiners and spares. */
  observers: Peers,
  /** What brings those to the base that are not there: its whole state, or the reduced gradient of its last step. */
  gifts: Schema.Array(Schema.Struct({ from: Peer, to: Peer, what: Schema.Literals(["state", "gradient"]) })).check(
    Schema.isMaxLength(maxListed)
  ),
  /** Steps from one checkpoint to the next: the first of `members` keeps a copy of the state of each such step until the next one. */
  checkpointSteps: Schema.optionalKey(Count)
})
export type ViewPlan = typeof ViewPlan.Type

/** Steps of whose loss one report tells at most; a member that has more to tell reports again. */
export const maxReportedSteps = 1_024

export const directCoordinatorService = "views"
export const DirectCoordinatorProtocol = RpcGroup.make(
  /** A member has applied steps. */
  Rpc.make("ReportProgress", {
    payload: {
      ...ViewNumber.fields,
      applied: Count,
      /** Sums of the lane losses of the steps up to `applied`, the last of them last. */
      losses: Schema.Array(Schema.Number).check(Schema.isMaxLength(maxReportedSteps)),
      /** Of the state after a step, where it was taken. */
      state: Schema.optionalKey(Schema.Struct({ step: Count, sha256: Sha256 })),
      /** Milliseconds that this member computed for its last step. */
      computeMs: Schema.Number,
      /** Bytes that this member has sent to other members since it joined, headers included. */
      sentBytes: Count
    }
  }),
  /** A sign of life, every second; the answer is the coordinator's. */
  Rpc.make("Heartbeat"),
  /** A member cannot go on by itself. */
  Rpc.make("ReportTrouble", {
    payload: {
      ...ViewNumber.fields,
      step: Count,
      /**
       * `parts`, `products`, `gradient`: this member has done its part of the step, and for a while nothing of what these owe has come; `lost`: the way to
       * them is gone; `state`: this member is not at the base and must be given the state, again or at last.
       */
      what: Schema.Literals(["parts", "products", "gradient", "lost", "state"]),
      peers: Peers
    }
  })
)
export type DirectCoordinatorRpcs = RpcGroup.Rpcs<typeof DirectCoordinatorProtocol>

export const directMemberService = "view-member"
export const DirectMemberProtocol = RpcGroup.make(
  /** Stop sending, drop the unfinished step, and say where this member stands. */
  Rpc.make("PrepareView", {
    payload: ViewNumber.fields,
    success: Schema.Struct({
      started: ViewNumber,
      applied: Count,
      stateSha256: Sha256,
      lossSums: Schema.Tuple([Schema.Number, Schema.Number])
    }),
    error: StaleTerm
  }),
  /** The view that was prepared begins. */
  Rpc.make("StartView", { payload: { plan: ViewPlan }, error: StaleTerm }),
  /**
   * Sends the state after `step` to the coordinator as a tensor, where this member holds it now or has kept a copy; `newest` takes the newest copy
   * that it has kept instead. Says which state it is.
   */
  Rpc.make("GiveState", {
    payload: { step: Count, newest: Schema.Boolean },
    success: Schema.Struct({
      started: ViewNumber,
      step: Count,
      stateSha256: Sha256,
      lossSums: Schema.Tuple([Schema.Number, Schema.Number])
    })
  }),
  /** Takes the state of a checkpoint, which comes as a tensor, while the view that is prepared has not started. */
  Rpc.make("TakeState", {
    payload: {
      /** The view that was prepared. */
      prepared: ViewNumber,
      /** The view that the state is of. */
      started: ViewNumber,
      step: Count,
      stateSha256: Sha256,
      lossSums: Schema.Tuple([Schema.Number, Schema.Number])
    },
    error: StaleTerm
  }),
  /** The test figures after this step are known: parameters that were kept for them may go. */
  Rpc.make("Evaluated", { payload: { step: Count } })
)
export type DirectMemberRpcs = RpcGroup.Rpcs<typeof DirectMemberProtocol>
