/** PyTorch's gloo, of Debian's package: what others use for this, without encryption. */
import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { isRecord } from "../../src/compute/Options.ts"
import type { Child } from "../support/Child.ts"
import type { MemberAnswers, MemberRequest } from "./Member.ts"

const script = fileURLToPath(new URL("./gloo.py", import.meta.url))
/** Debian's own, whatever else is called python3 here. */
const python = "/usr/bin/python3"
/** The longest that one answer may take: a process that hangs must not hang the benchmark. */
const answerTimeoutMs = 60_000

const hasTorch = (): boolean => spawnSync(python, ["-c", "import torch.distributed"]).status === 0

/** Installs PyTorch where that can be done and was not before. Why gloo cannot be measured here; undefined where it can. */
export const whyNoGloo = (note: (line: string) => void): string | undefined => {
  if (hasTorch()) return undefined
  if (process.getuid?.() !== 0 || spawnSync("which", ["apt-get"]).status !== 0)
    return "it needs Debian's python3-torch, which root can install with apt-get"
  note("Installing what is measured against, once: apt-get install python3-torch")
  const install = ["install", "--yes", "--no-install-recommends", "python3-torch"]
  spawnSync("apt-get", install, { stdio: ["ignore", 2, 2], env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } })
  return hasTorch() ? undefined : "python3-torch could not be installed; see the message of apt-get above"
}

type Member = Child<MemberRequest, MemberAnswers>

const startMember = (): Member => {
  const child = spawn(python, [script], { stdio: ["pipe", "pipe", "inherit"] })
  child.stdin.on("error", () => undefined)
  const lines = createInterface({ input: child.stdout })
  return {
    ask: request =>
      new Promise((resolve, reject) => {
        const onExit = (code: number | null) => reject(new Error(`a member by gloo ended with code ${code}`))
        const timeout = setTimeout(() => reject(new Error(`gloo: no answer to ${request.kind}`)), answerTimeoutMs)
        child.once("exit", onExit)
        lines.once("line", line => {
          clearTimeout(timeout)
          child.off("exit", onExit)
          const reply: unknown = JSON.parse(line)
          if (isRecord(reply) && "error" in reply) reject(new Error(String(reply.error)))
          // A child answers a request of a kind with the answer of that kind.
          else resolve((isRecord(reply) ? reply.value : undefined) as MemberAnswers[typeof request.kind])
        })
        child.stdin.write(`${JSON.stringify(request)}\n`)
      }),
    stop: () => void child.kill()
  }
}

/** So many members, which have met. */
export const startGloo = async (size: number): Promise<{ members: ReadonlyArray<Member>; close: () => void }> => {
  const folder = mkdtempSync(join(tmpdir(), "artifice-gloo-"))
  const members = Array.from({ length: size }, startMember)
  const close = (): void => {
    for (const member of members) member.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    const meeting = { init_method: `file://${join(folder, "meeting")}`, world_size: size }
    await Promise.all(
      members.map((member, rank) => member.ask({ kind: "accept", offer: JSON.stringify({ ...meeting, rank }) }))
    )
  } catch (error) {
    close()
    throw error
  }
  return { members, close }
}
