#!/usr/bin/env node
// Starts the `artifice` command on a Node that can run it. This file is plain JavaScript that old Nodes understand;
// everything else needs Node 24, of which the repository brings its own copy in node_modules/.bin.
import { spawn } from "node:child_process"
import { existsSync, realpathSync } from "node:fs"
import { constants } from "node:os"
import { dirname, join } from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"

const minNodeMajor = 24
/** Set for the Node that is started from here, so that a wrong one is not started again and again. */
const relaunchedVariable = "ARTIFICE_RELAUNCHED"
const here = dirname(realpathSync(fileURLToPath(import.meta.url)))
const main = join(here, "..", "src", "main.ts")

const fail = problem => {
  const hint = `Run npm ci in the repository, which brings Node ${minNodeMajor}, or install Node ${minNodeMajor} or newer.`
  process.stderr.write(`artifice: ${problem}. ${hint}\n`)
  process.exit(1)
}

/** The nearest node_modules/.bin/node from the launcher's own place upwards. */
const findPinnedNode = () => {
  const name = process.platform === "win32" ? "node.exe" : "node"
  for (let folder = here; ; folder = dirname(folder)) {
    const candidate = join(folder, "node_modules", ".bin", name)
    if (existsSync(candidate)) return realpathSync(candidate)
    if (dirname(folder) === folder) return undefined
  }
}

const relaunch = node => {
  const child = spawn(node, [main, ...process.argv.slice(2)], {
    stdio: "inherit",
    env: { ...process.env, [relaunchedVariable]: "1" }
  })
  // Every signal is passed on, also one that the terminal has sent to both: the command takes what arrives together as one.
  const passOn = signal => child.kill(signal)
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, passOn)
  child.on("error", error => fail(`${node} could not be started: ${error.message}`))
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code)
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
    // Reached only where the signal does not end a process.
    process.exit(128 + (constants.signals[signal] || 0))
  })
}

if (Number(process.versions.node.split(".")[0]) >= minNodeMajor) {
  await import("../src/main.ts")
} else {
  const node = process.env[relaunchedVariable] ? undefined : findPinnedNode()
  if (node === undefined) fail(`Node ${process.versions.node} is too old and no Node ${minNodeMajor} was found`)
  else relaunch(node)
}
