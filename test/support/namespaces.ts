import { type ChildProcessWithoutNullStreams, execFile, spawn, spawnSync, type SpawnOptions } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { assert, beforeEach } from "@effect/vitest"

/**
 * Machines of a test's own: network namespaces on a bridge, each with its addresses and nothing beyond them. They have no names and live in
 * processes that end when this one does, however it does, and then the kernel removes them; the host's own network is never touched.
 */

const tools = ["ip", "tc", "unshare", "nsenter"]

const missingHere = (): string | undefined => {
  if (process.platform !== "linux") return "network namespaces need Linux"
  if (process.getuid?.() !== 0) return "network namespaces need root"
  const absent = tools.filter(tool => spawnSync("which", [tool]).status !== 0)
  if (absent.length > 0) return `network namespaces need the commands ${absent.join(", ")}`
  const tried = spawnSync("unshare", ["--net", "ip", "link", "add", "name", "lan", "type", "bridge"], {
    encoding: "utf8"
  })
  return tried.status === 0 ? undefined : `this system makes no network namespace or no bridge: ${tried.stderr.trim()}`
}

let missing: { readonly reason: string | undefined } | undefined

/** Why this system cannot make network namespaces; undefined where it can. */
export const whyNoNamespaces = (): string | undefined => (missing ??= { reason: missingHere() }).reason

/** Skips the tests of this file with the reason where namespaces cannot be made, or fails them under ARTIFICE_REQUIRE_ALL. */
export const needNamespaces = (): void =>
  beforeEach(context => {
    const reason = whyNoNamespaces()
    if (reason === undefined) return
    if (process.env["ARTIFICE_REQUIRE_ALL"] === "1") throw new Error(reason)
    context.skip(reason)
  })

/** Waits for the end of its standard input, then ends what still runs in its namespace and tells of it, one line each. */
const holder = `
trap '' INT TERM HUP
echo ready
read -r _
mine=$(readlink /proc/self/ns/net)
for process in /proc/[0-9]*; do
  pid=\${process#/proc/}
  if [ "$pid" != $$ ] && [ "$(readlink "$process/ns/net" 2>/dev/null)" = "$mine" ]; then
    line=$(tr '\\0\\n' '  ' <"$process/cmdline" 2>/dev/null)
    kill -KILL "$pid" 2>/dev/null && echo "$line"
  fi
done
`

/** A network namespace without a name: it exists as long as a process in it does. */
class Namespace {
  readonly pid: number
  readonly #holder: ChildProcessWithoutNullStreams
  readonly #left: Array<string> = []

  private constructor(holder: ChildProcessWithoutNullStreams, pid: number) {
    this.#holder = holder
    this.pid = pid
  }

  static async open(): Promise<Namespace> {
    const child = spawn("unshare", ["--net", "sh", "-c", holder])
    const failed = once(child, "exit").then(([code]) => {
      throw new Error(`a namespace could not be made: exit code ${code}`)
    })
    const lines = createInterface(child.stdout)
    await Promise.race([once(lines, "line"), failed])
    failed.catch(() => undefined)
    const namespace = new Namespace(child, child.pid ?? 0)
    lines.on("line", line => namespace.#left.push(line))
    return namespace
  }

  /** What comes before a command that is to run in here. */
  get enter(): readonly [string, ...ReadonlyArray<string>] {
    return ["nsenter", `--net=/proc/${this.pid}/ns/net`, "--"]
  }

  /** Runs `ip`, `tc` or the like in here; rejects with what it says where it fails. */
  run(command: string, ...args: ReadonlyArray<string>): Promise<string> {
    const [nsenter, ...rest] = [...this.enter, command, ...args]
    return new Promise((resolve, reject) =>
      execFile(nsenter ?? "", rest, (error, stdout, stderr) =>
        error === null
          ? resolve(stdout)
          : reject(new Error(`${[command, ...args].join(" ")}: ${stderr.trim() || error.message}`, { cause: error }))
      )
    )
  }

  /** Ends everything in here; the command lines of what was still running. */
  async close(): Promise<ReadonlyArray<string>> {
    if (this.#holder.exitCode === null && this.#holder.signalCode === null) {
      const closed = once(this.#holder, "close")
      this.#holder.stdin.end()
      await closed
    }
    return this.#left
  }
}

const device = "eth0"
/** A hardware address that no machine has: what is sent to it arrives nowhere, as behind a firewall that drops. */
const nobody = "02:00:00:00:00:01"

/** `silent`: what is sent gets lost, and a dial takes its whole time. `refused`: the system says at once that there is no way. */
export type Separation = "silent" | "refused"

/** A machine of the test: its own addresses, its own loopback. */
export class Machine {
  readonly name: string
  /** In 192.168.1.0/24. */
  readonly ipv4: string
  /** In fd00:1::/64. */
  readonly ipv6: string
  readonly #namespace: Namespace

  constructor(name: string, ipv4: string, ipv6: string, namespace: Namespace) {
    this.name = name
    this.ipv4 = ipv4
    this.ipv6 = ipv6
    this.#namespace = namespace
  }

  /** What comes before a command that is to run on this machine: `spawn(enter[0], [...enter.slice(1), command, ...args])`. */
  get enter(): readonly [string, ...ReadonlyArray<string>] {
    return this.#namespace.enter
  }

  /** Starts a command on this machine; its pid and signals are those of the command. What still runs when the test ends is killed and reported. */
  spawn(command: string, args: ReadonlyArray<string>, options: SpawnOptions = {}): ChildProcessWithoutNullStreams {
    const [nsenter, ...rest] = this.enter
    return spawn(nsenter, [...rest, command, ...args], { ...options, stdio: "pipe" })
  }

  /** Runs a command on this machine to its end and gives what it prints; rejects with what it says where it fails. */
  run(command: string, ...args: ReadonlyArray<string>): Promise<string> {
    return this.#namespace.run(command, ...args)
  }

  /** Takes the cable out (`false`) or puts it back in. */
  async link(connected: boolean): Promise<void> {
    await this.run("ip", "link", "set", device, connected ? "up" : "down")
    // Taking a device down takes its IPv6 address away.
    if (connected) await this.run("ip", "addr", "replace", `${this.ipv6}/64`, "dev", device, "nodad")
  }

  /** Limits what this machine sends, in bits a second. */
  async limit(bitsPerSecond: number): Promise<void> {
    const burstBytes = Math.max(16_384, Math.ceil(bitsPerSecond / 8 / 100))
    const shape = ["rate", `${bitsPerSecond}bit`, "burst", `${burstBytes}b`, "latency", "100ms"]
    await this.run("tc", "qdisc", "replace", "dev", device, "root", "tbf", ...shape)
  }

  /** From now on nothing of this machine reaches the other. */
  async loses(other: Machine, how: Separation): Promise<void> {
    for (const [family, address, bits] of [
      ["-4", other.ipv4, 32],
      ["-6", other.ipv6, 128]
    ] as const) {
      if (how === "refused") await this.run("ip", family, "route", "replace", "unreachable", `${address}/${bits}`)
      else
        await this.run("ip", family, "neigh", "replace", address, "lladdr", nobody, "dev", device, "nud", "permanent")
    }
  }

  /** Undoes `loses`. */
  async finds(other: Machine): Promise<void> {
    for (const [family, address, bits] of [
      ["-4", other.ipv4, 32],
      ["-6", other.ipv6, 128]
    ] as const) {
      await this.run("ip", family, "route", "del", "unreachable", `${address}/${bits}`).catch(() => undefined)
      await this.run("ip", family, "neigh", "del", address, "dev", device).catch(() => undefined)
    }
  }

  close(): Promise<ReadonlyArray<string>> {
    return this.#namespace.close()
  }
}

/** The last byte of the first machine's address; the next ones follow. */
const firstHost = 10

/** Machines on one bridge. The n-th has the addresses 192.168.1.(10+n) and fd00:1::(10+n); none has a way to anywhere else. */
export class Lan {
  readonly machines: ReadonlyArray<Machine>
  readonly #bridge: Namespace

  private constructor(bridge: Namespace, machines: ReadonlyArray<Machine>) {
    this.#bridge = bridge
    this.machines = machines
  }

  static async open(names: ReadonlyArray<string>): Promise<Lan> {
    const bridge = await Namespace.open()
    const machines: Array<Machine> = []
    try {
      await bridge.run("ip", "link", "add", "name", "lan", "type", "bridge")
      await bridge.run("ip", "link", "set", "lan", "up")
      for (const [index, name] of names.entries()) {
        const host = firstHost + index
        const namespace = await Namespace.open()
        const machine = new Machine(name, `192.168.1.${host}`, `fd00:1::${host}`, namespace)
        machines.push(machine)
        const port = `port${index}`
        await bridge.run("ip", "link", "add", port, "type", "veth", "peer", device, "netns", String(namespace.pid))
        await bridge.run("ip", "link", "set", port, "master", "lan", "up")
        await machine.run("ip", "link", "set", "lo", "up")
        await machine.run("ip", "addr", "add", `${machine.ipv4}/24`, "broadcast", "192.168.1.255", "dev", device)
        await machine.link(true)
      }
    } catch (error) {
      for (const each of [...machines, bridge]) await each.close()
      throw error
    }
    return new Lan(bridge, machines)
  }

  machine(name: string): Machine {
    const found = this.machines.find(each => each.name === name)
    if (found === undefined) throw new Error(`there is no machine "${name}"`)
    return found
  }

  /** Two machines cannot reach one another any more, in both directions. */
  async separate(one: Machine, other: Machine, how: Separation = "silent"): Promise<void> {
    await one.loses(other, how)
    await other.loses(one, how)
  }

  /** Undoes `separate`. */
  async reunite(one: Machine, other: Machine): Promise<void> {
    await one.finds(other)
    await other.finds(one)
  }

  /** Removes all of it; tells of what was still running. */
  async close(): Promise<ReadonlyArray<string>> {
    const left: Array<string> = []
    for (const machine of this.machines)
      for (const command of await machine.close()) left.push(`still running on ${machine.name}: ${command}`)
    await this.#bridge.close()
    return left
  }
}

/** A test on machines of its own, named: at its end nothing may run on them any more. */
export const onLan = (names: ReadonlyArray<string>, test: (lan: Lan) => Promise<void>) => async (): Promise<void> => {
  const lan = await Lan.open(names)
  let left: ReadonlyArray<string> = []
  try {
    await test(lan)
  } finally {
    left = await lan.close()
  }
  assert.deepStrictEqual(left, [])
}
