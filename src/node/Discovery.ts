/** Acts on hints from the local network (§2.8): dials them as the peers that this node knows and has no session with. */
import { Effect, Queue, type Scope } from "effect"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import { lanDiscovery, type LanDiscoveryOptions } from "../transport/LanDiscovery.ts"
import { formatAddress, type Address, type NetworkError } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"

/** Hints that wait; the oldest are dropped, as their hosts speak up again. */
const maxWaitingHints = 64
const hintsAtOnce = 4
/**
 * A beacon does not say who sends it, so a hint is dialled as one peer after the other: those met last come first, and no more than
 * these, as each dial shows whoever is there a tag.
 */
const maxPeersPerHint = 32
/** How long a hint may take with all of them. */
const hintDeadlineMs = 15_000

export interface DiscoveryOptions extends Omit<LanDiscoveryOptions, "onHint"> {
  /** The peers that this node is paired with; `lastSeen` is in unix seconds. */
  readonly peers: () => Iterable<{ readonly peerId: string; readonly lastSeen: number }>
  readonly isReached: (peerId: PeerId) => boolean
  /** Dials a peer at an address; undefined where it is reached already. */
  readonly tryAddress: (peerId: PeerId, address: string) => Effect.Effect<Session | undefined, SessionError>
}

/** An address that nobody answers at, or too slowly, is one for every peer. */
const concernsAll: ReadonlySet<string> = new Set(["UNREACHABLE", "TIMEOUT"])

/** Those met last, the latest first, without sorting all that there are. */
const metLast = ({ peers, isReached }: DiscoveryOptions): ReadonlyArray<PeerId> => {
  const chosen: Array<{ readonly peerId: PeerId; readonly lastSeen: number }> = []
  for (const { peerId, lastSeen } of peers()) {
    if (chosen.length === maxPeersPerHint && lastSeen <= (chosen.at(-1)?.lastSeen ?? 0)) continue
    if (!isPeerId(peerId) || isReached(peerId)) continue
    const at = chosen.findIndex(other => other.lastSeen < lastSeen)
    chosen.splice(at < 0 ? chosen.length : at, 0, { peerId, lastSeen })
    chosen.length = Math.min(chosen.length, maxPeersPerHint)
  }
  return chosen.map(({ peerId }) => peerId)
}

/** Announces this node on the local network, and follows what others announce, until the scope ends. Fails where the UDP port is taken. */
export const discover = Effect.fn("Discovery.open")(function* (
  options: DiscoveryOptions
): Effect.fn.Return<void, NetworkError, Scope.Scope> {
  const hints = yield* Queue.sliding<Address>(maxWaitingHints)

  const follow = (address: string) =>
    Effect.gen(function* () {
      for (const peerId of metLast(options)) {
        const attempt = yield* Effect.result(options.tryAddress(peerId, address))
        if (attempt._tag === "Failure") {
          if (concernsAll.has(attempt.failure.code)) return
        } else if (attempt.success !== undefined) {
          return yield* Effect.logInfo(`found peer ${peerId} at ${address}`)
        }
      }
    }).pipe(Effect.timeoutOption(hintDeadlineMs))

  const worker = Effect.forever(Effect.flatMap(Queue.take(hints), address => follow(formatAddress(address))))
  for (let index = 0; index < hintsAtOnce; index++) yield* Effect.forkScoped(worker)
  yield* lanDiscovery({ ...options, onHint: address => void Queue.offerUnsafe(hints, address) })
})
