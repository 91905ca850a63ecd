import { assert, describe, it } from "@effect/vitest"
import { StateHashes } from "../../src/training/StateHashes.ts"

describe("State hashes", () => {
  it("name nobody while they agree, or while one has not told", () => {
    const hashes = new StateHashes()
    hashes.told(50, "a", "x")
    hashes.told(50, "b", "y")
    assert.isUndefined(hashes.diverged(["a", "b", "c"]))
    hashes.told(100, "a", "x")
    hashes.told(100, "b", "x")
    assert.isUndefined(new StateHashes().diverged(["a", "b"]))
  })

  it("name those that differ from what most hold, once", () => {
    const hashes = new StateHashes()
    for (const [peer, hash] of [
      ["a", "y"],
      ["b", "x"],
      ["c", "x"]
    ] as const)
      hashes.told(50, peer, hash)
    assert.deepStrictEqual(hashes.diverged(["a", "b", "c"]), { step: 50, peers: ["a"] })
    assert.isUndefined(hashes.diverged(["a", "b", "c"]))
  })
})
