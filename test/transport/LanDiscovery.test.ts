import type { ChildProcessWithoutNullStreams } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { encodeBeacon } from "../../src/protocol/Beacon.ts"
import { fromHex } from "../../src/protocol/Bytes.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { beaconPort, maxBeaconsPerSecond } from "../../src/protocol/constants.ts"
import { broadcastOf, lanDiscovery } from "../../src/transport/LanDiscovery.ts"
import { needNamespaces, onLan, type Machine } from "../support/namespaces.ts"

const key = "5a".repeat(32)
const program = fileURLToPath(new URL("fixtures/discovery.ts", import.meta.url))

class Listener {
  readonly hints: Array<string> = []
  readonly child: ChildProcessWithoutNullStreams
  readonly ready: Promise<unknown>
  #look: () => void = () => undefined

  constructor(machine: Machine, ...args: ReadonlyArray<string>) {
    this.child = machine.spawn(process.execPath, [program, ...args])
    this.child.stderr.pipe(process.stderr)
    const lines = createInterface(this.child.stdout)
    this.ready = once(lines, "line").then(() =>
      lines.on("line", line => {
        this.hints.push(line)
        this.#look()
      })
    )
  }

  /** Waits for so many hints. */
  async heard(count: number): Promise<ReadonlyArray<string>> {
    while (this.hints.length < count) await new Promise<void>(resolve => (this.#look = resolve))
    return this.hints
  }

  async end(): Promise<void> {
    const exited = once(this.child, "exit")
    this.child.kill("SIGTERM")
    await exited
  }
}

const end = (...listeners: ReadonlyArray<Listener>) => Promise.all(listeners.map(each => each.end()))

/** Sends datagrams to the whole network, once each, and waits until they have left. */
const sends = (datagrams: ReadonlyArray<Uint8Array>): string => `
const socket = require("node:dgram").createSocket("udp4")
socket.bind(0, async () => {
  socket.setBroadcast(true)
  for (const text of ${JSON.stringify(datagrams.map(each => Buffer.from(each).toString("hex")))})
    await new Promise(resolve => socket.send(Buffer.from(text, "hex"), ${beaconPort}, "192.168.1.255", resolve))
  socket.close()
})`

describe("Discovery on the local network (§2.8)", () => {
  needNamespaces()

  it(
    "tells hosts that share the key where each other can be dialled, hosts with another key nothing",
    onLan(["a", "b", "c"], async lan => {
      const [a, b, c] = [lan.machine("a"), lan.machine("b"), lan.machine("c")]
      const quiet = new Listener(c, key)
      const strange = new Listener(c, "5b".repeat(32), "7999")
      await Promise.all([quiet.ready, strange.ready])
      const [one, other] = [new Listener(a, key, "7000"), new Listener(b, key, "7001")]
      await Promise.all([one.ready, other.ready])
      // Two processes of one machine hear the same.
      assert.sameMembers([...(await quiet.heard(2))], [`${a.ipv4}:7000`, `${b.ipv4}:7001`])
      // Who listens nowhere says nothing, and nobody hears himself; what was said before one was there is said again.
      assert.deepStrictEqual(await one.heard(1), [`${b.ipv4}:7001`])
      assert.deepStrictEqual(await other.heard(1), [`${a.ipv4}:7000`])
      assert.deepStrictEqual(strange.hints, [])
      await end(one, other, quiet, strange)
    })
  )

  it(
    "follows ten hints a second, whatever is sent, and is not disturbed by what is no beacon",
    onLan(["a", "b"], async lan => {
      const [a, b] = [lan.machine("a"), lan.machine("b")]
      const listener = new Listener(a, key)
      await listener.ready
      const seconds = Date.now() / 1000
      const beacons = Array.from({ length: 3 * maxBeaconsPerSecond }, (_, index) =>
        encodeBeacon(fromHex(key), { nonce: nodeCrypto().randomBytes(16), port: 1 + index }, seconds)
      )
      const noise = [new Uint8Array(0), new Uint8Array(39), new Uint8Array(1_400).fill(65)]
      await b.run(process.execPath, "-e", sends([...noise, ...beacons, ...noise]))
      const expected = Array.from({ length: maxBeaconsPerSecond }, (_, index) => `${b.ipv4}:${1 + index}`)
      assert.deepStrictEqual(await listener.heard(maxBeaconsPerSecond), expected)
      // After what came before it, so that it shows what that was.
      const [last = new Uint8Array(0)] = [encodeBeacon(fromHex(key), { nonce: new Uint8Array(16), port: 999 }, seconds)]
      while (!listener.hints.includes(`${b.ipv4}:999`)) {
        await b.run(process.execPath, "-e", sends([last]))
        if (!listener.hints.includes(`${b.ipv4}:999`)) await new Promise(resolve => setImmediate(resolve))
      }
      assert.isBelow(listener.hints.length, beacons.length)
      await end(listener)
    })
  )

  it(
    "does not offer an address where this host does not listen",
    onLan(["a", "b"], async lan => {
      const [a, b] = [lan.machine("a"), lan.machine("b")]
      const hears = new Listener(b, key)
      await hears.ready
      const inside = new Listener(a, key, "7000", "127.0.0.1")
      await inside.ready
      const outside = new Listener(a, key, "7001", a.ipv4)
      await outside.ready
      assert.deepStrictEqual(await hears.heard(1), [`${a.ipv4}:7001`])
      await end(hears, inside, outside)
    })
  )
})

describe("A network's broadcast address", () => {
  it.each([
    ["192.168.1.10", "255.255.255.0", "192.168.1.255"],
    ["10.1.2.3", "255.0.0.0", "10.255.255.255"],
    ["172.16.5.130", "255.255.255.128", "172.16.5.255"],
    ["192.0.2.7", "255.255.255.255", "192.0.2.7"]
  ])("of %s in %s is %s", (address, netmask, expected) => {
    assert.strictEqual(broadcastOf(address, netmask), expected)
  })
})

describe("A UDP port that is taken by a program that does not share", () => {
  it.live("is an error at once, which names it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { createSocket } = yield* Effect.promise(() => import("node:dgram"))
        const socket = createSocket("udp4")
        yield* Effect.acquireRelease(
          Effect.promise(() => once(socket.bind(0), "listening")),
          () => Effect.sync(() => socket.close())
        )
        const { port } = socket.address()
        const discovery = lanDiscovery({
          key: fromHex(key),
          randomBytes: nodeCrypto().randomBytes,
          listening: () => undefined,
          onHint: () => undefined,
          port
        })
        const error = yield* Effect.flip(discovery)
        assert.match(error.message, new RegExp(`cannot listen 0\\.0\\.0\\.0:${port} \\(UDP\\): EADDRINUSE`))
      })
    )
  )
})
