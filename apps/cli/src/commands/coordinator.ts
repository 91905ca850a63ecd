import { failed } from "../CliFailure.ts"
import type { CommandBody, CoordinatorOptions } from "../Options.ts"

/** `artifice coordinator`. */
export const coordinatorCommand: CommandBody<CoordinatorOptions> = () =>
  failed({
    code: "NOT_BUILT",
    message: "`artifice coordinator` is not built yet",
    hint: "Fill in commands/coordinator.ts."
  })
