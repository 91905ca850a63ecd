import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Queue } from "effect"
import {
  bytesOf,
  gradientExchanger,
  Placement,
  sendTensor,
  type PlaceTensor
} from "../../src/node/GradientExchanger.ts"
import { jobIdBytes, tensorKinds, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { loopback, pair, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const job = new Uint8Array(jobIdBytes).fill(7)
const elements = 100_000

const headerOf = (step: number): TensorHeader => ({
  kind: tensorKinds.partial,
  job,
  term: 0,
  view: 1,
  step,
  lanes: { from: 0, to: 1 },
  segment: { from: 0, to: elements },
  loss: 0.5
})

const gradientOf = (step: number, length = elements): Float32Array =>
  Float32Array.from({ length }, (_, index) => step + index / length)

/** A host that takes tensors as `place` says, and a guest that sends them. */
const exchange = Effect.fnUntraced(function* (place: PlaceTensor, sentJob = job) {
  const host = yield* startNode({ identity: alice, listen: loopback })
  yield* host.supervisor.spawn("exchanger", gradientExchanger(host, job, place))
  const guest = yield* startNode({ identity: bob })
  yield* pair(host, guest)
  const session = yield* guest.connect(alice.peerId)
  const exchanger = yield* guest.supervisor.spawn(
    "exchanger",
    gradientExchanger(guest, sentJob, () => undefined)
  )
  const send = (header: TensorHeader, floats: Float32Array) => sendTensor(exchanger, session, header, bytesOf(floats))
  return { session, send, host }
})

describe("Tensors", () => {
  it.live("arrive whole and in order, where the receiver has said for each from its header", () =>
    Effect.gen(function* () {
      const arrived = yield* Queue.unbounded<{ header: TensorHeader; from: string; value: Float32Array }>()
      const { send } = yield* exchange((header, from) => {
        const value = new Float32Array(elements)
        return new Placement(bytesOf(value), () => void Queue.offerUnsafe(arrived, { header, from, value }))
      })
      for (let step = 1; step <= 5; step++) yield* send(headerOf(step), gradientOf(step))
      for (let step = 1; step <= 5; step++) {
        const { header, from, value } = yield* Queue.take(arrived)
        assert.deepStrictEqual(header, headerOf(step))
        assert.strictEqual(from, bob.peerId)
        assert.deepStrictEqual(value, gradientOf(step))
      }
    })
  )

  it.live("that are late pass unread, and those after them still arrive", () =>
    Effect.gen(function* () {
      const arrived = yield* Queue.unbounded<Float32Array>()
      const { send } = yield* exchange(({ step }) => {
        const value = new Float32Array(elements)
        return step === 2 ? new Placement(bytesOf(value), () => void Queue.offerUnsafe(arrived, value)) : undefined
      })
      // A late one may have any length: it belongs to a view that is over.
      yield* send(headerOf(1), gradientOf(1, elements * 2))
      yield* send(headerOf(2), gradientOf(2))
      assert.deepStrictEqual(yield* Queue.take(arrived), gradientOf(2))
    })
  )

  it.live("whose place is revoked while they arrive are neither written on nor told of", () =>
    Effect.gen(function* () {
      const target = new Float32Array(elements)
      const told: Array<number> = []
      const last = yield* Deferred.make<void>()
      const { send } = yield* exchange(({ step }) => {
        const placement = new Placement(bytesOf(step === 1 ? target : new Float32Array(elements)), () => {
          told.push(step)
          Deferred.doneUnsafe(last, Effect.void)
        })
        if (step === 1) placement.revoke()
        return placement
      })
      yield* send(headerOf(1), gradientOf(1))
      yield* send(headerOf(2), gradientOf(2))
      yield* Deferred.await(last)
      assert.deepStrictEqual(told, [2])
      assert.isTrue(target.every(value => value === 0))
    })
  )

  it.live.each([
    { what: "are longer than their place", length: elements + 1, code: "TOO_LARGE" },
    { what: "are shorter than their place", length: elements - 1, code: "MALFORMED" }
  ])("that $what end the session of their sender and are not told of", ({ length, code }) =>
    Effect.gen(function* () {
      let told = 0
      const { session, send } = yield* exchange(
        () => new Placement(bytesOf(new Float32Array(elements)), () => void told++)
      )
      yield* Effect.ignore(send(headerOf(1), gradientOf(1, length)))
      assert.strictEqual((yield* Deferred.await(session.closed)).code, code)
      assert.strictEqual(told, 0)
    })
  )

  it.live("that the receiver refuses end the session with its code", () =>
    Effect.gen(function* () {
      const { session, send } = yield* exchange(() => {
        throw new ProtocolError("UNEXPECTED", "not yours")
      })
      yield* Effect.ignore(send(headerOf(1), gradientOf(1)))
      const { code, detail } = yield* Deferred.await(session.closed)
      assert.deepStrictEqual([code, detail], ["UNEXPECTED", "not yours"])
    })
  )

  it.live("of another job are refused with their stream alone; the session stays", () =>
    Effect.gen(function* () {
      let asked = 0
      const placed = () => {
        asked++
        return undefined
      }
      const { session, send } = yield* exchange(placed, new Uint8Array(jobIdBytes).fill(8))
      // More than the window of a stream: it cannot all be on its way before the answer comes.
      const large = new Float32Array(1_000_000)
      const error = yield* Effect.flip(send(headerOf(1), large))
      assert.strictEqual(error.code, "NOT_AUTHORIZED")
      assert.isUndefined(session.ended)
      assert.strictEqual(asked, 0)
    })
  )
})
