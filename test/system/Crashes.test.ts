import { assert, describe, it } from "@effect/vitest"
import { clouds, inWorld, type World } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const alone = trainedAlone(clouds)

/** A cluster on this machine in the middle of its training, where it stays until `release`; `workers` are its children. */
const underWay = async (world: World, workers: number) => {
  const { env, release } = world.hold()
  const run = world.run(["--workers", String(workers)], env)
  await run.event("step", ({ step }) => step >= 2)
  return { run, release, workers: run.all("process").filter(({ role }) => role === "worker") }
}

const maxNoticeMs = 2_000

describe("A cluster whose workers die", () => {
  it(
    "finishes with the same weights when one of three is killed in the middle",
    inWorld(async world => {
      const { run, release, workers } = await underWay(world, 3)
      const victim = workers[1]
      if (victim === undefined) return assert.fail("no worker")
      const killedAt = performance.now()
      process.kill(victim.pid, "SIGKILL")
      const lost = await run.event("member-lost")
      assert.isBelow(performance.now() - killedAt, maxNoticeMs)
      assert.strictEqual(lost.peer, victim.peer)
      assert.strictEqual(lost.members, 2)
      release()
      const view = await run.event("view", ({ members }) => members.length === 2)
      assert.lengthOf(
        view.members.flatMap(({ lanes }) => lanes),
        8
      )
      const finished = await run.finished()
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
      assert.strictEqual(finished.members, 2)
      assert.lengthOf(run.all("member-lost"), 1)
    })
  )

  it(
    "finishes with the same weights when two of three are killed at once",
    inWorld(async world => {
      const { run, release, workers } = await underWay(world, 3)
      for (const { pid } of workers.slice(1)) process.kill(pid, "SIGKILL")
      await run.event("member-lost", ({ members }) => members === 1)
      release()
      const finished = await run.finished()
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
      assert.strictEqual(finished.members, 1)
    })
  )

  it(
    "fails with WORKERS_ENDED, and does not wait, when all are killed",
    inWorld(async world => {
      const { run, workers } = await underWay(world, 2)
      const killedAt = performance.now()
      for (const { pid } of workers) process.kill(pid, "SIGKILL")
      const { message } = await run.failure(1, "WORKERS_ENDED")
      assert.isBelow(performance.now() - killedAt, 5_000)
      assert.include(message, "0 of 2 workers are left")
      assert.include(message, "SIGKILL")
    })
  )
})

const maxSilenceNoticeMs = 5_000

describe("A cluster in which a process goes silent, or its coordinator dies", () => {
  it(
    "gives a suspended worker up, and takes it in again when it wakes",
    inWorld(async world => {
      const { run, release, workers } = await underWay(world, 2)
      const sleeper = workers[0]
      if (sleeper === undefined) return assert.fail("no worker")
      const suspendedAt = performance.now()
      process.kill(sleeper.pid, "SIGSTOP")
      const lost = await run.event("member-lost")
      assert.isBelow(performance.now() - suspendedAt, maxSilenceNoticeMs)
      assert.strictEqual(lost.peer, sleeper.peer)
      process.kill(sleeper.pid, "SIGCONT")
      await run.event("member-joined", event => event === run.all("member-joined")[2])
      release()
      const finished = await run.finished()
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
      assert.strictEqual(finished.members, 2)
    })
  )

  it(
    "goes on from where its workers are when the coordinator is killed and started again",
    inWorld(async world => {
      const { env, release } = world.hold()
      const first = world.coordinator(["--min-workers", "2"])
      const { address } = await first.event("listening")
      await first.event("invite", () => first.all("invite").length === 2)
      const workers = first
        .all("invite")
        .map(({ token }, index) => world.artifice(["worker", "--join", token], { home: `worker-${index}`, env }))
      const { step } = await first.event("step", ({ step }) => step >= 2)
      first.kill("SIGKILL")
      await first.ended
      const second = world.coordinator(["--min-workers", "2"], {}, address)
      await second.event("member-joined", ({ members }) => members === 2)
      release()
      const finished = await second.finished()
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
      assert.isAtLeast(second.all("step")[0]?.step ?? 0, step)
      for (const worker of workers) assert.strictEqual((await worker.ended).code, 0)
    })
  )
})

describe("A command that is interrupted", () => {
  it(
    "`run` ends its workers, leaves no file and exits with 130 after SIGINT",
    inWorld(async world => {
      const { run, release, workers } = await underWay(world, 2)
      run.kill("SIGINT")
      release()
      const { code, stderr } = await run.ended
      assert.strictEqual(code, 130)
      assert.deepStrictEqual(stderr, [])
      for (const { pid } of workers) assert.throws(() => process.kill(pid, 0), /ESRCH/)
    })
  )

  it(
    "`run` ends its workers and leaves no file when it is interrupted while they start",
    inWorld(async world => {
      const run = world.run(["--workers", "2"])
      await run.event("process", ({ role }) => role === "worker")
      run.kill("SIGTERM")
      assert.strictEqual((await run.ended).code, 130)
    })
  )

  it(
    "`worker` says goodbye after SIGTERM: the coordinator knows at once and the job goes on",
    inWorld(async world => {
      const { run, release, workers } = await underWay(world, 2)
      const leaver = workers[0]
      if (leaver === undefined) return assert.fail("no worker")
      const signalledAt = performance.now()
      process.kill(leaver.pid, "SIGTERM")
      release()
      const lost = await run.event("member-lost")
      assert.isBelow(performance.now() - signalledAt, maxNoticeMs)
      assert.strictEqual(lost.peer, leaver.peer)
      assert.include(lost.reason, "NORMAL")
      assert.strictEqual((await run.finished()).weightsSha256, (await alone).weightsSha256)
    })
  )
})
