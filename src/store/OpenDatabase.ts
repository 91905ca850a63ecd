import { equal, wipe } from "../protocol/Bytes.ts"
import { encodeChange } from "../protocol/DatabaseFormat.ts"
import type { KeyDerivation } from "../protocol/DatabaseKey.ts"
import {
  AppendFailure,
  appendFrame,
  fitsFrame,
  isLogLong,
  loadDatabase,
  newLine,
  writeSnapshot,
  type DatabaseLine,
  type DatabaseSecret,
  type DatabaseState,
  type LoadedDatabase,
  type ValueCodec
} from "./DatabaseFile.ts"
import { StoreError, storeError, type StoreErrorCode } from "./StoreError.ts"
import type { StoreFilesOperations } from "./StoreFiles.ts"

/** What changes together. Of a key that is both removed and put, the value is kept. */
export interface DatabaseChanges<A> {
  readonly put?: Iterable<readonly [key: string, value: A]>
  readonly remove?: Iterable<string>
}

/** Changes of a batch that are encoded in one turn of the event loop. */
const changesPerTurn = 500
const nextTurn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/**
 * The entries of a database and the state of its file, which move together. Its methods change the file before the entries, and must be called
 * one after the other; whoever has made it holds the lock.
 */
export class OpenDatabase<A> {
  readonly path: string
  readonly #files: StoreFilesOperations
  readonly #codec: ValueCodec<A>
  #state: DatabaseState
  #entries: Map<string, A>
  /** A sync failed: what the pages of the file hold is not known, so the next change is written as a file of its own. */
  #suspect = false
  /** The log may be as long as this although it is due: the disk had no room for a snapshot. */
  #patienceBytes = 0
  #closed = false

  constructor(files: StoreFilesOperations, path: string, codec: ValueCodec<A>, loaded: LoadedDatabase<A>) {
    this.#files = files
    this.path = path
    this.#codec = codec
    this.#state = loaded.state
    this.#entries = loaded.entries
  }

  get state(): DatabaseState {
    return this.#state
  }

  get entries(): ReadonlyMap<string, A> {
    return this.#entries
  }

  /** Makes changes durable: a frame of the log, or a snapshot where they do not fit one. Gives how many keys there were to remove. */
  async commit({ put = [], remove = [] }: DatabaseChanges<A>): Promise<number> {
    this.#refuseClosed("write")
    const puts = new Map<string, A>()
    const encoded: Array<Uint8Array> = []
    const removed = new Set([...remove].filter(key => this.#entries.has(key)))
    for (const key of removed) encoded.push(encodeChange({ kind: "remove", key }))
    for (const [key, value] of put) {
      if (encoded.length % changesPerTurn === changesPerTurn - 1) await nextTurn()
      const bytes = this.#codec.encode(value)
      encoded.push(encodeChange({ kind: "put", key, value: bytes }))
      // What a later reading of the file will give, whatever the caller does with his own.
      puts.set(key, this.#codec.decode(bytes))
    }
    if (encoded.length === 0) return 0
    if (this.#suspect || !fitsFrame(encoded)) {
      const next = new Map(this.#entries)
      apply(next, puts, removed)
      await this.#writeSnapshot(this.#nextLine(), next)
    } else {
      await this.#append(encoded)
      apply(this.#entries, puts, removed)
    }
    return removed.size
  }

  async #append(changes: ReadonlyArray<Uint8Array>): Promise<void> {
    try {
      this.#state = await appendFrame(this.#files, this.path, this.#state, changes)
    } catch (error) {
      if (!(error instanceof AppendFailure)) throw error
      this.#suspect ||= !error.clean
      throw error.cause
    }
  }

  /** Folds a long log into a snapshot. Where that fails everything stays as it is, and it is tried again when the file has doubled. */
  async fold(): Promise<void> {
    if (!isLogLong(this.#state) || this.#state.wholeBytes <= this.#patienceBytes) return
    try {
      await this.compact()
    } catch (error) {
      this.#patienceBytes = 2 * this.#state.wholeBytes
      throw error
    }
  }

  compact(): Promise<void> {
    this.#refuseClosed("write")
    return this.#writeSnapshot(this.#nextLine(), this.#entries)
  }

  /** Writes an encrypted copy of the same generation. */
  async archive(target: string): Promise<void> {
    this.#refuseClosed("read")
    try {
      const there = await this.#files.open(target, "read")
      await there?.close()
      if (there !== undefined) {
        const detail = "there is a file already: name another one"
        throw new StoreError({ path: target, operation: "write", code: "EXISTS", detail })
      }
      const line = { ...this.#nextLine(), generation: this.#state.generation }
      await writeSnapshot(this.#files, target, line, this.#entries, this.#codec, () => undefined)
    } catch (error) {
      throw storeError(target, "write")(error)
    }
  }

  /** Reads the file again. An older one than was here before is refused. */
  async reload(): Promise<void> {
    this.#refuseClosed("read")
    const { state, entries } = await this.#load(this.path, this.#secret)
    const known = this.#state.generation
    if (!equal(state.header.databaseId, this.#state.header.databaseId))
      throw this.#failure("open", "FOREIGN", "another database has taken its place")
    if (state.generation < known) throw rolledBack(this.path, state.generation, known)
    this.#state = state
    this.#entries = entries
  }

  /** Replaces all entries by those of an archive, as the next generation of this database. */
  async restore(from: string, secret: DatabaseSecret = this.#secret): Promise<void> {
    this.#refuseClosed("write")
    const { entries } = await this.#load(from, secret).catch((error: unknown) => {
      throw storeError(from, "read")(error)
    })
    await this.#writeSnapshot(this.#nextLine(), entries)
  }

  /** Seals everything under another secret. */
  async rekey(secret: DatabaseSecret, derivation: KeyDerivation): Promise<void> {
    this.#refuseClosed("write")
    const { masterKey, salt } = await newLine(secret, derivation)
    await this.#writeSnapshot({ ...this.#nextLine(), derivation, masterKey, salt }, this.#entries)
  }

  /** Forgets the keys; every later call fails. */
  close(): void {
    this.#closed = true
    wipe(this.#state.masterKey, this.#state.key)
  }

  get #secret(): DatabaseSecret {
    return { kind: "master", bytes: this.#state.masterKey, salt: this.#state.header.salt }
  }

  async #load(path: string, secret: DatabaseSecret): Promise<LoadedDatabase<A>> {
    const loaded = await loadDatabase(this.#files, path, secret, this.#codec)
    if (loaded !== undefined) return loaded
    throw new StoreError({ path, operation: "open", code: "MISSING", detail: "there is no such file" })
  }

  #nextLine(): DatabaseLine {
    const { header, masterKey, generation } = this.#state
    const { derivation, salt, databaseId } = header
    return { derivation, salt, databaseId, generation: generation + 1, masterKey }
  }

  #writeSnapshot(line: DatabaseLine, entries: Map<string, A>): Promise<void> {
    return writeSnapshot(this.#files, this.path, line, entries, this.#codec, state => {
      this.#state = state
      this.#entries = entries
      this.#suspect = false
      this.#patienceBytes = 0
    })
  }

  #failure(operation: StoreError["operation"], code: StoreErrorCode, detail: string): StoreError {
    return new StoreError({ path: this.path, operation, code, detail })
  }

  #refuseClosed(operation: StoreError["operation"]): void {
    if (this.#closed) throw this.#failure(operation, "IO", "it has been closed")
  }
}

const apply = <A>(entries: Map<string, A>, puts: ReadonlyMap<string, A>, removed: Iterable<string>): void => {
  for (const key of removed) entries.delete(key)
  for (const [key, value] of puts) entries.set(key, value)
}

export const rolledBack = (path: string, generation: number, known: number): StoreError =>
  new StoreError({
    path,
    operation: "open",
    code: "ROLLED_BACK",
    detail: `it is of generation ${generation}, but ${known} was seen before: it is an old copy`
  })
