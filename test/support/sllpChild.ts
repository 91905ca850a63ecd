// A peer in a process of its own: joins by the token in its argument, opens an association, says so, and waits to be killed.
import { createInterface } from "node:readline"
import { startPeer } from "../../src/promise.ts"

const [, , token = ""] = process.argv
const peer = await startPeer()
const sllp = await peer.openSllp(await peer.join(token), "wait", { channels: [{ mode: "reliable" }] })
await sllp.send(0, new Uint8Array(10))
process.stdout.write("open\n")
createInterface(process.stdin).once("close", () => process.exit())
