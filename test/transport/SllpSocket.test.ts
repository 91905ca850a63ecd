import { createSocket } from "node:dgram"
import { once } from "node:events"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { formatAddress, parseAddress } from "../../src/transport/Network.ts"
import { openSllpSocket, sllpNowMs, type DatagramEndpoint, type SllpSocket } from "../../src/transport/SllpSocket.ts"
import { until } from "../support/nodes.ts"

const loopback = { host: "127.0.0.1", port: 0 }

/** An endpoint that notes what the socket does with it. */
class Noted implements DatagramEndpoint {
  state: DatagramEndpoint["state"] = "open"
  nextTimeoutMs = Infinity
  polls = 0
  readonly received: Array<{ readonly text: string; readonly from: string }> = []
  outgoing: Array<{ readonly to: string; readonly bytes: Uint8Array }> = []

  receive(datagram: Uint8Array, _nowMs: number, from: string): void {
    this.received.push({ text: Buffer.from(datagram.subarray(9)).toString(), from })
  }

  poll(): ReadonlyArray<{ readonly to: string; readonly bytes: Uint8Array }> {
    this.polls++
    const out = this.outgoing
    this.outgoing = []
    return out
  }
}

const cid = (number: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32BE(number, 2)
  return bytes
}

const datagram = (number: number, text: string): Buffer =>
  Buffer.concat([Buffer.of(0x40), cid(number), Buffer.from(text)])
const nothing = () => undefined

const stranger = Effect.acquireRelease(
  Effect.promise(async () => {
    const socket = createSocket("udp4").bind(0, "127.0.0.1")
    await once(socket, "listening")
    return socket
  }),
  socket => Effect.sync(() => socket.close())
)

const addressOf = (socket: SllpSocket): string => formatAddress(socket.address)

describe("An SLLP socket", () => {
  it.live("gives each datagram to the association of its id, with where it came from, and to no other", () =>
    Effect.gen(function* () {
      const socket = yield* openSllpSocket(loopback)
      const ends = [new Noted(), new Noted()]
      for (const [number, end] of ends.entries()) socket.add(cid(number), end, nothing)
      const other = yield* stranger
      const say = (bytes: Buffer) => other.send(bytes, socket.address.port, socket.address.host)
      for (const bytes of [
        Buffer.alloc(0),
        Buffer.alloc(8),
        datagram(7, "nobody's"),
        datagram(0, "a"),
        datagram(1, "b")
      ])
        say(bytes)
      for (const text of ["c", "d"]) say(datagram(0, text))
      yield* until(() => ((ends[0]?.received.length ?? 0) === 3 && ends[1]?.received.length === 1 ? true : undefined))
      const from = `127.0.0.1:${other.address().port}`
      assert.deepStrictEqual(
        ends[0]?.received,
        ["a", "c", "d"].map(text => ({ text, from }))
      )
      assert.deepStrictEqual(ends[1]?.received, [{ text: "b", from }])
    }).pipe(Effect.scoped)
  )

  it.live("does not take one id twice, and forgets an association that is over", () =>
    Effect.gen(function* () {
      const socket = yield* openSllpSocket(loopback)
      const end = new Noted()
      const port = socket.add(cid(1), end, nothing)
      assert.throws(() => socket.add(cid(1), new Noted(), nothing), /is there/)
      end.state = "closed"
      port.touch()
      yield* until(() => (socket.size === 0 ? true : undefined))
      const again = socket.add(cid(1), new Noted(), nothing)
      // The first one's place is not the second one's.
      port.remove()
      assert.strictEqual(socket.size, 1)
      again.remove()
      assert.strictEqual(socket.size, 0)
    }).pipe(Effect.scoped)
  )

  it.live("asks an association when its time has come, says so after the poll, and leaves those alone that wait", () =>
    Effect.gen(function* () {
      const socket = yield* openSllpSocket(loopback)
      const ends = Array.from({ length: 1_000 }, () => new Noted())
      const told: Array<number> = []
      for (const [number, end] of ends.entries()) socket.add(cid(number), end, () => void told.push(number))
      yield* until(() => (ends.every(({ polls }) => polls === 1) ? true : undefined))
      told.length = 0
      const due = new Noted()
      due.nextTimeoutMs = sllpNowMs() + 30
      let pollsWhenTold = -1
      socket.add(cid(5_000), due, () => {
        pollsWhenTold = due.polls
        if (due.polls === 2) due.nextTimeoutMs = Infinity
      })
      yield* until(() => (pollsWhenTold === 2 && due.nextTimeoutMs === Infinity ? true : undefined))
      assert.deepStrictEqual(told, [])
      assert.isTrue(ends.every(({ polls }) => polls === 1))
    }).pipe(Effect.scoped)
  )

  it.live("has no timer while nobody waits for anything", () =>
    Effect.gen(function* () {
      const timers = () => process.getActiveResourcesInfo().filter(kind => kind === "Timeout").length
      const before = timers()
      const socket = yield* openSllpSocket(loopback)
      const end = new Noted()
      socket.add(cid(1), end, nothing)
      yield* until(() => (end.polls === 1 ? true : undefined))
      assert.strictEqual(timers(), before)
    }).pipe(Effect.scoped)
  )

  it.live("lets each take its turn when one has always more to say", () =>
    Effect.gen(function* () {
      const socket = yield* openSllpSocket(loopback)
      const busy = new Noted()
      busy.nextTimeoutMs = -Infinity
      const quiet = new Noted()
      socket.add(cid(1), busy, nothing)
      const port = socket.add(cid(2), quiet, nothing)
      yield* until(() => (busy.polls > 100 ? true : undefined))
      const [polls, at] = [quiet.polls, busy.polls]
      port.touch()
      yield* until(() => (quiet.polls > polls ? true : undefined))
      assert.isBelow(busy.polls - at, 100)
    }).pipe(Effect.scoped)
  )

  it.live("sends to where it is told, and survives what cannot be sent", () =>
    Effect.gen(function* () {
      const socket = yield* openSllpSocket(loopback)
      const other = yield* stranger
      const heard: Array<string> = []
      other.on("message", bytes => heard.push(bytes.toString()))
      const end = new Noted()
      const to = `127.0.0.1:${other.address().port}`
      const send = (where: string, length: number) => ({ to: where, bytes: Buffer.alloc(length, "x") })
      end.outgoing = [send("no address", 1), send("[::1]:9", 1), send("192.0.2.1:9", 1), send(to, 70_000), send(to, 3)]
      socket.add(cid(1), end, nothing)
      yield* until(() => (heard.length > 0 ? true : undefined))
      assert.deepStrictEqual(heard, ["xxx"])
      assert.notStrictEqual(addressOf(socket), to)
    }).pipe(Effect.scoped)
  )

  it.live("sends what an association says at its end before it closes", () =>
    Effect.gen(function* () {
      const other = yield* stranger
      const heard = once(other, "message")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const socket = yield* openSllpSocket(loopback)
          const end = new Noted()
          const port = socket.add(cid(1), end, nothing)
          yield* until(() => (end.polls === 1 ? true : undefined))
          end.outgoing = [{ to: `127.0.0.1:${other.address().port}`, bytes: Buffer.from("goodbye") }]
          port.touch()
        })
      )
      assert.strictEqual(String((yield* Effect.promise(() => heard))[0]), "goodbye")
    }).pipe(Effect.scoped)
  )

  it.live("fails with the system's reason where an address cannot be bound", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(openSllpSocket({ host: "192.0.2.1", port: 0 }))
      assert.deepInclude(error, { operation: "listen", code: "EADDRNOTAVAIL", address: "192.0.2.1:0 (UDP)" })
    }).pipe(Effect.scoped)
  )

  it("reads the address of a host on its link", () => {
    assert.deepStrictEqual(parseAddress("[fe80::1%eth0]:5"), { host: "fe80::1%eth0", port: 5 })
    assert.isUndefined(parseAddress("[fe80::1%]:5"))
  })
})
