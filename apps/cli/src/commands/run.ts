import { failed } from "../CliFailure.ts"
import type { CommandBody, RunOptions } from "../Options.ts"

/** `artifice run`. */
export const runCommand: CommandBody<RunOptions> = () =>
  failed({ code: "NOT_BUILT", message: "`artifice run` is not built yet", hint: "Fill in commands/run.ts." })
