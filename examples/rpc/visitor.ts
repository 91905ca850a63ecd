import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PeerNode, RpcPeer } from "artifice"
import { Effect, Stream } from "effect"
import { text } from "node:stream/consumers"
import { peer } from "./peer.ts"
import { Display, Station } from "./protocol.ts"

const display = Display.toLayer({
  Show: ({ text }) =>
    Effect.sync(() => {
      console.log(`display: ${text}`)
      return true
    })
})

const program = Effect.gen(function* () {
  const node = yield* PeerNode
  yield* Effect.provide(node.serve("display", Display), display)
  const token = yield* Effect.promise(() => text(process.stdin))
  const session = yield* node.join(token.trim())
  const station = node.actor(session.peer.peerId, "station", Station)

  const last = yield* Stream.runCollect(station.client.Readings({ count: 4 }))
  console.log(`the last four readings: ${last.join(", ")} °C`)
  const { limit } = yield* Stream.runCollect(station.client.Readings({ count: 1_000 })).pipe(
    Effect.flip,
    Effect.filterOrFail(error => error._tag === "TooMany")
  )
  console.log(`a thousand are too many: the station keeps ${limit}`)
  const shown = yield* station.client.Alarm({ above: 18 }).pipe(RpcPeer.withDeadline(10_000))
  console.log(`the station showed ${shown} readings here`)
})

NodeRuntime.runMain(Effect.scoped(program).pipe(Effect.provide(peer())))
