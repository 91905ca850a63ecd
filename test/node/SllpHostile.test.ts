import { createSocket } from "node:dgram"
import { once } from "node:events"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Schema } from "effect"
import { adminKind } from "../../src/node/AdminChannel.ts"
import { SllpClose, SllpOpen } from "../../src/node/AdminKinds.ts"
import type { SllpLink } from "../../src/node/SllpLink.ts"
import { defaultSllpLimits, maxSllpAssociationsSession, SllpRoom, emptyRoom } from "../../src/node/SllpRoom.ts"
import { bareSession } from "../support/barePeer.ts"
import { addressOf, keptStore, loopback, pair, pairedWith, startNode, until } from "../support/nodes.ts"
import { echo, hostAndGuest, lossyProxy, observed } from "../support/sllpNodes.ts"
import { numberOf, patterned } from "../support/sllpPair.ts"
import { alice, bob } from "../support/vectors.ts"

/** A socket of someone who is no peer. */
const stranger = Effect.acquireRelease(
  Effect.promise(async () => {
    const socket = createSocket("udp4")
    socket.bind(0, "127.0.0.1")
    await once(socket, "listening")
    const heard: Array<Buffer> = []
    socket.on("message", datagram => heard.push(datagram))
    return { socket, heard }
  }),
  ({ socket }) => Effect.sync(() => socket.close())
)

const roundTrip = (link: SllpLink, number: number) =>
  Effect.gen(function* () {
    yield* link.send(0, patterned(number, 100))
    const back = yield* link.receive(0)
    assert.strictEqual(back.complete && numberOf(back.bytes), number)
  })

describe("Datagrams that nobody asked for", () => {
  it.live("meet silence and change nothing, whether their id is known or not", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      const served = yield* Deferred.make<SllpLink>()
      yield* host.sllp.serve("echo", link => Effect.andThen(Deferred.succeed(served, link), echo(link)))
      const { places, via } = observed()
      const proxy = yield* lossyProxy({})
      const seen: Array<Buffer> = []
      const link = yield* open("echo", { channels: [{ mode: "reliable" }], via: peer => proxy.toward(via(peer)) })
      proxy.onDatagram = datagram => void seen.push(datagram)
      yield* roundTrip(link, 1)
      const [target] = places
      const [real] = seen
      if (target === undefined || real === undefined) return assert.fail("nothing was sent")

      const { socket, heard } = yield* stranger
      const flipped = Buffer.from(real)
      flipped[real.length - 1] = (real[real.length - 1] ?? 0) ^ 1
      const ahead = Buffer.from(real)
      ahead.writeUInt32BE(0x7fff_ffff, 13)
      const attacks = [
        Buffer.alloc(0),
        Buffer.alloc(1),
        Buffer.alloc(9, 0x40),
        Buffer.alloc(1_200, 0x40),
        real.subarray(0, 20),
        // What an association has said before, from elsewhere.
        real,
        flipped,
        ahead
      ]
      for (const attack of attacks) socket.send(attack, target.port, target.host)
      const { statistics } = yield* Deferred.await(served)
      const refused = yield* until(() => {
        const { replayedDatagrams, forgedDatagrams, malformedDatagrams } = Effect.runSync(statistics)
        const found = [replayedDatagrams, forgedDatagrams, malformedDatagrams]
        return found.reduce((sum, count) => sum + count) < 4 ? undefined : found
      })
      // A number that was there is not even opened.
      assert.deepStrictEqual(refused, [2, 1, 1])
      yield* roundTrip(link, 2)
      assert.deepStrictEqual(heard, [])
    }).pipe(Effect.scoped)
  )
})

const channel = { mode: "latest", maxMessageBytes: 1_000 } as const
const cidOf = (number: number): Uint8Array => {
  const cid = new Uint8Array(8)
  new DataView(cid.buffer).setUint32(0, number)
  return cid
}
const asked = (number: number, change: Partial<typeof SllpOpen.body.Type> = {}) => ({
  name: "echo",
  cid: cidOf(number),
  port: 9,
  mtu: 1_200,
  channels: [channel],
  ...change
})

/** A host, and a paired peer that says what it likes on the administrative stream. */
const hostAndBarePeer = Effect.gen(function* () {
  const store = keptStore()
  const host = yield* startNode({ identity: alice, listen: loopback })
  yield* Effect.scoped(Effect.flatMap(startNode({ identity: bob }, store.layer), guest => pair(host, guest)))
  yield* host.sllp.serve("echo", echo, { maxMessageBytes: 64 * 2 ** 20 })
  const { admin, session } = yield* bareSession(addressOf(host), bob, pairedWith(store.state, bob, alice))
  const ask = (body: typeof SllpOpen.body.Type) => admin.request(SllpOpen, body, 5_000)
  const refusal = (body: typeof SllpOpen.body.Type) => Effect.map(Effect.flip(ask(body)), ({ message }) => message)
  return { host, admin, session, ask, refusal }
})

describe("SLLP_OPEN of a paired peer", () => {
  it.live("is refused in words beyond the limits, and the session goes on", () =>
    Effect.gen(function* () {
      const { ask, admin, refusal, session } = yield* hostAndBarePeer
      assert.match(yield* refusal(asked(1, { name: "nothing" })), /nobody serves the association "nothing" here/)
      const large = asked(2, { channels: [{ mode: "latest", maxMessageBytes: 64 * 2 ** 20 + 1 }] })
      assert.match(yield* refusal(large), /messages are limited to 67108864 bytes here/)
      const greedy = asked(3, {
        channels: Array.from({ length: 32 }, () => ({ mode: "reliable", maxMessageBytes: 64 * 2 ** 20 }) as const)
      })
      assert.match(yield* refusal(greedy), /its channels may need \d+ bytes, and of the 2147483648 for this peer 0 are/)

      const cids: Array<Uint8Array> = []
      for (let number = 10; number < 10 + defaultSllpLimits.maxAssociationsPeer; number++)
        cids.push((yield* ask(asked(number))).cid)
      assert.strictEqual(new Set(cids.map(cid => Buffer.from(cid).toString("hex"))).size, cids.length)
      assert.match(yield* refusal(asked(99)), /16 associations are open with this peer, and no more may be/)
      // One that is over makes room; its id is not used again.
      yield* admin.request(SllpClose, { cid: cids[0] ?? cidOf(0), code: 0, reason: "" }, 5_000)
      assert.match(yield* refusal(asked(10)), /this id was used before in this session/)
      yield* ask(asked(100))
      assert.isUndefined(session.ended)
    }).pipe(Effect.scoped)
  )

  it.live("is refused where it breaks its form", () =>
    Effect.gen(function* () {
      const { admin, session } = yield* hostAndBarePeer
      const Loose = adminKind(SllpOpen.kind, Schema.Record(Schema.String, Schema.Any), Schema.Unknown)
      const broken = [
        {},
        { ...asked(1), cid: new Uint8Array(7) },
        { ...asked(1), port: 0 },
        { ...asked(1), port: 65_536 },
        { ...asked(1), mtu: 1_199 },
        { ...asked(1), mtu: 65_508 },
        { ...asked(1), channels: [] },
        { ...asked(1), channels: Array.from({ length: 257 }, () => channel) },
        { ...asked(1), channels: [{ mode: "fast", maxMessageBytes: 1 }] },
        { ...asked(1), channels: [{ mode: "latest", maxMessageBytes: 0 }] },
        { ...asked(1), name: "n".repeat(65) }
      ]
      for (const body of broken) {
        const { message } = yield* Effect.flip(admin.request(Loose, body, 5_000))
        assert.match(message, /administrative message 7/, JSON.stringify(body))
      }
      assert.isUndefined(session.ended)
    }).pipe(Effect.scoped)
  )

  it.live("by a peer that the service does not allow is refused as if nobody served it", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      yield* host.sllp.serve("private", echo, { allow: peer => peer !== bob.peerId })
      const refused = yield* Effect.flip(open("private", { channels: [channel] }))
      assert.deepInclude(refused, { code: "REFUSED" })
      assert.include(refused.message, `nobody serves the association "private" here`)
    }).pipe(Effect.scoped)
  )

  it.live("is not sent at all where its own options cannot be", () =>
    Effect.gen(function* () {
      const { host, guest, open } = yield* hostAndGuest()
      yield* host.sllp.serve("echo", echo)
      yield* guest.sllp.serve("echo", echo)
      const elsewhere = { channels: [channel], via: () => ({ host: "localhost", port: 9 }) }
      const tries = [
        [open("echo", { channels: [] }), /1 to 256 channels/],
        [open("echo", { channels: [channel], idleMs: 0 }), /idleMs is more than 0/],
        [open("echo", elsewhere), /nothing can be sent to localhost:9 from here/],
        [host.sllp.open(bob.peerId, "echo", elsewhere), /`via` is for the side that has dialled/]
      ] as const
      for (const [opening, why] of tries) {
        const error = yield* Effect.flip(opening)
        assert.strictEqual(error.code, "LIMIT")
        assert.match(error.message, why)
      }
    }).pipe(Effect.scoped)
  )
})

describe("A session's room", () => {
  it("remembers a bounded number of ids, and says that a new session has room again", () => {
    const room = new SllpRoom(defaultSllpLimits)
    const session = emptyRoom()
    for (let number = 0; number < 2 * maxSllpAssociationsSession; number++) session.used.add(String(number))
    assert.match(String(room.take(session, [channel])), /a new session allows more/)
    const leave = room.take(emptyRoom(), [channel])
    if (typeof leave === "string") return assert.fail(leave)
    leave()
    leave()
    const full = new SllpRoom({ ...defaultSllpLimits, maxAssociations: 1 })
    assert.isFunction(full.take(emptyRoom(), [channel]))
    assert.match(String(full.take(emptyRoom(), [channel])), /1 associations are open here/)
  })
})

describe("One socket", () => {
  it.live("carries 1,000 associations, each its own messages, and is empty when they are over", () =>
    Effect.gen(function* () {
      const count = 1_000
      const { host, open } = yield* hostAndGuest({ sllp: { maxAssociationsPeer: count } })
      let serving = 0
      yield* host.sllp.serve("echo", link =>
        Effect.acquireUseRelease(
          Effect.sync(() => serving++),
          () => Effect.andThen(echo(link), link.closed),
          () => Effect.sync(() => serving--)
        )
      )
      const { places, via } = observed()
      const all = Effect.gen(function* () {
        const links: Array<SllpLink> = []
        for (let number = 0; number < count; number++) links.push(yield* open("echo", { channels: [channel], via }))
        assert.strictEqual(serving, count)
        const limit = yield* Effect.flip(open("echo", { channels: [channel] }))
        assert.match(limit.message, /1000 associations are open with this peer/)
        yield* Effect.forEach(links, (link, number) => roundTrip(link, number), { concurrency: "unbounded" })
      })
      yield* Effect.scoped(all)
      assert.strictEqual(new Set(places.map(({ port }) => port)).size, 1)
      yield* until(() => (serving === 0 ? true : undefined))
      yield* Effect.scoped(Effect.flatMap(open("echo", { channels: [channel] }), link => roundTrip(link, 1)))
    }).pipe(Effect.scoped)
  )
})
