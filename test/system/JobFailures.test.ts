import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { inWorld, jobFile, repositoryRoot } from "../support/system.ts"

describe("A job that cannot be trained", () => {
  it(
    "ends with NON_FINITE where the numbers overflow, and names lane, step and peer",
    inWorld(async world => {
      const run = world.artifice(["run", jobFile("overflows"), "--workers", "2"])
      const { message } = await run.failure(1, "NON_FINITE")
      const [, lane = "", step = "", peer = ""] =
        /^lane (\d+) of step (\d+), computed by ([0-9a-f]{64}), /.exec(message) ?? []
      assert.isBelow(Number(lane), 8)
      assert.isAbove(Number(step), 1)
      const [view] = run.all("view")
      const culprit = view?.members.find(member => member.lanes.includes(Number(lane)))
      assert.strictEqual(culprit?.peer, peer)
    })
  )

  it.each([
    { why: "is not there", job: "notThere.ts", exitCode: 2, code: "USAGE", says: /notThere\.ts/ },
    {
      why: "throws while it loads",
      job: jobFile("throws"),
      exitCode: 1,
      code: "JOB_NOT_LOADED",
      says: /the disk is not mounted/
    },
    {
      why: "exports no job",
      job: jobFile("noJob"),
      exitCode: 1,
      code: "JOB_NOT_LOADED",
      says: /not what TrainingJob\.make returns/
    },
    { why: "has a bad option", job: jobFile("badOption"), exitCode: 2, code: "JOB_OPTION", says: /microBatch is 0/ },
    { why: "is given a bad value", set: "epochs=0", exitCode: 2, code: "JOB_OPTION", says: /epochs is 0/ },
    { why: "is given an unknown option", set: "epoch=1", exitCode: 2, code: "JOB_OPTION", says: /epoch is/ }
  ] as const)("that $why is refused in one line, before anything is started", ({ job, set, exitCode, code, says }) =>
    inWorld(async world => {
      const args = set === undefined ? [] : ["--set", set]
      const run = world.artifice(["run", job ?? jobFile("clouds"), ...args])
      const { line } = await run.failure(exitCode, code)
      assert.match(line, says)
      assert.lengthOf((await run.ended).stderr, 1)
      assert.lengthOf(run.all("process"), 0)
    })()
  )

  it(
    "ends where only the compute thread finds the fault, with the workers gone and the fault named",
    inWorld(async world => {
      const path = join(world.folder, "noData.ts")
      const parts = join(repositoryRoot, "test/fixtures/jobs/parts.ts")
      writeFileSync(
        path,
        `import { Dataset, DatasetError } from "artifice"
         import { clouded } from ${JSON.stringify(parts)}
         const load = () => { throw new DatasetError({ dataset: "clouds", message: "clouds.bin is damaged; fetch it again" }) }
         export default clouded({ dataset: Dataset.make({ name: "clouds", load }) })`
      )
      const { message } = await world.artifice(["run", path, "--workers", "1"]).failure(1, "COMPUTE_DATASET")
      assert.include(message, "clouds.bin is damaged; fetch it again")
    })
  )
})
