import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Scope } from "effect"
import { toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { suiteX25519, suiteX25519MlKem768 } from "../../src/protocol/constants.ts"
import type { Session } from "../../src/transport/Session.ts"
import { handlers, Jobs, makeWatch } from "../rpc/jobs.ts"
import { addressOf, keptStore, loopback, pair, startNode, until } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

/** The same at both ends of one session, and of no other. */
const markOf = (session: Session | undefined): string | undefined =>
  session === undefined || session.ended !== undefined ? undefined : toHex(session.exportKey("test", utf8("which")))

describe("Two peers that dial each other at once", () => {
  it.live("keep one session, the same on both sides, which carries calls in both directions", () =>
    Effect.gen(function* () {
      const left = yield* startNode({ identity: alice, listen: loopback })
      const right = yield* startNode({ identity: bob, listen: loopback })
      for (const node of [left, right]) yield* Effect.provide(node.serve("jobs", Jobs), handlers(yield* makeWatch))
      yield* pair(left, right)
      for (let round = 0; round < 8; round++) {
        const session = yield* right.connect(alice.peerId)
        yield* session.close()
        yield* until(() => (markOf(left.session(bob.peerId)) === undefined ? true : undefined))
        const dials = [left.connect(bob.peerId, [addressOf(right)]), right.connect(alice.peerId, [addressOf(left)])]
        yield* Effect.all(dials, { concurrency: "unbounded" })
        const mark = yield* until(() => {
          const ours = markOf(left.session(bob.peerId))
          return ours !== undefined && ours === markOf(right.session(alice.peerId)) ? ours : undefined
        })
        const [one, other] = [yield* left.connect(bob.peerId), yield* right.connect(alice.peerId)]
        const there = yield* Effect.scoped(
          Effect.flatMap(left.client(one, "jobs", Jobs), jobs => jobs.Echo({ text: "→" }))
        )
        const back = yield* Effect.scoped(
          Effect.flatMap(right.client(other, "jobs", Jobs), jobs => jobs.Echo({ text: "←" }))
        )
        assert.deepStrictEqual([there, back], ["→", "←"])
        assert.strictEqual(markOf(left.session(bob.peerId)), mark)
        assert.strictEqual(markOf(right.session(alice.peerId)), mark)
      }
    })
  )
})

describe("A peer that dials again while its old session lives", () => {
  it.live("is taken for a restart: the old session is superseded, its calls fail at once, the new one works", () =>
    Effect.gen(function* () {
      const watch = yield* makeWatch
      const host = yield* startNode({ identity: alice, listen: loopback })
      yield* Effect.provide(host.serve("jobs", Jobs), handlers(watch))
      const store = keptStore()
      const before = yield* startNode({ identity: bob }, store.layer)
      yield* pair(host, before)
      const old = yield* before.connect(alice.peerId)
      const jobs = yield* before.client(old, "jobs", Jobs)
      const inFlight = yield* Effect.forkChild(jobs.Wait({ name: "old" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+old")

      const after = yield* startNode({ identity: bob }, store.layer)
      const fresh = yield* after.connect(alice.peerId)
      assert.strictEqual((yield* Deferred.await(old.closed)).code, "SUPERSEDED")
      assert.isTrue(Exit.isFailure(yield* Fiber.await(inFlight)))
      assert.strictEqual(yield* Queue.take(watch.events), "-old")
      assert.strictEqual(yield* (yield* after.client(fresh, "jobs", Jobs)).Echo({ text: "new" }), "new")
      assert.strictEqual(markOf(host.session(bob.peerId)), markOf(fresh))
    })
  )
})

describe("A node that ends", () => {
  it.live("says goodbye to its peers, who know at once", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const host = yield* Scope.provide(startNode({ identity: alice, listen: loopback }), scope)
      const guest = yield* startNode({ identity: bob })
      yield* pair(host, guest)
      const session = yield* guest.connect(alice.peerId)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Deferred.await(session.closed)).code, "NORMAL")
      assert.strictEqual((yield* Effect.flip(guest.connect(alice.peerId))).code, "UNREACHABLE")
    })
  )
})

describe("A session that is of age (§2.9)", () => {
  it.live("is replaced by the side that dialled; a call on the old one ends in peace before it is closed", () =>
    Effect.gen(function* () {
      const watch = yield* makeWatch
      const host = yield* startNode({ identity: alice, listen: loopback, sessionAgeMs: 300 })
      const guest = yield* startNode({ identity: bob, sessionAgeMs: 300 })
      yield* Effect.provide(host.serve("jobs", Jobs), handlers(watch))
      yield* pair(host, guest)
      const old = yield* guest.connect(alice.peerId)
      const oldMark = markOf(old)
      const jobs = yield* guest.client(old, "jobs", Jobs)
      const waiting = yield* Effect.forkChild(jobs.Wait({ name: "old" }))
      assert.strictEqual(yield* Queue.take(watch.events), "+old")
      yield* until(() => {
        const ours = markOf(guest.session(alice.peerId))
        return ours !== undefined && ours !== oldMark && ours === markOf(host.session(bob.peerId)) ? true : undefined
      })
      // The old session carries its call until that is over.
      assert.isUndefined(old.ended)
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(yield* Queue.take(watch.events), "-old")
    })
  )
})

describe("A host with a list of its own", () => {
  it.live("refuses a paired peer that is not in it with NOT_AUTHORIZED, as the list is at that moment", () =>
    Effect.gen(function* () {
      let welcome = true
      const allow = { has: () => Effect.sync(() => welcome) }
      const host = yield* startNode({ identity: alice, listen: loopback, allow })
      const guest = yield* startNode({ identity: bob })
      yield* pair(host, guest)
      const session = yield* guest.connect(alice.peerId)
      yield* session.close()
      yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      welcome = false
      // The handshake itself succeeds: the refusal comes as a goodbye, before a stream is served.
      const refused = yield* Effect.result(guest.connect(alice.peerId))
      const code =
        refused._tag === "Failure" ? refused.failure.code : (yield* Deferred.await(refused.success.closed)).code
      assert.strictEqual(code, "NOT_AUTHORIZED")
      welcome = true
      assert.isUndefined((yield* guest.connect(alice.peerId)).ended)
    })
  )
})

describe("A message larger than the other side buffers (§2.5, mm)", () => {
  it.live("is not sent: its stream ends with LIMIT, the session goes on", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback, parameters: { maxMessageBytes: 4_096 } })
      const guest = yield* startNode({ identity: bob })
      yield* Effect.provide(host.serve("jobs", Jobs), handlers(yield* makeWatch))
      yield* pair(host, guest)
      const session = yield* guest.connect(alice.peerId)
      const large = yield* guest.client(session, "jobs", Jobs)
      assert.include(String(yield* Effect.flip(large.Echo({ text: "x".repeat(5_000) }))), "LIMIT")
      assert.isUndefined(session.ended)
      const small = yield* guest.client(session, "jobs", Jobs)
      assert.strictEqual(yield* small.Echo({ text: "small" }), "small")
    })
  )
})

describe("A peer that is pinned to a suite (§2.5)", () => {
  it.live("is met with no lower one, whoever dials", () =>
    Effect.gen(function* () {
      const suites = [suiteX25519, suiteX25519MlKem768]
      const host = yield* startNode({ identity: alice, listen: loopback, suites })
      const guest = yield* startNode({ identity: bob, listen: loopback, suites: [suiteX25519] })
      yield* pair(host, guest)
      yield* host.registry.ask("Pin", { peerId: bob.peerId, minimumSuite: suiteX25519MlKem768 })
      yield* guest.session(alice.peerId)?.close() ?? Effect.void
      yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
      assert.strictEqual((yield* Effect.flip(guest.connect(alice.peerId))).code, "DOWNGRADE")
      assert.strictEqual((yield* Effect.flip(host.connect(bob.peerId, [addressOf(guest)]))).code, "NO_SUITE")
    })
  )
})
