import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { tensorKinds } from "../../src/node/TensorHeader.ts"
import { stateHashSteps } from "../../src/training/DirectReplica.ts"
import { directCluster, identities, type Lie } from "../support/directCluster.ts"

/** Sends the first member another mean gradient of step 5 than the others. */
const twoFaced = (): Lie => {
  let isDone = false
  return (header, data) => {
    if (isDone || header.kind !== tensorKinds.reduced || header.step !== 5) return data
    isDone = true
    const values = new Float32Array(data.slice().buffer).map(value => value + 1)
    return new Uint8Array(values.buffer)
  }
}

describe("A member whose state differs from the others'", () => {
  it.live(
    "is named and stopped at the next comparison, and the others finish",
    () =>
      Effect.gen(function* () {
        const { startWorker, finished, events } = yield* directCluster("test/fixtures/jobs/clouds.ts", { workers: 3 })
        yield* startWorker(0)
        yield* startWorker(1, undefined, twoFaced())
        yield* startWorker(2)
        const { members, shards } = yield* finished
        assert.strictEqual(members, 2)
        assert.deepStrictEqual(shards, { expected: 640, counted: 640 })
        const [victim] = yield* Effect.promise(() => identities)
        const lost = events.flatMap(event => (event.event === "member-lost" ? [event] : []))
        assert.deepStrictEqual(
          lost.map(({ peer, reason }) => ({ peer, reason })),
          [{ peer: victim?.peerId ?? "", reason: `its state after step ${stateHashSteps} differs from the others'` }]
        )
      }),
    300_000
  )
})
