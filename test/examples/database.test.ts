import { assert, describe, it } from "vitest"
import { runExample } from "./Processes.ts"

describe("the database example", () => {
  it("stores, archives, removes, restores, and keeps strangers and second processes out", async () => {
    const { code, stdout, stderr } = await runExample("examples/database/main.ts")
    assert.strictEqual(stderr, "")
    assert.deepStrictEqual(stdout.trim().split("\n"), [
      "stored: ada is Ada, grace is Grace; Ada since 2024",
      "removed: nobody",
      "restored: ada is Ada, grace is Grace",
      "WRONG_KEY: the guess changed nothing",
      "opened again: 2 entries by scrypt, after 5 durable writes",
      "IN_USE: process this one has it open"
    ])
    assert.strictEqual(code, 0)
  })
})
