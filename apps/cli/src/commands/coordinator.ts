import { formatAddress, PeerNode } from "artifice"
import * as Effect from "effect/Effect"
import { cannotInvite, coordinateJob, loadJob, tellablePath } from "../Job.ts"
import { addressesOf, listeningPeer } from "../Listening.ts"
import type { CommandBody, CoordinatorOptions } from "../Options.ts"

/** How long a printed token works; a new one is printed while workers are still awaited. */
const inviteTtlMs = 10 * 60_000

/** `artifice coordinator`. */
export const coordinatorCommand: CommandBody<CoordinatorOptions> = (options, output) =>
  Effect.gen(function* () {
    const job = yield* loadJob(options.job, options.set)
    const node = yield* listeningPeer(options.home, options.listen, { discovery: options.discovery })
    const address = formatAddress(node.address ?? options.listen)
    yield* output.emit({ event: "process", role: "coordinator", pid: process.pid, peer: node.identity.peerId })
    yield* output.emit({ event: "listening", peer: node.identity.peerId, address })

    const joined = new Set<string>()
    const path = tellablePath(options.job)
    const invite = Effect.gen(function* () {
      const { token, expiresAt } = yield* node
        .invite({ name: job.name, ttlMs: inviteTtlMs, addresses: addressesOf(node.address ?? options.listen) })
        .pipe(Effect.mapError(cannotInvite))
      yield* output.emit({
        event: "invite",
        token,
        expiresAt: new Date(expiresAt * 1000).toISOString(),
        command: `npx artifice worker --join ${token} ${path === "" ? options.job : path}`
      })
    })
    // A token pairs one machine, so each awaited worker gets its own; those that run out unused are replaced.
    const inviting = Effect.gen(function* () {
      while (joined.size < options.minWorkers) {
        for (let missing = options.minWorkers - joined.size; missing > 0; missing--) yield* invite
        yield* Effect.sleep(inviteTtlMs)
      }
      return yield* Effect.never
    })
    const watched = {
      ...output,
      emit: (event: Parameters<typeof output.emit>[0]) => {
        if (event.event === "member-joined") joined.add(event.peer)
        return output.emit(event)
      }
    }
    yield* coordinateJob(job, options, watched).pipe(Effect.provideService(PeerNode, node), Effect.raceFirst(inviting))
  })
