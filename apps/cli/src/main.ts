import { enableCompileCache } from "node:module"
import { fileURLToPath } from "node:url"

// Compiled code is kept beside the code it came from: in the system's temporary folder another user could plant it.
enableCompileCache(fileURLToPath(new URL("../../../node_modules/.cache/artifice", import.meta.url)))

// While the command loads there is nothing to drain.
const stop = (): never => process.exit(130)
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, stop)
const [{ cli }, { runProcess }] = await Promise.all([import("./Cli.ts"), import("./MainProcess.ts")])
for (const signal of ["SIGINT", "SIGTERM"]) process.off(signal, stop)
runProcess(cli(process.argv.slice(2)))
