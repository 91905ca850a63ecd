import { Deferred, Effect, Exit, Layer, Scope } from "effect"
import type { PeerNodeOptions } from "../../src/node/PeerNode.ts"
import { applyChange, noPeers, PeerStore, type PeerChange, type StoredPeers } from "../../src/store/PeerStore.ts"
import type { Address } from "../../src/transport/Network.ts"
import { startNode } from "./nodes.ts"

/** A durable step of one peer, and whether its process ends right before it is durable or right after, before anybody is told. */
export interface Crash {
  readonly at: (change: PeerChange) => boolean
  readonly when: "before" | "after"
}

/** A peer that can be ended in the midst of a durable step and started again from what was durable by then. */
export const mortalPeer = (options: PeerNodeOptions) => {
  let held: StoredPeers = noPeers
  let crash: Crash | undefined
  let died = Deferred.makeUnsafe<void>()
  let life: Scope.Closeable | undefined
  let address: Address | undefined

  const apply = (change: PeerChange): Effect.Effect<void> =>
    Effect.suspend(() => {
      const ends = crash?.at(change) === true
      if (!ends || crash?.when === "after") held = applyChange(held, change)
      if (!ends) return Effect.void
      crash = undefined
      Deferred.doneUnsafe(died, Effect.void)
      // Nothing happens after this in that process.
      return Effect.never
    })
  const store = Layer.succeed(PeerStore, { load: Effect.sync(() => held), apply })

  const stop = Effect.suspend(() => {
    const ending = life
    life = undefined
    return ending === undefined ? Effect.void : Scope.close(ending, Exit.void)
  })

  return {
    get state(): StoredPeers {
      return held
    },
    /** Starts it, at the address where it was before. */
    start: Effect.gen(function* () {
      yield* stop
      const scope = yield* Scope.fork(yield* Effect.scope)
      life = scope
      const listen = address ?? options.listen
      const node = yield* Scope.provide(
        startNode({ ...options, ...(listen === undefined ? {} : { listen }) }, store),
        scope
      )
      address = node.address
      return node
    }),
    stop,
    /** Plans the end; waits for it and ends what is left of the process. */
    crashAt: (plan: Crash): Effect.Effect<void> =>
      Effect.suspend(() => {
        crash = plan
        died = Deferred.makeUnsafe<void>()
        return Effect.andThen(Deferred.await(died), stop)
      })
  }
}
