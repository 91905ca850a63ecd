import { randomUUID } from "node:crypto"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Option, Schema, Scope } from "effect"
import { afterAll, beforeAll, beforeEach, describe } from "vitest"
import { itemStates, jobQueue, LeaseLost, TermOver, WorkQueue, WorkQueueError } from "../../src/store/WorkQueue.ts"
import { WorkQueueMemory } from "../../src/store/WorkQueueMemory.ts"
import { WorkQueueRedis } from "../../src/store/WorkQueueRedis.ts"
import { anyRedis, needRedis } from "../support/redis.ts"

/** What holds for every work queue, wherever it keeps its items: one suite, run on each. */

const Shard = Schema.Struct({ epoch: Schema.Int, shard: Schema.Int })
const shard = (number: number) => ({ id: `1-${number}`, data: { epoch: 1, shard: number } })

const build = (layer: Layer.Layer<WorkQueue, WorkQueueError>) =>
  Effect.map(Layer.build(layer), context => Context.get(context, WorkQueue))

type Two = Effect.Effect<readonly [WorkQueue["Service"], WorkQueue["Service"]], WorkQueueError, Scope.Scope>

const redisScope = Scope.makeUnsafe()
let redis = { url: "", prefix: "" }

const stores: ReadonlyArray<{ readonly store: string; readonly two: Two; readonly redis: boolean }> = [
  {
    store: "memory",
    redis: false,
    two: Effect.map(build(WorkQueueMemory.layer()), both => [both, both] as const)
  },
  {
    store: "Redis",
    redis: true,
    // Two clients, as two processes would have.
    two: Effect.suspend(() =>
      Effect.all([build(WorkQueueRedis.layer(redis)), build(Layer.fresh(WorkQueueRedis.layer(redis)))])
    )
  }
]

describe.each(stores)("a work queue in $store", ({ two, redis: usesRedis }) => {
  beforeEach(context => {
    if (usesRedis) needRedis(context)
  })
  if (usesRedis) {
    beforeAll(async () => {
      let skipped = false
      needRedis({ skip: () => (skipped = true) })
      if (!skipped) redis = await Effect.runPromise(Scope.provide(anyRedis, redisScope))
    })
    afterAll(() => Effect.runPromise(Scope.close(redisScope, Exit.void)))
  }

  /** A queue that no other test has, as two of its users see it. */
  const shards = Effect.gen(function* () {
    const [hereService, thereService] = yield* two
    const definition = { name: `shards-${randomUUID()}`, schema: Shard }
    yield* Effect.addFinalizer(() => Effect.ignore(hereService.drop(definition.name)))
    const here = yield* hereService.open(definition)
    const there = yield* thereService.open(definition)
    return { here, there, service: hereService, definition }
  })

  const states = (queue: Effect.Success<typeof shards>["here"]) =>
    Effect.map(
      Effect.forEach(itemStates, state => Effect.map(queue.list(state), items => [state, items.map(({ id }) => id)])),
      found => Object.fromEntries(found.filter(([, ids]) => ids?.length !== 0))
    )

  const lostOf = <A, E>(effect: Effect.Effect<A, E | LeaseLost>) =>
    Effect.map(Effect.flip(effect), error => (error instanceof LeaseLost ? error.why : assert.fail(String(error))))

  it.live("gives an item to one of its takers, and keeps its result", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      assert.deepStrictEqual(yield* here.add([shard(1), shard(2)]), ["1-1", "1-2"])
      assert.deepStrictEqual(yield* states(there), { queued: ["1-1", "1-2"] })
      const first = yield* there.take()
      const second = yield* here.take()
      assert.deepStrictEqual([first.id, first.data, first.attempt], ["1-1", { epoch: 1, shard: 1 }, 1])
      assert.strictEqual(second.id, "1-2")
      assert.notStrictEqual(first.token, second.token)
      assert.isTrue(first.valid && second.valid)
      assert.deepStrictEqual(yield* states(here), { active: ["1-2", "1-1"] })
      yield* first.progress({ examples: 12 })
      const during = Option.getOrThrow(yield* here.get("1-1"))
      assert.deepStrictEqual([during.state, during.progress, during.starts], ["active", { examples: 12 }, 1])
      yield* first.complete({ sum: 0.5 })
      assert.deepStrictEqual(yield* states(here), { active: ["1-2"], completed: ["1-1"] })
      const after = Option.getOrThrow(yield* here.get("1-1"))
      assert.deepStrictEqual([after.state, after.result, after.failures], ["completed", { sum: 0.5 }, 0])
      assert.isAtLeast(after.finishedAt ?? 0, after.addedAt)
    })
  )

  it.live("lets takers wait until there is an item", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      const waiting = yield* Effect.forkChild(Effect.all([there.take(), here.take()], { concurrency: 2 }))
      yield* there.add([shard(1)])
      yield* here.add([shard(2)])
      const leases = yield* Fiber.join(waiting)
      assert.sameMembers(
        leases.map(({ id }) => id),
        ["1-1", "1-2"]
      )
    })
  )

  it.live("takes what has a higher priority first, and equals in their order", () =>
    Effect.gen(function* () {
      const { here } = yield* shards
      const priorities = [0, -5, 1_000, 0, 7, -1_000]
      yield* here.add(priorities.map((priority, index) => ({ ...shard(index), priority })))
      const listed = (yield* here.list("queued")).map(({ id, priority }) => [id, priority])
      const taken: Array<unknown> = []
      for (const _ of priorities) taken.push((yield* here.take()).id)
      assert.deepStrictEqual(taken, ["1-2", "1-4", "1-0", "1-3", "1-1", "1-5"])
      assert.deepStrictEqual(
        listed,
        taken.map(id => [id, priorities[Number(String(id).slice(2))]])
      )
    })
  )

  it.live("leaves an item alone that is added again, whatever became of it", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([shard(1), shard(2), shard(3)])
      const active = yield* here.take()
      const completed = yield* here.take()
      yield* completed.complete("done")
      yield* there.add([1, 2, 3].map(number => ({ id: `1-${number}`, data: { epoch: 9, shard: 9 } })))
      assert.deepStrictEqual(yield* states(here), { queued: ["1-3"], active: ["1-1"], completed: ["1-2"] })
      assert.deepStrictEqual((yield* there.take()).data, { epoch: 1, shard: 3 })
      assert.isTrue(active.valid)
    })
  )

  it.live("counts a result once", () =>
    Effect.gen(function* () {
      const { here } = yield* shards
      yield* here.add([shard(1)])
      const lease = yield* here.take()
      yield* lease.complete(1)
      assert.isFalse(lease.valid)
      assert.strictEqual((yield* lease.lost).why, "Settled")
      assert.strictEqual(yield* lostOf(lease.complete(2)), "Settled")
      assert.strictEqual(yield* lostOf(lease.fail("no")), "Settled")
      assert.strictEqual(Option.getOrThrow(yield* here.get("1-1")).result, 1)
    })
  )

  it.live("gives an item on at once when its holder is interrupted, and counts no attempt", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([{ ...shard(1), attempts: 1 }])
      for (let time = 1; time <= 3; time++) {
        const holding = yield* Effect.forkChild(Effect.scoped(Effect.andThen(here.take(), Effect.never)))
        while ((yield* here.list("active")).length === 0) yield* Effect.yieldNow
        const next = yield* Effect.forkChild(Effect.scoped(Effect.map(there.take(), ({ attempt }) => attempt)))
        yield* Fiber.interrupt(holding)
        assert.strictEqual(yield* Fiber.join(next), 1)
      }
      const { failures, state } = Option.getOrThrow(yield* here.get("1-1"))
      assert.deepStrictEqual([failures, state], [0, "queued"])
    })
  )

  it.live("counts a holder's error as a failed attempt, and keeps the item as a dead letter when none is left", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([{ ...shard(1), attempts: 3, backoffMs: 10 }])
      for (let attempt = 1; attempt <= 2; attempt++) {
        const exit = yield* Effect.exit(
          Effect.scoped(
            Effect.flatMap(there.take(), lease => {
              assert.strictEqual(lease.attempt, attempt)
              return Effect.fail(new Error(`broken ${attempt}`))
            })
          )
        )
        assert.isTrue(Exit.isFailure(exit))
      }
      const last = yield* here.take()
      assert.strictEqual(last.attempt, 3)
      assert.strictEqual(yield* last.fail("out of luck"), "dead")
      const [dead] = yield* there.list("failed")
      assert.deepStrictEqual([dead?.id, dead?.failures, dead?.failure], ["1-1", 3, "out of luck"])
      assert.deepStrictEqual(yield* states(there), { failed: ["1-1"] })
    })
  )

  it.live("lists an item that waits for another attempt as queued, with why it failed", () =>
    Effect.gen(function* () {
      const { here } = yield* shards
      yield* here.add([{ ...shard(1), backoffMs: 60_000 }])
      const lease = yield* here.take()
      assert.strictEqual(yield* lease.fail("not now"), "again")
      const [item] = yield* here.list("queued")
      assert.deepStrictEqual([item?.failures, item?.failure, item?.starts], [1, "not now", 1])
    })
  )

  it.live("keeps an item that is failed for good", () =>
    Effect.gen(function* () {
      const { here } = yield* shards
      yield* here.add([shard(1)])
      assert.strictEqual(yield* (yield* here.take()).fail("never", { final: true }), "dead")
      assert.deepStrictEqual(yield* states(here), { failed: ["1-1"] })
    })
  )

  it.live("gives an item of a silent holder to another, and takes nothing from the first any more", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([{ ...shard(1), attempts: 1 }])
      const silent = yield* here.take({ renewal: "manual" })
      const next = yield* there.take()
      assert.deepStrictEqual([next.id, next.attempt], ["1-1", 1])
      assert.isFalse(silent.valid)
      const watching = yield* Effect.forkChild(silent.lost)
      assert.strictEqual(yield* lostOf(silent.renew), "TakenOver")
      assert.strictEqual((yield* Fiber.join(watching)).why, "TakenOver")
      assert.strictEqual(yield* lostOf(silent.complete("late")), "TakenOver")
      assert.strictEqual(yield* lostOf(silent.progress("late")), "TakenOver")
      yield* silent.release
      assert.isTrue(next.valid)
      yield* next.complete("in time")
      assert.strictEqual(Option.getOrThrow(yield* here.get("1-1")).result, "in time")
    })
  )

  it.live("keeps an item with a holder that renews, by itself or when told, for longer than a lock lasts", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([shard(1), shard(2), shard(3)])
      const automatic = yield* here.take()
      const manual = yield* here.take({ renewal: "manual" })
      const silent = yield* here.take({ renewal: "manual" })
      yield* Effect.forkChild(Effect.forever(Effect.andThen(Effect.sleep(500), manual.renew)))
      const next = yield* there.take()
      assert.strictEqual(next.id, silent.id)
      assert.isTrue(automatic.valid)
      assert.isTrue(manual.valid)
      yield* automatic.complete(null)
      yield* manual.complete(null)
    })
  )

  it.live("cancels what is queued: nobody is given it", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([shard(1), shard(2)])
      assert.isTrue(yield* there.cancel("1-1"))
      assert.isFalse(yield* there.cancel("1-1"))
      assert.isFalse(yield* there.cancel("unknown"))
      assert.strictEqual((yield* here.take()).id, "1-2")
      assert.deepStrictEqual(yield* states(there), { active: ["1-2"], cancelled: ["1-1"] })
      assert.strictEqual(Option.getOrThrow(yield* here.get("1-1")).state, "cancelled")
    })
  )

  it.live("cancels what is active: its holder hears of it, and it does not come again", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([shard(1)])
      const outcome = yield* Effect.scoped(
        Effect.gen(function* () {
          const lease = yield* here.take()
          assert.isTrue(yield* there.cancel("1-1"))
          const { why } = yield* lease.lost
          assert.isFalse(lease.valid)
          assert.strictEqual(yield* lostOf(lease.complete("too late")), "Cancelled")
          return why
        })
      )
      assert.strictEqual(outcome, "Cancelled")
      assert.deepStrictEqual(yield* states(there), { cancelled: ["1-1"] })
      assert.isFalse(yield* there.cancel("1-1"))
    })
  )

  it.live("takes no result of a cancelled item, also before its holder has heard", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      yield* here.add([shard(1)])
      yield* Effect.scoped(
        Effect.gen(function* () {
          const lease = yield* here.take({ renewal: "manual" })
          yield* there.cancel("1-1")
          assert.strictEqual(yield* lostOf(lease.complete("done")), "Cancelled")
        })
      )
      assert.deepStrictEqual(yield* states(there), { cancelled: ["1-1"] })
    })
  )

  it.live("gives each item to exactly one of many takers", () =>
    Effect.gen(function* () {
      const { here, there } = yield* shards
      const numbers = Array.from({ length: 200 }, (_, index) => index)
      yield* here.add(numbers.map(shard))
      const done: Array<string> = []
      const taker = (queue: typeof here) =>
        Effect.gen(function* () {
          while (done.length < numbers.length) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const lease = yield* queue.take()
                yield* lease.complete(lease.data.shard)
                done.push(lease.id)
              })
            )
          }
        })
      yield* Effect.raceAll([taker(here), taker(there), taker(here), taker(there)])
      assert.strictEqual(new Set(done).size, numbers.length)
      assert.strictEqual((yield* here.list("completed", 1_000)).length, numbers.length)
    })
  )

  it.live("keeps as many finished items as it is told", () =>
    Effect.gen(function* () {
      const [service] = yield* two
      const name = `kept-${randomUUID()}`
      yield* Effect.addFinalizer(() => Effect.ignore(service.drop(name)))
      const queue = yield* service.open({ name, schema: Shard, keepFinished: 2 })
      yield* queue.add([1, 2, 3, 4, 5].map(shard))
      for (const end of ["fail", "complete", "complete", "complete", "fail"] as const) {
        const lease = yield* queue.take()
        yield* end === "fail" ? lease.fail("no", { final: true }) : lease.complete(null)
      }
      assert.deepStrictEqual(yield* states(queue), { completed: ["1-4", "1-3"], failed: ["1-5", "1-1"] })
      assert.isTrue(Option.isNone(yield* queue.get("1-2")))
    })
  )

  it.live("makes an item that its taker cannot read a dead letter, and goes on with the next", () =>
    Effect.gen(function* () {
      const { service, here, definition } = yield* shards
      const other = yield* service.open({ name: definition.name, schema: Schema.Struct({ text: Schema.String }) })
      yield* other.add([{ id: "other", data: { text: "of another version" } }])
      yield* here.add([shard(1)])
      assert.strictEqual((yield* here.take()).id, "1-1")
      const [dead] = yield* here.list("failed")
      assert.strictEqual(dead?.id, "other")
      assert.match(dead?.failure ?? "", /cannot read/)
    })
  )

  it.live("forgets a queue that is dropped, and whoever holds an item of it loses it", () =>
    Effect.gen(function* () {
      const { service, here, definition } = yield* shards
      yield* here.add([shard(1), shard(2)])
      const lease = yield* here.take()
      yield* service.drop(definition.name)
      assert.deepStrictEqual(yield* states(here), {})
      assert.strictEqual(yield* lostOf(lease.renew), "TakenOver")
      yield* here.add([shard(1)])
      assert.strictEqual((yield* here.take()).id, "1-1")
    })
  )

  it.live.each([
    {
      what: "a name with a colon",
      act: (service: WorkQueue["Service"]) => service.open({ name: "a:b", schema: Shard })
    },
    { what: "a term below zero", act: (service: WorkQueue["Service"]) => Effect.asVoid(service.nextTerm("job", -1)) },
    {
      what: "a term that cannot be counted",
      act: (service: WorkQueue["Service"]) => Effect.asVoid(service.nextTerm("job", 2 ** 53))
    }
  ])("refuses $what", ({ act }) =>
    Effect.gen(function* () {
      const [service] = yield* two
      const error = yield* Effect.flip(act(service))
      assert.strictEqual(error.reason, "Invalid")
    })
  )

  it.live.each([
    { what: "an id of digits only", item: { id: "12", data: { epoch: 1, shard: 1 } } },
    { what: "an id with a colon", item: { id: "1:2", data: { epoch: 1, shard: 1 } } },
    { what: "data of another form", item: { data: { epoch: 0.5, shard: 1 } } },
    { what: "a priority out of range", item: { ...shard(1), priority: 1_001 } },
    { what: "no attempts", item: { ...shard(1), attempts: 0 } },
    { what: "a long backoff", item: { ...shard(1), backoffMs: 60_001 } },
    { what: "an empty label", item: { ...shard(1), label: "" } }
  ])("refuses an item with $what, and adds none of those that came with it", ({ item }) =>
    Effect.gen(function* () {
      const { here } = yield* shards
      const error = yield* Effect.flip(here.add([shard(7), item]))
      assert.strictEqual(error.reason, "Invalid")
      assert.deepStrictEqual(yield* states(here), {})
    })
  )

  it.live("refuses data and results that are too large", () =>
    Effect.gen(function* () {
      const [service] = yield* two
      const name = `large-${randomUUID()}`
      yield* Effect.addFinalizer(() => Effect.ignore(service.drop(name)))
      const queue = yield* service.open({ name, schema: Schema.String })
      assert.strictEqual((yield* Effect.flip(queue.add([{ data: "é".repeat(32_768) }]))).reason, "Invalid")
      yield* queue.add([{ data: "é".repeat(32_767) }])
      const lease = yield* queue.take()
      const error = yield* Effect.flip(lease.complete("é".repeat(32_768)))
      assert.strictEqual(error instanceof WorkQueueError ? error.reason : "", "Invalid")
      yield* lease.complete("small")
    })
  )

  it.live("queues whole jobs by their name, module and options", () =>
    Effect.gen(function* () {
      const [service] = yield* two
      yield* Effect.addFinalizer(() => Effect.ignore(service.drop(jobQueue.name)))
      const jobs = yield* service.open(jobQueue)
      const job = { name: "mnist", module: "examples/mnist/job.ts", set: [["epochs", "5"]] } as const
      yield* jobs.add([{ data: job, label: job.name, attempts: 5 }])
      const lease = yield* jobs.take()
      assert.deepStrictEqual(lease.data, job)
      const [active] = yield* jobs.list("active")
      assert.strictEqual(active?.label, "mnist")
      assert.strictEqual((yield* Effect.flip(jobs.add([{ data: { ...job, name: "../other" } }]))).reason, "Invalid")
    })
  )

  it.live("counts terms upwards, above what it is told of, and never the same twice", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const job = `job-${randomUUID()}`
      assert.strictEqual(yield* here.currentTerm(job), 0)
      assert.strictEqual(yield* here.nextTerm(job), 1)
      assert.strictEqual(yield* there.nextTerm(job, 0), 2)
      assert.strictEqual(yield* there.nextTerm(job, 40), 41)
      assert.strictEqual(yield* here.nextTerm(job, 7), 42)
      assert.strictEqual(yield* there.currentTerm(job), 42)
      assert.strictEqual(yield* here.currentTerm(`${job}-other`), 0)
      const many = yield* Effect.forEach(
        Array.from({ length: 50 }, (_, index) => (index % 2 === 0 ? here : there)),
        service => service.nextTerm(job),
        { concurrency: "unbounded" }
      )
      assert.sameMembers(
        [...many],
        Array.from({ length: 50 }, (_, index) => 43 + index)
      )
      assert.strictEqual(yield* here.nextTerm(job, Number.MAX_SAFE_INTEGER - 1), Number.MAX_SAFE_INTEGER)
    })
  )

  it.live("takes a result only under the job's term, and counts no attempt of a coordinator that was replaced", () =>
    Effect.gen(function* () {
      const { service, here, there } = yield* shards
      const job = `job-${randomUUID()}`
      yield* here.add([{ ...shard(1), attempts: 1 }])
      const term = yield* service.nextTerm(job)
      const error = yield* Effect.flip(
        Effect.scoped(
          Effect.gen(function* () {
            const lease = yield* here.take()
            yield* service.nextTerm(job)
            yield* lease.complete("stale", { job, term })
          })
        )
      )
      assert.isTrue(error instanceof TermOver && error.term === 1 && error.current === 2)
      const next = yield* there.take()
      assert.strictEqual(next.attempt, 1)
      yield* next.complete("right", { job, term: 2 })
      assert.strictEqual(Option.getOrThrow(yield* here.get("1-1")).result, "right")
    })
  )
})
