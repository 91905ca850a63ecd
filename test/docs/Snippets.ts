/** Code that pages show, as modules of the repository: written where its imports resolve, checked, run, and taken away again. */
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { root } from "./Pages.ts"

const start = promisify(execFile)

/** Modules in a folder below the root that git and the linters overlook; it is gone when `use` is done. */
export const withModules = async <A>(
  modules: Readonly<Record<string, string>>,
  use: (paths: ReadonlyMap<string, string>, folder: string) => Promise<A>
): Promise<A> => {
  mkdirSync(join(root, ".artifice"), { recursive: true })
  const folder = mkdtempSync(join(root, ".artifice", "docs-"))
  try {
    const paths = new Map(Object.keys(modules).map(name => [name, join(folder, `${name}.ts`)] as const))
    for (const [name, path] of paths) writeFileSync(path, modules[name] ?? "")
    writeFileSync(join(folder, "package.json"), '{ "type": "module" }')
    return await use(paths, folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What the compiler says of the modules of a folder, under the rules of the repository; empty where they are right. */
export const typeErrors = async (folder: string): Promise<string> => {
  writeFileSync(join(folder, "tsconfig.json"), '{ "extends": "../../tsconfig.json", "include": ["*.ts"] }')
  const compiler = join(root, "node_modules/typescript/bin/tsc")
  try {
    await start(process.execPath, [compiler, "-p", folder], { cwd: root })
    return ""
  } catch (error) {
    return error instanceof Error && "stdout" in error ? String(error.stdout) : String(error)
  }
}

/** Runs a module in a process of its own and gives its standard output. */
export const runModule = async (path: string): Promise<string> => {
  const { stdout } = await start(process.execPath, [path], { cwd: root })
  return stdout
}
