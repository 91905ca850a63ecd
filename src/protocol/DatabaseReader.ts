import { concat } from "./Bytes.ts"
import { databaseFrameHeadBytes, databaseHeaderBytes } from "./constants.ts"
import {
  firstPosition,
  generationKey,
  openFrame,
  type DatabaseChange,
  type DatabaseHeader,
  type FramePosition
} from "./DatabaseFormat.ts"
import { ProtocolError } from "./ProtocolError.ts"

/** What a whole file was. */
export interface DatabaseEnd {
  /** Where the next frame belongs. */
  readonly position: FramePosition
  /** Durable writes up to here. */
  readonly generation: number
  /** Header, snapshot and log, without what is torn. */
  readonly wholeBytes: number
  readonly snapshotBytes: number
  /** Bytes behind the last whole frame: of a change whose writing was cut off, so that nobody was told that it is kept. */
  readonly tornBytes: number
}

/**
 * Reads the frames behind a header, in chunks of any size.
 *
 * Only the last frame of the log can be torn: an append that a crash cut off leaves a part of it, or, where the file system had made the
 * file longer before the bytes reached the disk, zeros. Whatever else does not open is damage, as nothing honest writes it.
 */
export class DatabaseReader {
  readonly #header: DatabaseHeader
  readonly #key: Uint8Array
  #position: FramePosition
  #wholeBytes = databaseHeaderBytes
  #snapshotBytes = databaseHeaderBytes
  /** Of the snapshot, so far. */
  #entries = 0
  #logFrames = 0
  #rest: Uint8Array = new Uint8Array(0)
  #needed = databaseFrameHeadBytes
  /** Once a frame did not open: why, and what is behind its beginning. */
  #failure: { readonly error: ProtocolError; bytes: number; written: number; readonly total: number } | undefined

  constructor(header: DatabaseHeader, headerBytes: Uint8Array, masterKey: Uint8Array) {
    this.#header = header
    this.#key = generationKey(masterKey, header)
    this.#position = firstPosition(headerBytes)
  }

  /** Gives the changes of all frames that are whole now. Throws ProtocolError where the snapshot is damaged. */
  push(chunk: Uint8Array): ReadonlyArray<DatabaseChange> {
    if (this.#failure !== undefined) {
      this.#skip(chunk)
      return []
    }
    this.#rest = this.#rest.length === 0 ? chunk : concat(this.#rest, chunk)
    const changes: Array<DatabaseChange> = []
    while (this.#rest.length >= this.#needed) {
      const opened = this.#open()
      if (opened === undefined) break
      for (const change of opened) changes.push(change)
    }
    // The chunk is the caller's, who may read the next one into it.
    this.#rest = this.#rest.slice()
    return changes
  }

  #open(): ReadonlyArray<DatabaseChange> | undefined {
    let opened
    try {
      opened = openFrame(this.#key, this.#position, this.#rest)
    } catch (error) {
      if (!(error instanceof ProtocolError) || this.#inSnapshot || error.code !== "BAD_MAC") throw error
      this.#failure = { error, bytes: 0, written: 0, total: this.#totalBytes() }
      this.#skip(this.#rest)
      return undefined
    }
    if (opened._tag === "Incomplete") {
      this.#needed = opened.neededBytes
      return []
    }
    const inSnapshot = this.#inSnapshot
    if (inSnapshot) this.#count(opened.changes)
    this.#rest = this.#rest.subarray(opened.bytes)
    this.#wholeBytes += opened.bytes
    this.#position = opened.next
    this.#needed = databaseFrameHeadBytes
    if (inSnapshot) this.#snapshotBytes = this.#wholeBytes
    else this.#logFrames++
    return opened.changes
  }

  /** Of the frame that is next, as its head says; 0 where that is damaged too. */
  #totalBytes(): number {
    try {
      const head = openFrame(this.#key, this.#position, this.#rest.subarray(0, databaseFrameHeadBytes))
      return head._tag === "Incomplete" ? head.neededBytes : head.bytes
    } catch {
      return 0
    }
  }

  get #inSnapshot(): boolean {
    return this.#entries < this.#header.count
  }

  #count(changes: ReadonlyArray<DatabaseChange>): void {
    const { count } = this.#header
    if (changes.some(({ kind }) => kind !== "put")) throw new ProtocolError("MALFORMED", "a removal in a snapshot")
    this.#entries += changes.length
    if (this.#entries > count) throw new ProtocolError("MALFORMED", `the snapshot has more than its ${count} entries`)
  }

  #skip(chunk: Uint8Array): void {
    const failure = this.#failure
    if (failure === undefined) return
    const last = chunk.findLastIndex(byte => byte !== 0)
    if (last >= 0) failure.written = failure.bytes + last + 1
    failure.bytes += chunk.length
  }

  /** No more chunks: what the file was. Throws ProtocolError where it is damaged or ends within its snapshot. */
  end(): DatabaseEnd {
    const { count, generation } = this.#header
    if (this.#inSnapshot) {
      throw new ProtocolError(
        "TRUNCATED",
        `the file ends within its snapshot, after ${this.#entries} of ${count} entries`
      )
    }
    if (this.#failure !== undefined && !neverWritten(this.#failure)) throw this.#failure.error
    return {
      position: this.#position,
      generation: generation + this.#logFrames,
      wholeBytes: this.#wholeBytes,
      snapshotBytes: this.#snapshotBytes,
      tornBytes: this.#failure?.bytes ?? this.#rest.length
    }
  }
}

/** So many zeros at the end of a frame are no tag: one in 2⁶⁴ ends like that. */
const zeroTailBytes = 8

/** Whether a frame that fails is one that zeros end, up to the end of the file: its head is not whole, or its tag is missing. */
const neverWritten = (failure: {
  readonly bytes: number
  readonly written: number
  readonly total: number
}): boolean => {
  const zeros = failure.bytes - failure.written
  if (zeros < zeroTailBytes) return false
  return failure.written < databaseFrameHeadBytes || failure.bytes === failure.total
}
