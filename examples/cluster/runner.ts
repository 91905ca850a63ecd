/** One runner of the cluster, in a process of its own: `runner.ts NAME`, with the token of the peer at the door on standard input. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cluster, PeerNode } from "artifice"
import { Effect, Layer } from "effect"
import * as MessageStorage from "effect/cluster/MessageStorage"
import * as Singleton from "effect/cluster/Singleton"
import { createInterface } from "node:readline"
import { config, Door, Greeter, Introduction, peer } from "./shared.ts"

const runner = process.argv[2] ?? "nameless"

const greeter = Greeter.toLayer(
  Greeter.of({ Greet: ({ payload }) => Effect.succeed({ text: `hello ${payload.name}`, runner }) })
)

const tick = Effect.sync(() => console.log(`tick ${Date.now()}`))
/** Runs on one runner of the whole cluster. */
const clock = Singleton.make("clock", Effect.forever(Effect.delay(tick, 50)))

const introduction = (node: PeerNode["Service"]) =>
  Introduction.toLayer({
    Invite: () => Effect.orDie(Effect.map(node.invite({ name: runner }), ({ token }) => token)),
    Join: ({ token }) => Effect.orDie(Effect.asVoid(node.join(token)))
  })

const firstLine = Effect.callback<string>(resume => {
  createInterface(process.stdin).once("line", line => resume(Effect.succeed(line)))
})

const program = Effect.gen(function* () {
  const node = yield* PeerNode
  const door = (yield* node.join(yield* firstLine)).peer.peerId
  yield* Effect.provide(node.serve("introduction", Introduction, { authorize: [door] }), introduction(node))
  yield* node.actor(door, "door", Door).client.Enter({ runner })
  const cluster = Cluster.layer({ config }).pipe(
    Layer.provide([Cluster.layerRemoteLeases(door), MessageStorage.layerNoop])
  )
  yield* Layer.launch(Layer.provide(Layer.mergeAll(greeter, clock), cluster))
})

// Without the one who started it, a runner has nothing to live for: it gives its shards back and ends.
const orphaned = Effect.callback<void>(resume => void process.stdin.once("end", () => resume(Effect.void)))

NodeRuntime.runMain(Effect.scoped(program).pipe(Effect.raceFirst(orphaned), Effect.provide(peer)))
