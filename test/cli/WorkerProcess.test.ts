import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { spawnWorker, type WorkerSpec } from "../../apps/cli/src/WorkerProcess.ts"
import { fixture, start } from "./Processes.ts"

const spec = (job: string, more: Partial<WorkerSpec> = {}): WorkerSpec => ({
  token: Redacted.make("artf1.token"),
  job,
  home: "/a/home",
  onStderrLine: () => Effect.void,
  entry: fixture("Worker.ts"),
  ...more
})

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const firstEvents = (job: string, count: number, more: Partial<WorkerSpec> = {}) =>
  Effect.gen(function* () {
    const worker = yield* spawnWorker(spec(job, more))
    const events = yield* worker.events.pipe(Stream.take(count), Stream.runCollect)
    return { worker, events }
  })

describe("a worker process", () => {
  it.live("gets its invite on standard input, its job and its home, and reports its events", () =>
    Effect.gen(function* () {
      const { worker, events } = yield* firstEvents("/waits", 2)
      assert.deepEqual(events[0], { event: "process", role: "worker", pid: worker.pid, peer: "b".repeat(64) })
      assert.deepEqual(events[1], {
        event: "member-lost",
        peer: "b".repeat(64),
        members: 0,
        reason: "artf1.token /waits /a/home"
      })
    })
  )

  it.live("ends its events and tells its exit code; lines that are no event are skipped", () =>
    Effect.gen(function* () {
      const logs: Array<string> = []
      const worker = yield* spawnWorker(
        spec("/talks", { onStderrLine: line => Effect.sync(() => void logs.push(line)) })
      )
      const events = yield* Stream.runCollect(worker.events)
      assert.deepStrictEqual(
        events.map(event => event.event),
        ["process", "member-lost", "member-joined"]
      )
      assert.deepStrictEqual(yield* worker.exit, { code: 7, signal: null })
      assert.deepStrictEqual(logs, ["a log line"])
    })
  )

  it.live("is ended by SIGTERM when its scope closes", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { worker } = yield* firstEvents("/waits", 1).pipe(Scope.provide(scope))
      assert.isTrue(isAlive(worker.pid))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* worker.exit, { code: null, signal: "SIGTERM" })
      assert.isFalse(isAlive(worker.pid))
    })
  )

  it.live("is ended by SIGKILL when it does not listen", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { worker } = yield* firstEvents("/deaf", 3, { terminateGraceMs: 50 }).pipe(Scope.provide(scope))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* worker.exit, { code: null, signal: "SIGKILL" })
    })
  )

  it("ends when its parent is killed and can do nothing about it", async () => {
    const parent = start([fixture("Parent.ts")])
    const pid = Number((await parent.line("worker ")).split(" ")[1])
    assert.isTrue(isAlive(pid))
    parent.child.kill("SIGKILL")
    // The pipes close only when the worker, which has inherited none of them but holds its own, is not kept by the parent.
    assert.strictEqual((await parent.ended).signal, "SIGKILL")
    while (isAlive(pid)) await new Promise(resolve => setTimeout(resolve, 5))
  })
})
