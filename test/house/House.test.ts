import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { type House, importsOf, maxLines, violations } from "./House.ts"

const root = fileURLToPath(new URL("../../", import.meta.url))

/** Files that may be longer than the limit, each with its reason. */
const longFiles: House["longFiles"] = {}

const readableAsText = /(\.(ts|mts|tsx|js|mjs|json|md|yml|yaml|css|html|sh|txt)|^\.[^/]*|^\.ci\/.*|^LICENSE)$/
/** What .gitignore names, and what npm and git keep. */
const notTracked = new Set(["node_modules", ".git", ".turbo", ".artifice", "dist", "coverage"])

const pathsUnder = (folder: string): ReadonlyArray<string> =>
  readdirSync(join(root, folder), { withFileTypes: true }).flatMap(entry => {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`
    if (notTracked.has(entry.name)) return []
    return entry.isDirectory() ? pathsUnder(path) : readableAsText.test(path) ? [path] : []
  })

const repository = (): House => ({
  files: new Map(pathsUnder("").map(path => [path, readFileSync(join(root, path), "utf8")])),
  longFiles
})

const house = (files: Record<string, string>, longFiles: House["longFiles"] = {}): House => ({
  files: new Map(Object.entries(files)),
  longFiles
})

describe("the house", () => {
  it("is in order", () => {
    const own = repository()
    assert.isAbove(own.files.size, 10)
    assert.deepStrictEqual(violations(own), [])
  })
})

describe("the checker", () => {
  it("reads every kind of import, over several lines too, and none from comments", () => {
    const text = [
      'import "./Effects.ts"',
      'import { a } from "./A.ts"',
      "import type {",
      "  B,",
      "  C",
      '} from "./B.ts"',
      'export * from "./C.ts"',
      'const d = await import("./D.ts")',
      'new Worker(new URL("./E.ts", import.meta.url))',
      '// import { x } from "./No.ts"',
      ' * import { x } from "./No.ts"',
      'const words = "a text, from nowhere"'
    ].join("\n")
    assert.deepStrictEqual([...importsOf(text)].sort(), [
      "./A.ts",
      "./B.ts",
      "./C.ts",
      "./D.ts",
      "./E.ts",
      "./Effects.ts"
    ])
  })

  it.each([
    {
      rule: "a folder that imports from above",
      files: { "src/store/Store.ts": 'import type { N } from "../node/PeerNode.ts"\n', "src/node/PeerNode.ts": "" },
      says: "node is above store"
    },
    {
      rule: "a worker loaded by its URL from above",
      files: { "src/rpc/Rpc.ts": 'new URL("../training/Job.ts", import.meta.url)\n' },
      says: "training is above rpc"
    },
    {
      rule: "an app that reaches into the source",
      files: { "apps/cli/src/main.ts": 'import { Job } from "../../../src/training/Job.ts"\n' },
      says: "outside apps/cli"
    },
    {
      rule: "an example that imports what is not public",
      files: {
        "examples/hello/hello.ts": 'import { x } from "artifice/inner"\n',
        "package.json": '{"exports":{".":"./src/index.ts"}}'
      },
      says: "does not export"
    },
    {
      rule: "a socket in the protocol",
      files: { "src/protocol/Wire.ts": 'import { connect } from "node:net"\n' },
      says: "the protocol is pure code"
    },
    {
      rule: "Effect in the protocol",
      files: { "src/protocol/Wire.ts": 'import * as Effect from "effect/Effect"\n' },
      says: "the protocol is pure code"
    },
    {
      rule: "a cycle",
      files: {
        "src/rpc/A.ts": 'import "./B.ts"\n',
        "src/rpc/B.ts": 'export { c } from "./C.ts"\n',
        "src/rpc/C.ts": 'import { A } from "./A.ts"\n'
      },
      says: "src/rpc/A.ts → src/rpc/B.ts → src/rpc/C.ts → src/rpc/A.ts"
    },
    { rule: "a long file", files: { "src/rpc/Long.ts": "x\n".repeat(maxLines + 1) }, says: "two concepts" },
    {
      rule: "a parameter of type any",
      files: { "src/rpc/A.ts": "const f = (x: any) => x\n" },
      says: "A.ts:1 says any"
    },
    { rule: "a cast to any", files: { "test/A.test.ts": "\nconst y = x as any\n" }, says: "A.test.ts:2 says any" },
    { rule: "any as a type argument", files: { "src/rpc/A.ts": "new Map<string, any>()\n" }, says: "says any" },
    {
      rule: "a path of one machine",
      files: { "docs/setup.md": `run it in ${["", "home", "ada", "artifice"].join("/")}\n` },
      says: "docs/setup.md:1 names a path"
    },
    {
      rule: "a registry's host",
      files: { "package-lock.json": `"resolved": "https://${"registry"}.example.org/effect.tgz"\n` },
      says: "names a registry's host"
    },
    {
      rule: "a dependency without its reason",
      files: {
        "apps/cli/package.json": '{"dependencies":{"left-pad":"1.0.0"}}',
        "docs/dependencies.md": "| `effect` |"
      },
      says: "depends on left-pad"
    }
  ])("finds $rule", ({ files, says }) => {
    const found = violations(house(files))
    assert.strictEqual(found.length, 1, found.join("\n"))
    assert.include(found[0], says)
  })

  it("allows what the rules allow", () => {
    const files = {
      "package.json": '{"exports":{".":"./src/index.ts","./JobEvent":"./src/training/JobEvent.ts"}}',
      "src/index.ts": 'export * from "./training/Job.ts"\n',
      "src/training/Job.ts": 'import { N } from "../node/N.ts"\nimport { R } from "./Round.ts"\n',
      "src/training/Round.ts": "// as any reader knows, any: word\nexport const any = (x: unknown) => many.any(x)\n",
      "src/node/N.ts": 'import { connect } from "node:net"\nconst text = "take any: one"\n',
      "apps/cli/src/main.ts":
        'import "./Cli.ts"\nimport { Job } from "artifice"\nimport { E } from "artifice/JobEvent"\n',
      "apps/cli/src/Cli.ts": 'new URL("../package.json", import.meta.url)\n',
      "apps/cli/package.json": '{"dependencies":{"artifice":"file:../..","effect":"4.1.0"}}',
      "docs/dependencies.md": "| `effect` | why |"
    }
    assert.deepStrictEqual(violations(house(files)), [])
  })

  it("wants the list of long files to be true", () => {
    assert.lengthOf(violations(house({ "src/rpc/A.ts": "x\n" }, { "src/rpc/A.ts": "a table" })), 1)
    assert.deepStrictEqual(
      violations(house({ "src/rpc/A.ts": "x\n".repeat(maxLines + 1) }, { "src/rpc/A.ts": "a table" })),
      []
    )
  })
})
