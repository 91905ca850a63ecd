import { assert, describe, it } from "@effect/vitest"
import { fixture, mainModule, run, start } from "./Processes.ts"

const artifice = (args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}) => run([mainModule, ...args], env)
const job = mainModule
const lastObject = (lines: ReadonlyArray<string>): Record<string, unknown> => JSON.parse(lines.at(-1) ?? "null")

describe("artifice", () => {
  it("says its version and the help of every command, with an example each", async () => {
    const version = await artifice(["--version"])
    assert.strictEqual(version.code, 0)
    assert.match(version.stdout.join("\n"), /^artifice v\d+\.\d+\.\d+$/)
    for (const command of ["run", "coordinator", "worker", "init", "id", "invite", "join", "peers"]) {
      const help = await artifice([command, "--help"])
      assert.strictEqual(help.code, 0)
      const text = help.stdout.join("\n")
      for (const part of ["DESCRIPTION", "USAGE", "EXAMPLES", `artifice ${command}`, "--json", "--log-level"]) {
        assert.include(text, part)
      }
      assert.deepStrictEqual(help.stderr, [])
    }
  })

  it("prints completions for a shell", async () => {
    const { code, stdout } = await artifice(["--completions", "bash"])
    assert.strictEqual(code, 0)
    for (const word of ["coordinator", "--min-workers"]) assert.include(stdout.join("\n"), word)
  })

  it.each([
    { args: [], says: "No command given" },
    { args: ["trian"], says: 'Unknown subcommand "trian"' },
    { args: ["run"], says: "Missing required argument: JOB" },
    { args: ["run", "not-there.ts"], says: "not-there.ts" },
    { args: ["run", job, "--wrokers", "2"], says: "--workers" },
    { args: ["run", job, "--workers", "0"], says: "a whole number from 1 on" },
    { args: ["run", job, "--workers", "1", "--min-workers", "2"], says: "more than the 1 workers" },
    { args: ["run", job, "--listen", "::1:7000"], says: "in brackets" },
    { args: ["run", job, "--set", "epochs"], says: "path=value" },
    { args: ["run", job, "--log-level", "loud"], says: "debug" },
    { args: ["coordinator", job], says: "--listen" },
    { args: ["worker"], says: "No coordinator is named" },
    { args: ["worker", "--peer", "ab"], says: "64 hex digits, or the first 4" },
    { args: ["invite", "--ttl", "10"], says: "such as 10m" },
    { args: ["invite", "--ttl", "30d"], says: "from 10s to 7d" },
    { args: ["invite"], env: { ARTIFICE_TTL: "1s" }, says: 'ARTIFICE_TTL is "1s"' },
    { args: ["join"], says: "No token is given" },
    { args: ["join", "-"], says: "No token came on standard input" },
    { args: ["join", "hello"], says: "does not begin with artf1." },
    { args: ["peers"], says: "No command given" },
    { args: ["peers", "show"], says: "Missing required argument: ID" },
    { args: ["peers", "verify", "host"], says: "64 hex digits" },
    { args: ["worker", "--peer", "ab".repeat(32), "--join", "t"], says: "Both" },
    { args: ["worker", "--join", "-"], says: "No token came on standard input" },
    { args: ["id"], env: { ARTIFICE_JSON: "perhaps" }, says: "ARTIFICE_JSON" },
    { args: ["run", job], env: { ARTIFICE_WORKERS: "many" }, says: 'ARTIFICE_WORKERS is "many"' },
    { args: ["run", job], env: { ARTIFICE_LISTEN: "7000" }, says: 'ARTIFICE_LISTEN is "7000"' },
    { args: ["worker"], env: { ARTIFICE_JOIN: "t", ARTIFICE_PEER: "ab" }, says: "Both" }
  ])("exits with 2 for $args $env and says in one line why", async ({ args, env, says }) => {
    const ended = await artifice(args, env)
    assert.strictEqual(ended.code, 2)
    assert.lengthOf(ended.stderr, 1)
    assert.match(ended.stderr[0] ?? "", /^artifice: /)
    assert.include(ended.stderr[0], says)
    assert.lengthOf(ended.stdout, 1)
    const error = lastObject(ended.stdout)
    assert.deepStrictEqual(Object.keys(error), ["event", "at", "code", "message", "hint"])
    assert.strictEqual(error["event"], "error")
  })

  it("prints no JSON for wrong usage where none is wanted", async () => {
    const { code, stdout, stderr } = await artifice(["run", "--no-json"])
    assert.strictEqual(code, 2)
    assert.deepStrictEqual(stdout, [])
    assert.lengthOf(stderr, 1)
  })
})

const body = (name: string, ...mode: ReadonlyArray<string>) => run([fixture("Command.ts"), name, ...mode])

describe("a command", () => {
  it("exits with 0 when it is done", async () => {
    const { code, stdout, stderr } = await body("succeed", "--json")
    assert.strictEqual(code, 0)
    assert.strictEqual(lastObject(stdout)["event"], "member-joined")
    assert.deepStrictEqual(stderr, [])
  })

  it("exits with 3 when a peer refused it", async () => {
    const { code, stdout, stderr } = await body("refuse", "--json")
    assert.strictEqual(code, 3)
    assert.strictEqual(lastObject(stdout)["code"], "NOT_PAIRED")
    assert.deepStrictEqual(stderr, ["artifice: The coordinator does not know us. Pair."])
  })

  it("exits with 1 for a defect, in one line, and shows the stack only for debugging", async () => {
    const quiet = await body("defect", "--json")
    assert.strictEqual(quiet.code, 1)
    assert.strictEqual(lastObject(quiet.stdout)["code"], "INTERNAL")
    assert.lengthOf(quiet.stderr, 1)
    assert.include(quiet.stderr[0], "a broken invariant")
    const debug = await body("defect", "--debug")
    assert.strictEqual(debug.code, 1)
    assert.isTrue(debug.stderr.some(line => /^\s+at /.test(line)))
  })

  it("drains and reports when something throws that nobody awaits", async () => {
    const { code, stdout, stderr } = await body("uncaught", "--json")
    assert.strictEqual(code, 1)
    assert.deepStrictEqual(
      stdout.map(line => JSON.parse(line).event),
      ["member-joined", "member-lost", "error"]
    )
    assert.lengthOf(stderr, 1)
    assert.include(stderr[0], "nobody awaited this")
  })

  it("keeps standard output for JSON alone", async () => {
    const { code, stdout, stderr } = await body("stray", "--json")
    assert.strictEqual(code, 0)
    assert.lengthOf(stdout, 1)
    assert.deepStrictEqual(stderr, ["a stray line"])
  })

  it("goes on when the reader of its output goes away", async () => {
    const started = start([fixture("Command.ts"), "flood", "--json"])
    await started.line("member-joined")
    started.child.stdout.destroy()
    const { code, stderr } = await started.ended
    assert.strictEqual(code, 0)
    assert.deepStrictEqual(stderr, [])
  })
})
