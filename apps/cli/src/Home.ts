import type { StoreError } from "artifice/identity"
import { type CliFailure, failed } from "./CliFailure.ts"

/** What a file of the home folder that cannot be read or written means to the person at the terminal. */
export const storeFailure = (error: StoreError): CliFailure =>
  failed({
    code: "HOME_UNUSABLE",
    message: error.message,
    hint: "Check the folder, its owner and its free space, or name another one in ARTIFICE_HOME.",
    cause: error
  })
