import { spawn, spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { text } from "node:stream/consumers"
import { afterAll, assert, describe, it } from "vitest"
import { mainModule, repositoryRoot, run, start } from "./Processes.ts"

const folder = mkdtempSync(join(tmpdir(), "artifice-home-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let homes = 0
const newHome = (): string => join(folder, `home-${++homes}`)

/** Runs `artifice`, and gives its exit code, its last object and its standard error. */
const artifice = async (home: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}) => {
  const { code, stdout, stderr } = await run([mainModule, ...args], { ARTIFICE_HOME: home, ...env })
  const said: Record<string, unknown> = JSON.parse(stdout.at(-1) ?? "null")
  return { code, said, stderr }
}

const passphrase = "correct horse battery staple"
const file = join(folder, "passphrase")
writeFileSync(file, `${passphrase}\nThe second line is none of it.\n`)

describe("The home of the command line", () => {
  it("without a passphrase has its key in a file beside it", async () => {
    const home = newHome()
    const made = await artifice(home, ["init"])
    assert.strictEqual(made.code, 0)
    assert.include(made.said, { event: "init", created: true, protected: false, home })
    assert.sameMembers(readdirSync(home), ["home.db", "home.db.lock", "home.key"])
    const again = await artifice(home, ["init"])
    assert.include(again.said, { created: false, peer: made.said["peer"] })
    const id = await artifice(home, ["id"])
    assert.include(id.said, { event: "id", peer: made.said["peer"], fingerprint: made.said["fingerprint"] })
  })

  it("with a passphrase needs it each time: from the environment or from a file, never from a flag", async () => {
    const home = newHome()
    const made = await artifice(home, ["init"], { ARTIFICE_PASSPHRASE: passphrase })
    assert.include(made.said, { created: true, protected: true })
    assert.isFalse(existsSync(join(home, "home.key")))
    for (const [args, env] of [
      [["id", "--passphrase-file", file], {}],
      [["id"], { ARTIFICE_PASSPHRASE_FILE: file }],
      [["id"], { ARTIFICE_PASSPHRASE: passphrase }]
    ] as const) {
      const id = await artifice(home, args, env)
      assert.strictEqual(id.said["peer"], made.said["peer"], JSON.stringify(id))
    }
    const without = await artifice(home, ["id"])
    assert.deepStrictEqual([without.code, without.said["code"]], [2, "PASSPHRASE_NEEDED"])
    assert.match(without.stderr.join(), /Set ARTIFICE_PASSPHRASE, or name a file that holds it in --passphrase-file/)
    const wrong = await artifice(home, ["id"], { ARTIFICE_PASSPHRASE: "not this one" })
    assert.deepStrictEqual([wrong.code, wrong.said["code"]], [1, "WRONG_PASSPHRASE"])
    assert.notInclude(JSON.stringify(wrong), "not this one")
    const none = await artifice(home, ["id", "--passphrase-file", join(folder, "none")])
    assert.deepStrictEqual([none.code, none.said["code"]], [2, "NO_PASSPHRASE"])
    const flag = await artifice(home, ["id", "--passphrase", passphrase])
    assert.deepStrictEqual([flag.code, flag.said["code"]], [2, "USAGE"])
  })

  it("without a passphrase refuses one, and takes it by init", async () => {
    const home = newHome()
    const made = await artifice(home, ["init"])
    const refused = await artifice(home, ["id"], { ARTIFICE_PASSPHRASE: passphrase })
    assert.deepStrictEqual([refused.code, refused.said["code"]], [2, "HOME_NOT_PROTECTED"])
    assert.match(refused.stderr.join(), /Call artifice init with the passphrase/)
    const taken = await artifice(home, ["init", "--passphrase-file", file])
    assert.include(taken.said, { created: false, protected: true, peer: made.said["peer"] })
    assert.isFalse(existsSync(join(home, "home.key")))
  })

  it("belongs to one process: a second one is told which has it and what to do, while its identity can be read", async () => {
    const home = newHome()
    const job = join(repositoryRoot, "examples/mnist/job.ts")
    const args = ["coordinator", job, "--listen", "127.0.0.1:0", "--json"]
    const first = start([mainModule, ...args], { ARTIFICE_HOME: home })
    await first.line('"event":"listening"')
    const second = await artifice(home, ["coordinator", job, "--listen", "127.0.0.1:0"])
    assert.deepStrictEqual([second.code, second.said["code"]], [1, "HOME_IN_USE"])
    assert.include(String(second.said["message"]), `the process ${first.child.pid} has it open`)
    assert.include(String(second.said["hint"]), "ARTIFICE_HOME")
    assert.strictEqual((await artifice(home, ["id"])).code, 0)
    first.child.kill("SIGKILL")
    await first.ended
    assert.strictEqual((await artifice(home, ["init"])).code, 0)
  }, 30_000)

  // `script` of util-linux makes a terminal.
  const hasScript = spawnSync("script", ["--version"]).status === 0
  it.skipIf(!hasScript)("asks for its passphrase on a terminal, and shows nothing of what is typed", async () => {
    const home = newHome()
    const made = await artifice(home, ["init"], { ARTIFICE_PASSPHRASE: passphrase })
    const command = `"${process.execPath}" "${mainModule}" id --json`
    const child = spawn("script", ["-qec", command, "/dev/null"], { env: { ...process.env, ARTIFICE_HOME: home } })
    child.stdout.on("data", (chunk: Buffer) => {
      if (chunk.includes("Passphrase of")) child.stdin.write(`${passphrase}\n`)
    })
    const shown = await text(child.stdout)
    assert.include(shown, `Passphrase of ${home}:`)
    assert.include(shown, String(made.said["peer"]))
    assert.notInclude(shown, "horse")
  })
})
