import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../../src/actor/Actor.ts"
import * as Supervisor from "../../src/actor/Supervisor.ts"

class Odd extends Schema.TaggedError<Odd>()("Odd", { n: Schema.Number }) {}

const Feed = RpcGroup.make(
  Rpc.make("Count", { payload: { to: Schema.Number }, success: Schema.Number, error: Odd, stream: true }),
  Rpc.make("Forever", { success: Schema.String, stream: true }),
  Rpc.make("Add", { payload: { n: Schema.Number }, success: Schema.Number }),
  Rpc.make("Crash")
)

const feed = (started: Deferred.Deferred<void>) =>
  Actor.make(Feed, () =>
    Effect.sync(() => {
      let sum = 0
      return {
        Count: ({ to }) =>
          to % 2 === 0 ? Stream.range(1, to) : Stream.concat(Stream.range(1, to), Stream.fail(new Odd({ n: to }))),
        Forever: () =>
          Stream.concat(Stream.fromEffect(Effect.as(Deferred.succeed(started, undefined), "on")), Stream.never),
        Add: ({ n }) => Effect.sync(() => (sum += n)),
        Crash: () => Effect.die(new Error("boom"))
      }
    })
  )

const start = Effect.gen(function* () {
  const started = yield* Deferred.make<void>()
  const root = yield* Supervisor.make("test")
  const ref = yield* root.spawn("feed", feed(started))
  return { root, ref, started }
})

describe("a streaming reply of an actor", () => {
  it.effect("gives its elements in order and ends, or fails with the protocol's error", () =>
    Effect.gen(function* () {
      const { ref } = yield* start
      assert.deepStrictEqual(yield* Stream.runCollect(ref.client.Count({ to: 4 })), [1, 2, 3, 4])
      const failed = yield* Effect.flip(Stream.runCollect(ref.client.Count({ to: 3 })))
      assert.deepStrictEqual(failed, new Odd({ n: 3 }))
    })
  )

  it.effect("can be read as a queue, and by ask", () =>
    Effect.gen(function* () {
      const { ref } = yield* start
      const queue = yield* ref.client.Count({ to: 2 }, { asQueue: true })
      assert.strictEqual(yield* Queue.take(queue), 1)
      assert.strictEqual(yield* Queue.take(queue), 2)
      const stream = yield* ref.ask("Count", { to: 2 })
      assert.deepStrictEqual(yield* Stream.runCollect(stream), [1, 2])
    })
  )

  it.effect("does not keep the actor from its next message", () =>
    Effect.gen(function* () {
      const { ref, started } = yield* start
      const reading = yield* Effect.forkChild(Stream.runDrain(ref.client.Forever()))
      yield* Deferred.await(started)
      assert.strictEqual(yield* ref.client.Add({ n: 2 }), 2)
      yield* Fiber.interrupt(reading)
    })
  )

  it.effect("fails when the actor crashes or stops while it is read", () =>
    Effect.gen(function* () {
      for (const [how, expected] of [
        ["crash", "ActorCrashed"],
        ["stop", "ActorStopped"]
      ] as const) {
        const { root, ref, started } = yield* start
        const reading = yield* Effect.forkChild(Stream.runDrain(ref.client.Forever()))
        yield* Deferred.await(started)
        if (how === "crash") yield* Effect.exit(ref.client.Crash())
        else yield* root.stop("feed")
        const exit = yield* Fiber.await(reading)
        assert.isTrue(Exit.isFailure(exit))
        const error = yield* Effect.flip(Fiber.join(reading))
        assert.strictEqual(error._tag, expected)
      }
    })
  )
})
