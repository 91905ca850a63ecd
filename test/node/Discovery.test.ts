import { createSocket } from "node:dgram"
import { once } from "node:events"
import { createServer } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Scope } from "effect"
import { encodeBeacon } from "../../src/protocol/Beacon.ts"
import { fromHex } from "../../src/protocol/Bytes.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { formatAddress, parseAddress } from "../../src/transport/Network.ts"
import { addressOf, keptStore, loopback, pair, startNode, until } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const key = fromHex("3c".repeat(32))

/** A UDP port that was just given back. */
const freePort = Effect.promise(async () => {
  const socket = createSocket("udp4")
  await once(socket.bind(0, "127.0.0.1"), "listening")
  const { port } = socket.address()
  await new Promise<void>(resolve => socket.close(resolve))
  return port
})

/** Says on loopback, as a broadcast would on a network, that somebody can be dialled at a TCP port. */
const says = (port: number, address: string, by = key) =>
  Effect.promise(async () => {
    const socket = createSocket("udp4")
    const beacon = { nonce: nodeCrypto().randomBytes(16), port: Number(address.split(":")[1]) }
    const datagram = encodeBeacon(by, beacon, Date.now() / 1000)
    await new Promise(resolve => socket.send(datagram, port, "127.0.0.1", resolve))
    await new Promise<void>(resolve => socket.close(resolve))
  })

/** Somebody who listens and says nothing: what he is sent, and the end of each connection. */
const recorder = Effect.gen(function* () {
  const received = yield* Deferred.make<Buffer>()
  const server = createServer(socket =>
    socket
      .on("error", () => undefined)
      .once("data", chunk => {
        Deferred.doneUnsafe(received, Effect.succeed(chunk))
        socket.destroy()
      })
  )
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server.listen(0, "127.0.0.1"), "listening")),
    () => Effect.sync(() => server.close())
  )
  const bound = server.address()
  return { address: `127.0.0.1:${typeof bound === "object" ? bound?.port : 0}`, received }
})

/** Bob, who is paired with a host of Alice's that has moved to another port since. */
const moved = Effect.gen(function* () {
  const port = yield* freePort
  const [hostStore, guestStore] = [keptStore(), keptStore()]
  const before = yield* Scope.make()
  const host = yield* Scope.provide(startNode({ identity: alice, listen: loopback }, hostStore.layer), before)
  yield* pair(host, yield* Scope.provide(startNode({ identity: bob }, guestStore.layer), before))
  yield* Scope.close(before, Exit.void)
  const guest = yield* startNode({ identity: bob, discovery: { key, port } }, guestStore.layer)
  return { port, guest, hostStore, old: addressOf(host) }
})

describe("A hint from the local network", () => {
  it.live("leads to a paired peer whose address has changed", () =>
    Effect.gen(function* () {
      const { port, guest, hostStore, old } = yield* moved
      const unreachable = yield* Effect.flip(guest.connect(alice.peerId))
      assert.strictEqual(unreachable.code, "UNREACHABLE")
      const host = yield* startNode({ identity: alice, listen: loopback }, hostStore.layer)
      assert.notStrictEqual(addressOf(host), old)
      yield* says(port, addressOf(host))
      yield* until(() => guest.session(alice.peerId))
      const session = yield* guest.connect(alice.peerId)
      assert.strictEqual(session.peer.peerId, alice.peerId)
      yield* session.close()
      yield* until(() => (guest.session(alice.peerId) === undefined ? true : undefined))
      // It is remembered.
      yield* guest.connect(alice.peerId)
    })
  )

  it.live("to a stranger shows him nobody's id, and says nothing of the peer that he is not", () =>
    Effect.gen(function* () {
      const { port, guest, hostStore } = yield* moved
      const stranger = yield* recorder
      yield* says(port, stranger.address)
      const hello = yield* Deferred.await(stranger.received)
      for (const { id } of [alice, bob]) assert.strictEqual(hello.indexOf(Buffer.from(id)), -1)
      // One that speaks our protocol and does not know us is no different.
      const other = yield* startNode({ identity: mallory, listen: loopback })
      yield* says(port, addressOf(other))
      const host = yield* startNode({ identity: alice, listen: loopback }, hostStore.layer)
      yield* says(port, addressOf(host))
      yield* until(() => guest.session(alice.peerId))
      assert.deepStrictEqual(guest.dialFailures(alice.peerId), [])
    })
  )

  it.live("of somebody without the key is not followed", () =>
    Effect.gen(function* () {
      const { port, guest, hostStore } = yield* moved
      const stranger = yield* recorder
      yield* says(port, stranger.address, fromHex("3d".repeat(32)))
      const host = yield* startNode({ identity: alice, listen: loopback }, hostStore.layer)
      yield* says(port, addressOf(host))
      yield* until(() => guest.session(alice.peerId))
      assert.isUndefined(stranger.received.effect)
    })
  )

  it.live("does not make callers fail or wait who know better where the peer is", () =>
    Effect.gen(function* () {
      const { port, guest, hostStore, old } = yield* moved
      const stranger = yield* recorder
      yield* says(port, stranger.address)
      yield* Deferred.await(stranger.received)
      // At its old address, after all.
      const listen = parseAddress(old) ?? assert.fail(old)
      yield* startNode({ identity: alice, listen }, hostStore.layer)
      const session = yield* guest.reach(alice.peerId)
      assert.strictEqual(formatAddress(session.remote), old)
    })
  )
})
