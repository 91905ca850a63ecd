import { spawn } from "node:child_process"
import { once } from "node:events"
import { connect, type Socket } from "node:net"
import { createInterface } from "node:readline"
import { Effect } from "effect"

/** Accepts as many connections as the system queues for it, as the process is stopped right after. */
const listens = `
const server = require("node:net").createServer()
server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(server.address().port))`
/** Linux completes one connection more than the backlog says, and then drops what asks for another. */
const queuedConnections = 2

/** An address of loopback at which a dial gets no answer at all, until the scope ends. */
export const silentAddress = Effect.gen(function* () {
  const sockets: Array<Socket> = []
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["-e", listens])),
    child =>
      Effect.promise(async () => {
        for (const socket of sockets) socket.destroy()
        const closed = once(child, "close")
        child.kill("SIGKILL")
        await closed
      })
  )
  const [line] = yield* Effect.promise(() => once(createInterface(child.stdout), "line"))
  child.kill("SIGSTOP")
  while (sockets.length < queuedConnections) {
    const socket = connect(Number(line), "127.0.0.1")
    socket.on("error", () => undefined)
    sockets.push(socket)
    yield* Effect.promise(() => once(socket, "connect"))
  }
  return `127.0.0.1:${line}`
})
