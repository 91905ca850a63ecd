import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { assert } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { decodeInvite, encodeInvite, type Invite } from "../../src/protocol/Invite.ts"
import { type JobEvent, JobEventLine } from "../../src/training/JobEvent.ts"
import { type Ended, mainModule, repositoryRoot, start } from "../cli/Processes.ts"
import type { Machine } from "./namespaces.ts"
import { TamperProxy, type Interference } from "./TamperProxy.ts"

/** Whole systems under test: `artifice` processes with homes of their own, the events they print, and nothing left behind. */

export const jobFile = (name: string): string => join("test/fixtures/jobs", `${name}.ts`)
export const clouds = jobFile("clouds")
/** A training that stands still in its middle, past the first steps, until it is released. */
export interface Hold {
  readonly env: NodeJS.ProcessEnv
  readonly release: () => void
}

type EventNamed<Name extends JobEvent["event"]> = Extract<JobEvent, { readonly event: Name }>

const decode = Schema.decodeUnknownSync(JobEventLine)
const isNamed = <Name extends JobEvent["event"]>(event: JobEvent, name: Name): event is EventNamed<Name> =>
  event.event === name

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** A running `artifice` command. */
export class Command {
  readonly name: string
  readonly events: Array<JobEvent> = []
  readonly ended: Promise<Ended>
  readonly #child: ReturnType<typeof start>["child"]
  readonly #waiting = new Set<() => void>()
  #result: Ended | undefined
  #unreadable: Error | undefined

  constructor(args: ReadonlyArray<string>, env: NodeJS.ProcessEnv, on?: Machine) {
    const command = [process.execPath, mainModule, ...args, "--json"]
    const [program = "", ...rest] = on === undefined ? command : [...on.enter, ...command]
    const started = start(rest, env, program)
    this.name = `artifice ${args.join(" ")}`
    this.#child = started.child
    createInterface(started.child.stdout).on("line", line => {
      try {
        this.events.push(decode(line))
      } catch (error) {
        this.#unreadable = new Error(`${this.name} printed what is no event: ${line}`, { cause: error })
      }
      for (const look of this.#waiting) look()
    })
    this.ended = started.ended.then(ended => {
      this.#result = ended
      for (const look of this.#waiting) look()
      if (this.#unreadable !== undefined) throw this.#unreadable
      return ended
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#result === undefined
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  all<Name extends JobEvent["event"]>(name: Name): ReadonlyArray<EventNamed<Name>> {
    return this.events.filter(event => isNamed(event, name))
  }

  /** The first event of this name that fits, past or still to come; fails where the command ends without it. */
  event<Name extends JobEvent["event"]>(
    name: Name,
    fits: (event: EventNamed<Name>) => boolean = () => true
  ): Promise<EventNamed<Name>> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.all(name).find(fits)
        if (found === undefined && this.#result === undefined) return
        this.#waiting.delete(look)
        if (found === undefined)
          reject(new Error(`${this.name} ended without "${name}": ${JSON.stringify(this.#result)}`))
        else resolve(found)
      }
      this.#waiting.add(look)
      look()
    })
  }

  /** Waits for the end, which must be a success, and gives the last event. */
  async finished(): Promise<EventNamed<"finished">> {
    const { code, stderr } = await this.ended
    assert.strictEqual(code, 0, `${this.name}: ${stderr.join("\n")}`)
    const last = this.events.at(-1)
    if (last === undefined || !isNamed(last, "finished"))
      return assert.fail(`${this.name} ended with ${JSON.stringify(last)}`)
    assert.strictEqual(last.shards.counted, last.shards.expected)
    return last
  }

  /** Waits for the end, which must be this failure, told in one line on standard error and by the last event. */
  async failure(exitCode: number, code: string): Promise<{ readonly message: string; readonly line: string }> {
    const ended = await this.ended
    assert.strictEqual(ended.code, exitCode, JSON.stringify(ended))
    const last = this.events.at(-1)
    if (last === undefined || !isNamed(last, "error"))
      return assert.fail(`${this.name} ended with ${JSON.stringify(last)}`)
    assert.strictEqual(last.code, code)
    const line = ended.stderr.at(-1) ?? ""
    assert.match(line, /^artifice: ./)
    assert.include(line, last.message.replaceAll(/\s+/g, " "))
    return { message: last.message, line }
  }
}

export class World {
  readonly folder: string
  readonly #commands: Array<Command> = []
  readonly #proxies: Array<TamperProxy> = []

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "artifice-test-"))
    mkdirSync(this.temporary)
  }

  /** What the commands take for the system's temporary folder. */
  get temporary(): string {
    return join(this.folder, "tmp")
  }

  /** Where the jobs of this world save checkpoints. */
  get checkpoints(): string {
    return join(this.folder, "checkpoints")
  }

  hold(): Hold {
    const path = join(this.folder, "hold")
    writeFileSync(path, "")
    return { env: { CLOUDS_HOLD: path }, release: () => rmSync(path) }
  }

  home(name: string): string {
    return join(this.folder, name)
  }

  /** Starts a command; `home` names a home of this world, `on` a machine of a test's own network. */
  artifice(
    args: ReadonlyArray<string>,
    { home = "home", env = {}, on }: { home?: string; env?: NodeJS.ProcessEnv; on?: Machine } = {}
  ): Command {
    const own = {
      ARTIFICE_CHECKPOINT_DIR: this.checkpoints,
      ARTIFICE_HOME: this.home(home),
      TMPDIR: this.temporary
    }
    const command = new Command(args, { ...own, ...env }, on)
    this.#commands.push(command)
    return command
  }

  run(args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}): Command {
    return this.artifice(["run", clouds, ...args], { env })
  }

  /** Starts a coordinator of the clouds on a port that the system chooses. */
  coordinator(args: ReadonlyArray<string> = [], env: NodeJS.ProcessEnv = {}, listen = "127.0.0.1:0"): Command {
    return this.artifice(["coordinator", clouds, "--listen", listen, ...args], { home: "coordinator", env })
  }

  async proxy(
    target: string,
    plan: ReadonlyArray<Interference>,
    interfere?: (what: Interference) => void
  ): Promise<TamperProxy> {
    const proxy = await TamperProxy.start(target, plan, interfere)
    this.#proxies.push(proxy)
    return proxy
  }

  /** Every process that was started here or reported by one that was. */
  get pids(): ReadonlyArray<number> {
    return this.#commands.flatMap(command => [command.pid, ...command.all("process").map(({ pid }) => pid)])
  }

  /** Ends what is still there and tells of it. */
  async end(): Promise<ReadonlyArray<string>> {
    const left = this.#commands.filter(command => command.isRunning)
    for (const command of left) command.kill("SIGKILL")
    await Promise.allSettled(left.map(command => command.ended))
    const orphans = this.pids.filter(isAlive)
    for (const pid of orphans) process.kill(pid, "SIGKILL")
    for (const proxy of this.#proxies) await proxy.close()
    const files = existsSync(this.temporary) ? readdirSync(this.temporary) : []
    rmSync(this.folder, { recursive: true, force: true })
    return [
      ...left.map(({ name }) => `still running: ${name}`),
      ...orphans.map(pid => `a child that outlived its parent: ${pid}`),
      ...files.map(file => `left in the temporary folder: ${file}`)
    ]
  }
}

/** A test in a world of its own: at its end every process must have ended, and no file may be left. */
export const inWorld = (test: (world: World) => Promise<void>) => async (): Promise<void> => {
  const world = new World()
  let left: ReadonlyArray<string> = []
  try {
    await test(world)
  } finally {
    left = await world.end()
  }
  assert.deepStrictEqual(left, [])
}

/** The token with some of its fields replaced, and its check sum made right again. */
export const reissued = (token: string, changes: Partial<Invite>): string =>
  encodeInvite({ ...decodeInvite(token), ...changes })

export { repositoryRoot }
