import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Rpc, RpcGroup } from "effect/rpc"
import type { PeerNode, PeerNodeOptions } from "../../src/node/PeerNode.ts"
import { TensorRef, type TensorArray } from "../../src/node/TensorRef.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const meet = Effect.fnUntraced(function* (options: Pick<PeerNodeOptions, "tensors"> = {}) {
  const host = yield* startNode({ identity: alice, listen: loopback, ...options })
  const guest = yield* startNode({ identity: bob, ...options })
  const session = yield* guest.join((yield* host.invite({ name: "test" })).token)
  return { host, guest, session }
})

const ramp = (length: number) => Float32Array.from({ length }, (_, i) => i / 3)

/** Lets the bytes of real sockets arrive while the clock of the test stands still. */
const arrived = Effect.promise(() => new Promise<void>(resolve => setTimeout(resolve, 0))).pipe(
  Effect.repeat({ times: 20 })
)

/** In these tests a ref comes by no rpc, which would come after its stream: so it is asked for until the stream is here. */
const takeOnceHere = (node: PeerNode["Service"], ref: TensorRef, peer: string) =>
  Effect.retry(node.tensors.take(ref, peer), { while: error => error._tag === "TensorUnknown" })

const Matrices = RpcGroup.make(Rpc.make("Double", { payload: { matrix: TensorRef }, success: TensorRef }))

describe("a tensor by reference", () => {
  it.live("goes with an rpc and comes back with its reply, larger than any window", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      const double = Effect.fnUntraced(function* (matrix: TensorRef) {
        const { peer } = yield* RpcPeer.caller
        const array = yield* host.tensors.take(matrix, peer)
        assert.instanceOf(array, Float32Array)
        for (let i = 0; i < array.length; i++) array[i] = Number(array[i]) * 2
        return (yield* host.tensors.put(array, bob.peerId, { shape: matrix.shape })).ref
      })
      const live = Matrices.toLayer({ Double: ({ matrix }) => Effect.orDie(double(matrix)) })
      yield* Effect.provide(host.serve("matrices", Matrices), live)
      const { client } = guest.actor(alice.peerId, "matrices", Matrices)
      const data = ramp(3 * 1024 * 1024)
      const { ref, taken } = yield* guest.tensors.put(data, alice.peerId, { shape: [3, 1024, 1024] })
      const reply = yield* client.Double({ matrix: ref })
      yield* taken
      assert.deepStrictEqual(reply.shape, [3, 1024, 1024])
      const result = yield* guest.tensors.take(reply, alice.peerId)
      assert.deepStrictEqual(
        result,
        data.map(x => x * 2)
      )
    })
  )

  it.live.each<[string, TensorArray]>([
    ["float16", Float16Array.of(1, -0.5)],
    ["float64", Float64Array.of(Math.PI)],
    ["int8", Int8Array.of(-128, 127)],
    ["uint16", Uint16Array.of(65_535)],
    ["int64", BigInt64Array.of(-(2n ** 63n))],
    ["uint8", new Uint8Array(0)]
  ])("keeps %s to the bit", ([dtype, array]) =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      const { ref, taken } = yield* guest.tensors.put(array, alice.peerId)
      assert.strictEqual(ref.dtype, dtype)
      assert.deepStrictEqual(yield* takeOnceHere(host, ref, bob.peerId), array)
      yield* taken
    })
  )

  it.live.each([0, 1024 ** 2, 64 * 1024 ** 2])(
    "arrives whole with %d bytes let in before it is asked for",
    maxBytesAhead =>
      Effect.gen(function* () {
        const { host, guest } = yield* meet({ tensors: { maxBytesAhead } })
        const arrays = [ramp(700_000), ramp(1), ramp(900_000)]
        const puts = yield* Effect.forEach(arrays, array => guest.tensors.put(array, alice.peerId))
        yield* arrived
        for (const [i, { ref, taken }] of puts.entries()) {
          assert.deepStrictEqual(yield* takeOnceHere(host, ref, bob.peerId), arrays[i])
          yield* taken
        }
      })
  )

  it.live("arrives whole in the memory of one that was given back, which its former taker sees no more", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      const through = Effect.fnUntraced(function* (array: TensorArray) {
        const { ref } = yield* guest.tensors.put(array, alice.peerId)
        return yield* takeOnceHere(host, ref, bob.peerId)
      })
      const first = yield* through(ramp(300_000))
      const view = first.subarray(1)
      host.tensors.reuse(first)
      assert.deepStrictEqual([first.length, view.length], [0, 0])
      const other = Float32Array.from({ length: 300_000 }, (_, i) => -i)
      assert.deepStrictEqual(yield* through(other), other)
    })
  )

  it("does not decode where its bytes are not those of its shape", () => {
    const ref = { from: "a", id: "b", stream: 1, bytes: 12, dtype: "float32", shape: [3] }
    assert.isTrue(Schema.is(TensorRef)(ref))
    for (const wrong of [{ bytes: 16 }, { bytes: -12, shape: [-3] }, { dtype: "float" }, { shape: [2 ** 53, 2 ** 53] }])
      assert.isFalse(Schema.is(TensorRef)({ ...ref, ...wrong }), JSON.stringify(wrong))
  })
})

describe("taking a tensor", () => {
  it.live("works once, for the peer that it came from, under its own id", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      const { ref } = yield* guest.tensors.put(ramp(8), alice.peerId)
      yield* arrived
      const wrong = yield* Effect.flip(host.tensors.take(ref, alice.peerId))
      assert.strictEqual(wrong._tag, "TensorWrongPeer")
      const forged = yield* Effect.flip(host.tensors.take({ ...ref, id: "0" }, bob.peerId))
      assert.strictEqual(forged._tag, "TensorUnknown")
      yield* host.tensors.take(ref, bob.peerId)
      assert.strictEqual((yield* Effect.flip(host.tensors.take(ref, bob.peerId)))._tag, "TensorUnknown")
    })
  )

  it.live("fails where the ref says another size than the stream, and tells the one who put it", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      for (const length of [7, 9]) {
        const { ref, taken } = yield* guest.tensors.put(ramp(8), alice.peerId)
        const error = yield* Effect.flip(takeOnceHere(host, { ...ref, bytes: 4 * length, shape: [length] }, bob.peerId))
        assert.strictEqual(error._tag, "TensorTruncated")
        assert.strictEqual((yield* Effect.flip(taken))._tag, "TensorNotTaken")
      }
    })
  )

  it.live("fails where the stream ends, or the session is lost, before the last byte", () =>
    Effect.gen(function* () {
      const { host, guest, session } = yield* meet()
      for (const end of ["fin", "reset", "session"] as const) {
        const stream = yield* session.openStream(streamClasses.bulk, `ref:${end}`)
        const ref = { from: bob.peerId, id: end, stream: stream.id, bytes: 8, dtype: "uint8", shape: [8] } as const
        if (end === "fin") {
          stream.send(recordTypes.rawData, [new Uint8Array(4)], () => undefined)
          stream.finish()
        }
        yield* guest.tensors.put(ramp(1), alice.peerId)
        const taking = yield* Effect.forkChild(Effect.flip(takeOnceHere(host, ref, bob.peerId)))
        if (end === "reset")
          yield* Effect.andThen(
            arrived,
            Effect.sync(() => stream.reset("NORMAL"))
          )
        if (end === "session")
          yield* Effect.andThen(
            arrived,
            Effect.sync(() => session.fail("INTERNAL", "cut"))
          )
        assert.strictEqual((yield* Fiber.join(taking))._tag, "TensorTruncated", end)
      }
    })
  )

  it.live("given up frees its place on both sides", () =>
    Effect.gen(function* () {
      const { host, guest, session } = yield* meet({ tensors: { maxBytes: 64 } })
      const stream = yield* session.openStream(streamClasses.bulk, "ref:slow")
      const ref = { from: bob.peerId, id: "slow", stream: stream.id, bytes: 64, dtype: "uint8", shape: [64] } as const
      const closed = yield* Deferred.make<void>()
      stream.receive({ onChunk: () => undefined, onClose: () => void Deferred.doneUnsafe(closed, Effect.void) })
      const taking = yield* Effect.forkChild(takeOnceHere(host, ref, bob.peerId))
      yield* arrived
      const next = yield* guest.tensors.put(new Uint8Array(64), alice.peerId)
      yield* arrived
      const over = yield* Effect.flip(host.tensors.take(next.ref, bob.peerId))
      assert.strictEqual(over._tag, "TensorQuota")
      assert.strictEqual((yield* Effect.flip(next.taken))._tag, "TensorQuota")
      yield* Fiber.interrupt(taking)
      yield* Deferred.await(closed)
      const again = yield* guest.tensors.put(new Uint8Array(64), alice.peerId)
      assert.strictEqual((yield* takeOnceHere(host, again.ref, bob.peerId)).length, 64)
    })
  )
})

describe("a tensor that nobody takes", () => {
  it.effect("expires on both sides", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet()
      const { ref, taken } = yield* guest.tensors.put(ramp(8), alice.peerId)
      yield* arrived
      yield* TestClock.adjust(30_000)
      assert.strictEqual((yield* Effect.flip(taken))._tag, "TensorExpired")
      assert.strictEqual((yield* Effect.flip(host.tensors.take(ref, bob.peerId)))._tag, "TensorExpired")
    })
  )

  it.effect("takes a place: at the limit a put waits for one", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* meet({ tensors: { maxRefs: 2 } })
      const put = guest.tensors.put(ramp(8), alice.peerId)
      const first = yield* put
      yield* put
      const third = yield* Effect.forkChild(put)
      yield* arrived
      assert.isUndefined(third.pollUnsafe())
      yield* host.tensors.take(first.ref, bob.peerId)
      const { ref } = yield* Fiber.join(third)
      assert.strictEqual((yield* takeOnceHere(host, ref, bob.peerId)).length, 8)
    })
  )

  it.live("is refused by the receiver past the limit, whatever the sender thinks of it", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback, tensors: { maxRefs: 2 } })
      const guest = yield* startNode({ identity: bob, tensors: { maxRefs: 50 } })
      yield* guest.join((yield* host.invite({ name: "test" })).token)
      const puts = yield* Effect.replicateEffect(guest.tensors.put(ramp(8), alice.peerId), 3)
      const [first, , third] = puts
      if (first === undefined || third === undefined) return yield* Effect.die("three were put")
      assert.strictEqual((yield* Effect.flip(third.taken))._tag, "TensorQuota")
      assert.strictEqual((yield* host.tensors.take(first.ref, bob.peerId)).length, 8)
    })
  )
})
