import { createHash, type Hash } from "node:crypto"
import { dirname } from "node:path"
import type { Leaf } from "../compute/Model.ts"
import { writeFileWhole } from "../store/AtomicFile.ts"
import {
  decodeHeader,
  decodeLength,
  encodeHeader,
  lengthBytes,
  SafetensorsError,
  type Tensor
} from "../store/Safetensors.ts"
import type { StoreFile, StoreFilesOperations } from "../store/StoreFiles.ts"
import { CheckpointError, damaged } from "./CheckpointError.ts"
import type { Ledger, Manifest, Position, WrittenFile } from "./CheckpointManifest.ts"
import type { Fingerprint } from "./Fingerprint.ts"

/** Written, hashed and read at once: little enough that the event loop is not held up, and no copy of a whole state is made. */
const chunkBytes = 1024 * 1024

/** What a checkpoint holds. */
export interface CheckpointState {
  readonly position: Position
  readonly seed: number
  readonly ledger: Ledger
  readonly fingerprint: Fingerprint
  /** The model's leaves in the order of the flat parameters. */
  readonly leaves: ReadonlyArray<Leaf>
  /** How many vectors of the parameters' length, and how many scalars, the optimizer has. */
  readonly optimizer: { readonly vectors: number; readonly scalars: number }
  /** As `ComputeThread.readState` gives it: parameters ‖ vectors (float32) ‖ scalars (float64), little-endian. */
  readonly state: Uint8Array
}

export interface CheckpointFiles {
  readonly manifest: string
  readonly parameters: string
  readonly optimizer: string
}

type Layout = Pick<Manifest, "leaves" | "optimizer">

const elementsOf = (shape: ReadonlyArray<number>): number => shape.reduce((product, length) => product * length, 1)

const parameterBytes = ({ leaves }: Layout): number =>
  Float32Array.BYTES_PER_ELEMENT * leaves.reduce((sum, { shape }) => sum + elementsOf(shape), 0)

const stateBytes = (layout: Layout): number =>
  parameterBytes(layout) * (1 + layout.optimizer.vectors) + Float64Array.BYTES_PER_ELEMENT * layout.optimizer.scalars

/** A model that is a single array has one leaf without a name. */
const parameterTensors = ({ leaves }: Layout): ReadonlyArray<Tensor> =>
  leaves.map(({ path, shape }) => ({ name: path === "" ? "parameters" : path, dtype: "F32", shape }))

const optimizerTensors = (layout: Layout): ReadonlyArray<Tensor> => [
  { name: "scalars", dtype: "F64", shape: [layout.optimizer.scalars] },
  ...Array.from({ length: layout.optimizer.vectors }, (_, index): Tensor => ({
    name: `vectors.${index}`,
    dtype: "F32",
    shape: [parameterBytes(layout) / Float32Array.BYTES_PER_ELEMENT]
  }))
]

const chunksOf = function* (bytes: Uint8Array): Generator<Uint8Array> {
  for (let from = 0; from < bytes.length; from += chunkBytes) yield bytes.subarray(from, from + chunkBytes)
}

/** Writes parts one after the other, and hashes them as a whole and each by hashes of its own. */
const writeParts = async (
  file: StoreFile,
  parts: ReadonlyArray<{ readonly bytes: Uint8Array; readonly hashes?: ReadonlyArray<Hash> }>
): Promise<WrittenFile> => {
  const whole = createHash("sha256")
  let at = 0
  for (const { bytes, hashes = [] } of parts) {
    for (const chunk of chunksOf(bytes)) {
      for (const hash of [whole, ...hashes]) hash.update(chunk)
      await file.write(chunk, at)
      at += chunk.length
    }
  }
  return { bytes: at, sha256: whole.digest("hex") }
}

const stateHash = (step: number): Hash => {
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64LE(BigInt(step))
  return createHash("sha256").update(counter)
}

const invalid = (path: string, message: string): CheckpointError =>
  new CheckpointError({
    reason: "Invalid",
    path,
    message,
    hint: "Give the leaves and the optimizer's layout of the model that the state is of."
  })

const headerOf = (path: string, tensors: ReadonlyArray<Tensor>, metadata: Readonly<Record<string, string>> = {}) => {
  try {
    return encodeHeader(tensors, metadata)
  } catch (error) {
    throw error instanceof SafetensorsError ? invalid(path, error.message) : error
  }
}

/** The flat parameters, leaf by leaf. The hash of the state goes on with the optimizer. */
export const writeParameters = async (
  path: string,
  file: StoreFile,
  state: CheckpointState
): Promise<{ readonly written: WrittenFile; readonly weightsSha256: string; readonly stateHash: Hash }> => {
  if (state.state.length !== stateBytes(state))
    throw invalid(path, `the state has ${state.state.length} bytes, its leaves and optimizer need ${stateBytes(state)}`)
  const weights = createHash("sha256")
  const whole = stateHash(state.position.step)
  const name = new Map(state.fingerprint).get("name")
  const header = headerOf(path, parameterTensors(state), {
    format: "artifice",
    step: String(state.position.step),
    ...(name === undefined ? {} : { job: name })
  })
  const bytes = state.state.subarray(0, header.dataBytes)
  const written = await writeParts(file, [{ bytes: header.bytes }, { bytes, hashes: [weights, whole] }])
  return { written, weightsSha256: weights.digest("hex"), stateHash: whole }
}

/** Where the optimizer's vectors and scalars are in the state. */
const optimizerParts = (layout: Layout, state: Uint8Array) => {
  const begin = parameterBytes(layout)
  const middle = begin * (1 + layout.optimizer.vectors)
  return { vectors: state.subarray(begin, middle), scalars: state.subarray(middle) }
}

/** The scalars, then the vectors: so each lies at a multiple of its element. */
export const writeOptimizer = async (
  path: string,
  file: StoreFile,
  state: CheckpointState,
  stateHash: Hash
): Promise<{ readonly written: WrittenFile; readonly stateSha256: string }> => {
  const { vectors, scalars } = optimizerParts(state, state.state)
  const header = headerOf(path, optimizerTensors(state))
  const written = await writeParts(file, [
    { bytes: header.bytes },
    { bytes: scalars },
    { bytes: vectors, hashes: [stateHash] }
  ])
  return { written, stateSha256: stateHash.update(scalars).digest("hex") }
}

const lengthOf = async (files: StoreFilesOperations, path: string): Promise<number> => {
  const file = await files.open(path, "read")
  if (file === undefined) throw damaged(path, `its file ${path} is missing`)
  try {
    return (await file.stat()).bytes
  } finally {
    await file.close()
  }
}

/** Fills `into` from `at` on, chunk by chunk, hashing what comes. */
const readInto = async (file: StoreFile, into: Uint8Array, at: number, hash: Hash): Promise<void> => {
  let from = at
  for (const chunk of chunksOf(into)) {
    await file.read(chunk, from)
    hash.update(chunk)
    from += chunk.length
  }
}

const sameTensors = (tensors: ReadonlyArray<Tensor>, expected: ReadonlyArray<Tensor>): boolean => {
  const text = (all: ReadonlyArray<Tensor>): string =>
    JSON.stringify(all.map(({ name, dtype, shape }) => [name, dtype, shape]))
  return text(tensors) === text(expected)
}

/** Opens a file of a checkpoint, gives the place of its data, and afterwards compares the hash of all that was read. */
const readVerified = async (
  files: StoreFilesOperations,
  path: string,
  written: WrittenFile,
  expected: ReadonlyArray<Tensor>,
  use: (file: StoreFile, data: { readonly at: number; readonly bytes: number }, hash: Hash) => Promise<void>
): Promise<void> => {
  const file = await files.open(path, "read")
  if (file === undefined) throw damaged(path, `its file ${path} is missing`)
  try {
    const { bytes } = await file.stat()
    if (bytes !== written.bytes)
      throw damaged(path, `its file ${path} has ${bytes} bytes, and ${written.bytes} were written`)
    const hash = createHash("sha256")
    const length = new Uint8Array(lengthBytes)
    await readInto(file, length.subarray(0, bytes), 0, hash)
    const header = new Uint8Array(decodeLength(length, bytes))
    await readInto(file, header, lengthBytes, hash)
    const at = lengthBytes + header.length
    const { tensors } = decodeHeader(header, bytes - at)
    if (!sameTensors(tensors, expected)) throw damaged(path, `its file ${path} has other tensors than its manifest`)
    await use(file, { at, bytes: bytes - at }, hash)
    if (hash.digest("hex") !== written.sha256)
      throw damaged(path, `its file ${path} is not what was written: its SHA-256 differs`)
  } finally {
    await file.close()
  }
}

/**
 * Reads the state of a checkpoint into one block, and verifies it.
 * @throws CheckpointError (`Damaged`)
 */
export const readState = async (
  files: StoreFilesOperations,
  paths: CheckpointFiles,
  manifest: Manifest
): Promise<Uint8Array> => {
  const size = stateBytes(manifest)
  const { parameters, optimizer } = manifest.files
  // The manifest alone could ask for any amount of memory; what is on the disk is paid for.
  const onDisk = (await lengthOf(files, paths.parameters)) + (await lengthOf(files, paths.optimizer))
  if (!(size <= onDisk)) throw damaged(paths.manifest, "its manifest describes more than its files hold")
  const state = new Uint8Array(size)
  await readVerified(
    files,
    paths.parameters,
    parameters,
    parameterTensors(manifest),
    async (file, { at, bytes }, hash) => {
      await readInto(file, state.subarray(0, bytes), at, hash)
    }
  )
  const { vectors, scalars } = optimizerParts(manifest, state)
  await readVerified(files, paths.optimizer, optimizer, optimizerTensors(manifest), async (file, { at }, hash) => {
    await readInto(file, scalars, at, hash)
    await readInto(file, vectors, at + scalars.length, hash)
  })
  const whole = stateHash(manifest.position.step)
  for (const chunk of chunksOf(state)) {
    whole.update(chunk)
    await new Promise(resolve => setImmediate(resolve))
  }
  if (whole.digest("hex") !== manifest.stateSha256)
    throw damaged(paths.manifest, "its state is not the one that was saved: its SHA-256 differs")
  return state
}

/** Copies the file of parameters, and verifies it before the copy has its name. Gives its length. */
export const copyParameters = async (
  files: StoreFilesOperations,
  paths: CheckpointFiles,
  manifest: Manifest,
  out: string
): Promise<number> => {
  const { parameters } = manifest.files
  const chunk = new Uint8Array(chunkBytes)
  await writeFileWhole(files, out, target =>
    readVerified(files, paths.parameters, parameters, parameterTensors(manifest), async (file, { at, bytes }, hash) => {
      const head = new Uint8Array(at)
      await file.read(head, 0)
      await target.write(head, 0)
      for (let from = at; from < at + bytes; from += chunk.length) {
        const part = chunk.subarray(0, Math.min(chunk.length, at + bytes - from))
        await readInto(file, part, from, hash)
        await target.write(part, from)
      }
    })
  )
  await files.syncFolder(dirname(out))
  return parameters.bytes
}
