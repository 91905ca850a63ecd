import { Schema } from "effect"
import { ProtocolError } from "../protocol/ProtocolError.ts"

/**
 * The stored state could not be read or written. What was there before is still there: nothing that cannot be read is replaced.
 *
 * | code          | what is wrong                                                               |
 * | ------------- | --------------------------------------------------------------------------- |
 * | `IN_USE`      | another process has the file open; `pid` says which, where it could be told |
 * | `MISSING`     | there is no such file                                                       |
 * | `EXISTS`      | there is one already, and it is not overwritten                             |
 * | `FOREIGN`     | the file is not of this kind                                                |
 * | `VERSION`     | it is of a later release, or needs what this Node has not                   |
 * | `DAMAGED`     | bytes of it were changed or are missing                                     |
 * | `WRONG_KEY`   | the passphrase or key is not this file's                                    |
 * | `KEY_KIND`    | it needs a passphrase where a key was given, or the other way round         |
 * | `ROLLED_BACK` | it is older than the generation that is known of it                         |
 * | `LIMIT`       | it asks for more than is taken, or the change is larger than a file can be  |
 * | `VALUE`       | a value does not fit the schema                                             |
 * | `IO`          | the system refused: permission, space, a read-only folder                   |
 */
export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", {
  path: Schema.String,
  operation: Schema.Literals(["open", "read", "write"]),
  code: Schema.Literals([
    "IN_USE",
    "MISSING",
    "EXISTS",
    "FOREIGN",
    "VERSION",
    "DAMAGED",
    "WRONG_KEY",
    "KEY_KIND",
    "ROLLED_BACK",
    "LIMIT",
    "VALUE",
    "IO"
  ]),
  /** What happened and what to do. */
  detail: Schema.String,
  /** With IN_USE: the process that has it open. */
  pid: Schema.optionalKey(Schema.Int)
}) {
  override get message() {
    return `cannot ${this.operation} ${this.path}: ${this.detail}`
  }
}

export type StoreErrorCode = StoreError["code"]

const damagedHint = "restore an archive of it, or move it away"

const ofProtocol = (
  { code, message }: ProtocolError,
  operation: StoreError["operation"]
): { readonly code: StoreErrorCode; readonly detail: string } => {
  if (code === "TOO_LARGE") return { code: "LIMIT", detail: message }
  if (operation === "write") return { code: "VALUE", detail: message }
  return code === "VERSION"
    ? { code: "VERSION", detail: `${message}; use the release that wrote it` }
    : { code: "DAMAGED", detail: `${message}; ${damagedHint}` }
}

/** Whatever went wrong at a file, as a `StoreError`. */
export const storeError =
  (path: string, operation: StoreError["operation"]) =>
  (error: unknown): StoreError => {
    if (error instanceof StoreError) return error
    if (error instanceof ProtocolError) return new StoreError({ path, operation, ...ofProtocol(error, operation) })
    const detail = error instanceof Error ? error.message : String(error)
    return new StoreError({ path, operation, code: "IO", detail })
  }
