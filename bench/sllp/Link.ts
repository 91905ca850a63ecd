/** Two network namespaces and a link between them that loses and delays packets: needs root, `unshare`, `nsenter`, `ip` and python3. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"

export interface Link {
  /** What comes before a command that is to run at an end: its first word is the program. */
  readonly ends: readonly [ReadonlyArray<string>, ReadonlyArray<string>]
  /** The addresses of the ends. */
  readonly hosts: readonly [string, string]
  readonly close: () => Promise<void>
}

const script = fileURLToPath(new URL("./link.py", import.meta.url))

/** Why no such link can be made here; undefined where it can. */
export const whyNoLink = (): string | undefined => {
  if (process.getuid?.() !== 0) return "a link that loses packets needs root"
  const missing = ["unshare", "nsenter", "ip", "python3"].filter(tool => spawnSync("which", [tool]).status !== 0)
  return missing.length === 0 ? undefined : `a link that loses packets needs ${missing.join(", ")}`
}

const started = async (child: ChildProcess, what: string): Promise<void> => {
  const failed = once(child, "exit").then(([code]) => {
    throw new Error(`${what} ended with code ${code}`)
  })
  failed.catch(() => undefined)
  if (child.stdout !== null) await Promise.race([once(child.stdout, "data"), failed])
}

const namespace = async (): Promise<ChildProcess> => {
  const child = spawn("unshare", ["--net", "sh", "-c", "echo ready; exec cat >/dev/null"], {
    stdio: ["pipe", "pipe", 2]
  })
  await started(child, "a network namespace")
  return child
}

export const openLink = async (options: {
  readonly loss: number
  readonly delayMs: number
  readonly seed: number
}): Promise<Link> => {
  const ends = [await namespace(), await namespace()] as const
  const pids = ends.map(({ pid }) => String(pid))
  const link = spawn("python3", [script, ...pids, ...[options.loss, options.delayMs, options.seed].map(String)], {
    stdio: ["pipe", "pipe", 2]
  })
  await started(link, "the link")
  const enter = (pid: string | undefined) => ["nsenter", `--net=/proc/${pid}/ns/net`, "--"]
  return {
    ends: [enter(pids[0]), enter(pids[1])],
    hosts: ["10.77.0.1", "10.77.0.2"],
    close: async () => {
      for (const child of [link, ...ends]) {
        const over = once(child, "exit")
        child.stdin?.end()
        await over
      }
    }
  }
}
