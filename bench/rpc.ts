import type { EndAnswers, EndRequest } from "./rpc/End.ts"
import type { Load, LoadOptions } from "./rpc/Caller.ts"
import { atLeast, rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { startChild, type Child } from "./support/Child.ts"
import { alternate, median } from "./support/Statistics.ts"

/** Typed calls between two processes, ours over an encrypted session, against what others use for that; and tensors beside calls. */

type End = Child<EndRequest, EndAnswers>

interface Subject {
  readonly name: string
  readonly kind: "load" | "refLoad"
  readonly client: End
  readonly server: End
}

const ours = "artifice"
const reference = "grpc-js TLS"
const systems = [ours, reference, "grpc-js", "libp2p"] as const

const smallBytes = 64
const largeBytes = 4 * 2 ** 20
const tensorBytes = 16 * 2 ** 20
const MiB = 2 ** 20
const GB = 1e9

const module = new URL("./rpc/End.ts", import.meta.url)

const start = async () => {
  const { certificates } = await import("./transport/Certificates.mjs")
  const { server: serverCredentials, client: clientCredentials } = await certificates()
  return Promise.all(
    systems.map(async name => {
      const server: End = startChild(module)
      const client: End = startChild(module)
      const endpoint = await server.ask({ kind: "listen", system: name, credentials: serverCredentials })
      await client.ask({ kind: "connect", system: name, credentials: clientCredentials, endpoint })
      return { name, server, client }
    })
  )
}

const cpuOf = async ({ client, server }: Pick<Subject, "client" | "server">): Promise<number> =>
  (await client.ask({ kind: "cpu" })) + (await server.ask({ kind: "cpu" }))

const loads = async (subjects: ReadonlyArray<Subject>, rounds: number, options: LoadOptions) => {
  const measure = async (subject: Subject): Promise<Load & { readonly cpu: number }> => {
    const before = await cpuOf(subject)
    const load = await subject.client.ask({ kind: subject.kind, options })
    return { ...load, cpu: (await cpuOf(subject)) - before }
  }
  const measured = await alternate(subjects, rounds, measure)
  const figures = subjects.map(subject => {
    const rounds = measured.get(subject) ?? []
    const each = {
      perSecond: median(rounds.map(({ calls, seconds }) => calls / seconds)),
      p50: median(rounds.map(({ p50 }) => p50)) * 1000,
      p99: median(rounds.map(({ p99 }) => p99)) * 1000,
      cpu: median(rounds.map(({ calls, cpu }) => cpu / calls)) * 1e6
    }
    return [subject.name, each] as const
  })
  return new Map(figures)
}

const run = async ({ quick, note }: BenchmarkOptions) => {
  const rounds = quick ? 3 : 9
  const seconds = quick ? 0.4 : 1
  note("starting two processes for each system")
  const processes = await start()
  try {
    const subjects: Array<Subject> = processes.map(each => ({ ...each, kind: "load" }))
    const own = processes.find(({ name }) => name === ours)
    if (own === undefined) throw new Error("our own system is not among the subjects")
    subjects.push({ ...own, name: `${ours}, remote ref`, kind: "refLoad" })

    const small = { bytes: smallBytes, reply: "echo", seconds } as const
    const large = { bytes: largeBytes, reply: "count", seconds } as const
    note("warming up")
    await loads(subjects, quick ? 1 : 3, { ...small, concurrency: 64 })
    note("one call at a time")
    const one = await loads(subjects, rounds, { ...small, concurrency: 1 })
    note("64 calls at a time")
    const many = await loads(subjects, rounds, { ...small, concurrency: 64 })
    note("4 MiB payloads")
    const bulk = await loads(subjects, rounds, { ...large, concurrency: 2 })

    note("tensors by reference")
    const count = quick ? 8 : 16
    const bytes = tensorBytes * count
    const kinds = ["raw", "tensors"] as const
    const ask = async (kind: (typeof kinds)[number]) => {
      const before = await cpuOf(own)
      const seconds = await own.client.ask({ kind, bytes: tensorBytes, count })
      return { seconds, cpu: (await cpuOf(own)) - before }
    }
    await alternate(kinds, 3, ask)
    const measured = await alternate(kinds, rounds, ask)
    const mib = (kind: (typeof kinds)[number]) =>
      bytes / MiB / median((measured.get(kind) ?? []).map(({ seconds }) => seconds))
    const cpu = (kind: (typeof kinds)[number]) =>
      median((measured.get(kind) ?? []).map(({ cpu }) => cpu)) / (bytes / GB)

    const base = many.get(reference)?.perSecond ?? NaN
    const rows: Array<Row> = subjects.map(({ name }) => ({
      system: name,
      "calls/s, 1": rounded(one.get(name)?.perSecond ?? NaN),
      "p50 µs, 1": rounded(one.get(name)?.p50 ?? NaN),
      "p99 µs, 1": rounded(one.get(name)?.p99 ?? NaN),
      "calls/s, 64": rounded(many.get(name)?.perSecond ?? NaN),
      "p50 µs, 64": rounded(many.get(name)?.p50 ?? NaN),
      "p99 µs, 64": rounded(many.get(name)?.p99 ?? NaN),
      "CPU µs/call, both ends": rounded(many.get(name)?.cpu ?? NaN),
      "× grpc-js TLS, 64": rounded((many.get(name)?.perSecond ?? NaN) / base),
      "4 MiB payloads, MiB/s": rounded(((bulk.get(name)?.perSecond ?? NaN) * largeBytes) / MiB)
    }))
    for (const [name, kind] of [
      ["the arrays on a bulk stream", "raw"],
      ["tensors by reference", "tensors"]
    ] as const)
      rows.push({
        "16 MiB each": name,
        "MiB/s": rounded(mib(kind)),
        "× bulk stream": rounded(mib(kind) / mib("raw")),
        "CPU s/GB, both ends": rounded(cpu(kind))
      })
    return {
      rows,
      goals: [
        atLeast("calls/s / grpc-js with TLS, 64 at a time", (many.get(ours)?.perSecond ?? NaN) / base, 3),
        atLeast("tensors by reference / a bulk stream of the same session", mib("tensors") / mib("raw"), 0.8)
      ]
    }
  } finally {
    for (const { client, server } of processes) {
      client.stop()
      server.stop()
    }
  }
}

export default { needsPeers: true, run } satisfies Benchmark
