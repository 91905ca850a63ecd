import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../../src/actor/Actor.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import { exposeActor, tellHeader } from "../../src/node/ExposedActor.ts"
import { defaultCallDeadlineMs } from "../../src/rpc/RpcLimits.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { memoryPair } from "../rpc/channels.ts"
import { alice } from "../support/vectors.ts"

const Press = RpcGroup.make(Rpc.make("Print", { payload: { text: Schema.String } }), Rpc.make("Wait"))

/** A press that is exposed to one channel, busy until the gate opens. */
const exposed = Effect.gen(function* () {
  const gate = yield* Deferred.make<void>()
  const printed: Array<string> = []
  const root = yield* Supervisor.make("root")
  const press = Actor.make(Press, () =>
    Effect.succeed({
      Print: ({ text }) => Effect.sync(() => void printed.push(text)),
      Wait: () => Deferred.await(gate)
    })
  )
  const ref = yield* root.spawn("press", press)
  const pair = memoryPair()
  const scope = yield* Scope.fork(yield* Effect.scope)
  const onChannel: Parameters<typeof exposeActor>[0] = attach =>
    Effect.sync(() => attach(pair.right, { peer: alice.peerId }))
  yield* Scope.provide(exposeActor(onChannel, ref), scope)
  const client = yield* RpcPeer.client(Press, pair.left)
  yield* ref.tell("Wait", undefined)
  return { gate, printed, root, pair, scope, client }
})

describe("an exposed actor", () => {
  it.effect("that is too busy fails who asks at the deadline, and handles what it was told whenever it can", () =>
    Effect.gen(function* () {
      const { gate, printed, client } = yield* exposed
      const asked = yield* Effect.forkChild(Effect.flip(client.Print({ text: "asked" })), { startImmediately: true })
      const told = yield* Effect.forkChild(client.Print({ text: "told" }, { headers: { [tellHeader]: "" } }), {
        startImmediately: true
      })
      yield* TestClock.adjust(defaultCallDeadlineMs)
      assert.strictEqual((yield* Fiber.join(asked))._tag, "AskTimeout")
      yield* TestClock.adjust(10 * defaultCallDeadlineMs)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(told)
      assert.deepStrictEqual(printed, ["told"])
    })
  )

  it.effect("that has stopped ends its channels, and so does the end of the scope", () =>
    Effect.gen(function* () {
      const stopped = yield* exposed
      yield* stopped.root.stop("press", { mode: "now" })
      yield* TestClock.adjust(0)
      assert.isDefined(stopped.pair.ended())

      const hidden = yield* exposed
      assert.isUndefined(hidden.pair.ended())
      yield* Scope.close(hidden.scope, Exit.void)
      assert.isDefined(hidden.pair.ended())
    })
  )
})
