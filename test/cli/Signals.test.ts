import { assert, describe, it } from "@effect/vitest"
import { type Ended, fixture, mainModule, type Started, start } from "./Processes.ts"

const waiting = async (name: string, env: NodeJS.ProcessEnv = {}): Promise<Started> => {
  const started = start([fixture("Command.ts"), name, "--json"], env)
  await started.line("member-joined")
  return started
}

const reasons = ({ stdout }: Ended): ReadonlyArray<string> =>
  stdout.map(line => JSON.parse(line)).flatMap(object => (object.event === "member-lost" ? [object.reason] : []))

describe("a signal", () => {
  it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
    "%s lets the command drain and then exits with 130",
    async signal => {
      const started = await waiting("drain")
      started.child.kill(signal)
      const ended = await started.ended
      assert.strictEqual(ended.code, 130)
      assert.deepStrictEqual(reasons(ended), ["draining", "drained"])
      assert.deepStrictEqual(ended.stderr, [])
    }
  )

  it("that comes twice at once, as from a terminal and from npm, is one", async () => {
    const started = await waiting("drain")
    started.child.kill("SIGINT")
    started.child.kill("SIGTERM")
    const ended = await started.ended
    assert.strictEqual(ended.code, 130)
    assert.deepStrictEqual(reasons(ended), ["draining", "drained"])
  })

  it("that comes again during the drain ends the process at once with 137", async () => {
    const started = await waiting("stuck")
    started.child.kill("SIGINT")
    await started.line("draining")
    // Signals right after the first are its echo, so the key is pressed until it works.
    const pressing = setInterval(() => started.child.kill("SIGINT"), 20)
    const ended = await started.ended
    clearInterval(pressing)
    assert.strictEqual(ended.code, 137)
  })

  it("SIGINT is left to the parent by a child of `artifice run`, SIGTERM is not", async () => {
    const started = await waiting("drain", { ARTIFICE_PARENT: "stdin" })
    started.child.kill("SIGINT")
    started.child.kill("SIGTERM")
    assert.strictEqual((await started.ended).code, 130)
    const stuck = await waiting("stuck", { ARTIFICE_PARENT: "stdin" })
    stuck.child.kill("SIGTERM")
    await stuck.line("draining")
    for (let press = 0; press < 20; press++) {
      stuck.child.kill("SIGINT")
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    assert.isNull(stuck.child.exitCode)
    stuck.child.kill("SIGKILL")
    await stuck.ended
  })

  it("interrupts a worker that waits for its invite, even while it loads", async () => {
    const started = start([mainModule, "worker", "--join", "-"])
    // A signal before the first line of the command has run ends the process by itself, so the key is pressed late.
    const pressing = setInterval(() => started.child.kill("SIGTERM"), 1000)
    const ended = await started.ended
    clearInterval(pressing)
    assert.strictEqual(ended.code, 130)
  })
})
