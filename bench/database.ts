import { generateKeyPairSync, randomBytes } from "node:crypto"
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { Effect, Exit, Layer, Redacted, Scope } from "effect"
import { NetworkTcp, PeerNode, PeerStore } from "../src/index.ts"
import { PeerTable } from "../src/node/PeerTable.ts"
import { concat, toHex, u16, u8 } from "../src/protocol/Bytes.ts"
import { generateIdentity } from "../src/protocol/Identity.ts"
import { sha256 } from "../src/protocol/KeySchedule.ts"
import * as HashDatabase from "../src/store/HashDatabase.ts"
import { HomeEntry, peersOf, type PeerRecord } from "../src/store/PeerStore.ts"
import { Cryptography } from "../src/transport/Cryptography.ts"
import { atMost, rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { median } from "./support/Statistics.ts"

/**
 * The encrypted database of peers, and what many peers cost a node: a home with 100,000 of them has to start, to look one up, and to store one more
 * without anybody having to wait.
 */

const mibi = 1024 * 1024
const tickMs = 30
const tagsPerTurn = 500

/**
 * Identity documents without identities: the modulus is random bytes, which nothing reads as long as nobody comes. Real ones would take a third of a
 * second each to make.
 */
const documents = (): (() => Uint8Array) => {
  const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 3072 })
  const template = publicKey.export({ type: "spki", format: "der" })
  const modulus = Buffer.from(publicKey.export({ format: "jwk" }).n ?? "", "base64url")
  const at = template.indexOf(modulus)
  const key = (): Uint8Array => {
    const der = Uint8Array.from(template)
    const bytes = randomBytes(modulus.length)
    bytes[0] = 0x80 | (bytes[0] ?? 0)
    der.set(bytes, at)
    return concat(u16(der.length), der)
  }
  return () => concat(u8(1), key(), key())
}

const peerOf = (document: Uint8Array): PeerRecord => ({
  peerId: toHex(sha256(document)),
  document,
  pairKeys: [{ generation: 1, key: randomBytes(32), state: "active", madeAt: 1_790_000_000 }],
  addresses: ["192.168.10.22:7000"],
  minimumVersion: 1,
  lastSeen: 1_790_000_000
})

interface Timed<A> {
  readonly value: A
  readonly ms: number
  /** Of all threads of this process, the collection of garbage included: what a busy machine makes of it is another matter. */
  readonly cpuMs: number
  /** The longest time for which nothing else could run. */
  readonly pauseMs: number
}

const timed = async <A>(run: () => Promise<A> | A): Promise<Timed<A>> => {
  const pauses = monitorEventLoopDelay({ resolution: 1 })
  pauses.enable()
  // The histogram counts from one of its own ticks to the next.
  await new Promise(resolve => setTimeout(resolve, tickMs))
  pauses.reset()
  const usedBefore = process.cpuUsage()
  const started = performance.now()
  const value = await run()
  const ms = performance.now() - started
  const used = process.cpuUsage(usedBefore)
  await new Promise(resolve => setTimeout(resolve, tickMs))
  pauses.disable()
  return { value, ms, cpuMs: (used.user + used.system) / 1000, pauseMs: pauses.max / 1e6 }
}

const key = { key: Redacted.make(randomBytes(32)) }
const nextTurn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

const run = async ({ quick, note }: BenchmarkOptions) => {
  const count = 100_000
  const inserts = quick ? 200 : 2_000
  const folder = mkdtempSync(join(tmpdir(), "artifice-bench-"))
  const path = join(folder, "peers.db")
  const rows: Array<Row> = []
  const add = (what: string, { ms, cpuMs, pauseMs }: Omit<Timed<unknown>, "value">): void =>
    void rows.push({ what, ms: rounded(ms), "CPU ms": rounded(cpuMs), "longest pause ms": rounded(pauseMs) })
  const open = (scope: Scope.Scope) =>
    Effect.runPromise(Scope.provide(HashDatabase.make({ path, schema: HomeEntry, key }), scope))
  const close = (scope: Scope.Closeable) => Effect.runPromise(Scope.close(scope, Exit.void))

  try {
    note(`making ${count} peers`)
    const document = documents()
    const peers = Array.from({ length: count }, () => peerOf(document()))
    const entryOf = (peer: PeerRecord) => [`peer/${peer.peerId}`, { kind: "peer", peer }] as const

    let scope = Scope.makeUnsafe()
    let database = await open(scope)
    note("writing them at once")
    add(
      `${count} peers in one change`,
      await timed(() => Effect.runPromise(database.change({ put: peers.map(entryOf) })))
    )
    await close(scope)
    const fileBytes = statSync(path).size

    note("opening")
    const openings: Array<Timed<unknown>> = []
    for (let round = 0; round < (quick ? 2 : 5); round++) {
      const opening = Scope.makeUnsafe()
      openings.push(await timed(() => open(opening)))
      await close(opening)
    }
    const openMs = median(openings.map(({ ms }) => ms))
    add("opening", {
      ms: openMs,
      cpuMs: median(openings.map(({ cpuMs }) => cpuMs)),
      pauseMs: median(openings.map(({ pauseMs }) => pauseMs))
    })

    scope = Scope.makeUnsafe()
    database = await open(scope)
    note("looking up")
    const names = peers.map(({ peerId }) => `peer/${peerId}`)
    const lookups = await timed(() =>
      Effect.runPromise(Effect.forEach(names, name => database.get(name), { discard: true }))
    )
    rows.push({ what: "one look-up", ms: rounded(lookups.ms / count) })

    note("inserting one by one")
    const insertMs: Array<number> = []
    for (let at = 0; at < inserts; at++) {
      const [name, entry] = entryOf(peerOf(document()))
      const started = performance.now()
      await Effect.runPromise(database.insert(name, entry))
      insertMs.push(performance.now() - started)
    }
    const insert = median(insertMs)
    rows.push({ what: "one durable insert", ms: rounded(insert) })

    note("writing a new snapshot")
    const compacting = await timed(() => Effect.runPromise(database.compact))
    add("a new snapshot, as an insert would cost without a log", compacting)
    const stored = peersOf(await Effect.runPromise(database.entries))
    const plain = await timed(() => {
      const json = JSON.stringify(stored, (_key, value) =>
        value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value
      )
      writeFileSync(join(folder, "peers.json"), json, { flush: true })
    })
    add("the same as plain JSON", plain)
    await close(scope)

    note("starting a node with them")
    const identity = await generateIdentity()
    const unixSeconds = Math.floor(Date.now() / 1000)
    const table = await timed(async () => {
      const made = new PeerTable(identity, { ...stored, peers: [] })
      for (let at = 0; at < count; at += 2 * tagsPerTurn) {
        made.fill(stored.peers.slice(at, at + 2 * tagsPerTurn))
        await nextTurn()
      }
      while (!made.prepareTags(unixSeconds, tagsPerTurn)) await nextTurn()
      return made
    })
    add("the node's table of peers, with their tags of four hours", table)
    const stranger = randomBytes(16)
    const strangers = await timed(() => {
      for (let at = 0; at < count; at++) table.value.lookup(stranger, unixSeconds)
    })
    rows.push({ what: "a stranger's tag looked up", ms: rounded(strangers.ms / count) })
    const node = Scope.makeUnsafe()
    const start = PeerNode.layer({ identity, listen: { host: "127.0.0.1", port: 0 } }).pipe(
      Layer.provide([NetworkTcp.layer, Cryptography.layer, PeerStore.database({ path, key })]),
      Layer.build,
      Scope.provide(node)
    )
    const starting = await timed(() => Effect.runPromise(start))
    add("a node, from its file to its open port", starting)
    await close(node)

    rows.push({ what: "file, MiB", ms: rounded(fileBytes / mibi) })
    rows.push({ what: "resident memory of all this, MiB", ms: rounded(process.memoryUsage().rss / mibi) })
    return {
      rows,
      goals: [
        atMost(`opening ${count} peers, ms`, openMs, 5_000),
        atMost("one look-up, µs", (lookups.ms / count) * 1000, 20),
        atMost("one durable insert, ms", insert, 20),
        atMost("a new snapshot, ms", compacting.ms, 10_000),
        atMost("file / entries, bytes per peer", fileBytes / count, 1_200),
        atMost("a node's start, ms", starting.ms, 15_000),
        atMost("the longest pause of the event loop in it, ms", Math.max(starting.pauseMs, compacting.pauseMs), 250)
      ]
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export default { needsPeers: false, run } satisfies Benchmark
