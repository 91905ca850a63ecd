// One end of flows that share a line, in a process of its own.
//   sllpFlow.ts receive HOST      prints two tokens and the port of a TCP sink; for each line of standard input, the bytes of every flow so far
//   sllpFlow.ts sllp TOKEN        sends over SLLP as fast as it may, until standard input ends
//   sllpFlow.ts tcp HOST PORT     sends over TCP as fast as it may, until standard input ends
import { once } from "node:events"
import { connect, createServer } from "node:net"
import { createInterface } from "node:readline"
import { startPeer } from "../../src/promise.ts"

const messageBytes = 16 * 1024
const [, , role = "", where = "", port = ""] = process.argv
const commands = createInterface(process.stdin)
commands.once("close", () => process.exit())
const print = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`)

if (role === "receive") {
  const flows: Array<number> = []
  const server = createServer(socket => {
    const flow = flows.push(0) - 1
    socket.on("error", () => undefined)
    socket.on("data", chunk => void (flows[flow] = (flows[flow] ?? 0) + chunk.length))
  })
  server.listen(0, where)
  await once(server, "listening")
  const peer = await startPeer({ listen: `${where}:0` })
  await peer.serveSllp("flow", async sllp => {
    const flow = flows.push(0) - 1
    for await (const message of sllp.messages(0))
      if (message.complete) flows[flow] = (flows[flow] ?? 0) + message.bytes.length
  })
  const address = server.address()
  const tokens = [(await peer.invite()).token, (await peer.invite()).token]
  print({ tokens, port: typeof address === "object" ? address?.port : 0 })
  commands.on("line", () => print(flows))
} else if (role === "sllp") {
  const peer = await startPeer()
  const channels = [{ mode: "reliable", sendQueueBytes: 16 * messageBytes }] as const
  const sllp = await peer.openSllp(await peer.join(where), "flow", { channels })
  print("started")
  for (;;) await sllp.send(0, new Uint8Array(messageBytes))
} else {
  const socket = connect(Number(port), where)
  await once(socket, "connect")
  print("started")
  for (;;) if (!socket.write(new Uint8Array(messageBytes))) await once(socket, "drain")
}
