import { startPeer } from "artifice/promise"
import { text } from "node:stream/consumers"
import { Hello } from "./protocol.ts"

const token = await text(process.stdin)
const peer = await startPeer()
const server = await peer.join(token.trim())
console.log(await peer.client(server, "hello", Hello).Greet({ name: "world" }))
await peer.close()
