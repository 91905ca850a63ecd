import { describe, expect, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as RpcPeer from "../../src/rpc/RpcPeer.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const Greeter = RpcGroup.make(
  Rpc.make("Greet", {
    payload: { name: Schema.String },
    success: Schema.Struct({ text: Schema.String, caller: Schema.String })
  })
)
const GreeterLive = Greeter.toLayer({
  Greet: ({ name }) => Effect.map(RpcPeer.caller, ({ peer }) => ({ text: `hello ${name}`, caller: peer }))
})

describe("two peers", () => {
  it.live("pair with one token, call each other in both directions, and meet again without it", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const guest = yield* startNode({ identity: bob })
      yield* Effect.provide(host.serve("greeter", Greeter), GreeterLive)
      yield* Effect.provide(guest.serve("greeter", Greeter), GreeterLive)

      const { token } = yield* host.invite({ name: "test" })
      const session = yield* guest.join(token)
      expect(session.peer.peerId).toBe(alice.peerId)

      const toHost = yield* guest.client(session, "greeter", Greeter)
      expect(yield* toHost.Greet({ name: "host" })).toEqual({ text: "hello host", caller: bob.peerId })
      const back = host.session(bob.peerId)
      if (back === undefined) return yield* Effect.die("the host knows no session")
      const toGuest = yield* host.client(back, "greeter", Greeter)
      expect(yield* toGuest.Greet({ name: "guest" })).toEqual({ text: "hello guest", caller: alice.peerId })

      yield* session.close()
      const again = yield* guest.connect(alice.peerId)
      expect(again).not.toBe(session)
      const once = yield* guest.client(again, "greeter", Greeter)
      expect((yield* once.Greet({ name: "again" })).text).toBe("hello again")
      // Who is paired needs the token no longer; for anybody else it is used up.
      expect(yield* guest.join(token)).toBe(again)
      const stranger = yield* startNode({ identity: mallory })
      const refused = yield* Effect.flip(stranger.join(token))
      expect(refused.code).toBe("INVITE_USED")
    })
  )
})
