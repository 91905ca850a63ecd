import { Context, Effect, Layer, Schema } from "effect"
import { randomBytes } from "node:crypto"
import { mkdir, open, readFile, rename, rm, type FileHandle } from "node:fs/promises"
import { dirname } from "node:path"

/** What this host keeps about others: peers that it is paired with, and invitations that are still open. */

const Bytes32 = Schema.Uint8Array.check(
  Schema.makeFilter(bytes => bytes.length === 32 || `${bytes.length} bytes where 32 are needed`)
)
const PeerIdText = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))

/** A pair key of one generation. Pending: the other side may not have stored it yet. Secret. */
export const PairKeyRecord = Schema.Struct({
  generation: Schema.Int,
  key: Bytes32,
  state: Schema.Literals(["active", "pending"])
})

/** A peer that this host is paired with. */
export const PeerRecord = Schema.Struct({
  peerId: PeerIdText,
  /** Its identity document. */
  document: Schema.Uint8Array,
  /** Newest last. */
  pairKeys: Schema.Array(PairKeyRecord),
  /** Where it can be dialled, `host:port`; the best first. */
  addresses: Schema.Array(Schema.String),
  /** The lowest protocol version ever agreed with it. */
  minimumVersion: Schema.Int,
  /** Unix seconds of the last session; 0: never. */
  lastSeen: Schema.Int
})
export interface PeerRecord extends Schema.Schema.Type<typeof PeerRecord> {}

/** An open invitation: not its secret, only the keys that descend from it (PROTOCOL §2.6). */
export const InviteRecord = Schema.Struct({
  id: Schema.String,
  keys: Schema.Struct({ tag: Bytes32, mac1: Bytes32, retry: Bytes32, abort: Bytes32, psk: Bytes32 }),
  expiresAt: Schema.Int,
  /** Whoever came first with the token: from then on it works for no other identity. */
  claimedBy: Schema.optionalKey(Schema.Uint8Array)
})
export interface InviteRecord extends Schema.Schema.Type<typeof InviteRecord> {}

export const StoredPeers = Schema.Struct({
  format: Schema.Literal(1),
  peers: Schema.Array(PeerRecord),
  invites: Schema.Array(InviteRecord)
})
export interface StoredPeers extends Schema.Schema.Type<typeof StoredPeers> {}

export const noPeers: StoredPeers = { format: 1, peers: [], invites: [] }

/** The stored state could not be read or written; what was there before is still there. `path` says where, `detail` what to do. */
export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", {
  path: Schema.String,
  operation: Schema.Literals(["read", "write"]),
  detail: Schema.String
}) {
  override get message() {
    return `cannot ${this.operation} ${this.path}: ${this.detail}`
  }
}

export const storeError =
  (path: string, operation: "read" | "write") =>
  (error: unknown): StoreError =>
    new StoreError({ path, operation, detail: error instanceof Error ? error.message : String(error) })

/** Where the registry keeps what must survive it. */
export class PeerStore extends Context.Service<
  PeerStore,
  {
    readonly load: Effect.Effect<StoredPeers, StoreError>
    /** Durable when it returns. */
    readonly save: (state: StoredPeers) => Effect.Effect<void, StoreError>
  }
>()("artifice/store/PeerStore") {
  /** Lives as long as the process: for peers that are paired anew each time, and for tests. */
  static readonly memory: Layer.Layer<PeerStore> = Layer.sync(PeerStore, () => {
    let held = noPeers
    return { load: Effect.sync(() => held), save: state => Effect.sync(() => void (held = state)) }
  })

  /** One JSON file, readable by its owner alone, replaced as a whole. */
  static readonly file = (path: string): Layer.Layer<PeerStore> => Layer.succeed(PeerStore, fileStore(path))
}

const codec = Schema.fromJsonString(Schema.toCodecJson(StoredPeers))

const fileStore = (path: string): PeerStore["Service"] => ({
  load: readPrivateFile(path).pipe(
    Effect.flatMap(text =>
      text === undefined
        ? Effect.succeed(noPeers)
        : Schema.decodeEffect(codec)(text).pipe(
            Effect.mapError(
              () =>
                new StoreError({
                  path,
                  operation: "read",
                  detail: "the file is damaged or of another program; restore a copy or move it away"
                })
            )
          )
    )
  ),
  save: state =>
    Schema.encodeEffect(codec)(state).pipe(
      Effect.mapError(storeError(path, "write")),
      Effect.flatMap(text => writePrivateFile(path, text))
    )
})

/** Reads a text file; undefined where there is none. */
export const readPrivateFile = (path: string): Effect.Effect<string | undefined, StoreError> =>
  Effect.tryPromise({
    try: () =>
      readFile(path, "utf8").catch((error: unknown) => {
        if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined
        throw error
      }),
    catch: storeError(path, "read")
  })

/** Replaces a file as a whole: a temporary file beside it, fsync, rename, fsync of the folder. Mode 0600 in a folder of mode 0700. */
export const writePrivateFile = (path: string, text: string): Effect.Effect<void, StoreError> =>
  Effect.tryPromise({ try: () => replaceFile(path, text), catch: storeError(path, "write") }).pipe(
    Effect.uninterruptible
  )

const replaceFile = async (path: string, text: string): Promise<void> => {
  const folder = dirname(path)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`
  try {
    await synced(open(temporary, "wx", 0o600), file => file.writeFile(text))
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await synced(open(folder, "r"), async () => undefined)
}

const synced = async (opening: Promise<FileHandle>, use: (file: FileHandle) => Promise<void>): Promise<void> => {
  const file = await opening
  try {
    await use(file)
    await file.sync()
  } finally {
    await file.close()
  }
}
