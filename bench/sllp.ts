import { openLink, whyNoLink } from "./sllp/Link.ts"
import type { EndAnswers, EndRequest } from "./sllp/End.ts"
import {
  atLeast,
  atMost,
  rounded,
  type Benchmark,
  type BenchmarkOptions,
  type Goal,
  type Row
} from "./support/Benchmark.ts"
import { startChild, type Child } from "./support/Child.ts"
import { alternate, median, percentile } from "./support/Statistics.ts"

type End = Child<EndRequest, EndAnswers>

const module = new URL("./sllp/End.ts", import.meta.url)
const MB = 1e6
const GB = 1e9
const sizes = [1_200, 1_400, 8_900, 65_000] as const
const losses = [0, 0.01, 0.05] as const
const carriers = ["latest", "reliable", "tcp"] as const
/** Camera frames: 60 a second of 50 KB. */
const framesPerSecond = 60
const frameBytes = 50_000
const oneWayDelayMs = 20
const idleAssociations = 16

const pair = async (host: string, enter: readonly [ReadonlyArray<string>, ReadonlyArray<string>] = [[], []]) => {
  const server: End = startChild(module, [], enter[0])
  const client: End = startChild(module, [], enter[1])
  const { token, peerId } = await server.ask({ kind: "listen", host })
  await client.ask({ kind: "connect", token, peerId })
  const stop = (): void => {
    client.stop()
    server.stop()
  }
  return { server, client, stop }
}

const cpuOf = async (ends: { readonly server: End; readonly client: End }): Promise<number> =>
  (await ends.server.ask({ kind: "cpu" })) + (await ends.client.ask({ kind: "cpu" }))

const goodput = async (rounds: number, bytes: number, rows: Array<Row>): Promise<number> => {
  const ends = await pair("127.0.0.1")
  try {
    const measured = await alternate(sizes, rounds, async datagramBytes => {
      const before = await cpuOf(ends)
      const seconds = await ends.client.ask({ kind: "goodput", datagramBytes, bytes })
      return { mbPerSecond: bytes / MB / seconds, cpuSecondsPerGB: ((await cpuOf(ends)) - before) / (bytes / GB) }
    })
    const of = (size: (typeof sizes)[number], key: "mbPerSecond" | "cpuSecondsPerGB") =>
      median((measured.get(size) ?? []).map(round => round[key]))
    for (const size of sizes)
      rows.push({
        "datagram B": size,
        "goodput MB/s": rounded(of(size, "mbPerSecond")),
        "CPU s/GB, both ends": rounded(of(size, "cpuSecondsPerGB"))
      })
    const milliseconds = 5_000
    const idle = await ends.client.ask({ kind: "idle", associations: idleAssociations, milliseconds })
    rows.push({
      "idle associations": idleAssociations,
      "CPU %, one end": rounded((idle / (milliseconds / 1000)) * 100)
    })
    return of(1_400, "mbPerSecond")
  } finally {
    ends.stop()
  }
}

/** Latencies of frames over a link of 20 ms each way that loses packets, for each carrier; alternated, each round with another seed. */
const frames = async (loss: number, rounds: number, count: number, rows: Array<Row>): Promise<Map<string, number>> => {
  const found = new Map<string, Array<{ readonly p50: number; readonly p99: number; readonly delivered: number }>>()
  for (let round = 0; round < rounds; round++) {
    const link = await openLink({ loss, delayMs: oneWayDelayMs, seed: round + 1 })
    try {
      const ends = await pair(link.hosts[0], link.ends)
      try {
        for (const over of carriers) {
          await ends.server.ask({ kind: "latencies" })
          await ends.client.ask({ kind: "pace", over, count, bytes: frameBytes, perSecond: framesPerSecond })
          const times = await ends.server.ask({ kind: "latencies" })
          const entry = {
            p50: percentile(times, 0.5),
            p99: percentile(times, 0.99),
            delivered: times.length / count
          }
          found.set(over, [...(found.get(over) ?? []), entry])
        }
      } finally {
        ends.stop()
      }
    } finally {
      await link.close()
    }
  }
  const p99 = new Map<string, number>()
  for (const [over, entries] of found) {
    const of = (key: "p50" | "p99" | "delivered") => median(entries.map(entry => entry[key]))
    p99.set(over, of("p99"))
    rows.push({
      "60 × 50 KB/s over": over,
      "loss %": loss * 100,
      "p50 ms": rounded(of("p50")),
      "p99 ms": rounded(of("p99")),
      "delivered %": rounded(of("delivered") * 100)
    })
  }
  return p99
}

const run = async ({ quick, note }: BenchmarkOptions) => {
  const rows: Array<Row> = []
  const goals: Array<Goal> = []
  note("goodput without loss")
  const at1400 = await goodput(quick ? 2 : 7, (quick ? 32 : 128) * 2 ** 20, rows)
  goals.push(atLeast("goodput with datagrams of 1,400 B, MB/s", at1400, 55))
  const reason = whyNoLink()
  if (reason !== undefined) {
    note(`not measured: latency under loss; ${reason}`)
    return { rows, goals }
  }
  for (const loss of losses) {
    note(`frames at ${loss * 100} % loss and ${oneWayDelayMs} ms each way`)
    const p99 = await frames(loss, quick ? 1 : 3, quick ? 180 : 600, rows)
    const ratio = (p99.get("latest") ?? Number.NaN) / (p99.get("tcp") ?? Number.NaN)
    if (loss === 0.01) goals.push(atMost("p99 of latest / our TCP session at 1 % loss", ratio, 0.5))
  }
  return { rows, goals }
}

export default { needsPeers: false, run } satisfies Benchmark
