import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { mainModule, start } from "../cli/Processes.ts"
import { type Command, inWorld, jobFile, type World } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const often = ["--set", "checkpoint.everySteps=3"]
const limitMs = 180_000

const jobs = [
  { strategy: "the direct exchange", job: jobFile("clouds") },
  { strategy: "the star", job: jobFile("starClouds") }
] as const

const run = (world: World, job: string, args: ReadonlyArray<string> = [], env: NodeJS.ProcessEnv = {}): Command =>
  world.artifice(["run", job, "--workers", "2", ...often, ...args], { env })

/** A cluster in the middle of its training, where it stays until `release`, with checkpoints behind it. */
const underWay = async (world: World, job: string, args: ReadonlyArray<string> = []) => {
  const { env, release } = world.hold()
  const command = run(world, job, args, env)
  const { step } = await command.event("checkpoint", ({ step }) => step >= 6)
  return { command, release, step }
}

/** Kills a command and its children as they stand; its temporary homes, which nobody removes then, are removed here. */
const killAll = async (world: World, command: Command): Promise<void> => {
  command.kill("SIGKILL")
  await command.ended
  for (const name of readdirSync(world.temporary)) rmSync(join(world.temporary, name), { recursive: true, force: true })
}

/** A resumed job ends as one that was never interrupted. */
const assertAsAlone = async (command: Command, job: string, from: number): Promise<void> => {
  const [resumed] = command.all("resumed")
  assert.isAtLeast(resumed?.step ?? -1, from)
  const finished = await command.finished()
  const alone = await trainedAlone(job)
  assert.strictEqual(finished.weightsSha256, alone.weightsSha256)
  assert.strictEqual(finished.trainLoss, alone.trainLoss)
  assert.deepStrictEqual(finished.shards, { expected: 640, counted: 640 })
  assert.isAbove(command.all("step")[0]?.step ?? 0, resumed?.step ?? 0)
}

describe.each(jobs)("In $strategy a job", ({ job }) => {
  it(
    "whose every process was killed goes on with --resume to the same weights, losses and shards",
    inWorld(async world => {
      const { command, release, step } = await underWay(world, job)
      await killAll(world, command)
      release()
      const second = run(world, job, ["--resume"])
      await second.event("resumed")
      await assertAsAlone(second, job, step)
    }),
    limitMs
  )

  it(
    "that is interrupted by Ctrl-C saves the step it is at, ends with 130, and goes on from there",
    inWorld(async world => {
      const { env, release } = world.hold()
      // No checkpoint is due before the end: this one is the drain's.
      const command = world.artifice(["run", job, "--workers", "2"], { env })
      await command.event("step", ({ step }) => step >= 2)
      command.kill("SIGINT")
      release()
      assert.strictEqual((await command.ended).code, 130)
      const saved = command.all("checkpoint")
      assert.lengthOf(saved, 1)
      assert.isAtLeast(saved[0]?.step ?? 0, 2)
      const second = run(world, job, ["--resume"])
      await second.event("resumed")
      await assertAsAlone(second, job, saved[0]?.step ?? 0)
      assert.strictEqual(second.all("resumed")[0]?.step, saved[0]?.step)
    }),
    limitMs
  )

  it(
    "whose coordinator is killed and started again with --resume goes on with the workers that live",
    inWorld(async world => {
      const { env, release } = world.hold()
      const coordinator = (listen: string, args: ReadonlyArray<string> = []) =>
        world.artifice(["coordinator", job, "--listen", listen, "--min-workers", "2", ...often, ...args], {
          home: "coordinator"
        })
      const first = coordinator("127.0.0.1:0")
      const { address } = await first.event("listening")
      await first.event("invite", () => first.all("invite").length === 2)
      const workers = first
        .all("invite")
        .map(({ token }, index) => world.artifice(["worker", "--join", token, job], { home: `worker-${index}`, env }))
      const { step } = await first.event("checkpoint", ({ step }) => step >= 6)
      first.kill("SIGKILL")
      await first.ended
      const second = coordinator(address, ["--resume"])
      await second.event("member-joined", ({ members }) => members === 2)
      release()
      await assertAsAlone(second, job, step)
      for (const worker of workers) assert.strictEqual((await worker.ended).code, 0)
      // A term of its own, above that of the first.
      assert.include(second.all("checkpoint").at(-1)?.path, "term-2-step-80.json")
    }),
    limitMs
  )
})

const clouds = jobFile("clouds")

/** A small disk takes a file system of its own, which only root may mount. */
const mayMount = process.getuid?.() === 0
if (!mayMount) process.stderr.write("The test of a full disk is skipped: mounting one takes root.\n")

describe("A job with checkpoints", () => {
  it(
    "may be killed again and again while it saves after every step, and still ends with the same weights",
    inWorld(async world => {
      let from = 0
      for (const saved of [3, 5, 8]) {
        const { env, release } = world.hold()
        const command = run(world, clouds, ["--resume", "--set", "checkpoint.everySteps=1"], env)
        await command.event("checkpoint", () => command.all("checkpoint").length >= saved)
        // The next one is being written.
        await killAll(world, command)
        release()
        const resumed = command.all("resumed")[0]?.step ?? -1
        assert.isAtLeast(resumed, from)
        from = command.all("checkpoint").at(-1)?.step ?? 0
        assert.isAbove(from, resumed)
      }
      const last = run(world, clouds, ["--resume"])
      await last.event("resumed")
      await assertAsAlone(last, clouds, from)
    }),
    limitMs
  )

  it.skipIf(!mayMount)(
    "goes on, warned, where the disk is full, and what was saved before can be resumed",
    inWorld(async world => {
      mkdirSync(world.checkpoints)
      // Room for two checkpoints of these, and not for a third beside them.
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", world.checkpoints])
      try {
        const command = run(world, clouds)
        const failed = await command.event("checkpoint-failed")
        assert.strictEqual(failed.reason, "DiskFull")
        assert.include(failed.hint, "still there")
        const finished = await command.finished()
        assert.strictEqual(finished.weightsSha256, (await trainedAlone(clouds)).weightsSha256)
        const saved = command.all("checkpoint").map(({ step }) => step)
        const second = run(world, clouds, ["--resume", "--set", "checkpoint.everySteps=1000"])
        await second.event("resumed", ({ step }) => step === saved.at(-1))
        await assertAsAlone(second, clouds, 3)
      } finally {
        execFileSync("umount", [world.checkpoints])
      }
    }),
    limitMs
  )

  it(
    "passes a torn checkpoint over, refuses those of another job, begins where there is none, and gives its weights away",
    inWorld(async world => {
      const first = run(world, clouds, ["--resume"])
      assert.deepStrictEqual(await first.event("resumed"), { event: "resumed", step: 0 })
      const { weightsSha256, testLoss } = await first.finished()
      const newest = first.all("checkpoint").at(-1)
      assert.strictEqual(newest?.step, 80)

      const out = join(world.folder, "weights.safetensors")
      const exported = await start([mainModule, "export", world.checkpoints, "--out", out, "--json"]).ended
      assert.strictEqual(exported.code, 0)
      assert.include(exported.stdout[0], weightsSha256)
      assert.isAbove(readFileSync(out).length, 4 * 1408)

      const other = run(world, clouds, ["--resume", "--set", "seed=8"])
      const { message } = await other.failure(1, "CANNOT_RESUME")
      assert.match(message, /another job: its seed is 7, where this job has 8/)
      assert.lengthOf(other.all("view"), 0)

      // What was done is told again, without a step.
      const done = await run(world, clouds, ["--resume"]).finished()
      assert.strictEqual(done.weightsSha256, weightsSha256)
      assert.strictEqual(done.testLoss, testLoss)

      truncateSync(newest?.path.replace(/\.json$/, ".safetensors") ?? "", 1_000)
      const torn = run(world, clouds, ["--resume"])
      const skipped = await torn.event("checkpoint-skipped")
      assert.strictEqual(skipped.path, newest?.path)
      await torn.event("resumed", ({ step }) => step < 80)
      await assertAsAlone(torn, clouds, 1)
      assert.isAtMost(readdirSync(world.checkpoints).filter(name => name.endsWith(".json")).length, 3)
    }),
    limitMs
  )
})
