import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")
const collect: unknown = runInNewContext("gc")

/** Bytes that are still reachable, after a full collection: on the heap and in buffers. */
export const reachableBytes = (): number => {
  if (typeof collect !== "function") throw new Error("this V8 does not collect on demand")
  collect()
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
