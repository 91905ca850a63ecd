import { atLeast, atMost, rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { startChild, type Child } from "./support/Child.ts"
import { alternate, median, percentile } from "./support/Statistics.ts"
import type { EndAnswers, EndRequest } from "./transport/End.ts"

type End = Child<EndRequest, EndAnswers>

interface Subject {
  readonly name: string
  readonly server: End
  readonly client: End
  /** Bytes of one transfer: about half a second of work. */
  readonly bytes: number
}

const ours = "artifice"
const MB = 1e6
const GB = 1e9

/** Transports, with the bytes that each moves in about half a second. */
const transports: ReadonlyArray<readonly [name: string, bytes: number]> = [
  ["tcp", 512 * 2 ** 20],
  ["tcp onread", 512 * 2 ** 20],
  ["tls", 256 * 2 ** 20],
  ["tls onread", 256 * 2 ** 20],
  ["libp2p", 48 * 2 ** 20],
  [ours, 256 * 2 ** 20]
]

const directions = { "to the listener": [1, 0], "to the dialler": [0, 1], "both ways": [0.5, 0.5] } as const
type Direction = keyof typeof directions
const directionNames = ["to the listener", "to the dialler", "both ways"] as const

const module = new URL("./transport/End.ts", import.meta.url)

const start = async (): Promise<ReadonlyArray<Subject>> => {
  const { certificates } = await import("./transport/Certificates.mjs")
  const { server: serverCredentials, client: clientCredentials } = await certificates()
  return Promise.all(
    transports.map(async ([name, bytes]) => {
      const server: End = startChild(module)
      const client: End = startChild(module)
      const endpoint = await server.ask({ kind: "listen", transport: name, credentials: serverCredentials })
      await client.ask({ kind: "connect", transport: name, credentials: clientCredentials, endpoint })
      return { name, server, client, bytes }
    })
  )
}

interface Speed {
  readonly mbPerSecond: number
  readonly cpuSecondsPerGB: number
}

const cpuOf = async ({ server, client }: Subject): Promise<number> =>
  (await server.ask({ kind: "cpu" })) + (await client.ask({ kind: "cpu" }))

const speedOf = async (subject: Subject, direction: Direction): Promise<Speed> => {
  const [up, down] = directions[direction]
  const before = await cpuOf(subject)
  const seconds = await subject.client.ask({ kind: "transfer", up: up * subject.bytes, down: down * subject.bytes })
  const cpu = (await cpuOf(subject)) - before
  return { mbPerSecond: subject.bytes / MB / seconds, cpuSecondsPerGB: cpu / (subject.bytes / GB) }
}

const throughput = async (subjects: ReadonlyArray<Subject>, direction: Direction, rounds: number) => {
  const measured = await alternate(subjects, rounds, subject => speedOf(subject, direction))
  return new Map(
    subjects.map(subject => {
      const speeds = measured.get(subject) ?? []
      return [
        subject.name,
        {
          mbPerSecond: median(speeds.map(speed => speed.mbPerSecond)),
          cpuSecondsPerGB: median(speeds.map(speed => speed.cpuSecondsPerGB))
        }
      ] as const
    })
  )
}

const latency = async (subjects: ReadonlyArray<Subject>, bytes: number, rounds: number, count: number) => {
  const measured = await alternate(subjects, rounds, ({ client }) => client.ask({ kind: "roundTrips", bytes, count }))
  return new Map(
    subjects.map(subject => {
      const times = measured.get(subject) ?? []
      return [
        subject.name,
        {
          p50: median(times.map(round => percentile(round, 0.5))) * 1000,
          p99: median(times.map(round => percentile(round, 0.99))) * 1000
        }
      ] as const
    })
  )
}

/** Calls over our session, alone and beside bulk data in both directions. */
const callsUnderLoad = async (subject: Subject, rounds: number, count: number) => {
  const measured = await alternate([false, true], rounds, loaded =>
    subject.client.ask({ kind: "calls", bytes: 64, count, loaded })
  )
  const microseconds = (loaded: boolean, share: number) =>
    median((measured.get(loaded) ?? []).map(times => percentile(times, share))) * 1000
  return {
    idle: { p50: microseconds(false, 0.5), p99: microseconds(false, 0.99) },
    loaded: { p50: microseconds(true, 0.5), p99: microseconds(true, 0.99) }
  }
}

const run = async ({ quick, note }: BenchmarkOptions) => {
  const rounds = quick ? 3 : 9
  note("starting two processes for each transport")
  const subjects = await start()
  try {
    const rows: Array<Row> = []
    const speeds = new Map<Direction, Awaited<ReturnType<typeof throughput>>>()
    note("warming up")
    for (const subject of subjects) for (const direction of directionNames) await speedOf(subject, direction)
    for (const direction of directionNames) {
      note(`throughput ${direction}`)
      speeds.set(direction, await throughput(subjects, direction, rounds))
    }
    note("latency")
    for (const subject of subjects) await subject.client.ask({ kind: "roundTrips", bytes: 64, count: 2_000 })
    const small = await latency(subjects, 64, rounds, quick ? 1_000 : 4_000)
    const large = await latency(subjects, 1024, rounds, quick ? 1_000 : 4_000)
    note("connections")
    const setUps = await alternate(subjects, quick ? 1 : 3, ({ client }) => client.ask({ kind: "setUps", count: 10 }))

    const mbOf = (name: string, direction: Direction) => speeds.get(direction)?.get(name)?.mbPerSecond ?? NaN
    for (const { name } of subjects) {
      for (const direction of directionNames) {
        const { mbPerSecond = NaN, cpuSecondsPerGB = NaN } = speeds.get(direction)?.get(name) ?? {}
        rows.push({
          transport: name,
          direction,
          "MB/s": rounded(mbPerSecond),
          "CPU s/GB, both ends": rounded(cpuSecondsPerGB),
          "× tls": rounded(mbPerSecond / mbOf("tls", direction))
        })
      }
    }
    for (const subject of subjects) {
      const { name } = subject
      rows.push({
        transport: name,
        "64 B p50 µs": rounded(small.get(name)?.p50 ?? NaN),
        "64 B p99 µs": rounded(small.get(name)?.p99 ?? NaN),
        "1 KiB p50 µs": rounded(large.get(name)?.p50 ?? NaN),
        "1 KiB p99 µs": rounded(large.get(name)?.p99 ?? NaN),
        "set-up ms": rounded(median((setUps.get(subject) ?? []).flat()))
      })
    }

    const own = subjects.find(({ name }) => name === ours)
    if (own === undefined) throw new Error("our own transport is not among the subjects")
    note("calls beside bulk data")
    await own.client.ask({ kind: "calls", bytes: 64, count: 1_000, loaded: false })
    const calls = await callsUnderLoad(own, quick ? 1 : 5, quick ? 300 : 1_000)
    for (const [beside, { p50, p99 }] of Object.entries(calls))
      rows.push({ "call of 64 B": beside, "p50 µs": rounded(p50), "p99 µs": rounded(p99) })

    const least = (name: string) =>
      Math.min(...directionNames.map(direction => mbOf(ours, direction) / mbOf(name, direction)))
    return {
      rows,
      goals: [
        atLeast("throughput / node:tls, worst direction", least("tls"), 1),
        atLeast("throughput / libp2p, worst direction", least("libp2p"), 6),
        atMost("64 B p50 / node:tls", (small.get(ours)?.p50 ?? NaN) / (small.get("tls")?.p50 ?? NaN), 1.2),
        atMost("p99 of a call beside bulk data / alone", calls.loaded.p99 / calls.idle.p99, 5)
      ]
    }
  } finally {
    for (const { server, client } of subjects) {
      client.stop()
      server.stop()
    }
  }
}

export default { needsPeers: true, run } satisfies Benchmark
