/** Runs the server and the client as two processes, and hands the token from one to the other. */
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

const run = (name: string) =>
  spawn(process.execPath, [fileURLToPath(new URL(`${name}.ts`, import.meta.url))], {
    stdio: ["pipe", "pipe", "inherit"]
  })

const server = run("server")
createInterface(server.stdout).once("line", token => {
  console.log("server: waits for the holder of its token")
  const client = run("client")
  client.stdin.end(token)
  createInterface(client.stdout).on("line", line => console.log(`client: ${line}`))
  client.once("exit", code => {
    process.exitCode = code ?? 1
    server.stdin.end()
  })
})
server.once("exit", code => (process.exitCode ||= code ?? 1))
