import { Effect, type Scope } from "effect"
import type { RpcGroup } from "effect/rpc"
import type { ComputeError } from "../compute/ComputeThread.ts"
import * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import type { Changed } from "./Changed.ts"
import type { CoordinatorRpcs, WorkerRpcs } from "./JobProtocol.ts"

/** How long a tensor that was announced may take to come. */
export const tensorDeadlineMs = 120_000

/** What a worker does in a job by its strategy, over one session with its coordinator after another. */
export interface JobMember {
  /** Notified when `finished` or `stopped` change. */
  readonly changed: Changed
  /** The highest term that it has worked under. */
  readonly term: number
  finished: boolean
  /** Why the coordinator ended the job before it was done. */
  stopped: string | undefined
  /** Another session counts from here on. */
  readonly attach: (session: Session) => void
  readonly handlers: (session: Session) => RpcGroup.HandlersFrom<WorkerRpcs>
  /** Serves what the strategy needs beside, before the coordinator is asked to let this member in. */
  readonly services: (session: Session) => Effect.Effect<void, never, Scope.Scope>
  /** Works until it is interrupted; `steps` are applied at the coordinator. */
  readonly work: (
    session: Session,
    client: RpcPeer.Client<CoordinatorRpcs>,
    steps: number
  ) => Effect.Effect<never, ComputeError, Scope.Scope>
}

/** Only the coordinator of this session may steer. */
export const byCoordinator = <A, E>(session: Session, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.flatMap(RpcPeer.caller, ({ peer }) =>
    peer === session.peer.peerId ? effect : Effect.die(new Error(`${peer} is not this worker's coordinator`))
  )
