import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Queue } from "effect"
import { encodeAdmin, type AdminBody } from "../../src/protocol/AdminMessage.ts"
import type { MessageType, MuxStream } from "../../src/protocol/MuxStream.ts"
import { generateIdentity } from "../../src/protocol/Identity.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import { maxRpcMessageBytes } from "../../src/rpc/RpcWire.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"
import { handlers, Jobs, makeWatch } from "./jobs.ts"

const sessions = 50
const messagesPerSession = 200

const toServer = 256
const say = (body: AdminBody): Uint8Array => encodeAdmin(toServer, body)
const request = (id: number, tag = "Echo", payload: unknown = { text: "x" }): AdminBody => ({
  _tag: "Request",
  id,
  tag,
  payload,
  headers: []
})

/** A Lehmer generator: the same messages in every run. */
const lehmer = (seed: number) => {
  let state = seed
  return (below: number) => (state = (state * 48_271) % 2_147_483_647) % below
}

/** Out of order or wrong, but no reason to end a session: the peer may be slow, or newer than this one. */
const tolerated: ReadonlyArray<(n: number) => Uint8Array> = [
  n => say({ _tag: "Ack", requestId: n }),
  n => say({ _tag: "Interrupt", requestId: n + 1_000_000 }),
  n => say(request(n, "Nonexistent")),
  n => say(request(n, "Echo", { text: 7 })),
  n => say(request(n, "Bytes", { bytes: "text" })),
  n => say({ ...request(n), discard: true, isNotification: true })
]

const admin = (bytes: Uint8Array): readonly [MessageType, Uint8Array] => [recordTypes.admin, bytes]

/** Each ends the session of who sends it. */
const fatal: ReadonlyArray<readonly [string, () => ReadonlyArray<readonly [MessageType, Uint8Array]>]> = [
  ["nothing", () => [admin(new Uint8Array())]],
  ["no msgpack", () => [admin(new Uint8Array([0xc1]))]],
  ["another kind", () => [admin(encodeAdmin(1, {}))]],
  ["the kind of a server", () => [admin(encodeAdmin(257, request(1)))]],
  ["a reply", () => [admin(say({ _tag: "Exit", requestId: 1, exit: { _tag: "Success", value: 1 } }))]],
  ["an id that is no integer", () => [admin(say(request(0.5)))]],
  ["headers that are none", () => [admin(say({ ...request(1), headers: [["a"]] }))]],
  ["an id twice", () => [admin(say(request(-7, "Wait", { name: "evil" }))), admin(say(request(-7)))]],
  ["raw data", () => [[recordTypes.rawData, new Uint8Array(64)]]],
  ["too much", () => [admin(new Uint8Array(maxRpcMessageBytes + 1))]]
]

const send = (stream: MuxStream, [type, bytes]: readonly [MessageType, Uint8Array]): void => {
  stream.send(type, [bytes], () => undefined)
}

describe("a paired but hostile peer over a real session", () => {
  it.live(
    "that sends 10,000 malformed, oversized and out-of-order messages loses its sessions; nobody else notices",
    () =>
      Effect.gen(function* () {
        const host = yield* startNode({ identity: alice, listen: loopback })
        const honest = yield* startNode({ identity: bob })
        const evil = yield* startNode({ identity: yield* Effect.promise(generateIdentity) })
        const watch = yield* makeWatch
        yield* Effect.provide(host.serve("jobs", Jobs), handlers(watch))
        const session = yield* honest.join((yield* host.invite({ name: "honest" })).token)
        const jobs = yield* honest.client(session, "jobs", Jobs)
        yield* evil.join((yield* host.invite({ name: "evil" })).token)

        const inFlight = yield* Effect.forkChild(jobs.Wait({ name: "honest" }))
        assert.strictEqual(yield* Queue.take(watch.events), "+honest")
        let calls = 0
        const going = yield* Effect.forkChild(
          Effect.forever(
            Effect.map(jobs.Echo({ text: `call ${calls}` }), () => {
              calls++
            })
          )
        )

        const random = lehmer(20_261_123)
        const tracker: Array<string> = []
        let sent = 0
        for (let round = 0; round < sessions; round++) {
          const attack = yield* evil.connect(alice.peerId)
          const stream = yield* attack.openStream(streamClasses.rpc, "jobs")
          stream.receive({ onChunk: chunk => stream.consumed(chunk) })
          const [what, last] = fatal[round % fatal.length] ?? fatal[0] ?? ["", () => []]
          const ending = last()
          for (let n = 1; n <= messagesPerSession - ending.length; n++) {
            const make = tolerated[random(tolerated.length)]
            if (make !== undefined) send(stream, admin(make(n)))
          }
          for (const message of ending) send(stream, message)
          sent += messagesPerSession
          const reason = yield* Deferred.await(attack.closed)
          tracker.push(`${what}: ${reason.code}`)
        }
        assert.strictEqual(sent, 10_000)
        assert.strictEqual(new Set(tracker).size, fatal.length, tracker.join(", "))
        assert.deepStrictEqual(
          [...new Set(tracker)].filter(line => !/: (MALFORMED|UNEXPECTED|TOO_LARGE|LIMIT)$/.test(line)),
          []
        )

        const before = calls
        assert.isAbove(before, sessions)
        assert.isUndefined(going.pollUnsafe())
        yield* Fiber.interrupt(going)
        assert.isUndefined(session.ended)
        assert.strictEqual(host.session(bob.peerId)?.ended, undefined)
        yield* Deferred.succeed(watch.gate, undefined)
        assert.strictEqual(yield* Fiber.join(inFlight), "honest")

        // It is still paired: as long as it behaves it is served.
        const reformed = yield* evil.client(yield* evil.connect(alice.peerId), "jobs", Jobs)
        assert.strictEqual(yield* reformed.Echo({ text: "sorry" }), "sorry")
      })
  )
})
