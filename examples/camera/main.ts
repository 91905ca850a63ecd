/** Starts a receiver and a sender as two processes, hands the token from one to the other, and says where the page is. */
import { spawn, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { readOptions } from "./Options.ts"

readOptions()

const run = (name: string) =>
  spawn(process.execPath, [fileURLToPath(new URL(`${name}.ts`, import.meta.url)), ...process.argv.slice(2)], {
    stdio: ["pipe", "pipe", "inherit"]
  })

const receiver = run("receiver")
const sender = run("sender")
const children: ReadonlyArray<ChildProcess> = [receiver, sender]
const exits = children.map(child => once(child, "exit"))

/** Both end when their standard input does, so they do too when this process is killed. */
const end = (): void => {
  for (const child of children) child.stdin?.end()
}
process.on("SIGINT", end).on("SIGTERM", end)
for (const child of children)
  child.once("exit", code => {
    process.exitCode ||= code ?? 1
    end()
  })
// What is written to a child that has ended is of no use.
for (const child of children) child.stdin?.on("error", () => undefined)

const lines = createInterface(receiver.stdout)[Symbol.asyncIterator]()
const token = await lines.next()
const page = await lines.next()
if (!page.done) {
  sender.stdin.write(`${token.value}\n`)
  console.log(`The picture is at ${page.value}. Ctrl-C ends it.`)
}
await Promise.all(exits)
