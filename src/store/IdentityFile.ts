import { Effect, Schema } from "effect"
import { join } from "node:path"
import { exportIdentity, generateIdentity, importIdentity, type LocalIdentity } from "../protocol/Identity.ts"
import { readPrivateFile, storeError, StoreError, writePrivateFile } from "./PeerStore.ts"

const IdentityKeys = Schema.fromJsonString(
  Schema.Struct({ format: Schema.Literal(1), sign: Schema.String, unwrap: Schema.String })
)

const pathOf = (home: string): string => join(home, "identity.json")

/** The identity kept in a home folder; undefined where none has been made. A damaged file is an error, never replaced. */
export const loadIdentity = Effect.fn("IdentityFile.load")(function* (home: string) {
  const path = pathOf(home)
  const text = yield* readPrivateFile(path)
  if (text === undefined) return undefined
  const damaged = () =>
    new StoreError({ path, operation: "read", detail: "the file is damaged; restore a copy or move it away" })
  const keys = yield* Schema.decodeEffect(IdentityKeys)(text).pipe(Effect.mapError(damaged))
  return yield* Effect.try({ try: () => importIdentity(keys), catch: damaged })
})

/** The identity of a home folder, made and stored the first time: two RSA-3072 keys, mode 0600. */
export const openIdentity = Effect.fn("IdentityFile.open")(function* (home: string) {
  const known = yield* loadIdentity(home)
  if (known !== undefined) return { identity: known, created: false }
  const path = pathOf(home)
  const identity: LocalIdentity = yield* Effect.tryPromise({ try: generateIdentity, catch: storeError(path, "write") })
  const text = yield* Schema.encodeEffect(IdentityKeys)({ format: 1, ...exportIdentity(identity) }).pipe(
    Effect.mapError(storeError(path, "write"))
  )
  yield* writePrivateFile(path, text)
  return { identity, created: true }
})
