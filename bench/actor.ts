import { Deferred, Effect, Queue, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { Actor, Supervisor, type ActorRef } from "../src/index.ts"
import { defaultMailboxCapacity } from "../src/actor/Actor.ts"
import { defaultAskDeadlineMs } from "../src/actor/ActorRef.ts"
import { atLeast, rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { alternate, median } from "./support/Statistics.ts"

/**
 * Messages to an actor in this process, against a fiber that does the same work for a bare Effect `Queue` of the same capacity: no
 * protocol, no supervision, no restart, no watching; for replies a `Deferred` in each message, without and with the deadline that an ask has.
 */

const Counter = RpcGroup.make(
  Rpc.make("Add", { payload: { n: Schema.Number } }),
  Rpc.make("AddAndGet", { payload: { n: Schema.Number }, success: Schema.Number })
)
type CounterRpcs = RpcGroup.Rpcs<typeof Counter>

const counter = Actor.make(Counter, () =>
  Effect.sync(() => {
    let sum = 0
    return {
      Add: ({ n }) => Effect.sync(() => void (sum += n)),
      AddAndGet: ({ n }) => Effect.sync(() => (sum += n))
    }
  })
)

interface Message {
  readonly n: number
  readonly reply?: Deferred.Deferred<number>
}

/** The same work, taken from the queue in batches, which is the fastest way. */
const countFrom = (queue: Queue.Queue<Message>) =>
  Effect.gen(function* () {
    let sum = 0
    for (;;) {
      for (const { n, reply } of yield* Queue.takeAll(queue)) {
        sum += n
        if (reply !== undefined) yield* Deferred.succeed(reply, sum)
      }
    }
  })

interface Counters {
  readonly ref: ActorRef<CounterRpcs>
  readonly queue: Queue.Queue<Message>
}

const asked = (queue: Queue.Queue<Message>) =>
  Effect.gen(function* () {
    const reply = Deferred.makeUnsafe<number>()
    yield* Queue.offer(queue, { n: 1, reply })
    return yield* Deferred.await(reply)
  })

const tooLate = { duration: defaultAskDeadlineMs, orElse: () => Effect.die(new Error("no reply in time")) }

/** One message and, for those with a reply, its reply. */
const subjects = {
  "tell, actor": ({ ref }: Counters) => ref.tell("Add", { n: 1 }),
  "tell, Queue": ({ queue }: Counters) => Queue.offer(queue, { n: 1 }),
  "ask, actor": ({ ref }: Counters) => ref.ask("AddAndGet", { n: 1 }),
  "ask, Queue and Deferred": ({ queue }: Counters) => asked(queue),
  "ask, Queue, Deferred, deadline": ({ queue }: Counters) => Effect.timeoutOrElse(asked(queue), tooLate)
} as const

type Name = keyof typeof subjects
const names = [
  "tell, actor",
  "tell, Queue",
  "ask, actor",
  "ask, Queue and Deferred",
  "ask, Queue, Deferred, deadline"
] as const
const senderCounts = [1, 8] as const

/** Messages per second, from the first one sent until the last one has been handled. */
const measure = (counters: Counters, name: Name, senders: number, messages: number) =>
  Effect.gen(function* () {
    const send: (counters: Counters) => Effect.Effect<unknown, unknown> = subjects[name]
    const each = messages / senders
    const sender = Effect.gen(function* () {
      for (let sent = 0; sent < each; sent++) yield* send(counters)
    })
    const started = performance.now()
    yield* Effect.all(
      Array.from({ length: senders }, () => sender),
      { concurrency: "unbounded", discard: true }
    )
    // Behind the last message: a reply shows that all are handled.
    if (name.endsWith("actor")) yield* counters.ref.ask("AddAndGet", { n: 0 })
    else yield* asked(counters.queue)
    return messages / ((performance.now() - started) / 1000)
  })

const benchmark = Effect.fnUntraced(function* ({ quick, note }: BenchmarkOptions) {
  const root = yield* Supervisor.make("bench")
  const ref = yield* root.spawn("counter", counter)
  const queue = yield* Queue.bounded<Message>(defaultMailboxCapacity)
  yield* Effect.forkScoped(countFrom(queue))
  const counters = { ref, queue }
  const services = yield* Effect.context<never>()
  const rounds = quick ? 7 : 31
  const messagesOf = (name: Name) => (name.startsWith("tell") ? 200_000 : 20_000)

  const cases = senderCounts.flatMap(senders => names.map(name => ({ name, senders })))
  const ask = ({ name, senders }: (typeof cases)[number]) =>
    Effect.runPromiseWith(services)(measure(counters, name, senders, messagesOf(name)))
  note("warming up")
  yield* Effect.promise(() => alternate(cases, 2, ask))
  note("measuring")
  const measured = yield* Effect.promise(() => alternate(cases, rounds, ask))
  const perSecond = (name: Name, senders: number): number =>
    median(
      cases.filter(each => each.name === name && each.senders === senders).flatMap(each => measured.get(each) ?? [])
    )

  const rows: Array<Row> = names.map(name => {
    const bare = name.startsWith("tell") ? "tell, Queue" : "ask, Queue and Deferred"
    const columns = senderCounts.flatMap(senders => [
      [`messages/s, ${senders} sending`, rounded(perSecond(name, senders))],
      [`× Queue, ${senders}`, rounded(perSecond(name, senders) / perSecond(bare, senders))]
    ])
    return { message: name, ...Object.fromEntries(columns) }
  })
  return { rows, goals: [atLeast("tell/s, one sender", perSecond("tell, actor", 1), 300_000)] }
})

const run = (options: BenchmarkOptions) => Effect.runPromise(Effect.scoped(benchmark(options)))

export default { needsPeers: false, run } satisfies Benchmark
