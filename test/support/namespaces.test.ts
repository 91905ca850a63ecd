import { spawn } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readlinkSync } from "node:fs"
import { createInterface } from "node:readline"
import { assert, describe, it } from "vitest"
import { Lan, needNamespaces, onLan, type Machine } from "./namespaces.ts"

const listens = `
require("node:net").createServer(socket => socket.end()).listen(7000, "::", () => console.log("listening"))`
/** Prints "open", or the system's code, or "silence" after a second. */
const dials = (host: string): string => `
const socket = require("node:net").connect(7000, "${host}")
const end = text => { console.log(text); process.exit() }
socket.on("connect", () => end("open")).on("error", error => end(error.code))
setTimeout(() => end("silence"), 1000)`

const dial = async (from: Machine, host: string): Promise<string> =>
  (await from.run(process.execPath, "-e", dials(host))).trim()

const dialBoth = async (from: Machine, to: Machine): Promise<ReadonlyArray<string>> => [
  await dial(from, to.ipv4),
  await dial(from, to.ipv6)
]

/** Whether any process is still in the network namespace of this name (`net:[…]`). */
const isInUse = (namespace: string): boolean =>
  readdirSync("/proc")
    .filter(name => /^\d+$/.test(name))
    .some(pid => {
      try {
        return readlinkSync(`/proc/${pid}/ns/net`) === namespace
      } catch {
        // It has ended since.
        return false
      }
    })

const twice = (text: string): ReadonlyArray<string> => [text, text]

describe("machines of a test's own", () => {
  needNamespaces()

  it(
    "reach one another by IPv4 and IPv6, and nobody else",
    onLan(["a", "b", "c"], async lan => {
      const [a, b, c] = [lan.machine("a"), lan.machine("b"), lan.machine("c")]
      const server = a.spawn(process.execPath, ["-e", listens])
      await once(server.stdout, "data")
      assert.deepStrictEqual([await dialBoth(b, a), await dialBoth(c, a)], [twice("open"), twice("open")])
      assert.strictEqual(await dial(b, "192.0.2.1"), "ENETUNREACH")
      assert.strictEqual(await dial(b, "127.0.0.1"), "ECONNREFUSED")
      await lan.separate(a, b)
      assert.deepStrictEqual([await dialBoth(b, a), await dialBoth(c, a)], [twice("silence"), twice("open")])
      await lan.reunite(a, b)
      await lan.separate(a, b, "refused")
      assert.deepStrictEqual([await dialBoth(b, a), await dialBoth(c, a)], [twice("EHOSTUNREACH"), twice("open")])
      await lan.reunite(a, b)
      await a.link(false)
      assert.strictEqual(await dial(b, a.ipv4), "silence")
      await a.link(true)
      assert.deepStrictEqual(await dialBoth(b, a), twice("open"))
      server.kill()
      await once(server, "exit")
    })
  )

  it("end with what was left running on them, which is told", async () => {
    const lan = await Lan.open(["a"])
    const machine = lan.machine("a")
    const namespace = (await machine.run("readlink", "/proc/self/ns/net")).trim()
    assert.isTrue(isInUse(namespace))
    const server = machine.spawn(process.execPath, ["-e", listens])
    await once(server.stdout, "data")
    const closed = once(server, "close")
    const left = await lan.close()
    assert.lengthOf(left, 1)
    assert.match(left[0] ?? "", /^still running on a: .*listening/)
    await closed
    assert.isFalse(isInUse(namespace))
  })

  it("end with the process that made them, even where it is killed", async () => {
    const program = `
      import { Lan } from ${JSON.stringify(new URL("namespaces.ts", import.meta.url).href)}
      const machine = (await Lan.open(["a"])).machine("a")
      const namespace = await machine.run("readlink", "/proc/self/ns/net")
      machine.spawn(process.execPath, ["-e", ${JSON.stringify(listens)}]).stdout.on("data", () => console.log(namespace))
      setInterval(() => {}, 1e6)`
    const owner = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    const [namespace] = await once(createInterface(owner.stdout), "line")
    assert.isTrue(isInUse(namespace))
    owner.kill("SIGKILL")
    while (isInUse(namespace)) await new Promise(resolve => setImmediate(resolve))
  })
})
