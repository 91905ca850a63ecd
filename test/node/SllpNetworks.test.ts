import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { Line } from "../../examples/camera/LossyProxy.ts"
import type { SllpLink } from "../../src/node/SllpLink.ts"
import { zeroFilled, type SllpMessage } from "../../src/protocol/sllp/SllpAssociation.ts"
import { hostAndGuest, lossyProxy } from "../support/sllpNodes.ts"
import { numberOf, patterned } from "../support/sllpPair.ts"

const MiB = 2 ** 20

/** Gives the numbers of the messages that came, in their order; fails for a wrong byte, whole or not. */
const collected = (numbers: Array<number>) => (link: SllpLink) =>
  Stream.runForEach(link.messages(0), message => Effect.sync(() => void numbers.push(checked(message))))

const checked = (message: SllpMessage): number => {
  if (message.complete) return numberOf(message.bytes)
  const bytes = zeroFilled(message)
  const right = patterned(message.messageId, message.total)
  for (const { offset, bytes: piece } of message.pieces)
    assert.strictEqual(Buffer.compare(piece, right.subarray(offset, offset + piece.length)), 0)
  assert.isBelow(
    message.pieces.reduce((sum, piece) => sum + piece.bytes.length, 0),
    bytes.length
  )
  return -1 - message.messageId
}

describe("Through real sockets and a bad network", () => {
  it.live(
    "reliable delivers every byte of 64 MiB at 5 % loss, with bursts, reordering and duplicates",
    () =>
      Effect.gen(function* () {
        const { host, open } = yield* hostAndGuest()
        const numbers: Array<number> = []
        yield* host.sllp.serve("take", collected(numbers), { datagramBytes: 65_507 })
        const proxy = yield* lossyProxy(
          { loss: 0.05, bursts: 0.0005, burstMs: 3, duplicates: 0.01, reordered: 0.01, reorderMs: 2 },
          7
        )
        const link = yield* open("take", {
          channels: [{ mode: "reliable", maxMessageBytes: 8 * MiB, sendQueueBytes: 16 * MiB }],
          datagramBytes: 8_900,
          via: proxy.toward
        })
        const messages = 16
        for (let number = 0; number < messages; number++) yield* link.send(0, patterned(number, 4 * MiB))
        yield* link.flush
        const { lostDatagrams } = yield* link.statistics
        assert.isAbove(lostDatagrams, 100)
        assert.isAbove(proxy.lost, 100)
        yield* link.close("normal", "done")
        yield* link.closed
        assert.deepStrictEqual(numbers, [...Array(messages).keys()])
      }).pipe(Effect.scoped),
    180_000
  )

  const rough: Partial<Line> = {
    loss: 0.05,
    bursts: 0.002,
    burstMs: 4,
    duplicates: 0.05,
    reordered: 0.05,
    reorderMs: 3,
    delayMs: 2
  }

  it.live.each([
    { what: "latest", channel: { mode: "latest", repairMs: 50 } },
    { what: "ordered", channel: { mode: "ordered", maxLagMs: 30 } },
    { what: "ordered with repairs", channel: { mode: "ordered", maxLagMs: 60, repairMs: 40 } },
    { what: "ordered with holes delivered", channel: { mode: "ordered", maxLagMs: 30, holes: "deliver" } }
  ] as const)("$what never delivers a wrong byte, an old message or one twice", ({ channel }) =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const numbers: Array<number> = []
      yield* host.sllp.serve("take", collected(numbers), { channel })
      const proxy = yield* lossyProxy(rough, 11)
      const link = yield* open("take", { channels: [channel], via: proxy.toward })
      // However fast this machine is: until enough has come, and something has been lost.
      const enough = () =>
        numbers.filter(number => number >= 0).length >= 60 &&
        proxy.lost >= 20 &&
        (!("holes" in channel) || numbers.some(number => number < 0))
      for (let number = 0; !enough(); number++) {
        yield* link.send(0, patterned(number, 200 + (number % 9) * 1_500))
        yield* Effect.sleep(1)
      }
      yield* link.close("normal", "done")
      const ids = numbers.map(number => (number < 0 ? -1 - number : number))
      assert.deepStrictEqual(
        ids,
        [...new Set(ids)].toSorted((a, b) => a - b)
      )
    }).pipe(Effect.scoped)
  )

  it.live("an association goes on when the address of its peer changes in the middle", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const numbers: Array<number> = []
      yield* host.sllp.serve("take", collected(numbers))
      const proxy = yield* lossyProxy({ delayMs: 1 })
      const link = yield* open("take", { channels: [{ mode: "reliable", sendQueueBytes: MiB }], via: proxy.toward })
      for (let number = 0; number < 20; number++) {
        if (number % 5 === 4) yield* Effect.promise(() => proxy.move())
        yield* link.send(0, patterned(number, MiB / 4))
      }
      yield* link.flush
      yield* link.close("normal", "done")
      assert.deepStrictEqual(numbers, [...Array(20).keys()])
    }).pipe(Effect.scoped)
  )
})
