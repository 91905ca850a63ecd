import { spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import { connect as dial, createServer, type Socket } from "node:net"
import { join } from "node:path"
import { assert, it } from "@effect/vitest"
import { Queue } from "bullmq"
import { Context, Effect, Exit, Fiber, Layer, Option, Redacted, Schema, Scope } from "effect"
import { Redis } from "ioredis"
import { beforeEach, describe } from "vitest"
import { lockMs, WorkQueue, type NamedQueue } from "../../src/store/WorkQueue.ts"
import { WorkQueueRedis, type RedisLayerOptions } from "../../src/store/WorkQueueRedis.ts"
import { RedisServer } from "../support/redis.ts"
import { need, redisService } from "../support/services.ts"

/** What only a store that is another process can do: go away, come back, refuse, and outlive its users. */

beforeEach(context => need(redisService, context))

const connect = (options: RedisLayerOptions) =>
  Effect.map(Layer.build(Layer.fresh(WorkQueueRedis.layer(options))), context => Context.get(context, WorkQueue))

const refused = (options: RedisLayerOptions) => Effect.flip(Effect.scoped(connect(options)))

const Item = Schema.Struct({ number: Schema.Int })
const numbered = (number: number) => ({ id: `item-${number}`, data: { number } })
const definition = { name: "work", schema: Item }

const status = (queue: Pick<NamedQueue<unknown>, "get">, id: string) => Effect.map(queue.get(id), Option.getOrThrow)

/** Asks until it is so. */
const until = (holds: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => (holds() ? Effect.void : Effect.andThen(Effect.sleep(5), until(holds))))

/** A line to Redis that is cut, once, when an answer comes to the request that holds the text. */
const cutting = (port: number, text: string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      let cuts = 0
      const sockets = new Set<Socket>()
      const server = createServer(near => {
        const far = dial({ port, host: "127.0.0.1" })
        let cutNext = false
        for (const socket of [near, far]) {
          sockets.add(socket.on("error", () => undefined))
          socket.on("close", () => [near, far].forEach(each => each.destroy()))
        }
        near.on("data", chunk => {
          if (cuts === 0 && chunk.includes(text)) cutNext = true
          far.write(chunk)
        })
        far.on("data", chunk => {
          if (!cutNext || cuts > 0) return near.write(chunk)
          cuts++
          return near.destroy()
        })
      }).listen(0, "127.0.0.1")
      await once(server, "listening")
      const address = server.address()
      const own = typeof address === "object" && address !== null ? address.port : 0
      const close = (): void => {
        server.close()
        for (const socket of sockets) socket.destroy()
      }
      return { port: own, cuts: () => cuts, close }
    }),
    ({ close }) => Effect.sync(close)
  )

describe("While Redis is away", () => {
  it.live("everything waits, and nothing is lost when it was killed in the midst of work", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      const one = yield* connect({ url: server.url })
      const other = yield* connect({ url: server.url })
      const numbers = Array.from({ length: 300 }, (_, index) => index)
      const queues = [yield* one.open(definition), yield* other.open(definition)]
      yield* Effect.forEach(queues, queue => queue.add(numbers.slice(0, 150).map(numbered)))
      const done: Array<number> = []
      const work = (queue: NamedQueue<typeof Item.Type>) =>
        Effect.forever(
          Effect.scoped(
            Effect.gen(function* () {
              const lease = yield* queue.take()
              yield* Effect.sleep(lease.data.number % 7)
              yield* lease.complete(lease.data.number)
              done.push(lease.data.number)
            })
          ).pipe(Effect.ignore)
        )
      for (const queue of [...queues, ...queues]) yield* Effect.forkScoped(work(queue))
      for (const half of [50, 100]) {
        yield* until(() => done.length >= half)
        yield* Effect.promise(() => server.kill("SIGKILL"))
        yield* Effect.promise(() => server.start())
      }
      yield* Effect.promise(() => server.kill("SIGKILL"))
      const adding = yield* Effect.forkScoped(
        one.open(definition).pipe(Effect.flatMap(queue => queue.add(numbers.map(numbered))))
      )
      const asking = yield* Effect.forkScoped(other.nextTerm("job", 6))
      yield* until(() => adding.pollUnsafe() === undefined && asking.pollUnsafe() === undefined)
      yield* Effect.promise(() => server.start())
      assert.strictEqual(yield* Fiber.join(asking), 7)
      assert.lengthOf(yield* Fiber.join(adding), numbers.length)
      yield* until(() => new Set(done).size === numbers.length)
      const [queue] = queues
      const completed = (yield* queue?.list("completed", 1_000) ?? Effect.die("no queue")).map(({ result }) =>
        Number(result)
      )
      assert.sameMembers(completed, numbers)
      assert.sameMembers(done, numbers)
    })
  )

  it.live(
    "for longer than a lock, a holder counts itself out, and has its item again where nobody has had it since",
    () =>
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        const service = yield* connect({ url: server.url })
        const queue = yield* service.open(definition)
        yield* queue.add([numbered(1)])
        const lease = yield* queue.take()
        yield* Effect.promise(() => server.kill("SIGKILL"))
        yield* until(() => !lease.valid)
        assert.isFalse(yield* service.connected)
        const completing = yield* Effect.forkScoped(lease.progress("half"))
        yield* Effect.sleep(lockMs)
        assert.isUndefined(completing.pollUnsafe())
        yield* Effect.promise(() => server.start())
        yield* Fiber.join(completing)
        yield* until(() => lease.valid)
        assert.isTrue(yield* service.connected)
        yield* lease.complete("after all")
        const { result, starts, progress } = yield* status(queue, "item-1")
        assert.deepStrictEqual([result, starts, progress], ["after all", 1, "half"])
      })
  )

  it.live("as it gives no answer, another connection is made as soon as it does", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      const service = yield* connect({ url: server.url })
      const queue = yield* service.open(definition)
      yield* queue.add([numbered(1)])
      const lease = yield* queue.take()
      server.suspend()
      yield* until(() => !lease.valid)
      while (yield* service.connected) yield* Effect.sleep(20)
      server.resume()
      yield* until(() => lease.valid)
      yield* lease.complete("after all")
      assert.strictEqual((yield* status(queue, "item-1")).starts, 1)
    })
  )

  it.live("and its answer is lost, a result that it took still counts, and counts once", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      const proxy = yield* cutting(server.port, "this very result")
      const service = yield* connect({ url: `redis://127.0.0.1:${proxy.port}` })
      const queue = yield* service.open(definition)
      yield* queue.add([numbered(1), numbered(2)])
      const lease = yield* queue.take()
      yield* lease.complete("this very result")
      assert.strictEqual(proxy.cuts(), 1)
      const { result, state, starts } = yield* status(queue, "item-1")
      assert.deepStrictEqual([result, state, starts], ["this very result", "completed", 1])
      assert.strictEqual((yield* queue.take()).id, "item-2")
    })
  )

  it.live("a process can end", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      const scope = yield* Scope.make()
      const service = yield* Scope.provide(connect({ url: server.url }), scope)
      const queue = yield* Scope.provide(service.open(definition), scope)
      yield* queue.add([numbered(1)])
      yield* Scope.provide(queue.take(), scope)
      const waiting = yield* Effect.forkScoped(Scope.provide(queue.take(), scope))
      yield* Effect.promise(() => server.kill("SIGKILL"))
      while (yield* service.connected) yield* Effect.sleep(20)
      yield* Fiber.interrupt(waiting)
      yield* Scope.close(scope, Exit.void)
    })
  )
})

describe("A lock that ran out", () => {
  it.live("is had again by whoever held the item last, and by nobody before", () =>
    Effect.gen(function* () {
      const { url } = yield* RedisServer.make()
      const service = yield* connect({ url })
      const other = yield* connect({ url })
      const queue = yield* service.open(definition)
      yield* queue.add([numbered(1)])
      const first = yield* queue.take({ renewal: "manual" })
      const second = yield* (yield* other.open(definition)).take()
      const redis = new Redis(url)
      yield* Effect.addFinalizer(() => Effect.sync(() => redis.disconnect()))
      assert.strictEqual(yield* Effect.promise(() => redis.del("artifice:work:item-1:lock")), 1)
      assert.strictEqual((yield* Effect.flip(first.renew))._tag, "LeaseLost")
      yield* second.renew
      yield* second.complete("by the second")
      assert.strictEqual((yield* status(queue, "item-1")).result, "by the second")
    })
  )
})

describe("Connecting to Redis", () => {
  const password = "correct horse"

  it.live("takes a password, in the URL or beside it, and says where it is wrong, without saying it", () =>
    Effect.gen(function* () {
      const args = ["--requirepass", password, "--user", "artist", "on", ">brush", "~*", "&*", "+@all"]
      const { port, url } = yield* RedisServer.make({ args })
      const withPassword = `redis://:${encodeURIComponent(password)}@127.0.0.1:${port}`
      const named = `redis://artist:brush@127.0.0.1:${port}/3`
      for (const options of [
        { url: withPassword },
        { url: Redacted.make(named) },
        { url, password: Redacted.make(password) }
      ]) {
        const queue = yield* (yield* connect(options)).open({ ...definition, name: randomUUID() })
        yield* queue.add([numbered(1)])
        yield* (yield* queue.take()).complete(null)
      }
      for (const options of [
        { url },
        { url, password: Redacted.make("hunter2") },
        { url: named.replace("brush", "hunter2") }
      ]) {
        const error = yield* refused(options)
        assert.strictEqual(error.reason, "Refused", error.message)
        assert.notInclude(JSON.stringify([error.message, error.hint]), "hunter2")
      }
    })
  )

  it.live("is over TLS where the URL says so, and only to a server whose certificate is trusted", () =>
    Effect.gen(function* () {
      const files = yield* RedisServer.make()
      const at = (name: string): string => join(files.folder, name)
      const openssl = (...given: ReadonlyArray<string>): void => {
        const { status, stderr } = spawnSync("openssl", [...given], { encoding: "utf8" })
        assert.strictEqual(status, 0, stderr)
      }
      const subject = ["-subj", "/CN=a test's own", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
      for (const name of ["server", "stranger"])
        openssl(
          "req",
          "-x509",
          "-newkey",
          "rsa:2048",
          "-noenc",
          "-keyout",
          at(`${name}.key`),
          "-out",
          at(`${name}.pem`),
          ...subject
        )
      const tls = [
        "--tls-cert-file",
        at("server.pem"),
        "--tls-key-file",
        at("server.key"),
        "--tls-ca-cert-file",
        at("server.pem")
      ]
      const server = yield* RedisServer.make({
        tls: [...tls, "--tls-auth-clients", "no"],
        args: ["--requirepass", password]
      })
      const url = `rediss://:${encodeURIComponent(password)}@127.0.0.1:${server.port}`
      const caFile = at("server.pem")

      const queue = yield* (yield* connect({ url, caFile })).open(definition)
      yield* queue.add([numbered(1)])
      const lease = yield* queue.take()
      yield* Effect.promise(() => server.kill("SIGKILL"))
      yield* Effect.promise(() => server.start())
      yield* lease.complete(null)

      const hint = /certificate/
      for (const options of [{ url }, { url, caFile: at("stranger.pem") }]) {
        const error = yield* refused(options)
        assert.strictEqual(error.reason, "Refused", error.message)
        assert.match(error.hint, hint)
      }
      const elsewhere = yield* refused({ url: url.replace("127.0.0.1", "localhost"), caFile })
      assert.strictEqual(elsewhere.reason, "Refused", elsewhere.message)
      const plain = yield* refused({ url: url.replace("rediss:", "redis:"), connectMs: 1_000 })
      assert.strictEqual(plain.reason, "Unreachable", plain.message)
      assert.match(plain.hint, /rediss:/)
    })
  )

  it.live("is tried for a while, as it may start later than who needs it", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      yield* Effect.promise(() => server.kill("SIGKILL"))
      const connecting = yield* Effect.forkScoped(connect({ url: server.url }))
      yield* Effect.sleep(300)
      yield* Effect.promise(() => server.start())
      assert.isTrue(yield* (yield* Fiber.join(connecting)).connected)
    })
  )

  it.live("fails where nobody answers, and says what to do", () =>
    Effect.gen(function* () {
      const silent = createServer().listen(0, "127.0.0.1")
      yield* Effect.promise(() => once(silent, "listening"))
      yield* Effect.addFinalizer(() => Effect.sync(() => silent.close()))
      const address = silent.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const error = yield* refused({ url: `redis://:secret@127.0.0.1:${port}`, connectMs: 300 })
      assert.strictEqual(error.reason, "Unreachable")
      assert.include(error.message, `127.0.0.1:${port}`)
      assert.notInclude(error.message, "secret")
    })
  )

  it.live.each([
    { what: "no URL", options: { url: "somewhere" } },
    { what: "another protocol", options: { url: "http://127.0.0.1" } },
    { what: "a database that is no number", options: { url: "redis://127.0.0.1/work" } },
    { what: "a CA file without TLS", options: { url: "redis://127.0.0.1", caFile: "ca.pem" } },
    { what: "a CA file that is not there", options: { url: "rediss://127.0.0.1", caFile: "nowhere.pem" } }
  ])("refuses $what", ({ options }) =>
    Effect.gen(function* () {
      assert.strictEqual((yield* refused(options)).reason, "Invalid")
    })
  )
})

describe("A Redis that is full", () => {
  it.live("refuses items, keeps those it has, and goes on when there is room", () =>
    Effect.gen(function* () {
      const { url } = yield* RedisServer.make()
      const service = yield* connect({ url })
      const queue = yield* service.open(definition)
      yield* queue.add([numbered(1)])
      const redis = new Redis(url)
      yield* Effect.addFinalizer(() => Effect.sync(() => redis.disconnect()))
      yield* Effect.promise(() => redis.config("SET", "maxmemory", "1"))
      const error = yield* Effect.flip(queue.add([numbered(2)]))
      assert.strictEqual(error.reason, "Full")
      yield* Effect.promise(() => redis.config("SET", "maxmemory", "0"))
      assert.strictEqual((yield* queue.take()).id, "item-1")
    })
  )
})

describe("BullMQ's own tools, such as bull-board", () => {
  it.live("see the items of a queue by its name and prefix, and can pause it and retry what failed", () =>
    Effect.gen(function* () {
      const { url, port } = yield* RedisServer.make()
      const service = yield* connect({ url, prefix: "studio" })
      const queue = yield* service.open(definition)
      const plain = new Queue("work", { connection: { port, maxRetriesPerRequest: null }, prefix: "studio" })
      yield* Effect.addFinalizer(() => Effect.promise(() => plain.close()))
      yield* queue.add([{ ...numbered(1), label: "first", attempts: 1 }, numbered(2)])
      const lease = yield* queue.take()
      yield* lease.progress(40)
      const seen = yield* Effect.promise(() => plain.getJob("item-1"))
      assert.deepStrictEqual([seen?.name, seen?.data, seen?.progress], ["first", { number: 1 }, 40])
      yield* lease.fail("by itself")
      yield* queue.add([{ ...numbered(3), backoffMs: 60_000, priority: 1 }])
      yield* (yield* queue.take()).fail("for now")
      assert.strictEqual((yield* Effect.promise(() => plain.getJob("item-3")))?.delay, 60_000)
      const counts = yield* Effect.promise(() => plain.getJobCounts())
      assert.deepStrictEqual([counts["prioritized"], counts["failed"], counts["active"]], [1, 1, 0])

      yield* Effect.promise(() => plain.pause())
      const waiting = yield* Effect.forkScoped(queue.take())
      const dead = yield* Effect.promise(() => plain.getJob("item-1"))
      assert.strictEqual(dead?.failedReason, "by itself")
      yield* Effect.promise(() => dead?.retry() ?? Promise.reject(new Error("it is not there")))
      assert.isUndefined(waiting.pollUnsafe())
      yield* Effect.promise(() => plain.resume())
      const ids = [(yield* Fiber.join(waiting)).id, (yield* queue.take()).id]
      assert.sameMembers(ids, ["item-1", "item-2"])
    })
  )
})

describe("Two clusters on one Redis", () => {
  it.live("do not see each other where their prefixes differ", () =>
    Effect.gen(function* () {
      const { url } = yield* RedisServer.make()
      const one = yield* connect({ url, prefix: `one-${randomUUID()}` })
      const other = yield* connect({ url, prefix: `other-${randomUUID()}` })
      yield* (yield* one.open(definition)).add([numbered(1)])
      assert.isEmpty(yield* (yield* other.open(definition)).list("queued"))
      assert.strictEqual(yield* one.nextTerm("job"), 1)
      assert.strictEqual(yield* other.currentTerm("job"), 0)
    })
  )
})
