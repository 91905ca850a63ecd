import { createHash } from "node:crypto"
import { Schema } from "effect"
import { utf8 } from "../protocol/Bytes.ts"
import { CheckpointError, damaged } from "./CheckpointError.ts"
import { Fingerprint } from "./Fingerprint.ts"

/** A manifest has the fingerprint and a loss sum per epoch; both are bounded by their options. */
export const maxManifestBytes = 64 * 1024 * 1024

/** No optimizer that is known needs more. */
const maxOptimizerVectors = 64
const maxOptimizerScalars = 4_096

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const AtMost = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Digest = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))

/** Where in the job a state is. `step` counts applied steps; `epoch`, from 1, is that of the last step applied. */
export const Position = Schema.Struct({ term: Count, view: Count, epoch: Count, step: Count })
export type Position = typeof Position.Type

/** What has been counted up to a state. It goes wherever the state goes, and is the truth about it. */
export const Ledger = Schema.Struct({
  shardsCounted: Count,
  /** Sum of the lane losses of each epoch begun, in float64; the last may be of an unfinished one. */
  epochLossSums: Schema.Array(Schema.Finite)
})
export type Ledger = typeof Ledger.Type

const WrittenFile = Schema.Struct({ bytes: Count, sha256: Digest })
export type WrittenFile = typeof WrittenFile.Type

const Body = Schema.Struct({
  format: Schema.Literal(1),
  position: Position,
  seed: Count,
  ledger: Ledger,
  stateSha256: Digest,
  weightsSha256: Digest,
  files: Schema.Struct({ parameters: WrittenFile, optimizer: WrittenFile }),
  optimizer: Schema.Struct({ vectors: AtMost(maxOptimizerVectors), scalars: AtMost(maxOptimizerScalars) }),
  leaves: Schema.Array(Schema.Struct({ path: Schema.String, shape: Schema.Array(Count) })),
  fingerprint: Fingerprint
})
export type Manifest = typeof Body.Type

const Sealed = Schema.Struct({ sha256: Digest, checkpoint: Schema.Json })

const digestOf = (value: Schema.Json): string => createHash("sha256").update(JSON.stringify(value)).digest("hex")

type Described = Pick<Manifest, "position" | "seed" | "ledger" | "optimizer" | "leaves" | "fingerprint">

const { position, seed, ledger, optimizer, leaves, fingerprint } = Body.fields
const isDescribed = Schema.is(Schema.Struct({ position, seed, ledger, optimizer, leaves, fingerprint }))

/** @throws CheckpointError (`Invalid`) for a value that cannot be written so that it reads the same */
export const checkDescribed = (path: string, described: Described): void => {
  if (isDescribed(described)) return
  throw new CheckpointError({
    reason: "Invalid",
    path,
    message: "a position, seed, loss sum or leaf of the state is no number that a checkpoint can hold",
    hint: "Steps, terms and seeds are integers from 0 to 2⁵³ − 1, loss sums are finite."
  })
}

/** A manifest as its file has it: JSON that people can read, with the SHA-256 of its content (as JSON text without white space). */
export const encodeManifest = (
  { position, seed, ledger, optimizer, leaves, fingerprint }: Described,
  written: Pick<Manifest, "stateSha256" | "weightsSha256" | "files">
): Uint8Array => {
  const body: Manifest = { format: 1, position, seed, ledger, ...written, optimizer, leaves, fingerprint }
  const checkpoint: Schema.Json = JSON.parse(JSON.stringify(body))
  return utf8(`${JSON.stringify({ sha256: digestOf(checkpoint), checkpoint }, null, 1)}\n`)
}

const hasFormat = (value: Schema.Json): value is { readonly format: Schema.Json } =>
  typeof value === "object" && value !== null && "format" in value

/** @throws CheckpointError (`Damaged`, `Version`) */
export const decodeManifest = (path: string, bytes: Uint8Array): Manifest => {
  let sealed: unknown
  try {
    sealed = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8"))
  } catch {
    throw damaged(path, "its manifest is torn: it is not JSON")
  }
  if (!Schema.is(Sealed)(sealed) || digestOf(sealed.checkpoint) !== sealed.sha256)
    throw damaged(path, "its manifest is not what was written: its SHA-256 differs")
  const body = sealed.checkpoint
  if (Schema.is(Body)(body)) return body
  throw new CheckpointError({
    reason: "Version",
    path,
    message: `its format is ${hasFormat(body) ? JSON.stringify(body.format) : "unknown"}, and 1 can be read`,
    hint: "Use the release that wrote it."
  })
}
