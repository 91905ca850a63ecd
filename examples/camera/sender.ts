/** Takes pictures and streams them to the receiver whose token comes on standard input, until that ends. */
import { once } from "node:events"
import { createInterface } from "node:readline"
import { startPeer, type SllpStatistics } from "artifice/promise"
import { encodeFrame, maxFrameBytes } from "./Frame.ts"
import { LossyProxy } from "./LossyProxy.ts"
import { readOptions } from "./Options.ts"
import { pictures } from "./Source.ts"

/** A lost piece of a frame is sent again while the frame is younger than this: later it is worth less than the next one. */
const repairMs = 250
/** Figures of the last second say more than those since the beginning. */
const figuresMs = 1_000

const fail = (error: unknown): never => {
  console.error(error instanceof Error ? error.message : error)
  process.exit(1)
}
process.on("SIGINT", () => undefined)

const { source, shape, line, seed } = readOptions()
const [token] = await once(createInterface(process.stdin), "line")

const peer = await startPeer()
await using proxy = line === undefined ? undefined : await LossyProxy.open(line, seed)
const receiver = await peer.join(String(token)).catch(fail)
const sllp = await peer.openSllp(receiver, "camera", {
  channels: [{ mode: "latest", maxMessageBytes: maxFrameBytes, repairMs }],
  ...(proxy && { via: proxy.toward })
})
process.stdin.once("end", () => sllp.close()).resume()

let before: SllpStatistics = sllp.statistics()
let lossRate = 0
const figures = setInterval(() => {
  const now = sllp.statistics()
  const lost = now.lostDatagrams - before.lostDatagrams
  lossRate = lost / Math.max(1, lost + now.acknowledgedDatagrams - before.acknowledgedDatagrams)
  before = now
}, figuresMs)

const stream = async (): Promise<void> => {
  let number = 0
  for await (const picture of pictures(source, shape)) {
    const { roundTripMs } = sllp.statistics()
    const takenMs = performance.timeOrigin + performance.now()
    await sllp.send(0, encodeFrame(number++, picture, takenMs, { lossRate, roundTripMs }))
  }
}

await Promise.race([
  stream().catch(error => sllp.closed.then(({ code }) => (code === "normal" ? undefined : fail(error)))),
  sllp.closed
])
clearInterval(figures)
const { code, message } = await sllp.closed
if (code !== "normal") fail(message)
await peer.close()
process.exit()
