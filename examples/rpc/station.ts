import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { isPeerId, PeerNode, RpcPeer } from "artifice"
import { Effect, Stream } from "effect"
import { peer } from "./peer.ts"
import { Display, Station, TooMany } from "./protocol.ts"

const readings = Array.from({ length: 24 }, (_, hour) => Math.round(12 - 8 * Math.cos((hour / 12) * Math.PI)))

const handlers = (node: PeerNode["Service"]) =>
  Station.toLayer({
    Readings: ({ count }) =>
      count > readings.length
        ? Stream.fail(new TooMany({ limit: readings.length }))
        : Stream.fromIterable(readings.slice(-count)),
    Alarm: Effect.fn("Alarm")(function* ({ above }) {
      const { peer } = yield* RpcPeer.caller
      if (!isPeerId(peer)) return yield* Effect.die("a session proves a peer's id")
      const { client } = node.actor(peer, "display", Display)
      const warm = readings.flatMap((degrees, hour) => (degrees > above ? [`${hour}:00 ${degrees} °C`] : []))
      yield* Effect.forEach(warm, text => Effect.orDie(client.Show({ text })), { discard: true })
      return warm.length
    })
  })

const program = Effect.gen(function* () {
  const node = yield* PeerNode
  yield* Effect.provide(node.serve("station", Station), handlers(node))
  const { token } = yield* node.invite({ name: "weather" })
  console.log(token)
  yield* Effect.callback<void>(resume => void process.stdin.once("end", () => resume(Effect.void)).resume())
})

NodeRuntime.runMain(Effect.scoped(program).pipe(Effect.provide(peer({ host: "127.0.0.1", port: 0 }))))
