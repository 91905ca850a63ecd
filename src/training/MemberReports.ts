import { Effect, Schedule } from "effect"
import type { PeerId } from "../protocol/Identity.ts"
import type * as RpcPeer from "../rpc/RpcPeer.ts"
import type { Session } from "../transport/Session.ts"
import { maxReportedSteps, type DirectCoordinatorRpcs } from "./DirectProtocol.ts"
import type { DirectReplica } from "./DirectReplica.ts"
import { heartbeatIntervalMs, maxSilenceMs } from "./FailureDetector.ts"
import type { CoordinatorRpcs } from "./JobProtocol.ts"
import { remoteCall } from "./RemoteCall.ts"
import type { Trouble } from "./Troubles.ts"
import type { ViewExchange } from "./ViewExchange.ts"
import type { ViewStreams } from "./ViewStreams.ts"

/** How long a member waits for others in a step before it says for whom, and how often it says so again. */
export const waitingReportMs = 1_000

export type DirectClient = RpcPeer.Client<DirectCoordinatorRpcs>

/** Tells the coordinator that this member lives, and ends the session where nothing comes back. */
export const heartbeats = (session: Session, direct: DirectClient): Effect.Effect<void> =>
  direct.Heartbeat().pipe(
    remoteCall(maxSilenceMs),
    Effect.catch(error => Effect.sync(() => session.fail("TIMEOUT", `the coordinator is silent: ${error.message}`))),
    Effect.repeat(Schedule.spaced(heartbeatIntervalMs)),
    Effect.asVoid
  )

/** Tells the coordinator of applied steps, one report at a time: while one is on its way the next one grows. */
export const reportProgress = (
  replica: DirectReplica,
  streams: ViewStreams,
  direct: DirectClient
): Effect.Effect<never> =>
  Effect.gen(function* () {
    const { changed } = replica
    let reported = -1
    for (;;) {
      yield* changed.until(() =>
        replica.started.view > 0 && (replica.applied !== reported || replica.stateHash !== undefined) ? true : undefined
      )
      const { applied, stateHash, computeMs, started } = replica
      const pending = replica.unreported
      // The oldest first: they are told with the step that the last of them belongs to.
      const losses = pending.slice(0, maxReportedSteps)
      const upTo = applied - (pending.length - losses.length)
      yield* Effect.ignore(
        direct
          .ReportProgress({
            ...started,
            applied: upTo,
            losses,
            ...(stateHash === undefined ? {} : { state: stateHash }),
            computeMs,
            sentBytes: streams.sentBytes
          })
          .pipe(remoteCall())
      )
      replica.unreported.splice(0, losses.length)
      if (replica.stateHash === stateHash) replica.stateHash = undefined
      reported = upTo
      changed.notify()
    }
  })

/** Names those whose vectors a robust rule has left out. */
export const reportLeftOut = (
  { changed }: DirectReplica,
  { leftOut }: ViewExchange,
  client: RpcPeer.Client<CoordinatorRpcs>
): Effect.Effect<never> =>
  Effect.forever(
    Effect.flatMap(
      changed.until(() => leftOut.shift()),
      report => Effect.ignore(client.ReportNonFinite(report).pipe(remoteCall()))
    )
  )

/** Says whom this member has lost, and for whom it waits when nothing happens. */
export const reportTrouble = (
  replica: DirectReplica,
  exchange: ViewExchange,
  lost: ReadonlySet<PeerId>,
  direct: DirectClient
): Effect.Effect<void> => {
  const { term, view } = exchange.plan
  const report = (what: Trouble["what"], peers: ReadonlyArray<PeerId>) =>
    Effect.ignore(direct.ReportTrouble({ term, view, step: replica.applied + 1, what, peers }).pipe(remoteCall()))
  return Effect.gen(function* () {
    while (!exchange.closed) {
      const before = replica.applied
      const event = yield* replica.changed
        .until(() =>
          exchange.closed ? "closed" : lost.size > 0 ? "lost" : replica.applied > before ? "step" : undefined
        )
        .pipe(Effect.timeoutOrElse({ duration: waitingReportMs, orElse: () => Effect.succeed("waiting" as const) }))
      if (event === "lost") {
        yield* report("lost", [...lost])
        yield* Effect.sleep(waitingReportMs)
      } else if (event === "waiting" && replica.applied < replica.steps) {
        const { what, peers } = exchange.waitingFor(replica.applied + 1)
        if (peers.length > 0) yield* report(what, peers)
      }
    }
  })
}
