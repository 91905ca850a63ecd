/** Where the time of this thread goes, by Node's own sampling profiler. */
import { Session, type Profiler } from "node:inspector/promises"

/** Microseconds between samples. */
const intervalUs = 200

/** What starting and stopping the profiler takes: no part of the work. */
const profiler = "profiler"

/** A sample belongs to the first of these that one of its frames, from the innermost on, is of: a file, and functions of it where not all are. */
const parts: ReadonlyArray<readonly [part: string, file: string, functions?: ReadonlyArray<string>]> = [
  ["seal", "/protocol/CipherEngine.ts", ["seal"]],
  ["open", "/protocol/CipherEngine.ts", ["open"]],
  ["sum, mean", "/compute/LaneTree.ts"],
  ["sum, mean", "/compute/Blocks.ts"],
  ["copy into place", "/node/GradientExchanger.ts", ["take", "onChunk"]],
  ["copy own part", "/training/ViewExchange.ts", ["contribute"]],
  ["records", "/protocol/"],
  ["read and write sockets", "/transport/"],
  ["read and write sockets", "node:net"],
  ["read and write sockets", "node:internal/stream_base_commons"],
  ["rest", "/training/"],
  [profiler, "node:inspector"]
]

/** What the profiler names in no file. */
const special: Readonly<Record<string, string>> = {
  // Node counts as idle what the system does in its poll phase too, which is to copy what has arrived.
  "(idle)": "wait, and reading by the system",
  "(garbage collector)": "garbage collector",
  "(program)": "system calls and engine"
}

const partOf = (frames: ReadonlyArray<Profiler.ProfileNode>): string => {
  for (const { callFrame } of frames) {
    const named = special[callFrame.functionName]
    if (named !== undefined) return named
    const found = parts.find(
      ([, file, functions]) =>
        callFrame.url.includes(file) && (functions === undefined || functions.includes(callFrame.functionName))
    )
    if (found !== undefined) return found[0]
  }
  return "rest"
}

const millisecondsByPart = ({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): Record<string, number> => {
  const byId = new Map(nodes.map(node => [node.id, node]))
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map(child => [child, id] as const)))
  const partById = new Map(
    nodes.map(node => {
      const frames: Array<Profiler.ProfileNode> = []
      for (let at: Profiler.ProfileNode | undefined = node; at !== undefined; at = byId.get(parents.get(at.id) ?? 0))
        frames.push(at)
      return [node.id, partOf(frames)] as const
    })
  )
  const milliseconds: Record<string, number> = {}
  for (const [index, id] of samples.entries()) {
    const part = partById.get(id) ?? "rest"
    if (part === profiler) continue
    milliseconds[part] = (milliseconds[part] ?? 0) + (timeDeltas[index] ?? 0) / 1000
  }
  return milliseconds
}

/** Runs work under the profiler; gives milliseconds by part. It then takes longer than without. */
export const profiled = async <A>(work: () => Promise<A>): Promise<{ value: A; parts: Record<string, number> }> => {
  const session = new Session()
  session.connect()
  try {
    await session.post("Profiler.enable")
    await session.post("Profiler.setSamplingInterval", { interval: intervalUs })
    await session.post("Profiler.start")
    const value = await work()
    const { profile } = await session.post("Profiler.stop")
    return { value, parts: millisecondsByPart(profile) }
  } finally {
    session.disconnect()
  }
}
