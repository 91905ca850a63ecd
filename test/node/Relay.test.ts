import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { vi } from "vitest"
import type { PeerNode } from "../../src/node/PeerNode.ts"
import { TensorRef } from "../../src/node/TensorRef.ts"
import { defaultStreamWindowBytes, maxRecordPayloadBytes } from "../../src/protocol/constants.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { MuxStream } from "../../src/protocol/MuxStream.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { loopback, pair, startNode, until } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const carol = mallory
const job = new Uint8Array(16).fill(3)
type Node = PeerNode["Service"]

/** Carol coordinates; Alice and Bob, her workers, do not listen: nobody can dial them. */
const behindNat = Effect.gen(function* () {
  const life = yield* Scope.fork(yield* Effect.scope)
  const jobLife = yield* Scope.fork(yield* Effect.scope)
  const coordinator = yield* Scope.provide(startNode({ identity: carol, listen: loopback }), life)
  const one = yield* startNode({ identity: alice })
  const other = yield* startNode({ identity: bob })
  for (const worker of [one, other]) {
    yield* pair(coordinator, worker)
    yield* worker.trustIntroducer(carol.peerId, job)
  }
  yield* Scope.provide(coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] }), jobLife)
  return { coordinator, one, other, life, jobLife }
})

const Sums = RpcGroup.make(Rpc.make("Twice", { payload: { of: TensorRef }, success: TensorRef }))

const serveSums = (worker: Node, caller: typeof alice.peerId) =>
  Effect.provide(
    worker.serve("sums", Sums),
    Sums.toLayer({
      Twice: ({ of }) =>
        Effect.gen(function* () {
          const array = yield* worker.tensors.take(of, (yield* RpcPeer.caller).peer)
          if (!(array instanceof Float32Array)) return yield* Effect.die("not floats")
          return (yield* worker.tensors.put(
            array.map(x => x * 2),
            caller
          )).ref
        }).pipe(Effect.orDie)
    })
  )

/** What passes through relayed connections of this process while the scope lives: all that the one in the middle could read. */
const overheard = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const heard: Array<Buffer> = []
      const send = MuxStream.prototype.send
      const spy = vi.spyOn(MuxStream.prototype, "send").mockImplementation(function (this: MuxStream, ...args) {
        if (this.name.startsWith("relay-")) heard.push(...args[1].map(part => Buffer.from(part)))
        return send.apply(this, args)
      })
      return { heard, spy }
    }),
    ({ spy }) => Effect.sync(() => spy.mockRestore())
  ),
  ({ heard }) => heard
)

describe("Two workers that cannot reach one another", () => {
  it.live("exchange tensors through their coordinator, who sees only ciphertext; their sessions say so", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* behindNat
      yield* serveSums(other, alice.peerId)
      const heard = yield* overheard
      const numbers = new Float32Array(1_000_000).fill(1.5)
      const { ref, taken } = yield* one.tensors.put(numbers, bob.peerId)
      const reply = yield* one.actor(bob.peerId, "sums", Sums).client.Twice({ of: ref })
      yield* taken
      assert.deepStrictEqual(yield* one.tensors.take(reply, bob.peerId), new Float32Array(1_000_000).fill(3))

      const session = one.session(bob.peerId)
      assert.deepStrictEqual([session?.relay, session?.mode], [carol.peerId, modes.introduced])
      assert.strictEqual(other.session(alice.peerId)?.relay, carol.peerId)
      assert.isUndefined(one.session(carol.peerId)?.relay)
      const refused = yield* Effect.flip(one.sllp.open(bob.peerId, "any", { channels: [{ mode: "latest" }] }))
      assert.strictEqual(refused.code, "RELAYED")
      const [relay, ...more] = coordinator.relays()
      assert.deepStrictEqual([relay?.from, relay?.to, more.length], [alice.peerId, bob.peerId, 0])
      assert.isAbove(relay?.bytes ?? 0, 2 * numbers.byteLength)

      const passed = Buffer.concat(heard)
      assert.isAbove(passed.length, 2 * numbers.byteLength)
      for (const plain of [numbers, new Float32Array(8).fill(3)])
        assert.isFalse(passed.includes(Buffer.from(plain.buffer, 0, 32)))
      for (const plain of ["sums", "Twice", bob.peerId]) assert.isFalse(passed.includes(plain))
      for (const { document, id } of [alice, bob]) {
        assert.isFalse(passed.includes(Buffer.from(document)))
        assert.isFalse(passed.includes(Buffer.from(id)))
      }
    })
  )

  it.live("try the addresses that there are first, and say why none of them was of use", () =>
    Effect.gen(function* () {
      const coordinator = yield* startNode({ identity: carol, listen: loopback })
      const one = yield* startNode({ identity: alice })
      const other = yield* startNode({ identity: bob })
      for (const worker of [one, other]) {
        yield* pair(coordinator, worker)
        yield* worker.trustIntroducer(carol.peerId, job)
      }
      // Nobody listens there.
      const closed = "127.0.0.1:1"
      yield* coordinator.registry.ask("Announced", { peerId: bob.peerId, addresses: [closed] })
      yield* coordinator.introduce({ job, peers: [alice.peerId, bob.peerId] })
      const alone = yield* Effect.flip(one.connect(bob.peerId, [closed]))
      assert.strictEqual(alone.code, "UNREACHABLE")
      assert.strictEqual((yield* one.connect(bob.peerId)).relay, carol.peerId)
      assert.deepStrictEqual(
        one.dialFailures(bob.peerId).map(({ address, code }) => [address, code]),
        [[closed, "UNREACHABLE"]]
      )
    })
  )

  it.live("keep one session when both dial at once", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* behindNat
      yield* Effect.all([one.connect(bob.peerId), other.connect(alice.peerId)], { concurrency: "unbounded" })
      const markOf = (node: Node, peer: typeof alice.peerId) => {
        const session = node.session(peer)
        return session === undefined || session.ended !== undefined
          ? undefined
          : Buffer.from(session.exportKey("test", new Uint8Array(0))).toString("hex")
      }
      yield* until(() => {
        const mark = markOf(one, bob.peerId)
        return mark !== undefined && mark === markOf(other, alice.peerId) ? mark : undefined
      })
      yield* until(() => (coordinator.relays().length === 1 ? true : undefined))
    })
  )

  it.live("lose their session, with a reason, when the coordinator is gone", () =>
    Effect.gen(function* () {
      const { one, other, life } = yield* behindNat
      const session = yield* one.connect(bob.peerId)
      const back = yield* until(() => other.session(alice.peerId))
      yield* Scope.close(life, Exit.void)
      for (const each of [session, back]) {
        const reason = yield* Deferred.await(each.closed)
        assert.strictEqual(reason.code, "TRUNCATED")
        assert.match(reason.detail, /the connection ended without a goodbye/)
      }
      const error = yield* Effect.flip(one.connect(bob.peerId))
      assert.notStrictEqual(error.code, "NORMAL")
    })
  )

  it.live("lose it when the coordinator's job is over, which then relays no more", () =>
    Effect.gen(function* () {
      const { coordinator, one, jobLife } = yield* behindNat
      const session = yield* one.connect(bob.peerId)
      yield* Scope.close(jobLife, Exit.void)
      assert.strictEqual((yield* Deferred.await(session.closed)).code, "TRUNCATED")
      yield* until(() => (coordinator.relays().length === 0 ? true : undefined))
      const error = yield* Effect.flip(one.connect(bob.peerId))
      assert.match(error.message, /relayed: .*NOT_AUTHORIZED/)
      assert.isUndefined(one.session(carol.peerId)?.ended)
    })
  )

  it.live("say goodbye through it: nothing of the connection is left at the coordinator", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* behindNat
      const session = yield* one.connect(bob.peerId)
      const back = yield* until(() => other.session(alice.peerId))
      yield* session.close()
      assert.strictEqual((yield* Deferred.await(back.closed)).code, "NORMAL")
      yield* until(() => (coordinator.relays().length === 0 ? true : undefined))
      assert.strictEqual((yield* other.connect(alice.peerId)).relay, carol.peerId)
    })
  )
})

describe("A host that relays", () => {
  it.live("holds a bounded number of bytes for a side that does not read, and passes all of them on when it does", () =>
    Effect.gen(function* () {
      const { coordinator, one, other } = yield* behindNat
      const session = yield* one.connect(bob.peerId)
      const back = yield* until(() => other.session(alice.peerId))
      let received = 0
      const all = yield* Deferred.make<void>()
      const windowBytes = defaultStreamWindowBytes
      const [streams, bytes] = [12, windowBytes - 16]
      yield* other.onBulk("flood", stream => {
        stream.receive({
          onChunk: chunk => {
            received += chunk.bytes.length
            stream.consumed(chunk)
            if (received === streams * bytes) Deferred.doneUnsafe(all, Effect.void)
          }
        })
      })
      back.pause()
      const sent = yield* Effect.forEach(
        Array.from({ length: streams }, (_, index) => index),
        index =>
          Effect.gen(function* () {
            const stream = yield* session.openStream(streamClasses.bulk, `flood:${index}`)
            return yield* Effect.forkChild(
              Effect.callback<void>(resume => {
                stream.send(recordTypes.rawData, [new Uint8Array(bytes)], () => resume(Effect.void))
              })
            )
          })
      )
      // At least half a window fills in the middle, and one at the end; then the writer waits.
      const waiting = () => coordinator.relays()[0]?.waitingBytes ?? 0
      yield* until(() => (waiting() >= windowBytes / 2 - maxRecordPayloadBytes ? true : undefined))
      for (let turn = 0; turn < 50; turn++) {
        yield* Effect.promise(() => new Promise(resolve => setImmediate(resolve)))
        assert.isAtMost(waiting(), windowBytes)
      }
      assert.isTrue(sent.some(fiber => fiber.pollUnsafe() === undefined))
      assert.strictEqual(received, 0)
      back.resume()
      yield* Deferred.await(all)
      for (const fiber of sent) yield* Fiber.join(fiber)
    })
  )

  it.live("does so only between peers that it has introduced itself, and only as much as it may", () =>
    Effect.gen(function* () {
      const { coordinator, one } = yield* behindNat
      const session = one.session(carol.peerId)
      if (session === undefined) return assert.fail("no session with the coordinator")
      const nameOf = (id: Uint8Array) => `relay-to:${Buffer.from(id).toString("base64url")}`
      const outcome = (name: string) =>
        Effect.flatMap(session.openStream(streamClasses.bulk, name), stream =>
          Effect.callback<string>(resume => {
            stream.receive({ onChunk: () => undefined, onClose: ({ code }) => resume(Effect.succeed(code)) })
          })
        )
      for (const name of [nameOf(carol.id), nameOf(alice.id), nameOf(new Uint8Array(32)), "relay-to:x", "relay-to"])
        assert.strictEqual(yield* outcome(name), "NOT_AUTHORIZED", name)
      for (let count = 0; count < 2; count++)
        (yield* session.openStream(streamClasses.bulk, nameOf(bob.id))).receive({ onChunk: () => undefined })
      yield* until(() => (coordinator.relays().length === 2 ? true : undefined))
      assert.strictEqual(yield* outcome(nameOf(bob.id)), "BUSY")
    })
  )

  it.live("cannot bring a connection of somebody whom it has not introduced", () =>
    Effect.gen(function* () {
      const { coordinator } = yield* behindNat
      const session = coordinator.session(bob.peerId)
      if (session === undefined) return assert.fail("no session with the worker")
      const stranger = Buffer.from(new Uint8Array(32)).toString("base64url")
      const stream = yield* session.openStream(streamClasses.bulk, `relay-from:${stranger}`)
      const code = yield* Effect.callback<string>(resume => {
        stream.receive({ onChunk: () => undefined, onClose: ({ code }) => resume(Effect.succeed(code)) })
      })
      assert.strictEqual(code, "NOT_AUTHORIZED")
    })
  )
})
