import { Schema } from "effect"
import { SafetensorsError } from "../store/Safetensors.ts"

/** A checkpoint could not be saved or read. What was saved before is still there. */
export class CheckpointError extends Schema.TaggedError<CheckpointError>()("CheckpointError", {
  reason: Schema.Literals([
    /** No space is left, or no more may be used. */
    "DiskFull",
    /** The system does not let this process. */
    "Denied",
    "Missing",
    /** Bytes of it were changed or are missing. */
    "Damaged",
    /** It is of a later release. */
    "Version",
    /** It is of a job with other options, another model or another dataset. */
    "OtherJob",
    /** Another coordinator has saved under a higher term. */
    "StaleTerm",
    /** What was given to save does not fit together. */
    "Invalid",
    "Io"
  ]),
  path: Schema.String,
  message: Schema.String,
  /** What to do. */
  hint: Schema.String
}) {}

const ofSystem: Readonly<Record<string, readonly [CheckpointError["reason"], string]>> = {
  ENOSPC: ["DiskFull", "Make room, or keep fewer checkpoints; the earlier ones are still there."],
  EDQUOT: ["DiskFull", "Make room, or keep fewer checkpoints; the earlier ones are still there."],
  EFBIG: ["DiskFull", "Use a file system, and a limit, that allow files of this size."],
  EACCES: ["Denied", "Give this user the right to write there, or name another folder with --checkpoint-dir."],
  EPERM: ["Denied", "Give this user the right to write there, or name another folder with --checkpoint-dir."],
  EROFS: ["Denied", "The file system is read-only; name another folder with --checkpoint-dir."],
  ENOENT: ["Missing", "Use an earlier checkpoint."]
}

export const damaged = (path: string, message: string): CheckpointError =>
  new CheckpointError({ reason: "Damaged", path, message, hint: "Use an earlier checkpoint." })

/** Whatever went wrong at a checkpoint, as a `CheckpointError`. */
export const checkpointError =
  (path: string) =>
  (error: unknown): CheckpointError => {
    if (error instanceof CheckpointError) return error
    if (error instanceof SafetensorsError) return damaged(path, error.message)
    const message = error instanceof Error ? error.message : String(error)
    const code = error instanceof Error && "code" in error ? String(error.code) : ""
    const [reason, hint] = ofSystem[code] ?? ["Io", "Look at the disk and at the system's log."]
    return new CheckpointError({ reason, path, message, hint })
  }
