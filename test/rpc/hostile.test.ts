import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Queue, Stream } from "effect"
import { decodeAdmin, encodeAdmin, type AdminBody } from "../../src/protocol/AdminMessage.ts"
import { callBudgetBytes, maxConcurrentCalls, minCallCostBytes } from "../../src/rpc/RpcLimits.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { maxRpcMessageBytes } from "../../src/rpc/RpcWire.ts"
import { memoryPair } from "./channels.ts"
import { handlers, Jobs, makeWatch } from "./jobs.ts"

const toServer = 256
const toClient = 257
const request = (id: number, tag = "Echo", payload: unknown = { text: "x" }): AdminBody => ({
  _tag: "Request",
  id,
  tag,
  payload,
  headers: []
})

/** Messages in memory arrive in microtasks: after a turn of the event loop all have. */
const delivered = Effect.promise(() => new Promise<void>(resolve => setImmediate(resolve)))

/** A server with an honest client whose call is in flight, and a way to attach a peer that writes bytes of its own. */
const attacked = Effect.gen(function* () {
  const watch = yield* makeWatch
  const server = yield* RpcPeer.serve(Jobs).pipe(Effect.provide(handlers(watch)))
  const honest = memoryPair()
  yield* server.attach(honest.right, { peer: "honest" })
  const jobs = yield* RpcPeer.client(Jobs, honest.left)
  const inFlight = yield* Effect.forkChild(jobs.Wait({ name: "honest" }))
  assert.strictEqual(yield* Queue.take(watch.events), "+honest")
  const attacker = Effect.gen(function* () {
    const pair = memoryPair()
    const replies: Array<AdminBody> = []
    pair.left.receive(
      bytes => replies.push(decodeAdmin(bytes).body),
      () => {}
    )
    yield* server.attach(pair.right, { peer: "attacker" })
    const send = (bytes: Uint8Array) => Effect.ignore(pair.left.send(bytes))
    return { pair, replies, send, say: (body: AdminBody) => send(encodeAdmin(toServer, body)) }
  })
  const honestGoesOn = Effect.gen(function* () {
    assert.isUndefined(honest.ended())
    assert.strictEqual(yield* jobs.Echo({ text: "still here" }), "still here")
    yield* Deferred.succeed(watch.gate, undefined)
    assert.strictEqual(yield* Fiber.join(inFlight), "honest")
  })
  return { watch, attacker, honestGoesOn }
})

describe("a server ends the channel, and only that, of a peer that sends", () => {
  it.live.each<[string, Uint8Array]>([
    ["nothing", new Uint8Array()],
    ["something that is not msgpack", new Uint8Array([0xc1])],
    ["another kind", encodeAdmin(1, {})],
    ["the kind of a server", encodeAdmin(toClient, request(1))],
    ["no tag", encodeAdmin(toServer, {})],
    ["an unknown tag", encodeAdmin(toServer, { _tag: "Nonsense" })],
    ["a reply", encodeAdmin(toServer, { _tag: "Exit", requestId: 1, exit: { _tag: "Success", value: 1 } })],
    ["a Ping", encodeAdmin(toServer, { _tag: "Ping" })],
    ["an Eof", encodeAdmin(toServer, { _tag: "Eof" })],
    ["a request whose id is a string", encodeAdmin(toServer, { ...request(1), id: "1" })],
    ["a request whose id is no integer", encodeAdmin(toServer, request(0.5))],
    ["a request without rpc", encodeAdmin(toServer, { ...request(1), tag: 7 })],
    ["headers that are no pairs", encodeAdmin(toServer, { ...request(1), headers: [["a"]] })],
    ["headers that are no strings", encodeAdmin(toServer, { ...request(1), headers: [["a", 1]] })],
    ["an interruption of nothing", encodeAdmin(toServer, { _tag: "Interrupt" })],
    ["more than the largest message", new Uint8Array(maxRpcMessageBytes + 1)]
  ])("%s", ([, bytes]) =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn } = yield* attacked
      const { pair, send } = yield* attacker
      yield* send(bytes)
      yield* delivered
      assert.isDefined(pair.ended())
      yield* honestGoesOn
    })
  )

  it.live("the id of a request that is still in flight", () =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn, watch } = yield* attacked
      const { pair, say } = yield* attacker
      yield* say(request(1, "Wait", { name: "evil" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+evil")
      yield* say(request(1))
      yield* delivered
      assert.include(pair.ended(), "in flight")
      assert.strictEqual(yield* Queue.take(watch.events), "-evil")
      yield* honestGoesOn
    })
  )

  it.live("requests without end, after as many handlers and bytes as one channel may have", () =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn, watch } = yield* attacked
      const { pair, say } = yield* attacker
      const most = (2 * callBudgetBytes) / minCallCostBytes
      for (let id = 1; id <= most; id++) yield* say(request(id, "Wait", { name: "flood" }))
      yield* delivered
      assert.isUndefined(pair.ended())
      assert.strictEqual(yield* Queue.size(watch.events), maxConcurrentCalls)
      yield* say(request(most + 1))
      yield* delivered
      assert.include(pair.ended(), "cost more than")
      yield* Queue.takeAll(watch.events)
      yield* honestGoesOn
    })
  )

  it.live("the same flood marked as discarded or as notifications, which would get no reply to count them by", () =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn, watch } = yield* attacked
      const { pair, say } = yield* attacker
      for (let id = 1; id <= 2_000; id++)
        yield* say({ ...request(id, "Wait", { name: "flood" }), discard: true, isNotification: true })
      yield* delivered
      assert.include(pair.ended(), "cost more than")
      const begun = (yield* Queue.takeAll(watch.events)).filter(event => event === "+flood")
      assert.strictEqual(begun.length, maxConcurrentCalls)
      yield* honestGoesOn
    })
  )

  it.live("thousands of messages broken in random ways", () =>
    Effect.gen(function* () {
      const random = lehmer(20_261_123)
      const { attacker, honestGoesOn } = yield* attacked
      let ended = 0
      for (let run = 0; run < 4_000; run++) {
        const { pair, send } = yield* attacker
        for (let left = 1 + random(4); left > 0; left--) yield* send(mutate(pick(random, requests), random))
        yield* delivered
        if (pair.ended() !== undefined) ended++
        else pair.kill("the attacker leaves")
      }
      assert.isAbove(ended, 2_000)
      yield* honestGoesOn
    })
  )
})

describe("a server answers a peer that", () => {
  it.live("calls what does not exist, or with a payload that does not fit, by a defect of that call", () =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn } = yield* attacked
      const { pair, replies, say } = yield* attacker
      yield* say(request(1, "Nonexistent"))
      yield* say(request(2, "__proto__"))
      yield* say(request(3, "Echo", { text: 7 }))
      yield* say(request(4, "Echo", null))
      yield* say(request(5))
      yield* delivered
      assert.isUndefined(pair.ended())
      const tags = replies.map(({ requestId, exit }) => [requestId, JSON.stringify(exit).includes('"Die"')])
      assert.deepStrictEqual(tags, [
        [1, true],
        [2, true],
        [3, true],
        [4, true],
        [5, false]
      ])
      yield* honestGoesOn
    })
  )

  it.live("interrupts or acknowledges what it never asked, by silence", () =>
    Effect.gen(function* () {
      const { attacker, honestGoesOn } = yield* attacked
      const { pair, replies, say } = yield* attacker
      for (let requestId = 0; requestId < 1_000; requestId++) {
        yield* say({ _tag: "Interrupt", requestId })
        yield* say({ _tag: "Ack", requestId })
      }
      yield* delivered
      assert.deepStrictEqual(replies, [])
      assert.isUndefined(pair.ended())
      yield* honestGoesOn
    })
  )
})

/** A client whose server is in the hands of the test, beside another channel with a call in flight. */
const deceived = Effect.gen(function* () {
  const { honestGoesOn } = yield* attacked
  const pair = memoryPair()
  const heard: Array<AdminBody> = []
  pair.right.receive(
    bytes => heard.push(decodeAdmin(bytes).body),
    () => {}
  )
  const jobs = yield* RpcPeer.client(Jobs, pair.left)
  const send = (bytes: Uint8Array) => Effect.ignore(pair.right.send(bytes))
  return { jobs, pair, heard, send, say: (body: AdminBody) => send(encodeAdmin(toClient, body)), honestGoesOn }
})

describe("a client ends the channel, and only that, of a server that", () => {
  it.live.each<[string, AdminBody]>([
    ["answers a request that was not made", { _tag: "Exit", requestId: 99, exit: { _tag: "Success", value: "x" } }],
    ["answers request 0", { _tag: "Exit", requestId: 0, exit: { _tag: "Success", value: "x" } }],
    ["sends a chunk of a request that was not made", { _tag: "Chunk", requestId: 2, values: [1] }],
    ["sends an empty chunk", { _tag: "Chunk", requestId: 1, values: [] }],
    ["sends an exit that is none", { _tag: "Exit", requestId: 1, exit: { _tag: "Failure" } }],
    ["makes a request", request(1)],
    ["sends a Pong", { _tag: "Pong" }],
    ["reports a defect of no call", { _tag: "Defect", defect: { nonsense: true } }],
    ["says that the protocol failed", { _tag: "ClientProtocolError", error: {} }]
  ])("%s, and the call in flight fails with a typed error", ([, body]) =>
    Effect.gen(function* () {
      const { jobs, pair, say, honestGoesOn } = yield* deceived
      const call = yield* Effect.forkChild(jobs.Echo({ text: "x" }))
      yield* delivered
      yield* say(body)
      const error = yield* Effect.flip(Fiber.join(call))
      assert.include(RpcPeer.closedReason(error)?.reason, "broke the protocol")
      yield* delivered
      assert.isDefined(pair.ended())
      yield* honestGoesOn
    })
  )

  it.live("sends chunks faster than they are acknowledged", () =>
    Effect.gen(function* () {
      const { jobs, pair, say, honestGoesOn } = yield* deceived
      // A reader that never takes: the first chunk fills its buffer, and no acknowledgement goes out.
      const reader = yield* Effect.forkChild(Stream.runForEach(jobs.Count({ to: 1_000 }), () => Effect.never))
      yield* delivered
      const values = Array.from({ length: 100 }, (_, i) => i)
      yield* say({ _tag: "Chunk", requestId: 1, values })
      yield* delivered
      assert.isUndefined(pair.ended())
      yield* say({ _tag: "Chunk", requestId: 1, values })
      yield* delivered
      assert.include(pair.ended(), "acknowledged")
      yield* Fiber.interrupt(reader)
      yield* honestGoesOn
    })
  )

  it.live(
    "answers with thousands of messages broken in random ways: every call ends, none with a value of the wrong type or a defect",
    () =>
      Effect.gen(function* () {
        const random = lehmer(7)
        const { honestGoesOn } = yield* attacked
        for (let run = 0; run < 3_000; run++) {
          const pair = memoryPair()
          pair.right.receive(
            () => {},
            () => {}
          )
          const { read, exit } = yield* Effect.scoped(
            Effect.gen(function* () {
              const jobs = yield* RpcPeer.client(Jobs, pair.left)
              const call = yield* Effect.forkChild(jobs.Echo({ text: "x" }))
              const reader = yield* Effect.forkChild(Stream.runCollect(jobs.Count({ to: 3 })))
              yield* delivered
              for (let left = 1 + random(4); left > 0; left--)
                yield* Effect.ignore(pair.right.send(mutate(pick(random, replies), random)))
              yield* delivered
              pair.kill("the server leaves")
              return { read: yield* Fiber.await(reader), exit: yield* Fiber.await(call) }
            })
          )
          if (Exit.isSuccess(exit)) assert.isString(exit.value)
          assert.isTrue(isTyped(exit) && isTyped(read))
        }
        yield* honestGoesOn
      })
  )
})

describe("a call that gives up while it waits for its turn", () => {
  it.live("frees its place at both sides", () =>
    Effect.gen(function* () {
      const watch = yield* makeWatch
      const server = yield* RpcPeer.serve(Jobs).pipe(Effect.provide(handlers(watch)))
      const pair = memoryPair()
      yield* server.attach(pair.right, { peer: "alice" })
      const jobs = yield* RpcPeer.client(Jobs, pair.left)
      const most = callBudgetBytes / minCallCostBytes
      for (let round = 0; round < 5; round++) {
        const calls = yield* Effect.forEach(Array.from({ length: most }), () =>
          Effect.forkChild(jobs.Wait({ name: "x" }), { startImmediately: true })
        )
        yield* delivered
        // The youngest first, so that most are interrupted before their handlers have begun.
        for (const call of calls.toReversed()) yield* Fiber.interrupt(call)
        yield* delivered
      }
      assert.isUndefined(pair.ended())
      assert.strictEqual(yield* jobs.Echo({ text: "free" }), "free")
    })
  )
})

const requests = [
  encodeAdmin(toServer, request(1)),
  encodeAdmin(toServer, request(2, "Bytes", { bytes: new Uint8Array(30) })),
  encodeAdmin(toServer, request(3, "Count", { to: 5 })),
  encodeAdmin(toServer, request(4, "Wait", { name: "x" })),
  encodeAdmin(toServer, { _tag: "Ack", requestId: 3 }),
  encodeAdmin(toServer, { _tag: "Interrupt", requestId: 4 })
]

const replies = [
  encodeAdmin(toClient, { _tag: "Exit", requestId: 1, exit: { _tag: "Success", value: "x" } }),
  encodeAdmin(toClient, {
    _tag: "Exit",
    requestId: 1,
    exit: { _tag: "Failure", cause: [{ _tag: "Die", defect: "d" }] }
  }),
  encodeAdmin(toClient, { _tag: "Exit", requestId: 2, exit: { _tag: "Success", value: null } }),
  encodeAdmin(toClient, { _tag: "Chunk", requestId: 2, values: [1, 2, 3] }),
  encodeAdmin(toClient, { _tag: "Defect", defect: { name: "Error", message: "m" } })
]

const isTyped = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isSuccess(exit) || exit.cause.reasons.every(Cause.isFailReason)

/** The generator of Lehmer (Park and Miller's constants), so that a failure can be run again. */
function lehmer(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (state * 48_271) % 2_147_483_647
    return state % below
  }
}

const pick = <A>(random: (below: number) => number, all: ReadonlyArray<A>): A => {
  const one = all[random(all.length)]
  if (one === undefined) throw new Error("nothing to pick from")
  return one
}

const mutate = (message: Uint8Array, random: (below: number) => number): Uint8Array => {
  const bytes = new Uint8Array(message)
  for (let edits = random(3); edits > 0; edits--) bytes[random(bytes.length)] = random(256)
  return random(8) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes
}
