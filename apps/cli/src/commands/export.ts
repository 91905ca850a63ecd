import { exportSafetensors } from "artifice"
import * as Effect from "effect/Effect"
import { failed } from "../CliFailure.ts"
import type { CommandBody, ExportOptions } from "../Options.ts"

/** `artifice export`. */
export const exportCommand: CommandBody<ExportOptions> = ({ checkpoint, out }, output) =>
  exportSafetensors(checkpoint, out).pipe(
    Effect.mapError(error =>
      failed({
        code: "CANNOT_EXPORT",
        message: `${error.path} cannot be exported: ${error.message}`,
        hint: error.hint,
        cause: error
      })
    ),
    Effect.flatMap(written => output.result({ event: "export", ...written }))
  )
