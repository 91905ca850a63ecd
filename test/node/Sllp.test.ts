import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"
import { echo, hostAndGuest, lossyProxy } from "../support/sllpNodes.ts"
import { numberOf, patterned } from "../support/sllpPair.ts"

const MiB = 2 ** 20

describe("SLLP between two peers", () => {
  it.live("carries messages of all sizes both ways on a reliable channel", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      yield* host.sllp.serve("echo", echo)
      const link = yield* open("echo", { channels: [{ mode: "reliable" }] })
      for (const length of [4, 1_000, 70_000, 3_000_000]) {
        yield* link.send(0, patterned(length, length))
        const back = yield* link.receive(0)
        assert.strictEqual(back.complete && numberOf(back.bytes), length)
      }
      const statistics = yield* link.statistics
      assert.isAbove(statistics.roundTripMs, 0)
      assert.strictEqual(statistics.deliveredMessages, 4)
    }).pipe(Effect.scoped)
  )

  it.live("may be opened by the side that accepted the session", () =>
    Effect.gen(function* () {
      const { host, guest } = yield* hostAndGuest()
      yield* guest.sllp.serve("sink", link => Effect.andThen(link.receive(0), link.send(0, patterned(1, 5))))
      const link = yield* host.sllp.open(bob.peerId, "sink", { channels: [{ mode: "ordered" }] })
      yield* link.send(0, patterned(0, 10))
      const back = yield* link.receive(0)
      assert.strictEqual(back.complete && back.bytes.length, 5)
      assert.deepInclude(yield* link.closed, { code: "normal", by: "peer" })
    }).pipe(Effect.scoped)
  )

  it.live("tells both sides which channels there are, and refuses what they do not carry, in words", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const seen: Array<ReadonlyArray<unknown>> = []
      yield* host.sllp.serve("take", link => {
        seen.push(link.channels.map(({ mode, maxMessageBytes }) => [mode, maxMessageBytes]))
        return link.closed
      })
      const link = yield* open("take", {
        channels: [{ mode: "reliable", maxMessageBytes: 100 }, { mode: "latest" }]
      })
      assert.deepStrictEqual(seen, [
        [
          ["reliable", 100],
          ["latest", 64 * MiB]
        ]
      ])
      const refusals = [
        link.send(0, new Uint8Array(101)),
        link.send(0, new Uint8Array(0)),
        link.send(2, patterned(1, 4))
      ]
      for (const refused of refusals)
        assert.strictEqual((yield* Effect.flip(refused))._tag, "SllpRefused", "the association goes on")
      const error = yield* Effect.flip(link.send(0, new Uint8Array(101)))
      assert.include(error.message, "a message of 101 bytes, at most 100")
      assert.strictEqual((yield* Effect.flip(link.receive(7)))._tag, "SllpRefused")
      yield* link.send(0, [patterned(1, 40), patterned(2, 60)])
      yield* link.flush
    }).pipe(Effect.scoped)
  )
})

describe("A stream into a sink", () => {
  it.live("waits on a reliable channel for a reader that is slow", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const messages = 24
      let read = 0
      let produced = 0
      let mostAhead = 0
      const ended = Promise.withResolvers<void>()
      yield* host.sllp.serve("slow", link =>
        Effect.andThen(
          // What the sender may have under way is under way before anything is read.
          until(() => (produced >= 6 ? true : undefined)),
          Stream.runForEach(Stream.take(link.messages(0), messages), received =>
            Effect.gen(function* () {
              assert.strictEqual(received.complete && numberOf(received.bytes), read)
              // However long the reader takes, only what it has read makes room.
              yield* Effect.sleep(read === 0 ? 500 : 5)
              mostAhead = Math.max(mostAhead, produced - read)
              read++
            })
          )
        ).pipe(Effect.ensuring(Effect.sync(() => ended.resolve())))
      )
      const link = yield* open("slow", {
        channels: [{ mode: "reliable", maxMessageBytes: MiB, sendQueueBytes: MiB }]
      })
      const source = Stream.map(Stream.rechunk(Stream.range(0, messages - 1), 1), number => {
        produced++
        return patterned(number, MiB)
      })
      yield* Stream.run(source, link.sink(0))
      yield* Effect.promise(() => ended.promise)
      assert.strictEqual(read, messages)
      // Credit for 1 + 4 MiB, given in steps of 2; 1 MiB to be sent, and the one in the sink's hands; the one that is being read.
      assert.isAtMost(mostAhead, 8)
    }).pipe(Effect.scoped)
  )

  it.live("waits on an ordered channel until the network has taken what came before, and keeps the order", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const numbers: Array<number> = []
      const messages = 60
      yield* host.sllp.serve("ordered", link =>
        Stream.runForEach(Stream.take(link.messages(0), messages), received =>
          Effect.sync(() => void numbers.push(received.complete ? numberOf(received.bytes) : -1))
        )
      )
      const proxy = yield* lossyProxy({ bytesPerSecond: 2e6, delayMs: 5 })
      const queued = 4
      const link = yield* open("ordered", {
        channels: [{ mode: "ordered", sendQueueBytes: queued * 20_000, repairMs: 5_000, maxLagMs: 5_000 }],
        via: proxy.toward
      })
      let produced = 0
      let mostAhead = 0
      const source = Stream.map(Stream.rechunk(Stream.range(0, messages - 1), 1), number => {
        produced++
        return patterned(number, 20_000)
      })
      const counted = Stream.tap(source, () =>
        Effect.map(
          link.statistics,
          ({ sentMessages }) => void (mostAhead = Math.max(mostAhead, produced - sentMessages))
        )
      )
      yield* Stream.run(counted, link.sink(0))
      assert.deepInclude(yield* link.closed, { code: "normal", by: "peer" })
      assert.deepStrictEqual(numbers, [...Array(messages).keys()])
      assert.isAtMost(mostAhead, queued + 2)
    }).pipe(Effect.scoped)
  )

  it.live("never waits on `latest`: what is overtaken is dropped, and the newest arrives", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const messages = 500
      const numbers: Array<number> = []
      const done = Promise.withResolvers<void>()
      yield* host.sllp.serve("live", link =>
        Stream.runForEach(link.messages(0), received =>
          Effect.sync(() => {
            numbers.push(received.complete ? numberOf(received.bytes) : -1)
            if (numbers.at(-1) === messages - 1) done.resolve()
          })
        )
      )
      const proxy = yield* lossyProxy({ bytesPerSecond: 5e6, delayMs: 2 })
      const link = yield* open("live", { channels: [{ mode: "latest", repairMs: 60_000 }], via: proxy.toward })
      const source = Stream.map(Stream.rechunk(Stream.range(0, messages - 1), 1), number => patterned(number, 20_000))
      yield* Stream.run(source, link.sink(0))
      yield* Effect.promise(() => done.promise)
      assert.deepStrictEqual(
        numbers,
        numbers.toSorted((a, b) => a - b)
      )
      const { replacedMessages } = yield* link.statistics
      assert.isAbove(replacedMessages, messages / 2)
      assert.isBelow(numbers.length, messages / 2)
    }).pipe(Effect.scoped)
  )
})

describe("Notices", () => {
  it.live("tell of the first proof of the peer, of losses and of another address, and end with the association", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const noticed: Array<string> = []
      const lost = Promise.withResolvers<number>()
      const moved = Promise.withResolvers<string>()
      yield* host.sllp.serve("watched", link =>
        Effect.all(
          [
            Stream.runForEach(link.notices, notice =>
              Effect.sync(() => {
                noticed.push(notice.type)
                if (notice.type === "lost") lost.resolve(notice.count)
                if (notice.type === "path") moved.resolve(notice.address)
              })
            ),
            Stream.runDrain(link.messages(0))
          ],
          { concurrency: "unbounded" }
        )
      )
      const proxy = yield* lossyProxy({})
      const link = yield* open("watched", {
        channels: [{ mode: "ordered", maxLagMs: 20 }],
        datagramBytes: 1_400,
        via: proxy.toward
      })
      const sizes: Array<number> = []
      const shrunk = yield* Effect.forkChild(
        Stream.runForEach(link.notices, notice =>
          Effect.sync(() => {
            if (notice.type === "datagramSize") sizes.push(notice.bytes)
          })
        )
      )
      const sending = yield* Effect.forkChild(
        Effect.forever(Effect.andThen(link.send(0, patterned(1, 4_000)), Effect.sleep(2)))
      )
      proxy.line = { ...proxy.line, loss: 0.2 }
      assert.isAbove(yield* Effect.promise(() => lost.promise), 0)
      proxy.line = { ...proxy.line, loss: 0 }
      yield* Effect.promise(() => proxy.move())
      assert.match(yield* Effect.promise(() => moved.promise), /^127\.0\.0\.1:\d+$/)
      yield* Fiber.interrupt(sending)
      yield* link.close("normal", "seen enough")
      // Its stream ends with the association.
      yield* Fiber.join(shrunk)
      assert.strictEqual(noticed[0], "connected")
    }).pipe(Effect.scoped)
  )

  it.live("tell when datagrams of the agreed size have shown that they pass, and when they no longer do", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      yield* host.sllp.serve("echo", echo, { datagramBytes: "interface" })
      const proxy = yield* lossyProxy({})
      const link = yield* open("echo", { channels: [{ mode: "reliable" }], datagramBytes: 8_900, via: proxy.toward })
      const sizes = Stream.filter(link.notices, notice => notice.type === "datagramSize")
      const first = yield* Stream.runHead(sizes)
      assert.deepInclude(first, { value: { type: "datagramSize", bytes: 8_900 } })
      proxy.line = { ...proxy.line, mtuBytes: 1_300 }
      const fallen = yield* Effect.forkChild(Stream.runHead(sizes))
      yield* link.send(0, patterned(7, 200_000))
      const back = yield* link.receive(0)
      assert.strictEqual(back.complete && numberOf(back.bytes), 7)
      assert.deepInclude(yield* Fiber.join(fallen), { value: { type: "datagramSize", bytes: 1_200 } })
      assert.strictEqual(host.identity.peerId, alice.peerId)
    }).pipe(Effect.scoped)
  )
})
