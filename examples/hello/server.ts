import { startPeer } from "artifice/promise"
import { Hello } from "./protocol.ts"

const peer = await startPeer({ listen: "127.0.0.1:0" })
await peer.serve("hello", Hello, {
  Greet: ({ name }, caller) => `hello ${name}, you have proved to be ${caller.peer.slice(0, 8)}`
})
const { token } = await peer.invite()
console.log(token)
process.stdin.once("end", () => peer.close()).resume()
