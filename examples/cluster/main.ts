/** Starts three runners, kills the one that an entity lives on, then the one that a singleton runs on, and shows that both go on. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cluster, isPeerId, PeerNode, RpcPeer, type PeerId } from "artifice"
import { Deferred, Effect, Layer, Semaphore } from "effect"
import * as MessageStorage from "effect/cluster/MessageStorage"
import { spawn, type ChildProcess } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { config, Door, Greeter, Introduction, leaseMs, peer } from "./shared.ts"

/** When the singleton's beats came, by the clock of this machine, and from which runner. */
const ticks: Array<{ readonly runner: string; readonly at: number }> = []

const start = (runner: string, token: string, onFailure: (what: string) => void) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const script = fileURLToPath(new URL("runner.ts", import.meta.url))
      const child = spawn(process.execPath, [script, runner], { stdio: ["pipe", "pipe", "inherit"] })
      child.stdin.write(`${token}\n`)
      createInterface(child.stdout).on("line", line => {
        const [word, at] = line.split(" ")
        if (word === "tick") ticks.push({ runner, at: Number(at) })
        else console.error(`${runner}: ${line}`)
      })
      child.once("exit", (code, signal) => {
        if (code !== 0 && signal !== "SIGKILL") onFailure(`${runner} ended with ${code ?? signal}`)
      })
      return child
    }),
    child =>
      Effect.callback<void>(resume => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.stdin.end()
      })
  )

/** Pairs who enters with all who are inside already; done when so many are. */
const door = Effect.fnUntraced(function* (node: PeerNode["Service"], expected: number) {
  const inside: Array<PeerId> = []
  const complete = yield* Deferred.make<void>()
  const oneByOne = yield* Semaphore.make(1)
  const enter = Effect.gen(function* () {
    const { peer } = yield* RpcPeer.caller
    if (!isPeerId(peer)) return yield* Effect.die(new Error("a session proves a peer's id"))
    const entering = node.actor(peer, "introduction", Introduction).client
    for (const other of inside) {
      const token = yield* node.actor(other, "introduction", Introduction).client.Invite()
      yield* entering.Join({ token })
    }
    inside.push(peer)
    if (inside.length === expected) yield* Deferred.succeed(complete, undefined)
  })
  const handlers = Door.toLayer({ Enter: () => Effect.orDie(oneByOne.withPermits(1)(enter)) })
  yield* Effect.provide(node.serve("door", Door), handlers)
  return Deferred.await(complete)
})

const program = Effect.gen(function* () {
  const node = yield* PeerNode
  const runners = ["ann", "bea", "cat"]
  const allInside = yield* door(node, runners.length)
  const children = new Map<string, ChildProcess>()
  const broken = yield* Deferred.make<never, Error>()
  const onFailure = (what: string) => void Deferred.doneUnsafe(broken, Effect.fail(new Error(what)))
  for (const runner of runners) {
    const { token } = yield* node.invite({ name: runner })
    children.set(runner, yield* start(runner, token, onFailure))
  }
  const kill = (runner: string) => Effect.sync(() => children.get(runner)?.kill("SIGKILL"))

  yield* Effect.raceFirst(allInside, Deferred.await(broken))

  const greeter = (yield* Greeter.client)("friend")
  const greet = greeter.Greet({ name: "world" })
  const lives = yield* greet
  console.log(`entity: ${lives.text}, from ${lives.runner}`)
  yield* kill(lives.runner)
  const lost = Date.now()
  const again = yield* greet
  console.log(`entity: ${again.text}, from ${again.runner} ${Date.now() - lost} ms after ${lives.runner} was killed`)

  const last = () => ticks.at(-1)?.runner ?? ""
  const ticking = (other: (runner: string) => boolean) =>
    Effect.repeat(Effect.delay(Effect.sync(last), 20), { until: runner => runner !== "" && other(runner) })
  const running = yield* ticking(runner => runner !== lives.runner)
  console.log(`singleton: runs on ${running}`)
  yield* kill(running)
  const stopped = Date.now()
  const moved = yield* ticking(runner => runner !== running)
  console.log(`singleton: runs on ${moved} ${Date.now() - stopped} ms after ${running} was killed`)

  const order = ticks.toSorted((a, b) => a.at - b.at)
  const twice = order.find(({ runner, at }, i) => {
    // It may come back to a runner that had it before, but from one that died only when that one's lease has run out.
    const before = order.slice(0, i).findLastIndex(other => other.runner === runner)
    const since = order[before]
    return since !== undefined && before < i - 1 && at - since.at < leaseMs
  })
  if (twice !== undefined) return yield* Effect.die(new Error(`two at once: ${twice.runner} and another`))
  console.log(`singleton: ${ticks.length} ticks, never two runners at once`)
})

/** This process holds the leases, and calls the entity without running any itself. */
const cluster = Cluster.layerClientOnly({ config }).pipe(
  Layer.provide([Cluster.layerLeases({ expirationMs: leaseMs, graceMs: 0 }), MessageStorage.layerNoop])
)

NodeRuntime.runMain(Effect.scoped(program).pipe(Effect.provide(cluster), Effect.provide(peer)))
