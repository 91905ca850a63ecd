/** Takes frames and hands each to whoever looks at its page. Prints the token for the sender and the page's address, and ends with its standard input. */
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { createServer, type ServerResponse } from "node:http"
import { startPeer } from "artifice/promise"
import { maxFrameBytes } from "./Frame.ts"
import { readOptions } from "./Options.ts"

process.on("SIGINT", () => undefined)
const { listen, port } = readOptions()
const page = readFileSync(new URL("./page.html", import.meta.url))

/** Browsers that are looking. */
const viewers = new Set<ServerResponse>()

const server = createServer((request, response) => {
  if (request.method !== "GET") return void response.writeHead(405).end()
  if (request.url === "/") return void response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page)
  if (request.url !== "/frames") return void response.writeHead(404).end()
  response.writeHead(200, { "content-type": "application/octet-stream", "cache-control": "no-store" })
  response.flushHeaders()
  viewers.add(response)
  response.once("close", () => viewers.delete(response))
})
server.listen(port, "127.0.0.1")
await once(server, "listening")

const show = (frame: Uint8Array): void => {
  const length = new Uint8Array(4)
  new DataView(length.buffer).setUint32(0, frame.length)
  for (const viewer of viewers) {
    // Who is slow sees fewer frames, not older ones.
    if (viewer.writableNeedDrain) continue
    viewer.write(length)
    viewer.write(frame)
  }
}

const peer = await startPeer({ listen })
await peer.serveSllp(
  "camera",
  async sllp => {
    for await (const message of sllp.messages(0)) if (message.complete) show(message.bytes)
  },
  { maxMessageBytes: maxFrameBytes }
)

const { token } = await peer.invite()
const address = server.address()
const pagePort = typeof address === "object" && address !== null ? address.port : port
console.log(token)
console.log(`http://127.0.0.1:${pagePort}/`)

process.stdin
  .once("end", () => {
    server.close()
    server.closeAllConnections()
    void peer.close().then(() => process.exit())
  })
  .resume()
