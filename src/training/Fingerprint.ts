import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { Schema } from "effect"
import type { ComputeInfo } from "../compute/Engine.ts"
import { isRecord } from "../compute/Options.ts"
import type { TrainingJob } from "./TrainingJob.ts"

const maxFields = 65_536
const maxTextLength = 4_096

const Text = Schema.String.check(Schema.isMaxLength(maxTextLength))

/**
 * What must be equal on all members of a job for their bits to be equal: pairs of field and value, in a fixed order. It
 * travels from the coordinator to each worker, which refuses with the first difference.
 */
export const Fingerprint = Schema.Array(Schema.Tuple([Text, Text])).check(Schema.isMaxLength(maxFields))
export type Fingerprint = typeof Fingerprint.Type

/** A field in which two fingerprints differ; `undefined` where a side does not have it. */
export interface FingerprintDifference {
  readonly field: string
  readonly ours: string | undefined
  readonly theirs: string | undefined
}

/** The version of this package. */
export const packageVersion = (): string => {
  const content: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"))
  return isRecord(content) ? String(content.version) : "unknown"
}

/** The fingerprint of a job as this machine computes it. */
export const fingerprintOf = (job: TrainingJob, info: ComputeInfo): Fingerprint => [
  ["package.version", packageVersion()],
  ...job.optionTexts,
  ["dataset.name", JSON.stringify(job.dataset.name)],
  ["dataset.sha256", info.dataset.digest],
  ["dataset.trainExamples", String(info.dataset.trainExamples)],
  ["dataset.testExamples", String(info.dataset.testExamples)],
  ["backend.name", info.backend.name],
  ["backend.version", info.backend.version],
  ["backend.strict", String(info.backend.strict)],
  ["backend.threads", String(info.backend.threads)],
  ["model.parameters", String(info.parameterCount)],
  ...info.leaves.map(({ path, shape }) => [`model.leaf.${path}`, JSON.stringify(shape)] as const),
  // Last, as the fields before it say more about what differs.
  ["model.program.sha256", info.programSha256]
]

/** SHA-256 in hex over the JSON text of the fields. */
export const fingerprintSha256 = (fingerprint: Fingerprint): string =>
  createHash("sha256").update(JSON.stringify(fingerprint)).digest("hex")

/** The first field, in the order of `ours`, that differs; then one that only `theirs` has. `undefined` when they are equal. */
export const firstDifference = (ours: Fingerprint, theirs: Fingerprint): FingerprintDifference | undefined => {
  const other = new Map(theirs)
  for (const [field, value] of ours)
    if (other.get(field) !== value) return { field, ours: value, theirs: other.get(field) }
  const known = new Map(ours)
  for (const [field, value] of theirs) if (!known.has(field)) return { field, ours: undefined, theirs: value }
  return undefined
}
