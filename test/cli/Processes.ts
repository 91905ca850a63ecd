/**
 * Real processes under test: their lines as they come, and how they end.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

export const repositoryRoot = fileURLToPath(new URL("../../", import.meta.url))
export const mainModule = fileURLToPath(new URL("../../apps/cli/src/main.ts", import.meta.url))
export const launcher = fileURLToPath(new URL("../../apps/cli/bin/artifice.mjs", import.meta.url))
export const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: ReadonlyArray<string>
  readonly stderr: ReadonlyArray<string>
}

export interface Started {
  readonly child: ChildProcessWithoutNullStreams
  readonly ended: Promise<Ended>
  /** The first line of standard output that contains the text; fails when the process ends without it. */
  readonly line: (text: string) => Promise<string>
}

const withoutArtificeVariables = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("ARTIFICE_")))

export const start = (args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}, node = process.execPath): Started => {
  const child = spawn(node, args, { env: { ...withoutArtificeVariables(), ...env }, cwd: repositoryRoot })
  const stdout: Array<string> = []
  const stderr: Array<string> = []
  const waiting = new Set<() => void>()
  createInterface(child.stdout).on("line", line => {
    stdout.push(line)
    for (const look of waiting) look()
  })
  createInterface(child.stderr).on("line", line => stderr.push(line))
  // A process that does not read its input may be gone before the input is.
  child.stdin.on("error", () => {})
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
  const line = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const found = stdout.find(each => each.includes(text))
        if (found === undefined) return
        waiting.delete(look)
        resolve(found)
      }
      waiting.add(look)
      look()
      void ended.then(all => reject(new Error(`ended without "${text}": ${JSON.stringify(all)}`)))
    })
  return { child, ended, line }
}

export const run = (
  args: ReadonlyArray<string>,
  env: NodeJS.ProcessEnv = {},
  node = process.execPath
): Promise<Ended> => {
  const started = start(args, env, node)
  started.child.stdin.end()
  return started.ended
}
