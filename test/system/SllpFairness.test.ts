import type { ChildProcessWithoutNullStreams } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "vitest"
import { needNamespaces, onLan, type Lan, type Machine } from "../support/namespaces.ts"

const script = fileURLToPath(new URL("../support/sllpFlow.ts", import.meta.url))
const bitsPerSecond = 10e6
/** Until windows have grown, and what is measured from then on. */
const warmUpMs = 3_000
const measuredMs = 15_000
const timeoutMs = 180_000

/** A process of the flow on a machine; `ask` writes a line and gives the next one that it prints. */
const start = (machine: Machine, ...args: ReadonlyArray<string>) => {
  const child: ChildProcessWithoutNullStreams = machine.spawn(process.execPath, [script, ...args])
  child.stderr.pipe(process.stderr)
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const next = async (): Promise<unknown> => JSON.parse((await lines.next()).value ?? "null")
  return {
    next,
    ask: () => {
      child.stdin.write("?\n")
      return next()
    },
    end: async () => {
      const exited = once(child, "exit")
      child.stdin.end()
      await exited
    }
  }
}

const numbersOf = (value: unknown): ReadonlyArray<number> =>
  Array.isArray(value) && value.every(each => typeof each === "number") ? value : assert.fail(String(value))

/** The share of each of two flows of a sender, of all that arrived. */
const shares = async (lan: Lan, flows: readonly ["sllp", "sllp" | "tcp"]): Promise<ReadonlyArray<number>> => {
  const [from, to] = [lan.machine("sender"), lan.machine("receiver")]
  // What Linux does unless it is told otherwise; the tests' own machine may have been. In a namespace only a route can say so.
  await from.run("ip", "route", "replace", "192.168.1.0/24", "dev", "eth0", "src", from.ipv4, "congctl", "cubic")
  await from.limit(bitsPerSecond)
  const receiver = start(to, "receive", to.ipv4)
  const told: { readonly tokens: ReadonlyArray<string>; readonly port: number } = Object(await receiver.next())
  const senders = flows.map((kind, place) =>
    kind === "sllp" ? start(from, "sllp", told.tokens[place] ?? "") : start(from, "tcp", to.ipv4, String(told.port))
  )
  for (const sender of senders) await sender.next()
  await sleep(warmUpMs)
  const before = numbersOf(await receiver.ask())
  if (flows.includes("tcp")) assert.include(await from.run("ss", "-tin"), " cubic ")
  await sleep(measuredMs)
  const after = numbersOf(await receiver.ask())
  for (const process of [...senders, receiver]) await process.end()
  const bytes = after.map((count, flow) => count - (before[flow] ?? 0))
  const all = bytes.reduce((sum, count) => sum + count, 0)
  assert.lengthOf(bytes, 2)
  assert.isAbove(all, (bitsPerSecond / 8) * (measuredMs / 1_000) * 0.6, "the line was used")
  return bytes.map(count => count / all)
}

describe("On a line of 10 Mbit/s", () => {
  needNamespaces()

  it(
    "two associations share it, neither with less than 35 %",
    onLan(["sender", "receiver"], async lan => {
      for (const share of await shares(lan, ["sllp", "sllp"])) assert.isAtLeast(share, 0.35)
    }),
    timeoutMs
  )

  it(
    "an association beside a TCP flow starves neither itself nor the other",
    onLan(["sender", "receiver"], async lan => {
      for (const share of await shares(lan, ["sllp", "tcp"])) assert.isAtLeast(share, 0.15)
    }),
    timeoutMs
  )
})
