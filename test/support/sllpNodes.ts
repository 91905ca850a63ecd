/** Two paired peers in this process, and associations between them, through a bad network where one is wanted. */
import { Effect, Stream, type Scope } from "effect"
import { LossyProxy, type Line, type Place } from "../../examples/camera/LossyProxy.ts"
import type { PeerNodeOptions } from "../../src/node/PeerNode.ts"
import type { SllpLink } from "../../src/node/SllpLink.ts"
import type { SllpOpenOptions } from "../../src/node/SllpStreams.ts"
import { loopback, pair, startNode } from "./nodes.ts"
import { alice, bob } from "./vectors.ts"

/** `host` is Alice and listens; `guest` is Bob and has dialled. */
export const hostAndGuest = Effect.fnUntraced(function* (options: Pick<PeerNodeOptions, "sllp"> = {}) {
  const host = yield* startNode({ ...options, identity: alice, listen: loopback })
  const guest = yield* startNode({ ...options, identity: bob })
  yield* pair(host, guest)
  const open = (name: string, wanted: SllpOpenOptions) => guest.sllp.open(alice.peerId, name, wanted)
  return { host, guest, open }
})

/** Sends back each message that came whole. */
export const echo = (link: SllpLink) =>
  Stream.runForEach(link.messages(0), received => (received.complete ? link.send(0, received.bytes) : Effect.void))

export const lossyProxy = (line: Partial<Line>, seed = 1): Effect.Effect<LossyProxy, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => LossyProxy.open(line, seed)),
    proxy => Effect.promise(() => proxy[Symbol.asyncDispose]())
  )

/** Where the datagrams of an association go; for `via`. */
export const observed = () => {
  const places: Array<Place> = []
  const via = (place: Place): Place => {
    places.push(place)
    return place
  }
  return { places, via }
}
