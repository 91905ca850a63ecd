import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { isPeerId } from "../../src/protocol/Identity.ts"
import { decodeInvite } from "../../src/protocol/Invite.ts"
import { reissued } from "../support/system.ts"
import { type Ended, mainModule, run, start } from "./Processes.ts"

type Result = Readonly<Record<string, unknown>>
const parsed = (line: string | undefined): Result => JSON.parse(line ?? "null")
/** The list in a result. */
const listOf = (result: Result, field: string): ReadonlyArray<Result> => {
  const list = result[field]
  return Array.isArray(list) ? list : assert.fail(`no list ${field} in ${JSON.stringify(result)}`)
}
const textOf = (result: Result, field: string): string => String(result[field])

/** Machines that are homes in one folder: what each command prints, as objects. */
class Homes {
  readonly #folder = mkdtempSync(join(tmpdir(), "artifice-peers-"))

  env(name: string): NodeJS.ProcessEnv {
    return { ARTIFICE_HOME: join(this.#folder, name) }
  }

  path(name: string): string {
    return join(this.#folder, name)
  }

  /** Runs a command that must succeed and gives the last thing it says. */
  async says(name: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}): Promise<Result> {
    const ended = await run([mainModule, ...args], { ...this.env(name), ...env })
    assert.strictEqual(ended.code, 0, ended.stderr.join("\n"))
    return parsed(ended.stdout.at(-1))
  }

  /** Runs a command that must fail. */
  async fails(name: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}) {
    const { code, stdout, stderr } = await run([mainModule, ...args], { ...this.env(name), ...env })
    return { exit: code, code: parsed(stdout.at(-1))["code"], line: stderr.join("\n") }
  }

  /** Starts `artifice invite` and waits for its token. */
  async invites(name: string, ...args: ReadonlyArray<string>) {
    const started = start([mainModule, "invite", "--listen", "127.0.0.1:0", ...args], this.env(name))
    const invite = parsed(await started.line('"event":"invite"'))
    return { ...started, invite, token: textOf(invite, "token") }
  }

  end(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

const withHomes = (test: (homes: Homes) => Promise<void>) => async (): Promise<void> => {
  const homes = new Homes()
  try {
    await test(homes)
  } finally {
    homes.end()
  }
}

const succeeded = async (ended: Promise<Ended>): Promise<Result> => {
  const { code, stdout, stderr } = await ended
  assert.strictEqual(code, 0, stderr.join("\n"))
  return parsed(stdout.at(-1))
}

describe("Two machines without a job", () => {
  it(
    "pair by a token, know each other from both sides, and are strangers again when one says so",
    withHomes(async homes => {
      const inviting = await homes.invites("host")
      assert.strictEqual(inviting.invite["command"], `npx artifice join ${inviting.token}`)
      const joined = await homes.says("guest", ["join", inviting.token])
      const paired = await succeeded(inviting.ended)
      const [host, guest] = [textOf(joined, "peer"), textOf(paired, "peer")]
      assert.deepStrictEqual([joined["event"], paired["event"]], ["join", "paired"])
      assert.strictEqual(textOf(await homes.says("host", ["id"]), "peer"), host)
      const guestId = await homes.says("guest", ["id"])
      assert.strictEqual(textOf(guestId, "peer"), guest)
      assert.strictEqual(paired["fingerprint"], guestId["fingerprint"])

      const listed = await homes.says("host", ["peers", "list"])
      assert.deepInclude(listed, { event: "peers-list" })
      const [entry = {}, ...others] = listOf(listed, "peers")
      assert.deepInclude(entry, { peer: guest, fingerprint: guestId["fingerprint"], revokedAt: null })
      assert.lengthOf(others, 0)
      const shown = await homes.says("guest", ["peers", "show", host.slice(0, 8).toUpperCase()])
      assert.deepInclude(shown, { event: "peers-show", peer: host, keyGeneration: 1, minimumVersion: 1 })
      assert.deepStrictEqual(shown["addresses"], [joined["address"]])

      // The port of `invite` is the home's own, so that the address is good the next time too.
      const again = await homes.invites("host", "--ttl", "1h")
      assert.deepStrictEqual(decodeInvite(again.token).addresses, [textOf(joined, "address")])
      const verified = await homes.says("guest", ["peers", "verify", host.slice(0, 4)])
      const expected = { peer: host, fingerprint: joined["fingerprint"], ownFingerprint: paired["fingerprint"] }
      assert.deepInclude(verified, { event: "peers-verify", ...expected, address: joined["address"] })

      const removed = await homes.says("guest", ["peers", "remove", host])
      assert.deepInclude(removed, { event: "peers-remove", peer: host, told: true })
      again.child.kill("SIGTERM")
      assert.strictEqual((await again.ended).code, 130)
      const left = listOf(await homes.says("host", ["peers", "list"]), "peers")
      assert.match(String(left[0]?.["revokedAt"]), /^2/)
      assert.deepStrictEqual((await homes.says("guest", ["peers", "list"]))["peers"], [])
      for (const command of ["show", "verify", "remove"])
        assert.deepInclude(await homes.fails("guest", ["peers", command, host]), { exit: 3, code: "NOT_PAIRED" })
    })
  )

  it(
    "take the token from standard input or the environment as well",
    withHomes(async homes => {
      const first = await homes.invites("host")
      await homes.says("one", ["join"], { ARTIFICE_JOIN: first.token })
      await succeeded(first.ended)
      const second = await homes.invites("host")
      const reading = start([mainModule, "join", "-"], homes.env("two"))
      reading.child.stdin.end(`${second.token}\n`)
      await succeeded(reading.ended)
      await succeeded(second.ended)
      assert.lengthOf(listOf(await homes.says("host", ["peers", "list"]), "peers"), 2)
    })
  )
})

describe("A token that does not pair", () => {
  it(
    "is told which way it is wrong: used, run out, of another host, changed, cut off, none",
    withHomes(async homes => {
      const used = await homes.invites("host")
      await homes.says("guest", ["join", used.token])
      await succeeded(used.ended)
      const open = await homes.invites("host")
      const stranger = textOf(await homes.says("stranger", ["init"]), "peer")
      if (!isPeerId(stranger)) return assert.fail(stranger)
      const refusals = [
        { token: used.token, exit: 3, code: "TOKEN_USED", says: /has been used: it pairs one machine, once/ },
        {
          token: reissued(open.token, { expiresAt: 1_000_000_000 }),
          exit: 3,
          code: "TOKEN_EXPIRED",
          says: /ran out at 2001-09-09/
        },
        {
          token: reissued(open.token, { peerId: stranger }),
          exit: 3,
          code: "REFUSED",
          says: /it is another machine than the one that made this token/
        },
        { token: `${open.token.slice(0, 40)}x${open.token.slice(41)}`, exit: 2, code: "BAD_TOKEN", says: /damaged/ },
        { token: open.token.slice(0, 100), exit: 2, code: "BAD_TOKEN", says: /damaged/ },
        { token: "artf2.hello", exit: 2, code: "BAD_TOKEN", says: /does not begin with artf1/ }
      ]
      for (const { token, exit, code, says } of refusals) {
        const refused = await homes.fails("thief", ["join", token])
        assert.deepInclude(refused, { exit, code })
        assert.match(refused.line, says)
      }
      assert.deepStrictEqual((await homes.says("thief", ["peers", "list"]))["peers"], [])
      // None of this has used the open one up.
      await homes.says("thief", ["join", open.token])
      await succeeded(open.ended)
    })
  )

  it(
    "runs out at its host's clock too, whatever it says of itself, and that nobody came is told there",
    withHomes(async homes => {
      const short = await homes.invites("host", "--ttl", "10s")
      const { code, stdout } = await short.ended
      assert.deepStrictEqual([code, parsed(stdout.at(-1))["code"]], [1, "NOBODY_JOINED"])
      const later = await homes.invites("host")
      const forged = reissued(short.token, { expiresAt: decodeInvite(short.token).expiresAt + 3_600 })
      const refused = await homes.fails("guest", ["join", forged])
      assert.deepInclude(refused, { exit: 3, code: "TOKEN_EXPIRED" })
      assert.match(refused.line, /by the inviting machine's clock/)
      later.child.kill("SIGTERM")
      await later.ended
    })
  )

  it(
    "names the address at which nobody is",
    withHomes(async homes => {
      const gone = await homes.invites("host")
      gone.child.kill("SIGTERM")
      assert.strictEqual((await gone.ended).code, 130)
      const refused = await homes.fails("guest", ["join", gone.token])
      assert.deepInclude(refused, { exit: 1, code: "UNREACHABLE" })
      assert.include(refused.line, `cannot dial ${decodeInvite(gone.token).addresses[0]}: ECONNREFUSED`)
    })
  )
})

describe("artifice invite --confirm", () => {
  it(
    "needs somebody to ask",
    withHomes(async homes => {
      const refused = await homes.fails("host", ["invite", "--confirm"])
      assert.deepInclude(refused, { exit: 2, code: "USAGE" })
      assert.match(refused.line, /no terminal to ask it on/)
    })
  )

  it(
    "lets in whom the person at the terminal knows by the fingerprint, and nobody else",
    withHomes(async homes => {
      for (const [guest, answer] of [
        ["right", "y"],
        ["wrong", "n"]
      ] as const) {
        const command = `"${process.execPath}" "${mainModule}" invite --confirm --json --ttl 1m --listen 127.0.0.1:0`
        // `script` gives the command a terminal of its own.
        const terminal = spawn("script", ["-qefc", command, "/dev/null"], {
          env: { ...process.env, ...homes.env("host") }
        })
        let screen = ""
        const look = new Set<() => void>()
        terminal.stdout.on("data", chunk => {
          screen += String(chunk)
          for (const each of look) each()
        })
        const shows = (pattern: RegExp): Promise<RegExpExecArray> =>
          new Promise(resolve => {
            const check = (): void => {
              const found = pattern.exec(screen)
              if (found !== null) resolve(found)
            }
            look.add(check)
            check()
          })
        const exited = new Promise<number | null>(resolve => terminal.on("close", code => resolve(code)))
        const [, token = ""] = await shows(/"token":"([^"]+)"/)
        const joining = start([mainModule, "join", token], homes.env(guest))
        const [, asked] = await shows(/fingerprint ([A-Z2-7-]{19}) wants to pair.*\[y\/N\]/)
        terminal.stdin.write(`${answer}\n`)
        const joined = await joining.ended
        assert.match(joined.stderr.join("\n"), new RegExp(`This machine's fingerprint is ${asked}`))
        if (answer === "y") {
          assert.strictEqual(joined.code, 0)
          await shows(/"event":"paired"/)
          assert.strictEqual(await exited, 0)
        } else {
          assert.strictEqual(joined.code, 3)
          assert.match(joined.stderr.join("\n"), /did not confirm your fingerprint/)
          terminal.kill("SIGTERM")
          await exited
        }
      }
      assert.lengthOf(listOf(await homes.says("host", ["peers", "list"]), "peers"), 1)
    })
  )
})

describe("The port of a home", () => {
  it(
    "is chosen once and asked for again; one that is taken is replaced",
    withHomes(async homes => {
      const addressOf = async (): Promise<string> => {
        const inviting = await homes.invites("host")
        inviting.child.kill("SIGTERM")
        await inviting.ended
        return decodeInvite(inviting.token).addresses[0] ?? ""
      }
      const first = await addressOf()
      assert.strictEqual(await addressOf(), first)
      const rival = await homes.invites("rival")
      const taken = decodeInvite(rival.token).addresses[0]
      writeFileSync(join(homes.path("host"), "port"), `${taken?.split(":")[1]}\n`)
      const other = await addressOf()
      assert.notStrictEqual(other, taken)
      assert.strictEqual(readFileSync(join(homes.path("host"), "port"), "utf8"), `${other.split(":")[1]}\n`)
      writeFileSync(join(homes.path("host"), "port"), "nonsense")
      assert.match(await addressOf(), /^127\.0\.0\.1:\d+$/)
      rival.child.kill("SIGTERM")
      await rival.ended
    })
  )
})

describe("--discover", () => {
  it(
    "needs a key of 64 hexadecimal digits, from a file or the environment",
    withHomes(async homes => {
      const file = homes.path("key")
      writeFileSync(file, "not a key\n")
      for (const [args, env, says] of [
        [[], {}, /there is no key/],
        [["--discovery-key-file", file], {}, /is not 64 hexadecimal digits/],
        [["--discovery-key-file", homes.path("nowhere")], {}, /cannot be read/],
        [[], { ARTIFICE_DISCOVERY_KEY: "abcd" }, /is not 64 hexadecimal digits/]
      ] as const) {
        const refused = await homes.fails("host", ["invite", "--discover", ...args], env)
        assert.deepInclude(refused, { exit: 2, code: "NO_DISCOVERY_KEY" })
        assert.match(refused.line, says)
        assert.match(refused.line, /openssl rand -hex 32/)
      }
    })
  )
})
