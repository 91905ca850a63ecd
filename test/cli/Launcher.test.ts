import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { launcher, repositoryRoot, run, start } from "./Processes.ts"

/** Makes this Node say that it is an old one, to the launcher alone: what it starts says the truth. */
const pretendOldNode = [
  "--import",
  `data:text/javascript,Object.defineProperty(process,"versions",{value:{...process.versions,node:"20.1.0"}})`
]

const folders: Array<string> = []
afterAll(() => folders.forEach(folder => rmSync(folder, { recursive: true })))

/** A repository of its own around the launcher: its pinned Node is this one, its command the given script. */
const repositoryAround = (command: string | undefined): string => {
  const root = realpathSync(mkdtempSync(join(tmpdir(), "artifice-launcher-")))
  folders.push(root)
  mkdirSync(join(root, "apps/cli/bin"), { recursive: true })
  mkdirSync(join(root, "apps/cli/src"))
  copyFileSync(launcher, join(root, "apps/cli/bin/artifice.mjs"))
  if (command !== undefined) {
    mkdirSync(join(root, "node_modules/.bin"), { recursive: true })
    symlinkSync(process.execPath, join(root, "node_modules/.bin/node"))
    symlinkSync("../../apps/cli/bin/artifice.mjs", join(root, "node_modules/.bin/artifice"))
    writeFileSync(join(root, "apps/cli/src/main.ts"), command)
  }
  return root
}

describe("the launcher", () => {
  it("runs the command on a Node that is new enough, through npm's link too", async () => {
    for (const path of [launcher, join(repositoryRoot, "node_modules/.bin/artifice")]) {
      const { code, stdout } = await run([path, "--version"])
      assert.strictEqual(code, 0)
      assert.match(stdout.join(""), /^artifice v/)
    }
  })

  it("re-executes itself on the pinned Node where its own is too old, with arguments and exit code", async () => {
    const root = repositoryAround(
      `const text: string = process.argv.slice(2).join(" ")
       console.log(process.execPath, process.versions.node, text)
       process.exit(7)`
    )
    const ended = await run([...pretendOldNode, join(root, "node_modules/.bin/artifice"), "run", "a b", "--json"])
    assert.strictEqual(ended.code, 7)
    assert.deepStrictEqual(ended.stdout, [`${process.execPath} ${process.versions.node} run a b --json`])
  })

  it("runs the real command that way", async () => {
    const { code, stdout } = await run([...pretendOldNode, launcher, "--version"])
    assert.strictEqual(code, 0)
    assert.match(stdout.join(""), /^artifice v/)
  })

  it("passes signals on to the command, and its exit code back", async () => {
    const root = repositoryAround(
      `for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
         process.once(signal, () => { console.log(signal); if (signal === "SIGHUP") process.exit(42) })
       }
       setInterval(() => {}, 60_000)
       console.log("ready")`
    )
    const started = start([...pretendOldNode, join(root, "apps/cli/bin/artifice.mjs")])
    await started.line("ready")
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      started.child.kill(signal)
      await started.line(signal)
    }
    const ended = await started.ended
    assert.strictEqual(ended.code, 42)
    assert.deepStrictEqual(ended.stdout, ["ready", "SIGINT", "SIGTERM", "SIGHUP"])
  })

  it.each(["SIGKILL", "SIGTERM"])("ends by %s when the command does", async signal => {
    const root = repositoryAround(`process.kill(process.pid, "${signal}"); setInterval(() => {}, 60_000)`)
    const ended = await run([...pretendOldNode, join(root, "apps/cli/bin/artifice.mjs")])
    assert.deepStrictEqual([ended.code, ended.signal], [null, signal])
  })

  it("says in one line what to do where no new Node is found", async () => {
    const root = repositoryAround(undefined)
    const { code, stderr } = await run([...pretendOldNode, join(root, "apps/cli/bin/artifice.mjs")])
    assert.strictEqual(code, 1)
    assert.lengthOf(stderr, 1)
    assert.include(stderr[0], "npm ci")
  })

  it("does not start over and over where the pinned Node is too old as well", async () => {
    const { code, stderr } = await run([...pretendOldNode, launcher, "id"], { ARTIFICE_RELAUNCHED: "1" })
    assert.strictEqual(code, 1)
    assert.include(stderr[0], "too old")
  })
})
