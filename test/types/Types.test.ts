import { execFile } from "node:child_process"
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "vitest"

const root = fileURLToPath(new URL("../../", import.meta.url))
const source = fileURLToPath(new URL("./Protocols.ts", import.meta.url))

/** What the compiler has to say of the file; what it imports is the concern of the type check of the whole. */
const complaints = async (text: string): Promise<ReadonlyArray<string>> => {
  // Within the repository, so that the packages are found.
  await mkdir(join(root, ".artifice"), { recursive: true })
  const folder = await mkdtemp(join(root, ".artifice/types-"))
  try {
    await writeFile(join(folder, "Protocols.ts"), text)
    await writeFile(
      join(folder, "tsconfig.json"),
      JSON.stringify({ extends: "../../tsconfig.json", include: ["Protocols.ts"] })
    )
    const output = await new Promise<string>(resolve => {
      execFile(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], (_error, stdout) =>
        resolve(stdout)
      )
    })
    return output.split("\n").filter(line => /Protocols\.ts\(\d+,\d+\): error TS\d+/.test(line))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

describe("the types of protocols", () => {
  it("accept what fits, and nothing else", async () => {
    assert.deepStrictEqual(await complaints(await readFile(source, "utf8")), [])
  })

  it("find each of the mistakes by itself", async () => {
    const text = await readFile(source, "utf8")
    const directive = / *\/\/ @ts-expect-error .*\n/g
    const mistakes = text.match(directive)?.length ?? 0
    assert.isAbove(mistakes, 25)
    assert.strictEqual((await complaints(text.replace(directive, ""))).length, mistakes)
  })
})
