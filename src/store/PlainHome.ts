import { Effect, Schema } from "effect"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { importIdentity } from "../protocol/Identity.ts"
import { noPeers, StoredPeers } from "./PeerStore.ts"
import { StoreError, storeError } from "./StoreError.ts"
import { StoreFiles } from "./StoreFiles.ts"

/** A home as it was before it was encrypted: two JSON files in clear, read once and then removed. */

const IdentityKeys = Schema.fromJsonString(
  Schema.Struct({ format: Schema.Literal(1), sign: Schema.String, unwrap: Schema.String })
)
const PlainPeers = Schema.fromJsonString(Schema.toCodecJson(StoredPeers))

const identityPath = (folder: string): string => join(folder, "identity.json")
const peersPath = (folder: string): string => join(folder, "peers.json")

const readText = (path: string): Effect.Effect<string | undefined, StoreError> =>
  Effect.tryPromise({
    try: () =>
      readFile(path, "utf8").catch((error: unknown) => {
        if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined
        throw error
      }),
    catch: storeError(path, "read")
  })

const damaged = (path: string) => () =>
  new StoreError({
    path,
    operation: "read",
    code: "DAMAGED",
    detail: "the file is damaged; restore a copy or move it away"
  })

/** The identity and the peers of a plain home; undefined where there is no identity. */
export const readPlainHome = Effect.fn("PlainHome.read")(function* (folder: string) {
  const identityText = yield* readText(identityPath(folder))
  if (identityText === undefined) return undefined
  const identityDamaged = damaged(identityPath(folder))
  const keys = yield* Effect.mapError(Schema.decodeEffect(IdentityKeys)(identityText), identityDamaged)
  const identity = yield* Effect.try({ try: () => importIdentity(keys), catch: identityDamaged })
  const peersText = yield* readText(peersPath(folder))
  const peers =
    peersText === undefined
      ? noPeers
      : yield* Effect.mapError(Schema.decodeEffect(PlainPeers)(peersText), damaged(peersPath(folder)))
  return { identity, peers }
})

/** Removes the files of a plain home, of which everything is kept elsewhere by now. */
export const removePlainHome = Effect.fn("PlainHome.remove")(function* (folder: string) {
  const files = yield* StoreFiles
  yield* Effect.tryPromise({
    // The identity last: while it is there, this is tried again.
    try: async () => {
      await files.remove(peersPath(folder))
      await files.remove(identityPath(folder))
      await files.syncFolder(folder)
    },
    catch: storeError(folder, "write")
  })
})
