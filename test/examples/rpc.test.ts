import { assert, describe, it } from "vitest"
import { runExample } from "./Processes.ts"

describe("the rpc example", () => {
  it("calls in both directions between two processes, with a stream and a typed error", async () => {
    const { code, stdout, stderr } = await runExample("examples/rpc/main.ts")
    assert.strictEqual(stderr, "")
    assert.include(stdout, "visitor: the last four readings: 8, 6, 5, 4 °C")
    assert.include(stdout, "visitor: a thousand are too many: the station keeps 24")
    assert.lengthOf(stdout.match(/^visitor: display: \d+:00 \d+ °C$/gm) ?? [], 5)
    assert.include(stdout, "visitor: the station showed 5 readings here")
    assert.strictEqual(code, 0)
  })
})
