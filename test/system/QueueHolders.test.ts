import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Schema } from "effect"
import { beforeEach, describe } from "vitest"
import { WorkQueue, type NamedQueue } from "../../src/store/WorkQueue.ts"
import { WorkQueueRedis } from "../../src/store/WorkQueueRedis.ts"
import { RedisServer } from "../support/redis.ts"
import { need, redisService } from "../support/services.ts"

/** Who holds an item of a queue in Redis, when the processes that do are suspended, killed or busy. */

beforeEach(context => need(redisService, context))

const connect = (url: string) =>
  Effect.map(Layer.build(Layer.fresh(WorkQueueRedis.layer({ url }))), context => Context.get(context, WorkQueue))

const definition = { name: "work", schema: Schema.Struct({ number: Schema.Int }) }
const item = { id: "item", data: { number: 1 }, attempts: 1 }

const status = (queue: Pick<NamedQueue<unknown>, "get">) => Effect.map(queue.get(item.id), Option.getOrThrow)

/** Asks until it is so. */
const until = (holds: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => (holds() ? Effect.void : Effect.andThen(Effect.sleep(5), until(holds))))

interface Told {
  readonly event: string
  readonly valid?: boolean
  readonly why?: string
  readonly attempt?: number
  readonly error?: string | null
}

/** A process of its own that holds an item. */
const holder = (url: string, mode: "hold" | "busy") =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const module = join(import.meta.dirname, "../fixtures/queueHolder.ts")
      const args = [module, url, "artifice", definition.name, mode]
      const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] })
      const told: Array<Told> = []
      createInterface(child.stdout).on("line", line => told.push(JSON.parse(line)))
      const ended = once(child, "exit")
      return {
        told,
        ended: Effect.promise(() => ended),
        kill: (signal: NodeJS.Signals) => Effect.sync(() => void child.kill(signal)),
        hears: (event: string) => until(() => told.some(each => each.event === event))
      }
    }),
    ({ kill, ended }) => Effect.andThen(kill("SIGKILL"), ended)
  )

describe("A holder in another process", () => {
  it.live(
    "that is suspended past its lock does no harm when it wakes: it counts itself out before it hears who has it",
    () =>
      Effect.gen(function* () {
        const { url } = yield* RedisServer.make()
        const service = yield* connect(url)
        const queue = yield* service.open(definition)
        yield* queue.add([item])
        const first = yield* holder(url, "hold")
        yield* first.hears("valid")
        yield* first.kill("SIGSTOP")
        const lease = yield* queue.take()
        assert.strictEqual(lease.attempt, 1)
        yield* first.kill("SIGCONT")
        yield* first.ended
        assert.deepStrictEqual(first.told, [
          { event: "taken", attempt: 1 },
          { event: "valid", valid: true },
          { event: "valid", valid: false },
          { event: "lost", why: "TakenOver" },
          { event: "completed", error: "LeaseLost" }
        ])
        assert.isTrue(lease.valid)
        yield* lease.complete("by its successor")
        const { result, starts, failures } = yield* status(queue)
        assert.deepStrictEqual([result, starts, failures], ["by its successor", 2, 0])
      })
  )

  it.live("that is killed is followed by another, and no attempt is counted", () =>
    Effect.gen(function* () {
      const { url } = yield* RedisServer.make()
      const service = yield* connect(url)
      const queue = yield* service.open(definition)
      yield* queue.add([item])
      for (let time = 1; time <= 2; time++) {
        const one = yield* holder(url, "hold")
        yield* one.hears("taken")
        yield* one.kill("SIGKILL")
      }
      const lease = yield* queue.take()
      assert.strictEqual(lease.attempt, 1)
      yield* lease.complete(null)
      assert.strictEqual((yield* status(queue)).starts, 3)
    })
  )

  it.live("keeps its item while every processor computes", () =>
    Effect.gen(function* () {
      const { url } = yield* RedisServer.make()
      const service = yield* connect(url)
      const queue = yield* service.open(definition)
      yield* queue.add([item])
      const busy = yield* holder(url, "busy")
      yield* busy.hears("taken")
      // Somebody else stands by, and looks for stalled items.
      yield* Effect.forkScoped(queue.take())
      yield* busy.ended
      assert.deepStrictEqual(busy.told.at(-1), { event: "completed", error: null })
      const { result, starts } = yield* status(queue)
      assert.deepStrictEqual([result, starts], ["by the holder", 1])
    })
  )
})
