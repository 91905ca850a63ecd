import { assert, describe, it } from "vitest"
import { runExample } from "./Processes.ts"

const leaseMs = 3_000
/** A lease, the next look at the list of runners, and the time that a busy machine takes. */
const patienceMs = 4 * leaseMs

describe("the cluster example", () => {
  it("keeps answering when the entity's process is killed, moves a singleton, and never runs it twice", async () => {
    const { code, stdout, stderr } = await runExample("examples/cluster/main.ts")
    assert.strictEqual(stderr, "")
    assert.strictEqual(code, 0, stdout)
    const entity =
      /^entity: hello world, from (\w+)\nentity: hello world, from (\w+) (\d+) ms after (\w+) was killed$/m.exec(stdout)
    assert.isNotNull(entity, stdout)
    assert.strictEqual(entity?.[4], entity?.[1])
    assert.notStrictEqual(entity?.[2], entity?.[1])
    assert.isBelow(Number(entity?.[3]), patienceMs)
    const singleton = /^singleton: runs on (\w+)\nsingleton: runs on (\w+) (\d+) ms after (\w+) was killed$/m.exec(
      stdout
    )
    assert.isNotNull(singleton, stdout)
    assert.notStrictEqual(singleton?.[2], singleton?.[1])
    assert.isBelow(Number(singleton?.[3]), patienceMs)
    assert.match(stdout, /^singleton: \d+ ticks, never two runners at once$/m)
  })
})
