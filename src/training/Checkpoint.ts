import { stat } from "node:fs/promises"
import { join, resolve } from "node:path"
import { Effect, Result, Semaphore } from "effect"
import { readFileWhole, temporaryPath, writeFileWhole } from "../store/AtomicFile.ts"
import { StoreFiles, type StoreFilesOperations } from "../store/StoreFiles.ts"
import { checkpointError, CheckpointError } from "./CheckpointError.ts"
import {
  copyParameters,
  readState,
  writeOptimizer,
  writeParameters,
  type CheckpointFiles,
  type CheckpointState
} from "./CheckpointFiles.ts"
import {
  checkDescribed,
  decodeManifest,
  encodeManifest,
  maxManifestBytes,
  type Manifest
} from "./CheckpointManifest.ts"
import { firstDifference, type Fingerprint } from "./Fingerprint.ts"

/** Names a checkpoint: which came first is told by term, then by step. */
export interface CheckpointName {
  /** Of its manifest. */
  readonly path: string
  readonly term: number
  readonly step: number
}

export interface SavedCheckpoint extends CheckpointName {
  /** Of all its files. */
  readonly bytes: number
  readonly stateSha256: string
  readonly weightsSha256: string
}

/** A checkpoint that was read, and whose every byte is what was written. */
export interface LoadedCheckpoint extends CheckpointState {
  readonly path: string
  readonly stateSha256: string
  readonly weightsSha256: string
}

/** A checkpoint that was passed over, in a sentence. */
export interface SkippedCheckpoint {
  readonly path: string
  readonly reason: string
}

/** Where a job's checkpoints are unless told otherwise: below the working directory. */
export const defaultCheckpointFolder = (job: string): string => resolve(".artifice", job)

const namePattern = /^term-(\d{1,16})-step-(\d{1,16})(\.json|\.safetensors|\.optimizer\.safetensors)(\.tmp)?$/

const filesOf = (manifest: string): CheckpointFiles => {
  const stem = manifest.replace(/\.json$/, "")
  return { manifest, parameters: `${stem}.safetensors`, optimizer: `${stem}.optimizer.safetensors` }
}

const manifestPath = (folder: string, term: number, step: number): string =>
  join(folder, `term-${term}-step-${step}.json`)

interface Found extends CheckpointName {
  readonly isManifest: boolean
}

/** Every file of a checkpoint in a folder, the newest first. */
const found = async (files: StoreFilesOperations, folder: string): Promise<ReadonlyArray<Found>> =>
  (await files.list(folder))
    .flatMap(name => {
      const match = namePattern.exec(name)
      if (match === null) return []
      const [, term, step, kind, temporary] = match
      const isManifest = kind === ".json" && temporary === undefined
      return [{ path: join(folder, name), term: Number(term), step: Number(step), isManifest }]
    })
    .toSorted((a, b) => b.term - a.term || b.step - a.step)

const attempt = <A>(path: string, use: () => Promise<A>): Effect.Effect<A, CheckpointError> =>
  Effect.tryPromise({ try: use, catch: checkpointError(path) })

const readManifest = async (files: StoreFilesOperations, path: string): Promise<Manifest> => {
  const bytes = await readFileWhole(files, path, maxManifestBytes)
  if (bytes === undefined)
    throw new CheckpointError({
      reason: "Missing",
      path,
      message: "there is no such checkpoint",
      hint: "Name the .json file of one."
    })
  return decodeManifest(path, bytes)
}

const nameOf = (path: string): { readonly term: number; readonly step: number } | undefined => {
  const match = namePattern.exec(path.replace(/^.*[/\\]/, ""))
  return match === null ? undefined : { term: Number(match[1]), step: Number(match[2]) }
}

const load = async (files: StoreFilesOperations, path: string): Promise<LoadedCheckpoint> => {
  const manifest = await readManifest(files, path)
  const { position, seed, ledger, fingerprint, leaves, optimizer, stateSha256, weightsSha256 } = manifest
  const name = nameOf(path)
  if (name !== undefined && (name.term !== position.term || name.step !== position.step))
    throw new CheckpointError({
      reason: "Damaged",
      path,
      message: `its name says another place than its content: term ${position.term}, step ${position.step}`,
      hint: "Rename it as it was, or use another one."
    })
  const state = await readState(files, filesOf(path), manifest)
  return { path, position, seed, ledger, fingerprint, leaves, optimizer, state, stateSha256, weightsSha256 }
}

/**
 * The checkpoints of one job in one folder. A checkpoint is three files: parameters and optimizer state as safetensors, and the manifest, which
 * is written last: a checkpoint without it is none.
 */
export class Checkpoints {
  readonly folder: string
  readonly #keep: number
  readonly #files: StoreFilesOperations
  readonly #one = Semaphore.makeUnsafe(1)

  private constructor(folder: string, keep: number, files: StoreFilesOperations) {
    this.folder = folder
    this.#keep = keep
    this.#files = files
  }

  /** Makes the folder where it is missing. `keep`, at least 1: how many checkpoints stay when another is saved. */
  static readonly make = Effect.fn("Checkpoints.make")(function* (options: {
    readonly folder: string
    readonly keep: number
  }): Effect.fn.Return<Checkpoints, CheckpointError> {
    const files = yield* StoreFiles
    const folder = resolve(options.folder)
    yield* attempt(folder, () => files.makeFolder(folder))
    return new Checkpoints(folder, Math.max(1, options.keep), files)
  })

  /**
   * Saves a state, durably when it returns, and removes what is older than the `keep` newest. `state.state` must not change meanwhile. Fails
   * with `StaleTerm` where the folder has a checkpoint of a higher term, with `DiskFull` and others where it cannot be written; the earlier
   * checkpoints are all there then.
   */
  save(state: CheckpointState): Effect.Effect<SavedCheckpoint, CheckpointError> {
    const { term, step } = state.position
    const path = manifestPath(this.folder, term, step)
    const saving = Effect.gen({ self: this }, function* () {
      const highest = yield* this.highestTerm
      if (highest > term)
        return yield* new CheckpointError({
          reason: "StaleTerm",
          path,
          message: `term ${highest} of this job has begun, and this is term ${term}`,
          hint: "Stop this coordinator: another one has taken over."
        })
      const saved = yield* attempt(path, () => this.#write(path, state))
      yield* attempt(path, () => this.#prune(term, path)).pipe(
        Effect.catch(error => Effect.logWarning(`Old checkpoints could not be removed: ${error.message}`))
      )
      return saved
    })
    return Effect.uninterruptible(this.#one.withPermits(1)(saving))
  }

  async #write(path: string, state: CheckpointState): Promise<SavedCheckpoint> {
    checkDescribed(path, state)
    const files = filesOf(path)
    const parameters = await writeFileWhole(this.#files, files.parameters, file => writeParameters(path, file, state))
    const optimizer = await writeFileWhole(this.#files, files.optimizer, file =>
      writeOptimizer(path, file, state, parameters.stateHash)
    )
    // What the manifest names must be there before it is.
    await this.#files.syncFolder(this.folder)
    const { weightsSha256 } = parameters
    const { stateSha256 } = optimizer
    const manifest = encodeManifest(state, {
      stateSha256,
      weightsSha256,
      files: { parameters: parameters.written, optimizer: optimizer.written }
    })
    await writeFileWhole(this.#files, path, file => file.write(manifest, 0))
    await this.#files.syncFolder(this.folder)
    const bytes = parameters.written.bytes + optimizer.written.bytes + manifest.length
    return { path, term: state.position.term, step: state.position.step, bytes, stateSha256, weightsSha256 }
  }

  /** Removes checkpoints beyond those to keep, their manifests first, and what earlier ones left that were never finished. */
  async #prune(term: number, saved: string): Promise<void> {
    const all = await found(this.#files, this.folder)
    const kept = new Set(
      all
        .filter(({ isManifest }) => isManifest)
        .slice(0, this.#keep)
        .concat(all.filter(({ path }) => path === saved))
        .flatMap(({ path }) => Object.values(filesOf(path)))
    )
    // A higher term's files are another coordinator's, which may be writing them now.
    const surplus = all.filter(file => file.term <= term && !kept.has(file.path))
    for (const { path } of surplus.toSorted((a, b) => Number(b.isManifest) - Number(a.isManifest)))
      await this.#files.remove(path)
    if (surplus.length > 0) await this.#files.syncFolder(this.folder)
  }

  /** The newest first, whether or not they can be read. */
  get list(): Effect.Effect<ReadonlyArray<CheckpointName>, CheckpointError> {
    return Effect.map(
      attempt(this.folder, () => found(this.#files, this.folder)),
      all => all.filter(({ isManifest }) => isManifest).map(({ path, term, step }) => ({ path, term, step }))
    )
  }

  /** The highest term that a checkpoint was saved under; 0 where there is none. The next term must be above it. */
  get highestTerm(): Effect.Effect<number, CheckpointError> {
    return Effect.map(this.list, all => all[0]?.term ?? 0)
  }

  /**
   * The newest checkpoint of a job with this fingerprint that is whole; those that are torn or of another job are skipped, each with its
   * reason, the newest first.
   */
  newest(fingerprint: Fingerprint): Effect.Effect<
    {
      readonly checkpoint: LoadedCheckpoint | undefined
      readonly skipped: ReadonlyArray<SkippedCheckpoint>
    },
    CheckpointError
  > {
    return Effect.gen({ self: this }, function* () {
      const skipped: Array<SkippedCheckpoint> = []
      for (const { path } of yield* this.list) {
        const loaded = yield* Effect.result(
          attempt(path, async () => {
            const difference = firstDifference((await readManifest(this.#files, path)).fingerprint, fingerprint)
            if (difference === undefined) return load(this.#files, path)
            const { field, ours = "nothing", theirs = "nothing" } = difference
            throw new CheckpointError({
              reason: "OtherJob",
              path,
              message: `it is of another job: its ${field} is ${ours}, where this job has ${theirs}`,
              hint: "Give the job the same options, or another folder."
            })
          })
        )
        if (Result.isSuccess(loaded)) return { checkpoint: loaded.success, skipped }
        skipped.push({ path, reason: loaded.failure.message })
      }
      return { checkpoint: undefined, skipped }
    })
  }
}

/** Reads one checkpoint by the path of its manifest, and verifies all of it. */
export const loadCheckpoint = Effect.fn("Checkpoint.load")(function* (
  path: string
): Effect.fn.Return<LoadedCheckpoint, CheckpointError> {
  const files = yield* StoreFiles
  return yield* attempt(path, () => load(files, path))
})

/**
 * Copies the parameters of a checkpoint to a file of their own, whole or not at all: safetensors, with the names of the model's leaves.
 * `checkpoint` is the path of a manifest, or of a folder, whose newest checkpoint is taken. Every byte is verified.
 */
export const exportSafetensors = Effect.fn("Checkpoint.export")(function* (
  checkpoint: string,
  out: string
): Effect.fn.Return<
  { readonly path: string; readonly bytes: number; readonly tensors: number; readonly weightsSha256: string },
  CheckpointError
> {
  const files = yield* StoreFiles
  const path = yield* attempt(checkpoint, async () => {
    if (!(await stat(checkpoint)).isDirectory()) return checkpoint
    return (await found(files, checkpoint)).find(({ isManifest }) => isManifest)?.path ?? join(checkpoint, "*.json")
  })
  return yield* attempt(path, async () => {
    const manifest = await readManifest(files, path)
    const bytes = await copyParameters(files, filesOf(path), manifest, resolve(out))
    return { path, bytes, tensors: manifest.leaves.length, weightsSha256: manifest.weightsSha256 }
  }).pipe(Effect.onInterrupt(() => Effect.promise(() => files.remove(temporaryPath(resolve(out))))))
})
