import { toHex } from "./Bytes.ts"
import { tagEpochTolerance } from "./constants.ts"
import type { Mode } from "./HandshakeMessages.ts"
import type { PublicIdentity } from "./Identity.ts"
import { tagEpoch, tagFor, type PairKeys } from "./KeySchedule.ts"

/** One right to dial this host: a pair (per key generation), a token, or an introduction. */
export interface DirectoryEntry {
  /** Names the entry in limits and messages; never sent. */
  readonly name: string
  readonly mode: Mode
  /** Keys of the direction in which the other side dials us. */
  readonly keys: PairKeys
  /** Who may use it. Absent for a token that nobody has claimed yet. */
  readonly peer?: PublicIdentity
  /** The lowest version ever agreed with this peer. */
  readonly minimumVersion?: number
  /** The least suite that the operator allows for this peer. */
  readonly minimumSuite?: number
  /** Unix seconds before and after which a HELLO meets silence. */
  readonly notBefore?: number
  readonly expiresAt?: number
}

/** Answers a HELLO's tag with the entry that it belongs to. */
export interface Directory {
  readonly lookup: (tag: Uint8Array, unixSeconds: number) => DirectoryEntry | undefined
}

/**
 * Finds the entry of a tag in one step, for the hours around now (§2.2), so that strangers cost one failed look-up.
 * The next hour's tags can be computed ahead of time in slices by `prepare`; without it they are computed when the hour begins.
 */
export class TagIndex implements Directory {
  readonly #tolerance: number
  readonly #entries = new Map<string, DirectoryEntry>()
  readonly #epochs = new Map<number, Map<string, DirectoryEntry>>()
  #ahead:
    | { readonly epoch: number; readonly tags: Map<string, DirectoryEntry>; readonly left: Array<DirectoryEntry> }
    | undefined

  /** @param tolerance how many hours the two clocks may differ: 1 to 3. */
  constructor(tolerance: number = tagEpochTolerance) {
    this.#tolerance = tolerance
  }

  get size(): number {
    return this.#entries.size
  }

  /** Adds an entry or replaces the one of the same name. */
  set(entry: DirectoryEntry): void {
    this.delete(entry.name)
    this.#entries.set(entry.name, entry)
    for (const [epoch, tags] of this.#epochs) tags.set(toHex(tagFor(entry.keys.tag, epoch)), entry)
    this.#ahead?.left.push(entry)
  }

  get(name: string): DirectoryEntry | undefined {
    return this.#entries.get(name)
  }

  delete(name: string): void {
    const entry = this.#entries.get(name)
    if (entry === undefined) return
    this.#entries.delete(name)
    for (const [epoch, tags] of this.#epochs) forget(tags, entry, epoch)
    if (this.#ahead !== undefined) forget(this.#ahead.tags, entry, this.#ahead.epoch)
  }

  lookup(tag: Uint8Array, unixSeconds: number): DirectoryEntry | undefined {
    this.#roll(tagEpoch(unixSeconds))
    const name = toHex(tag)
    for (const tags of this.#epochs.values()) {
      const entry = tags.get(name)
      if (entry !== undefined) return entry
    }
    return undefined
  }

  /** Computes up to `budget` tags of the hour that becomes valid next; true when all are ready. */
  prepare(unixSeconds: number, budget: number): boolean {
    const epoch = tagEpoch(unixSeconds) + this.#tolerance + 1
    if (this.#ahead?.epoch !== epoch) this.#ahead = { epoch, tags: new Map(), left: [...this.#entries.values()] }
    const { tags, left } = this.#ahead
    for (let done = 0; done < budget; done++) {
      const entry = left.pop()
      if (entry === undefined) return true
      if (this.#entries.get(entry.name) === entry) tags.set(toHex(tagFor(entry.keys.tag, epoch)), entry)
    }
    return left.length === 0
  }

  #roll(now: number): void {
    for (const epoch of this.#epochs.keys()) if (Math.abs(epoch - now) > this.#tolerance) this.#epochs.delete(epoch)
    for (let epoch = now - this.#tolerance; epoch <= now + this.#tolerance; epoch++) {
      if (this.#epochs.has(epoch)) continue
      const ahead = this.#ahead?.epoch === epoch ? this.#ahead : undefined
      const tags = ahead?.tags ?? new Map<string, DirectoryEntry>()
      for (const entry of ahead?.left ?? this.#entries.values()) {
        if (this.#entries.get(entry.name) === entry) tags.set(toHex(tagFor(entry.keys.tag, epoch)), entry)
      }
      if (ahead !== undefined) this.#ahead = undefined
      this.#epochs.set(epoch, tags)
    }
  }
}

/** Another entry with the same keys keeps its tag. */
const forget = (tags: Map<string, DirectoryEntry>, entry: DirectoryEntry, epoch: number): void => {
  const tag = toHex(tagFor(entry.keys.tag, epoch))
  if (tags.get(tag) === entry) tags.delete(tag)
}
