import { connect, type Socket } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { maxUnverifiedSockets } from "../../src/protocol/constants.ts"
import { derivePairKeys } from "../../src/protocol/KeySchedule.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { Initiator } from "../../src/protocol/Initiator.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { defaultParameters } from "../../src/protocol/SessionParameters.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { alice, bob, pairKey } from "../support/vectors.ts"

/** Opens sockets on loopback that stay open until the scope ends. */
const sockets = (port: number, count: number) =>
  Effect.acquireRelease(
    Effect.promise(() =>
      Promise.all(
        Array.from(
          { length: count },
          () =>
            new Promise<Socket>((resolve, reject) => {
              const socket = connect({ host: "127.0.0.1", port }, () => {
                socket.removeAllListeners("error")
                socket.on("error", () => undefined)
                resolve(socket)
              })
              socket.on("error", reject)
            })
        )
      )
    ),
    opened => Effect.sync(() => opened.forEach(socket => socket.destroy()))
  )

/** §2.9: an honest dial takes no longer than this under attack. */
const honestDialMs = 2_000
const megabyte = 2 ** 20

const helloOfBob = (): Uint8Array =>
  new Initiator({
    identity: bob,
    crypto: nodeCrypto(),
    parameters: defaultParameters,
    unixSeconds: Math.floor(Date.now() / 1000),
    // Another pair key: a well-formed HELLO of a stranger.
    target: { mode: modes.paired, keys: derivePairKeys(pairKey, bob.id, alice.id), peer: alice }
  }).hello()

describe("a host under attack (§7, handshake 16)", () => {
  it.live.each([
    { what: "1,000 callers who say nothing", say: (_socket: Socket, _index: number) => undefined },
    {
      what: "1,000 callers who write one byte of a HELLO and wait",
      say: (socket: Socket) => void socket.write(Uint8Array.of(1))
    },
    {
      what: "1,000 callers who begin a HELLO of a stranger and never end it",
      say: (socket: Socket) => void socket.write(helloOfBob().subarray(0, 100))
    },
    {
      what: "1,000 callers with a whole HELLO of a stranger",
      say: (socket: Socket) => void socket.write(helloOfBob())
    }
  ])("still answers an honest caller in time, within bounded memory: $what", ({ say }) =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const guest = yield* startNode({ identity: bob })
      const { token } = yield* host.invite({ name: "flood" })
      const port = host.address?.port ?? 0
      const before = process.memoryUsage()
      const crowd = yield* sockets(port, 1_000)
      crowd.forEach(say)
      const startedAt = performance.now()
      const session = yield* guest.join(token)
      const tookMs = performance.now() - startedAt
      const after = process.memoryUsage()
      assert.strictEqual(session.peer.peerId, alice.peerId)
      assert.isBelow(tookMs, honestDialMs)
      // Both ends of 1,000 sockets live in this process: about 20 KiB a socket is Node's own.
      const grown = after.heapUsed + after.external - before.heapUsed - before.external
      assert.isBelow(grown, 64 * megabyte)
    }).pipe(Effect.scoped)
  )

  it.live("gives up the oldest silent caller when there is no room for one more", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const port = host.address?.port ?? 0
      const [first] = yield* sockets(port, 1)
      if (first === undefined) return yield* Effect.die("no socket")
      const closed = Effect.promise(() => new Promise<void>(resolve => first.once("close", () => resolve())))
      first.resume()
      yield* Effect.all([sockets(port, maxUnverifiedSockets), closed], { concurrency: "unbounded" })
      assert.isTrue(first.destroyed)
    }).pipe(Effect.scoped)
  )

  it.live("lets a caller go who has not finished his HELLO in three seconds, without a byte", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const [slow] = yield* sockets(host.address?.port ?? 0, 1)
      if (slow === undefined) return yield* Effect.die("no socket")
      let received = 0
      slow.on("data", chunk => (received += chunk.length))
      slow.write(Uint8Array.of(1, 0, 0))
      yield* Effect.promise(() => new Promise<void>(resolve => slow.once("close", () => resolve())))
      assert.strictEqual(received, 0)
    }).pipe(Effect.scoped)
  )
})
