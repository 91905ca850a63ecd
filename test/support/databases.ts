import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Redacted, References, Schema, type Scope } from "effect"
import * as HashDatabase from "../../src/store/HashDatabase.ts"
import { StoreFiles, type StoreFilesOperations } from "../../src/store/StoreFiles.ts"
import type { StoreError } from "../../src/store/StoreError.ts"

/** A folder that is gone with the scope. */
export const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-test-"))),
  path => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

export const rawKey = (fill = 5): HashDatabase.DatabaseKey => ({ key: Redacted.make(new Uint8Array(32).fill(fill)) })

/** What the databases of the tests hold. */
export const Note = Schema.Struct({ text: Schema.String, bytes: Schema.Uint8Array })
export type Note = typeof Note.Type
export const note = (text: string, bytes = 4): Note => ({ text, bytes: new Uint8Array(bytes).fill(text.length) })

type Options = Omit<HashDatabase.HashDatabaseOptions<Note>, "schema" | "key"> & {
  readonly key?: HashDatabase.HashDatabaseOptions<Note>["key"]
}

export const openNotes = (options: Options): Effect.Effect<HashDatabase.HashDatabase<Note>, StoreError, Scope.Scope> =>
  HashDatabase.make({ key: rawKey(), ...options, schema: Note })

/** Opens, uses and closes a database of notes. */
export const withNotes = <A, E>(
  options: Options,
  use: (database: HashDatabase.HashDatabase<Note>) => Effect.Effect<A, E>
): Effect.Effect<A, E | StoreError> => Effect.scoped(Effect.flatMap(openNotes(options), use))

/** The texts of a database's notes, by their keys. */
export const textsOf = (database: HashDatabase.HashDatabase<Note>): Effect.Effect<Readonly<Record<string, string>>> =>
  Effect.map(database.entries, entries => Object.fromEntries(entries.map(([key, { text }]) => [key, text])))

/** Uses another disk than the machine's. */
export const onDisk =
  (disk: StoreFilesOperations) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.provideService(effect, StoreFiles, disk)

/** Without the statements about cut ends, of which some tests make hundreds. */
export const quietly: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Effect.provideService(
  References.MinimumLogLevel,
  "Error"
)
