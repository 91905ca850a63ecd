import { failed } from "../CliFailure.ts"
import type { CommandBody, IdentityOptions } from "../Options.ts"

/** `artifice id`. */
export const idCommand: CommandBody<IdentityOptions> = () =>
  failed({ code: "NOT_BUILT", message: "`artifice id` is not built yet", hint: "Fill in commands/id.ts." })
