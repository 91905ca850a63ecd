import { basename, dirname } from "node:path"
import type { StoreFile, StoreFilesOperations } from "../../src/store/StoreFiles.ts"

/** What was written to a file since it was last synced, in order. */
type Pending =
  | { readonly kind: "write"; readonly at: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly bytes: number }

interface Inode {
  readonly id: string
  now: Uint8Array
  synced: Uint8Array
  pending: Array<Pending>
}

interface NameChange {
  readonly name: string
  readonly inode: Inode | undefined
}

export type DiskImage = ReadonlyMap<string, Uint8Array>

const written = (content: Uint8Array, change: Pending): Uint8Array => {
  if (change.kind === "truncate") {
    const cut = new Uint8Array(change.bytes)
    cut.set(content.subarray(0, change.bytes))
    return cut
  }
  const longer = new Uint8Array(Math.max(content.length, change.at + change.bytes.length))
  longer.set(content)
  longer.set(change.bytes, change.at)
  return longer
}

export class MachineStopped extends Error {
  constructor() {
    super("the machine has stopped")
  }
}

/**
 * A disk of one folder that keeps only what was synced for certain: content by `sync`, names by `syncFolder`. It stops before its `stopAt`th change,
 * counted from 0, and from then on answers nothing; `images` are the disks that the machine may find when it starts again.
 */
export class MemoryDisk implements StoreFilesOperations {
  readonly #names = new Map<string, Inode>()
  readonly #syncedNames = new Map<string, Inode>()
  #nameChanges: Array<NameChange> = []
  #inodes = 0
  #steps = 0
  stopAt = Infinity
  /** Every call of the kind that it names fails with its error, before it has done anything; a write after `writtenBytes` of it. */
  failing:
    | { readonly call: "write" | "sync" | "truncate" | "rename"; readonly error: Error; readonly writtenBytes?: number }
    | undefined

  constructor(image: DiskImage = new Map()) {
    for (const [name, bytes] of image) {
      const inode = this.#inode()
      inode.now = inode.synced = bytes
      this.#names.set(name, inode)
      this.#syncedNames.set(name, inode)
    }
  }

  /** Changes so far. */
  get steps(): number {
    return this.#steps
  }

  /** The files as every process sees them while the machine runs. */
  get files(): Map<string, Uint8Array> {
    return new Map([...this.#names].map(([name, { now }]) => [name, now]))
  }

  /**
   * What may be there after the machine has stopped. The journal of names is kept up to any of its entries; of unsynced content nothing, all, or the
   * last write in part: its first half, or its length with zeros for the second half or for all of it.
   */
  *images(): Iterable<DiskImage> {
    for (let kept = 0; kept <= this.#nameChanges.length; kept++) {
      const names = new Map(this.#syncedNames)
      for (const { name, inode } of this.#nameChanges.slice(0, kept)) {
        if (inode === undefined) names.delete(name)
        else names.set(name, inode)
      }
      for (const content of [lost, whole, half, halfZeros, zeros])
        yield new Map([...names].map(([name, inode]) => [name, content(inode)]))
    }
  }

  #inode(): Inode {
    return { id: String(this.#inodes++), now: new Uint8Array(0), synced: new Uint8Array(0), pending: [] }
  }

  #step(call?: "write" | "sync" | "truncate" | "rename"): void {
    this.#alive()
    if (this.failing !== undefined && this.failing.call === call) throw this.failing.error
    if (this.#steps++ >= this.stopAt) {
      this.#steps = Infinity
      throw new MachineStopped()
    }
  }

  #alive(): void {
    if (this.#steps === Infinity) throw new MachineStopped()
  }

  #rename(name: string, inode: Inode | undefined): void {
    this.#nameChanges.push({ name, inode })
    if (inode === undefined) this.#names.delete(name)
    else this.#names.set(name, inode)
  }

  async open(path: string, use: "read" | "update" | "create"): Promise<StoreFile | undefined> {
    this.#alive()
    const name = basename(path)
    const there = this.#names.get(name)
    if (use !== "create") return there === undefined ? undefined : this.#file(there)
    if (there !== undefined) throw new Error(`EEXIST: ${name}`)
    this.#step()
    const inode = this.#inode()
    this.#rename(name, inode)
    return this.#file(inode)
  }

  #file(inode: Inode): StoreFile {
    const change = (pending: Pending): void => {
      inode.now = written(inode.now, pending)
      inode.pending.push(pending)
    }
    return {
      read: async (into, at) => {
        this.#alive()
        const bytes = inode.now.subarray(at, at + into.length)
        into.set(bytes)
        return bytes.length
      },
      write: async (bytes, at) => {
        const { failing } = this
        if (failing?.call === "write" && failing.writtenBytes !== undefined)
          change({ kind: "write", at, bytes: bytes.slice(0, failing.writtenBytes) })
        this.#step("write")
        change({ kind: "write", at, bytes: bytes.slice() })
      },
      truncate: async bytes => {
        this.#step("truncate")
        change({ kind: "truncate", bytes })
      },
      sync: async () => {
        this.#step("sync")
        inode.synced = inode.now
        inode.pending = []
      },
      stat: async () => {
        this.#alive()
        return { bytes: inode.now.length, id: inode.id }
      },
      close: async () => undefined
    }
  }

  async rename(from: string, to: string): Promise<void> {
    this.#step("rename")
    const inode = this.#names.get(basename(from))
    if (inode === undefined) throw new Error(`ENOENT: ${from}`)
    // One entry of the journal: a rename is whole or it is not.
    this.#names.delete(basename(from))
    this.#nameChanges.push({ name: basename(to), inode })
    this.#names.set(basename(to), inode)
  }

  async remove(path: string): Promise<void> {
    this.#alive()
    if (!this.#names.has(basename(path))) return
    this.#step()
    this.#rename(basename(path), undefined)
  }

  async syncFolder(): Promise<void> {
    this.#step()
    this.#syncedNames.clear()
    for (const [name, inode] of this.#names) this.#syncedNames.set(name, inode)
    this.#nameChanges = []
  }

  async list(): Promise<ReadonlyArray<string>> {
    this.#alive()
    return [...this.#names.keys()]
  }

  async makeFolder(): Promise<void> {
    this.#alive()
  }

  async resolve(path: string): Promise<string> {
    this.#alive()
    return `${dirname(path)}/${basename(path)}`
  }
}

const lost = ({ synced }: Inode): Uint8Array => synced
const whole = ({ now }: Inode): Uint8Array => now

/** All but the last write, and of that what `part` makes of it. */
const partly =
  (part: (bytes: Uint8Array) => Uint8Array) =>
  ({ synced, pending }: Inode): Uint8Array => {
    const last = pending.at(-1)
    if (last === undefined) return synced
    const before = pending.slice(0, -1).reduce(written, synced)
    return last.kind === "truncate" ? before : written(before, { ...last, bytes: part(last.bytes) })
  }

const half = partly(bytes => bytes.subarray(0, bytes.length >> 1))
const halfZeros = partly(bytes => bytes.slice().fill(0, bytes.length >> 1))
const zeros = partly(bytes => new Uint8Array(bytes.length))
