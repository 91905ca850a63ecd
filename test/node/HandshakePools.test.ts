import { assert, describe, it } from "@effect/vitest"
import { HandshakePools } from "../../src/node/HandshakePools.ts"
import { maxHandshakeSlots, maxHandshakeSlotsPerPeer, maxUnverifiedSockets } from "../../src/protocol/constants.ts"
import type { Connection } from "../../src/transport/Network.ts"

/** A connection of which only its address and its end matter. */
const connectionFrom = (host: string): Connection & { destroyed: boolean } => {
  const connection = {
    destroyed: false,
    remote: { host, port: 1 },
    handle: () => {},
    write: () => {},
    buffered: () => 0,
    pause: () => {},
    resume: () => {},
    end: () => {},
    destroy: () => void (connection.destroyed = true)
  }
  return connection
}

const filled = (pools: HandshakePools, host: string, count: number) =>
  Array.from({ length: count }, () => {
    const connection = connectionFrom(host)
    pools.addSocket(connection)
    return connection
  })

describe("The pool of sockets that have proved nothing", () => {
  it("makes room, when it is full, by ending the oldest of the address that holds most", () => {
    const pools = new HandshakePools()
    const flood = filled(pools, "192.0.2.1", maxUnverifiedSockets - 2)
    const honest = filled(pools, "198.51.100.1", 2)
    assert.strictEqual(pools.sockets, maxUnverifiedSockets)
    const newcomer = connectionFrom("203.0.113.1")
    pools.addSocket(newcomer)
    assert.strictEqual(pools.sockets, maxUnverifiedSockets)
    assert.deepStrictEqual(flood.map(({ destroyed }) => destroyed).indexOf(false), 1)
    assert.isFalse([...honest, newcomer].some(({ destroyed }) => destroyed))
    filled(pools, "192.0.2.1", 10)
    assert.strictEqual(flood.filter(({ destroyed }) => destroyed).length, 11)
    assert.isFalse([...honest, newcomer].some(({ destroyed }) => destroyed))
  })

  it("counts a socket once, however often it is removed", () => {
    const pools = new HandshakePools()
    const [first, second] = filled(pools, "192.0.2.1", 2)
    if (first === undefined || second === undefined) return assert.fail()
    pools.removeSocket(first)
    pools.removeSocket(first)
    assert.strictEqual(pools.sockets, 1)
    pools.removeSocket(second)
    pools.removeSocket(connectionFrom("192.0.2.1"))
    assert.strictEqual(pools.sockets, 0)
  })
})

describe("The pool of handshakes under way", () => {
  it("gives one entry no more than its share", () => {
    const pools = new HandshakePools()
    const taken = Array.from({ length: maxHandshakeSlotsPerPeer + 1 }, () => pools.takeSlot("bob"))
    assert.deepStrictEqual(
      taken,
      Array.from({ length: maxHandshakeSlotsPerPeer + 1 }, (_, index) => index < maxHandshakeSlotsPerPeer)
    )
    assert.isTrue(pools.takeSlot("carol"))
    pools.freeSlot("bob")
    assert.isTrue(pools.takeSlot("bob"))
    assert.isFalse(pools.takeSlot("bob"))
  })

  it("gives all entries together no more than there are, and gets them back", () => {
    const pools = new HandshakePools()
    for (let index = 0; index < maxHandshakeSlots; index++) assert.isTrue(pools.takeSlot(`peer-${index}`))
    assert.isFalse(pools.takeSlot("one more"))
    assert.strictEqual(pools.slots, maxHandshakeSlots)
    for (let index = 0; index < maxHandshakeSlots; index++) pools.freeSlot(`peer-${index}`)
    pools.freeSlot("nobody")
    assert.strictEqual(pools.slots, 0)
  })
})

describe("A host is under load", () => {
  it("when more than half of either pool is used, and then no longer", () => {
    const sockets = new HandshakePools()
    const half = filled(sockets, "192.0.2.1", maxUnverifiedSockets / 2)
    assert.isFalse(sockets.underLoad)
    filled(sockets, "192.0.2.2", 1)
    assert.isTrue(sockets.underLoad)
    for (const connection of half) sockets.removeSocket(connection)
    assert.isFalse(sockets.underLoad)

    const slots = new HandshakePools()
    for (let index = 0; index <= maxHandshakeSlots / 2; index++) {
      assert.isFalse(slots.underLoad)
      slots.takeSlot(`peer-${index}`)
    }
    assert.isTrue(slots.underLoad)
  })
})
