/** Runs the station and its visitor as two processes, and hands the token from one to the other. */
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

const run = (name: string) =>
  spawn(process.execPath, [fileURLToPath(new URL(`${name}.ts`, import.meta.url))], {
    stdio: ["pipe", "pipe", "inherit"]
  })

const station = run("station")
createInterface(station.stdout).once("line", token => {
  console.log("station: waits for the holder of its token")
  const visitor = run("visitor")
  visitor.stdin.end(token)
  createInterface(visitor.stdout).on("line", line => console.log(`visitor: ${line}`))
  visitor.once("exit", code => {
    process.exitCode = code ?? 1
    station.stdin.end()
  })
})
station.once("exit", code => (process.exitCode ||= code ?? 1))
