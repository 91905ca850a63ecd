import * as Context from "effect/Context"

/** `--passphrase-file`, for every command that opens the home. */
export const PassphraseFile = Context.Reference<string | undefined>("artifice/cli/PassphraseFile", {
  defaultValue: () => undefined
})
