import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { runExample } from "./Processes.ts"

const read = (name: string): string => readFileSync(new URL(`../../examples/hello/${name}`, import.meta.url), "utf8")

describe("the hello example", () => {
  it("says hello world between two processes that prove who they are", async () => {
    const { code, stdout, stderr } = await runExample("examples/hello/main.ts")
    assert.strictEqual(stderr, "")
    assert.match(stdout, /^client: hello world, you have proved to be [0-9a-f]{8}$/m)
    assert.strictEqual(code, 0)
  })

  it("is, in fewer than thirty lines, exactly what its README shows", () => {
    const blocks = [...read("README.md").matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code)
    const files = ["protocol.ts", "server.ts", "client.ts"].map(read)
    assert.deepStrictEqual(blocks, files)
    assert.isBelow(files.join("").trim().split("\n").length, 30)
  })
})
