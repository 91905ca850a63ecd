import { assert, describe, it } from "@effect/vitest"
import { clouds, inWorld, jobFile } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const mnist = "examples/mnist/job.ts"

describe("The weights of a job", () => {
  it("are the same bits for one, two, three and five workers, from run to run, and computed alone in a loop", async () => {
    const { weightsSha256 } = await trainedAlone(clouds)
    for (const workers of [1, 2, 3, 5, 3]) {
      await inWorld(async world => {
        const run = world.run(["--workers", String(workers)])
        const finished = await run.finished()
        assert.strictEqual(finished.weightsSha256, weightsSha256, `${workers} workers`)
        assert.strictEqual(finished.members, workers)
        assert.strictEqual(finished.steps, 80)
        assert.deepStrictEqual(finished.shards, { expected: 640, counted: 640 })
        assert.strictEqual(run.all("process").length, workers + 1)
        const [view] = run.all("view")
        const lanes = view?.members.flatMap(member => member.lanes) ?? []
        assert.deepStrictEqual(
          lanes.toSorted((a, b) => a - b),
          [0, 1, 2, 3, 4, 5, 6, 7]
        )
      })()
    }
  })

  it("are the same bits in the star as in the direct exchange", async () => {
    const { weightsSha256 } = await trainedAlone(clouds)
    await inWorld(async world => {
      const finished = await world.artifice(["run", jobFile("starClouds"), "--workers", "3"]).finished()
      assert.strictEqual(finished.weightsSha256, weightsSha256)
      assert.deepStrictEqual(finished.shards, { expected: 640, counted: 640 })
    })()
  })

  it("are others for another seed, which the workers are told of", async () => {
    const [seven, eight] = [await trainedAlone(clouds), await trainedAlone(clouds, [["seed", "8"]])]
    assert.notStrictEqual(eight.weightsSha256, seven.weightsSha256)
    await inWorld(async world => {
      const { weightsSha256 } = await world.run(["--workers", "2", "--set", "seed=8"]).finished()
      assert.strictEqual(weightsSha256, eight.weightsSha256)
    })()
  })

  it("are the same bits for an epoch of MNIST on one worker and on three", async () => {
    const hashes: Array<string> = []
    for (const workers of ["1", "3"]) {
      await inWorld(async world => {
        const run = world.artifice(["run", mnist, "--workers", workers, "--set", "epochs=1"])
        const finished = await run.finished()
        assert.isAbove(finished.testAccuracy ?? 0, 0.95)
        assert.deepStrictEqual(finished.shards, { expected: 1872, counted: 1872 })
        hashes.push(finished.weightsSha256)
      })()
    }
    assert.strictEqual(hashes[0], hashes[1])
  }, 120_000)
})
