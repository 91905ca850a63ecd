import { failed } from "../CliFailure.ts"
import type { CommandBody, IdentityOptions } from "../Options.ts"

/** `artifice init`. */
export const initCommand: CommandBody<IdentityOptions> = () =>
  failed({ code: "NOT_BUILT", message: "`artifice init` is not built yet", hint: "Fill in commands/init.ts." })
