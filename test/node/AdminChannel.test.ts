import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { adminKind, AdminChannel } from "../../src/node/AdminChannel.ts"
import { encodeAdmin } from "../../src/protocol/AdminMessage.ts"
import type { MuxStream } from "../../src/protocol/MuxStream.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import { failure } from "../../src/transport/SessionError.ts"
import { loopback, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const Add = adminKind(300, Schema.Struct({ a: Schema.Int, b: Schema.Int }), Schema.Int)
const Unserved = adminKind(301, Schema.Struct({}), Schema.Null)

/** Two administrative channels over one more stream of a real session; `raw` is the sending stream itself. */
const channels = Effect.gen(function* () {
  const host = yield* startNode({ identity: alice, listen: loopback })
  const guest = yield* startNode({ identity: bob })
  const arrived = yield* Effect.acquireRelease(
    Effect.sync(() => Promise.withResolvers<MuxStream>()),
    () => Effect.void
  )
  yield* host.onBulk("admin-test", stream => arrived.resolve(stream))
  const session = yield* guest.join((yield* host.invite({ name: "admin" })).token)
  const raw = yield* session.openStream(streamClasses.bulk, "admin-test")
  const other = host.session(bob.peerId)
  if (other === undefined) return yield* Effect.die("no session at the host")
  const theirs = yield* Effect.promise(() => arrived.promise)
  return { ours: () => new AdminChannel(session, raw), theirs: new AdminChannel(other, theirs), raw, session }
})

describe("typed messages (§6)", () => {
  it.live("answer a request by its schema, and refuse in words", () =>
    Effect.gen(function* () {
      const { ours, theirs } = yield* channels
      const client = ours()
      theirs.answer(Add, ({ a, b }) =>
        a < 0 ? Effect.fail(failure("LIMIT", "no negative numbers")) : Effect.succeed(a + b)
      )
      assert.strictEqual(yield* client.request(Add, { a: 20, b: 22 }, 5_000), 42)
      const refused = yield* Effect.flip(client.request(Add, { a: -1, b: 0 }, 5_000))
      assert.include(refused.message, "no negative numbers")
    }).pipe(Effect.scoped)
  )

  it.live("answer an unknown kind with UNKNOWN_KIND and keep the session", () =>
    Effect.gen(function* () {
      const { ours, theirs, session } = yield* channels
      const client = ours()
      theirs.answer(Add, ({ a, b }) => Effect.succeed(a + b))
      const refused = yield* Effect.flip(client.request(Unserved, {}, 5_000))
      assert.include(refused.message, "UNKNOWN_KIND 301")
      assert.isUndefined(session.ended)
      assert.strictEqual(yield* client.request(Add, { a: 1, b: 1 }, 5_000), 2)
    }).pipe(Effect.scoped)
  )

  it.live("refuse a body that its schema does not allow, and one that is no message ends the session", () =>
    Effect.gen(function* () {
      const { theirs, raw, session } = yield* channels
      let called = 0
      theirs.answer(Add, () => Effect.sync(() => ++called))
      const answers: Array<Uint8Array> = []
      raw.receive({
        onChunk: chunk => {
          answers.push(chunk.bytes)
          raw.consumed(chunk)
        }
      })
      const done = () => undefined
      raw.send(recordTypes.admin, [encodeAdmin(300, { a: "one", b: 2 })], done, { ackRequested: true })
      raw.send(recordTypes.admin, [Uint8Array.of(0xc1)], done)
      while (session.ended === undefined) yield* Effect.promise(() => new Promise(resolve => setImmediate(resolve)))
      assert.strictEqual(called, 0)
      assert.strictEqual(session.ended.code, "MALFORMED")
      assert.isAtMost(answers.length, 1)
    }).pipe(Effect.scoped)
  )
})
