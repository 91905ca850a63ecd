/**
 * The home of this machine, as the commands open it: where its passphrase comes from, and what each failure means to the person at the terminal.
 */
import { type Home, type HomePassphrase, openHome, readHome, type StoreError } from "artifice/identity"
import { readFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { askPassphrase } from "./AskPassphrase.ts"
import { type CliFailure, failed, wrongUsage } from "./CliFailure.ts"
import { PassphraseFile } from "./PassphraseFile.ts"

/** A passphrase from the environment. */
export const passphraseVariable = "ARTIFICE_PASSPHRASE"

const isOnTerminal = (): boolean => process.stdin.isTTY === true && process.stderr.isTTY === true

/** The first line of the file. */
const fromFile = Effect.fnUntraced(function* (path: string) {
  const refuse = (message: string, cause?: unknown) =>
    wrongUsage({ code: "NO_PASSPHRASE", message, hint: "Its first line must be the passphrase.", cause })
  const text = yield* Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: error =>
      refuse(`The passphrase cannot be read: ${error instanceof Error ? error.message : String(error)}`, error)
  })
  const line = text.split(/\r?\n/, 1)[0] ?? ""
  return line === "" ? yield* refuse(`${path} holds no passphrase`) : Redacted.make(line)
})

/** The passphrase that was given with the command; undefined where none was. */
const givenPassphrase = Effect.gen(function* () {
  const path = yield* PassphraseFile
  if (path !== undefined) return yield* fromFile(path)
  const text = process.env[passphraseVariable]
  return text === undefined || text === "" ? undefined : Redacted.make(text)
})

/** An input that was closed is an empty passphrase, which none is. */
const ask = (home: string): Effect.Effect<Redacted.Redacted<string>> =>
  Effect.map(askPassphrase(`Passphrase of ${home}: `), answer => Redacted.make(answer ?? ""))

const homeFailure =
  (isGiven: boolean) =>
  (error: StoreError): CliFailure => {
    const { message, code } = error
    switch (code) {
      case "IN_USE":
        return failed({
          code: "HOME_IN_USE",
          message,
          hint: "Stop that one first, or give this one a home of its own in ARTIFICE_HOME.",
          cause: error
        })
      case "WRONG_KEY":
        return failed({
          code: "WRONG_PASSPHRASE",
          message,
          hint: "Nothing was changed. Try again with the passphrase that the home was made with.",
          cause: error
        })
      case "KEY_KIND":
        return isGiven
          ? wrongUsage({
              code: "HOME_NOT_PROTECTED",
              message,
              hint: "Call artifice init with the passphrase to protect the home by it, or leave the passphrase out.",
              cause: error
            })
          : wrongUsage({
              code: "PASSPHRASE_NEEDED",
              message,
              hint: `Set ${passphraseVariable}, or name a file that holds it in --passphrase-file.`,
              cause: error
            })
      default:
        return failed({
          code: "HOME_UNUSABLE",
          message,
          hint: "Check the folder, its owner and its free space, or name another one in ARTIFICE_HOME.",
          cause: error
        })
    }
  }

const withPassphrase = <A, R>(
  home: string,
  use: (passphrase: HomePassphrase | undefined) => Effect.Effect<A, StoreError, R>
): Effect.Effect<A, CliFailure, R> =>
  Effect.flatMap(givenPassphrase, given =>
    Effect.mapError(use(given ?? (isOnTerminal() ? ask(home) : undefined)), homeFailure(given !== undefined))
  )

/**
 * Opens the home of this machine, and makes one the first time; nobody else has it until the scope closes. `protect`: a home without a passphrase
 * gets the one that was given.
 */
export const openHomeFolder = (
  home: string,
  options: { readonly protect?: boolean } = {}
): Effect.Effect<Home, CliFailure, Scope.Scope> =>
  withPassphrase(home, passphrase => openHome(home, { ...options, passphrase }))

/** The identity and the peers of a home, which another process may have open; undefined where no identity has been made. */
export const readHomeFolder = (home: string) => withPassphrase(home, passphrase => readHome(home, { passphrase }))
