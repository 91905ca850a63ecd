import { failed } from "../CliFailure.ts"
import type { CommandBody, WorkerOptions } from "../Options.ts"

/** `artifice worker`. */
export const workerCommand: CommandBody<WorkerOptions> = () =>
  failed({ code: "NOT_BUILT", message: "`artifice worker` is not built yet", hint: "Fill in commands/worker.ts." })
