import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope, Stream } from "effect"
import * as Supervisor from "../../src/actor/Supervisor.ts"
import type { SllpClosed, SllpError, SllpLink } from "../../src/node/SllpLink.ts"
import { sllpStreamer } from "../../src/node/SllpStreamer.ts"
import { loopback, pair, startNode, until } from "../support/nodes.ts"
import { echo, hostAndGuest, lossyProxy } from "../support/sllpNodes.ts"
import { patterned } from "../support/sllpPair.ts"
import { alice, bob } from "../support/vectors.ts"

/** Both ends of an association; the host's waits for its end. */
const bothEnds = Effect.fnUntraced(function* (
  ends: Effect.Success<ReturnType<typeof hostAndGuest>>,
  options: Partial<Parameters<typeof ends.open>[1]> & { readonly serverIdleMs?: number } = {}
) {
  const { serverIdleMs = 30_000, ...rest } = options
  const served = yield* Deferred.make<SllpLink>()
  const server = (link: SllpLink) => Effect.andThen(Deferred.succeed(served, link), link.closed)
  yield* ends.host.sllp.serve("wait", server, { idleMs: serverIdleMs })
  const link = yield* ends.open("wait", { channels: [{ mode: "reliable", sendQueueBytes: 1_000 }], ...rest })
  return { ours: link, theirs: yield* Deferred.await(served) }
})

/** Everything that a user may wait for, begun; gives the reason that each gets. What is over before the association is waits for its end. */
const everyWait = Effect.fnUntraced(function* (link: SllpLink) {
  // Of a size that leaves the next one waiting where nothing arrives.
  yield* link.send(0, patterned(1, 3 * 2 ** 20))
  const waits: ReadonlyArray<Effect.Effect<unknown, SllpError>> = [
    link.send(0, patterned(2, 2 ** 20)),
    Effect.forever(link.receive(0)),
    link.flush,
    Stream.runDrain(link.messages(0)),
    Stream.runDrain(link.notices),
    link.closed
  ]
  const fibers = yield* Effect.forEach(waits, wait =>
    Effect.forkChild(Effect.andThen(wait, link.closed).pipe(Effect.catch(reason => Effect.succeed(reason))), {
      startImmediately: true
    })
  )
  return Effect.forEach(fibers, Fiber.join)
})

const isClosed = (code: string, by?: string) => (reason: unknown) =>
  assert.deepInclude(reason, { _tag: "SllpClosed", code, ...(by === undefined ? {} : { by }) })

describe("An association", () => {
  it.live("that one side closes ends every wait of both with its reason", () =>
    Effect.gen(function* () {
      const proxy = yield* lossyProxy({})
      const { ours, theirs } = yield* bothEnds(yield* hostAndGuest(), { via: proxy.toward })
      // Nothing that is sent arrives, CLOSE included: the word goes over the session.
      yield* theirs.send(0, patterned(3, 10))
      yield* ours.receive(0)
      proxy.line = { ...proxy.line, loss: 1 }
      const here = yield* everyWait(ours)
      const there = yield* everyWait(theirs)
      yield* ours.close("app", "enough of this")
      for (const reason of yield* here) isClosed("app", "us")(reason)
      for (const reason of yield* there) isClosed("app", "peer")(reason)
      assert.include((yield* theirs.closed).message, "(app) by the peer: enough of this")
      isClosed("app")(yield* Effect.flip(ours.send(0, patterned(1, 4))))
    }).pipe(Effect.scoped)
  )

  it.live("whose peer falls silent ends within its idle time, on both sides", () =>
    Effect.gen(function* () {
      const proxy = yield* lossyProxy({})
      const ends = yield* hostAndGuest()
      const { ours, theirs } = yield* bothEnds(ends, { via: proxy.toward, idleMs: 500, serverIdleMs: 60_000 })
      yield* theirs.send(0, patterned(3, 10))
      yield* ours.receive(0)
      proxy.line = { ...proxy.line, loss: 1 }
      const here = yield* everyWait(ours)
      const there = yield* everyWait(theirs)
      for (const reason of yield* here) isClosed("idle", "us")(reason)
      // The session is alive, and carries the word to the side that would have waited for a minute.
      for (const reason of yield* there) isClosed("idle", "peer")(reason)
    }).pipe(Effect.scoped)
  )

  it.live("is kept alive while nothing is said on it", () =>
    Effect.gen(function* () {
      const { ours, theirs } = yield* bothEnds(yield* hostAndGuest(), { idleMs: 250, serverIdleMs: 250 })
      const early = yield* Effect.raceFirst(
        Effect.raceFirst(ours.closed, theirs.closed),
        Effect.as(Effect.sleep(1_500), "open")
      )
      assert.strictEqual(early, "open")
    }).pipe(Effect.scoped)
  )

  it.live("ends with its session", () =>
    Effect.gen(function* () {
      const ends = yield* hostAndGuest()
      const { ours, theirs } = yield* bothEnds(ends)
      const here = yield* everyWait(ours)
      const there = yield* everyWait(theirs)
      ends.guest.session(alice.peerId)?.fail("INTERNAL", "cut by the test")
      for (const reason of [...(yield* here), ...(yield* there)]) isClosed("sessionLost")(reason)
      // The next session has its own.
      const link = yield* ends.open("wait", { channels: [{ mode: "latest" }] })
      yield* link.send(0, patterned(1, 10))
    }).pipe(Effect.scoped)
  )

  it.live("ends with its scope, and with the node", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const network = yield* Scope.make()
      const guest = yield* Scope.provide(startNode({ identity: bob }), network)
      yield* pair(host, guest)
      const ended: Array<SllpClosed> = []
      const opened = yield* Deferred.make<void>()
      const over = yield* Deferred.make<void>()
      yield* host.sllp.serve("count", link =>
        Effect.gen(function* () {
          yield* link.receive(0)
          yield* Deferred.succeed(opened, undefined)
          ended.push(yield* link.closed)
          if (ended.length === 2) yield* Deferred.succeed(over, undefined)
        })
      )
      const open = guest.sllp.open(alice.peerId, "count", { channels: [{ mode: "reliable" }] })
      const sent = Effect.tap(open, link => Effect.andThen(link.send(0, patterned(1, 10)), link.flush))
      yield* Effect.scoped(sent)
      const left = yield* Scope.provide(sent, network)
      yield* Deferred.await(opened)
      yield* Scope.close(network, Exit.void)
      yield* Deferred.await(over)
      for (const reason of ended) isClosed("normal", "peer")(reason)
      isClosed("normal", "us")(yield* left.closed)
    }).pipe(Effect.scoped)
  )

  it.live("whose peer's process is killed ends with the session that the system closes", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const served = yield* Deferred.make<SllpLink>()
      yield* host.sllp.serve("wait", link => Effect.andThen(Deferred.succeed(served, link), link.closed))
      const { token } = yield* host.invite({ name: "child" })
      const script = fileURLToPath(new URL("../support/sllpChild.ts", import.meta.url))
      const child = yield* Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, [script, token], { stdio: ["pipe", "pipe", "inherit"] })),
        child => Effect.sync(() => child.kill("SIGKILL"))
      )
      yield* Effect.promise(() => once(createInterface(child.stdout), "line"))
      const link = yield* Deferred.await(served)
      const reasons = yield* everyWait(link)
      child.kill("SIGKILL")
      for (const reason of yield* reasons) isClosed("sessionLost")(reason)
    }).pipe(Effect.scoped)
  )

  it.live("has what arrived before its end read, and then the reason", () =>
    Effect.gen(function* () {
      const { ours, theirs } = yield* bothEnds(yield* hostAndGuest(), {
        channels: [{ mode: "reliable", sendQueueBytes: 2 ** 20 }]
      })
      for (const number of [1, 2, 3]) yield* theirs.send(0, patterned(number, 50_000))
      yield* theirs.flush
      yield* theirs.close("normal", "done")
      yield* ours.closed
      const messages = yield* Stream.runCollect(ours.messages(0))
      assert.lengthOf(messages, 3)
      isClosed("normal")(yield* Effect.flip(ours.receive(0)))
    }).pipe(Effect.scoped)
  )
})

describe("A service", () => {
  it.live("that fails ends its own association with `app`, and no other", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      yield* host.sllp.serve("fails", link => Effect.andThen(link.receive(0), Effect.die(new Error("a defect"))))
      yield* host.sllp.serve("echo", echo)
      const channels = [{ mode: "reliable" }] as const
      const other = yield* open("echo", { channels })
      const link = yield* open("fails", { channels })
      yield* link.send(0, patterned(1, 4))
      isClosed("app", "peer")(yield* link.closed)
      yield* other.send(0, patterned(2, 4))
      assert.isTrue((yield* other.receive(0)).complete)
    }).pipe(Effect.scoped)
  )

  it.live("that has ended lets what it sent arrive", () =>
    Effect.gen(function* () {
      const { host, open } = yield* hostAndGuest()
      yield* host.sllp.serve("gives", link => link.send(0, patterned(9, 2_000_000)))
      const link = yield* open("gives", { channels: [{ mode: "reliable" }] })
      const [message] = yield* Stream.runCollect(link.messages(0))
      assert.strictEqual(message?.complete && message.bytes.length, 2_000_000)
    }).pipe(Effect.scoped)
  )
})

describe("The actor of an association", () => {
  it.live("closes it with `app` when it crashes, is not started again, and leaves its siblings alone", () =>
    Effect.gen(function* () {
      const { ours, theirs } = yield* bothEnds(yield* hostAndGuest())
      const root = yield* Supervisor.make("test")
      const broken: SllpLink = { ...ours, statistics: Effect.die(new Error("a defect")) }
      const owned = { link: broken, peerClosed: () => undefined, closeNow: closing(ours) }
      const sibling = { link: theirs, peerClosed: () => undefined, closeNow: closing(theirs) }
      const actor = yield* root.spawn("one", sllpStreamer(owned, Effect.never))
      const other = yield* root.spawn("other", sllpStreamer(sibling, Effect.never))
      assert.strictEqual((yield* other.ask("Describe", undefined)).peer, bob.peerId)
      yield* Effect.ignore(Effect.exit(actor.ask("Describe", undefined)))
      isClosed("app", "us")(yield* ours.closed)
      yield* until(() => (root.snapshot().some(({ name }) => name === "one") ? undefined : true))
      assert.strictEqual(root.snapshot()[0]?.crashes, 0)
    }).pipe(Effect.scoped)
  )
})

const closing =
  (link: SllpLink): Parameters<typeof sllpStreamer>[0]["closeNow"] =>
  (code, reason) =>
    Effect.runSync(link.close(code, reason))
