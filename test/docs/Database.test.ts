import { existsSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { StoreError } from "../../src/store/StoreError.ts"
import { blocksOf, codeOf, readText, rowsOf, section } from "./Pages.ts"
import { runModule, typeErrors, withModules } from "./Snippets.ts"

const page = readText("docs/database.md")

describe("docs/database.md", () => {
  it("shows code that fits the types, and does what the page says", async () => {
    const [code = "", ...others] = blocksOf(page, "ts")
    assert.lengthOf(others, 0)
    await withModules({}, async (_paths, folder) => {
      const path = join(folder, "friends.db")
      assert.include(code, '"friends.db"')
      const here = code.replace('"friends.db"', JSON.stringify(path))
      await withModules({ friends: here }, async (paths, own) => {
        assert.strictEqual(await typeErrors(own), "")
        for (const _round of [1, 2]) assert.strictEqual(await runModule(paths.get("friends") ?? ""), "Ada since 2024\n")
        assert.isTrue(existsSync(path))
      })
    })
  })

  it("lists every code of a StoreError, and no other", () => {
    assert.sameMembers(
      rowsOf(section(page, "Errors")).map(row => codeOf(row["code"])),
      [...StoreError.fields.code.literals]
    )
  })
})
