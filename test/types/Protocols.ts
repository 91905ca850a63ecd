/**
 * What must not compile. Never run: `Types.test.ts` type-checks it, with its directives and without. `accepts` says what must compile
 * beside it.
 */
import { Effect, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { Actor, type ActorRef, type PeerId, type PeerNode, type RpcPeer, type Session } from "artifice"
import type { Peer } from "artifice/promise"

class Odd extends Schema.TaggedError<Odd>()("Odd", { n: Schema.Number }) {}

const Numbers = RpcGroup.make(
  Rpc.make("Half", { payload: { n: Schema.Number }, success: Schema.Number, error: Odd }),
  Rpc.make("Count", { payload: { to: Schema.Number }, success: Schema.Number, stream: true })
)
const Words = RpcGroup.make(Rpc.make("Upper", { payload: { text: Schema.String }, success: Schema.String }))

type NumbersRpcs = RpcGroup.Rpcs<typeof Numbers>

declare const node: PeerNode["Service"]
declare const peerId: PeerId
declare const session: Session
declare const local: ActorRef<NumbersRpcs>
declare const peer: Peer

const remote = node.actor(peerId, "numbers", Numbers)
const served = node.client(session, "numbers", Numbers)
const promised = peer.client(peerId, "numbers", Numbers)

const serving = node.serve("numbers", Numbers)
const wordsLive = Words.toLayer({ Upper: ({ text }) => Effect.succeed(text.toUpperCase()) })

export const accepts = {
  local: local.client.Half({ n: 1 }),
  remote: remote.client.Half({ n: 1 }),
  stream: remote.client.Count({ to: 3 }),
  ask: remote.ask("Half", { n: 1 }),
  told: local.tell("Half", { n: 1 }),
  promised: promised.Half({ n: 1 }),
  expose: node.expose("numbers", local),
  anywhere: [local.client, remote.client] satisfies ReadonlyArray<RpcPeer.AnyClient<NumbersRpcs> | object>,
  actor: Actor.make(Numbers, () =>
    Effect.succeed({
      Half: ({ n }) => (n % 2 === 0 ? Effect.succeed(n / 2) : Effect.fail(new Odd({ n }))),
      Count: ({ to }) => Stream.range(1, to)
    })
  )
}

export const payloads = [
  // @ts-expect-error a payload of the wrong type, to an actor of this process
  local.client.Half({ n: "1" }),
  // @ts-expect-error to a remote actor
  remote.client.Half({ n: "1" }),
  // @ts-expect-error to a service
  Effect.map(served, client => client.Half({ n: "1" })),
  // @ts-expect-error in a message
  local.tell("Half", { n: "1" }),
  // @ts-expect-error in a question
  remote.ask("Half", { n: "1" }),
  // @ts-expect-error without Effect
  promised.Half({ n: "1" }),
  // @ts-expect-error a field is missing
  remote.client.Half({}),
  // @ts-expect-error a field too many
  remote.client.Half({ n: 1, m: 2 }),
  // @ts-expect-error no payload at all
  remote.client.Half()
]

export const rpcs = [
  // @ts-expect-error an rpc that the protocol does not have
  remote.client.Third({ n: 1 }),
  // @ts-expect-error nor the actor
  local.ask("Third", { n: 1 }),
  // @ts-expect-error a rpc of another protocol
  promised.Upper({ text: "x" })
]

export const replies = [
  // @ts-expect-error a reply is a number
  Effect.map(remote.client.Half({ n: 1 }), (half: string) => half),
  // @ts-expect-error and so it is without Effect
  promised.Half({ n: 1 }).then((half: string) => half),
  // @ts-expect-error a stream is no single reply
  Effect.map(remote.client.Count({ to: 1 }), count => count),
  // @ts-expect-error a remote call can fail: its errors do not vanish
  Effect.runPromise(remote.client.Half({ n: 1 }) satisfies Effect.Effect<number>)
]

export const handlers = [
  // @ts-expect-error a handler is missing
  Actor.make(Numbers, () => Effect.succeed({ Half: () => Effect.succeed(1) })),
  // @ts-expect-error a reply of the wrong type
  Actor.make(Words, () => Effect.succeed({ Upper: () => Effect.succeed(1) })),
  // @ts-expect-error an error that the protocol does not declare
  Actor.make(Words, () => Effect.succeed({ Upper: () => Effect.fail(new Odd({ n: 1 })) })),
  // @ts-expect-error a payload read as what it is not
  Actor.make(Words, () => Effect.succeed({ Upper: ({ text }: { text: number }) => Effect.succeed(String(text)) })),
  Actor.make(Numbers, () =>
    // @ts-expect-error a single reply where a stream is due
    Effect.succeed({ Half: () => Effect.succeed(1), Count: () => Effect.succeed(1) })
  ),
  // @ts-expect-error a served group whose handlers nobody provides
  Effect.runPromise(Effect.scoped(serving)),
  // @ts-expect-error handlers of another group
  Effect.runPromise(Effect.scoped(Effect.provide(serving, wordsLive))),
  // @ts-expect-error a missing handler, without Effect
  peer.serve("numbers", Numbers, { Half: () => 1 }),
  // @ts-expect-error a wrong reply, without Effect
  peer.serve("words", Words, { Upper: () => 1 }),
  // @ts-expect-error a Promise where a stream is due
  peer.serve("numbers", Numbers, { Half: () => 1, Count: async () => 1 })
]

export const protocols = [
  // @ts-expect-error a ref of one protocol where another is expected
  ((ref: ActorRef<RpcGroup.Rpcs<typeof Words>>) => ref)(local),
  // @ts-expect-error a client of one protocol where another is expected
  ((client: RpcPeer.AnyClient<RpcGroup.Rpcs<typeof Words>>) => client)(remote.client),
  // @ts-expect-error any text for a peer's id
  node.actor("bob", "numbers", Numbers)
]
