import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { Effect } from "effect"
import { assert, describe, it } from "vitest"
import { ComputeEngine, cancelled } from "../../src/compute/Engine.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { launcher, run } from "../cli/Processes.ts"
import { inWorld } from "../support/system.ts"
import { blocksOf, pages, readText, root } from "./Pages.ts"
import { runModule, typeErrors, withModules } from "./Snippets.ts"

const readme = readText("README.md")
const commandLines = blocksOf(readme, "sh").flatMap(block => block.trim().split("\n"))

const onlyBlock = (page: string): string => {
  const blocks = blocksOf(readText(page), "ts")
  assert.lengthOf(blocks, 1, page)
  return blocks[0] ?? ""
}

const lineWith = (text: string): string => {
  const found = commandLines.filter(line => line.includes(text))
  assert.lengthOf(found, 1, text)
  return found[0] ?? ""
}

/** What follows `npx artifice` in the line of the README that contains the text. */
const argumentsOf = (text: string): ReadonlyArray<string> => {
  const [npx, artifice, ...args] = lineWith(text).split(" ")
  assert.deepStrictEqual([npx, artifice], ["npx", "artifice"])
  return args
}

const replaced = (args: ReadonlyArray<string>, from: string, to: string): ReadonlyArray<string> => {
  assert.include(args, from)
  return args.map(arg => (arg === from ? to : arg))
}

const scriptOf = (name: string): string => {
  const manifest: { readonly scripts: Readonly<Record<string, string>> } = JSON.parse(readText("package.json"))
  return manifest.scripts[name] ?? ""
}

describe("The code in README.md and docs", () => {
  const job = onlyBlock("docs/training.md")
  const modules = { promise: onlyBlock("README.md"), effect: onlyBlock("docs/architecture.md"), job }

  it("fits the types, and does what the page says", () =>
    withModules(modules, async (paths, folder) => {
      assert.strictEqual(await typeErrors(folder), "")
      const greetings = await Promise.all(["promise", "effect"].map(name => runModule(paths.get(name) ?? "")))
      for (const greeting of greetings) assert.match(greeting, /^hello world, you are [0-9a-f]{8}\n$/)

      const line = await Effect.runPromise(TrainingJob.load(paths.get("job") ?? ""))
      const engine = await ComputeEngine.load(line)
      engine.initialise()
      const gradient = new Float32Array(engine.info.parameterCount)
      const { lanes, epochs } = line
      for (let epoch = 1; epoch <= epochs; epoch++) {
        for (let step = 0; step < engine.info.stepsPerEpoch; step++) {
          assert.notStrictEqual(engine.computeNode({ epoch, step, from: 0, to: lanes }, gradient), cancelled)
          engine.applyStep(gradient.map(sum => sum / lanes))
        }
      }
      const { lossSum, count } = engine.evaluate(engine.parameters, 0, 64)
      assert.isBelow(lossSum / count, 1e-3)
    }))

  it("of two peers is shorter than 30 lines", () => {
    assert.isBelow(modules.promise.trim().split("\n").length, 30)
  })
})

describe("The command lines of README.md", () => {
  it("are all run, by these tests or before a change is accepted", () => {
    const here = ["--set epochs=5", "artifice coordinator", "--join TOKEN", "--peer ID", "artifice init", "artifice id"]
    const elsewhere = ["npm ci && npm start", "npm start --silent -- --json", "npm ci && npm test"]
    assert.sameMembers([...here.map(lineWith), ...elsewhere], commandLines)
    const accepted = readText(".ci/run")
    for (const command of ["npm ci", "npm test", "npm start --silent -- --json"]) assert.include(accepted, command)
  })

  it(
    "`npm start` takes the job's options",
    inWorld(async world => {
      const [npm, start, dashes, ...args] = lineWith("--set epochs=5").split(" ")
      assert.deepStrictEqual([npm, start, dashes], ["npm", "start", "--"])
      const [artifice, ...own] = scriptOf("start").split(" ")
      assert.strictEqual(artifice, "artifice")
      const training = world.artifice([...own, ...args])
      const { steps, members } = await training.event("step")
      assert.deepStrictEqual({ steps, members }, { steps: 5 * 234, members: 2 })
      training.kill("SIGINT")
      assert.strictEqual((await training.ended).code, 130)
    })
  )

  it(
    "let two machines pair, train, and meet again without an invite",
    inWorld(async world => {
      const listen = replaced(argumentsOf("artifice coordinator"), "192.168.1.10:7000", "127.0.0.1:0")
      const coordinator = world.artifice(listen, { home: "coordinator" })
      const { peer } = await coordinator.event("listening")
      const { token, command, expiresAt } = await coordinator.event("invite")
      assert.strictEqual(command, lineWith("--join TOKEN").replace("TOKEN", token))
      assert.closeTo(Date.parse(expiresAt), Date.now() + 10 * 60_000, 60_000)

      const joining = world.artifice(replaced(argumentsOf("--join TOKEN"), "TOKEN", token), { home: "worker" })
      await coordinator.event("step")
      joining.kill("SIGTERM")
      const left = await coordinator.event("member-lost")
      assert.strictEqual((await joining.ended).code, 130)

      const returning = world.artifice(replaced(argumentsOf("--peer ID"), "ID", peer), { home: "worker" })
      const view = await coordinator.event("view", ({ view }) => view > 1)
      assert.deepStrictEqual(
        view.members.map(member => member.peer),
        [left.peer]
      )
      const before = coordinator.all("step").length
      await coordinator.event("step", () => coordinator.all("step").length > before)
      // The worker first: a coordinator that ends tells its workers that the job is over.
      for (const command of [returning, coordinator]) {
        command.kill("SIGTERM")
        assert.strictEqual((await command.ended).code, 130)
      }
    })
  )

  it("make an identity, once, and show it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "artifice-readme-"))
    try {
      const env = { ARTIFICE_HOME: join(folder, "home") }
      const made = await run([launcher, ...argumentsOf("artifice init"), "--json"], env)
      const shown = await run([launcher, ...argumentsOf("artifice id"), "--json"], env)
      assert.deepStrictEqual([made.code, shown.code], [0, 0])
      const { peer, fingerprint } = JSON.parse(shown.stdout.join(""))
      assert.match(peer, /^[0-9a-f]{64}$/)
      assert.include(made.stdout.join(""), peer)
      assert.match(fingerprint, /^([A-Z2-7]{4}-){3}[A-Z2-7]{4}$/)
      assert.strictEqual(statSync(join(folder, "home", "home.db")).mode & 0o777, 0o600)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe("The pages", () => {
  const linksIn = (text: string): ReadonlyArray<string> =>
    [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target]) => target ?? [])
  const headingsOf = (text: string): ReadonlyArray<string> =>
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title = ""]) =>
      title
        .toLowerCase()
        .replaceAll(/[^\w\s-]/g, "")
        .replaceAll(" ", "-")
    )

  it.each(pages)("%s links to what is there, and names files that exist", page => {
    const text = readText(page)
    for (const target of linksIn(text).filter(target => !/^https?:/.test(target))) {
      const [path = "", heading] = target.split("#")
      const linked = path === "" ? page : join(dirname(page), path)
      assert.isTrue(existsSync(join(root, linked)), `${page} links to ${target}`)
      if (heading !== undefined) assert.include(headingsOf(readText(linked)), heading, `${page} links to ${target}`)
    }
    for (const [, path = ""] of text.matchAll(/`((?:src|test|docs|bench|apps|examples)\/[\w./-]+)`/g))
      assert.isTrue(existsSync(join(root, path)), `${page} names ${path}`)
  })
})
