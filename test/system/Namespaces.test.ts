import { once } from "node:events"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { type JobEvent, JobEventLine } from "../../src/training/JobEvent.ts"
import { repositoryRoot } from "../cli/Processes.ts"
import { blocksOf, readText, section } from "../docs/Pages.ts"
import { needNamespaces, onLan, type Machine } from "../support/namespaces.ts"
import { clouds, inWorld } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const decode = Schema.decodeUnknownSync(JobEventLine)
/** The command lines of README.md for two machines, in its order. */
const lines = blocksOf(section(readText("README.md"), "Two machines"), "sh").flatMap(block => block.trim().split("\n"))

const lineWith = (text: string): string => {
  const found = lines.filter(line => line.includes(text))
  assert.lengthOf(found, 1, text)
  return found[0] ?? ""
}

/** A command line typed into a shell of a machine, in the clone, by somebody whose home is empty. */
class Typed {
  readonly events: Array<JobEvent> = []
  readonly #stderr: Array<string> = []
  readonly #ended: Promise<unknown>
  readonly #waiting = new Set<() => void>()
  #code: number | null | undefined

  constructor(machine: Machine, line: string, home: string) {
    const env = Object.entries(process.env).filter(([name]) => !/^(ARTIFICE|npm|VITEST|NODE)_?/.test(name))
    mkdirSync(home, { recursive: true })
    const child = machine.spawn("sh", ["-c", line], {
      cwd: repositoryRoot,
      env: { ...Object.fromEntries(env), HOME: home }
    })
    createInterface(child.stderr).on("line", text => this.#stderr.push(text))
    createInterface(child.stdout).on("line", text => {
      this.events.push(decode(text))
      for (const look of this.#waiting) look()
    })
    this.#ended = once(child, "close")
    child.on("close", code => {
      this.#code = code
      for (const look of this.#waiting) look()
    })
  }

  /** The first event of this name; fails where the command ends without it. */
  event<Name extends JobEvent["event"]>(name: Name): Promise<Extract<JobEvent, { readonly event: Name }>> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.events.find(
          (event): event is Extract<JobEvent, { readonly event: Name }> => event.event === name
        )
        if (found !== undefined) resolve(found)
        else if (this.#code !== undefined) reject(new Error(`ended without "${name}": ${this.#stderr.join("\n")}`))
        else return
        this.#waiting.delete(look)
      }
      this.#waiting.add(look)
      look()
    })
  }

  async succeeds(): Promise<void> {
    await this.#ended
    assert.strictEqual(this.#code, 0, this.#stderr.join("\n"))
  }
}

const inHomes = (test: (home: (name: string) => string) => Promise<void>) => async (): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "artifice-homes-"))
  try {
    await test(name => join(folder, name))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

describe("Two machines that know nothing of each other", () => {
  needNamespaces()

  it(
    "train MNIST by the two commands of the README, copied as they are",
    inHomes(home =>
      onLan(["coordinator", "worker"], async lan => {
        const startedMs = performance.now()
        const coordinator = new Typed(lan.machine("coordinator"), lineWith("artifice coordinator"), home("coordinator"))
        const { command, token } = await coordinator.event("invite")
        assert.strictEqual(command, lineWith("--join TOKEN").replace("TOKEN", token))
        const worker = new Typed(lan.machine("worker"), command, home("worker"))
        const { atMs: firstStepMs } = await coordinator.event("step").then(() => ({ atMs: performance.now() }))
        const finished = await coordinator.event("finished")
        const endedMs = performance.now()
        await Promise.all([coordinator.succeeds(), worker.succeeds()])
        assert.strictEqual(finished.epochs, 3)
        assert.strictEqual(finished.shards.counted, finished.shards.expected)
        assert.isAbove(finished.testAccuracy ?? 0, 0.96)
        const seconds = (fromMs: number, toMs: number) => ((toMs - fromMs) / 1_000).toFixed(1)
        process.stdout.write(
          `two machines, from the first command: first step after ${seconds(startedMs, firstStepMs)} s, ` +
            `3 epochs of MNIST after ${seconds(startedMs, endedMs)} s at ${finished.testAccuracy}\n`
        )
      })()
    ),
    180_000
  )
})

describe("A coordinator whose address has changed", () => {
  needNamespaces()

  it(
    "is found by its broadcast, where both say --discover and have the same key",
    inWorld(world =>
      onLan(["coordinator", "worker"], async lan => {
        const [there, here] = [lan.machine("coordinator"), lan.machine("worker")]
        const env = { ARTIFICE_DISCOVERY_KEY: "1f".repeat(32) }
        const coordinator = (...args: ReadonlyArray<string>) =>
          world.artifice(["coordinator", clouds, "--listen", "0.0.0.0:0", ...args], { home: "there", on: there, env })
        const worker = (...args: ReadonlyArray<string>) =>
          world.artifice(["worker", clouds, ...args], { home: "here", on: here, env })

        const first = coordinator()
        const { peer, address } = await first.event("listening")
        const { token } = await first.event("invite")
        const joined = worker("--join", token)
        await first.finished()
        assert.strictEqual((await joined.ended).code, 0)

        await there.run("ip", "addr", "del", `${there.ipv4}/24`, "dev", "eth0")
        await there.run("ip", "addr", "add", "192.168.1.77/24", "broadcast", "192.168.1.255", "dev", "eth0")
        const second = coordinator("--discover")
        // The port of a home stays, its address has gone.
        assert.strictEqual((await second.event("listening")).address, address)
        const lost = await worker("--peer", peer).failure(1, "UNREACHABLE")
        assert.include(lost.message, `cannot dial ${there.ipv4}:`)
        const found = worker("--peer", peer.slice(0, 12), "--discover")
        await second.finished()
        assert.strictEqual((await found.ended).code, 0)
        // Once met there, it is dialled there.
        const third = coordinator()
        await third.event("listening")
        const again = worker("--peer", peer)
        await third.finished()
        assert.strictEqual((await again.ended).code, 0)
      })()
    ),
    180_000
  )
})

describe("Two workers that cannot reach each other", () => {
  needNamespaces()

  it(
    "train all the same, to the same weights, relayed by the coordinator, and say so",
    inWorld(world =>
      onLan(["coordinator", "one", "two"], async lan => {
        const [there, one, two] = [lan.machine("coordinator"), lan.machine("one"), lan.machine("two")]
        await lan.separate(one, two)
        const listen = ["--listen", `${there.ipv4}:0`, "--min-workers", "2"]
        const coordinator = world.artifice(["coordinator", clouds, ...listen], { home: "coordinator", on: there })
        await coordinator.event("invite", () => coordinator.all("invite").length === 2)
        const workers = [one, two].map((machine, index) => {
          const token = coordinator.all("invite")[index]?.token ?? ""
          const args = ["worker", "--join", token, clouds, "--log-level", "info"]
          return world.artifice(args, { home: machine.name, on: machine })
        })
        const finished = await coordinator.finished()
        for (const [index, worker] of workers.entries()) {
          const { code, stderr } = await worker.ended
          assert.strictEqual(code, 0)
          const other = index === 0 ? two : one
          const relayed = new RegExp(`is relayed, as none of its addresses answers: .*${other.ipv4}:\\d+: TIMEOUT`)
          assert.match(stderr.join("\n"), relayed)
        }
        assert.strictEqual(finished.members, 2)
        assert.strictEqual(finished.weightsSha256, (await trainedAlone(clouds)).weightsSha256)
      })()
    ),
    120_000
  )
})
