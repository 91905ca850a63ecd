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
  /** A token that pairs nobody any more: whoever comes with it is told so. */
  readonly used?: boolean
  /** Unix seconds before and after which a HELLO meets silence; who comes too late with a token is told so. */
  readonly notBefore?: number
  readonly expiresAt?: number
}

/** Answers a HELLO's tag with the entry that it belongs to. */
export interface Directory {
  readonly lookup: (tag: Uint8Array, unixSeconds: number) => DirectoryEntry | undefined
}

/** The tags of one hour, and the entries whose tag is not computed yet: those from `next` on. */
interface Epoch {
  readonly tags: Map<string, DirectoryEntry>
  entries: Array<DirectoryEntry>
  next: number
}

/**
 * Finds the entry of a tag in one step, for the hours around now (§2.2), so that strangers cost one failed look-up.
 * `prepare` computes tags in slices, those of the next hour ahead of time too; what it has not done by then, a look-up does at once.
 */
export class TagIndex implements Directory {
  readonly #tolerance: number
  readonly #entries = new Map<string, DirectoryEntry>()
  readonly #epochs = new Map<number, Epoch>()

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
    for (const epoch of this.#epochs.values()) epoch.entries.push(entry)
  }

  get(name: string): DirectoryEntry | undefined {
    return this.#entries.get(name)
  }

  delete(name: string): void {
    const entry = this.#entries.get(name)
    if (entry === undefined) return
    this.#entries.delete(name)
    for (const [hour, { tags }] of this.#epochs) forget(tags, entry, hour)
  }

  lookup(tag: Uint8Array, unixSeconds: number): DirectoryEntry | undefined {
    const now = tagEpoch(unixSeconds)
    const name = toHex(tag)
    this.#forgetAllBut(now)
    for (let hour = now - this.#tolerance; hour <= now + this.#tolerance; hour++) {
      const epoch = this.#epoch(hour)
      this.#compute(hour, epoch, Infinity)
      const entry = epoch.tags.get(name)
      if (entry !== undefined) return entry
    }
    return undefined
  }

  /** Computes up to `budget` tags of the hours that are valid and of the one that becomes so next; true when all are ready. */
  prepare(unixSeconds: number, budget: number): boolean {
    const now = tagEpoch(unixSeconds)
    let left = budget
    this.#forgetAllBut(now)
    for (let hour = now - this.#tolerance; hour <= now + this.#tolerance + 1; hour++) {
      const epoch = this.#epoch(hour)
      left -= this.#compute(hour, epoch, left)
      if (epoch.entries.length > 0) return false
    }
    return true
  }

  #epoch(hour: number): Epoch {
    const known = this.#epochs.get(hour)
    if (known !== undefined) return known
    const made = { tags: new Map<string, DirectoryEntry>(), entries: [...this.#entries.values()], next: 0 }
    this.#epochs.set(hour, made)
    return made
  }

  /** Oldest first: of two entries with the same keys the newer one has the tag. Gives how many were computed. */
  #compute(hour: number, epoch: Epoch, budget: number): number {
    let done = 0
    for (; done < budget; done++) {
      const entry = epoch.entries[epoch.next]
      if (entry === undefined) {
        epoch.entries = []
        epoch.next = 0
        break
      }
      epoch.next++
      if (this.#entries.get(entry.name) === entry) epoch.tags.set(toHex(tagFor(entry.keys.tag, hour)), entry)
    }
    return done
  }

  #forgetAllBut(now: number): void {
    for (const hour of this.#epochs.keys())
      if (hour < now - this.#tolerance || hour > now + this.#tolerance + 1) this.#epochs.delete(hour)
  }
}

/** Another entry with the same keys keeps its tag. */
const forget = (tags: Map<string, DirectoryEntry>, entry: DirectoryEntry, epoch: number): void => {
  const tag = toHex(tagFor(entry.keys.tag, epoch))
  if (tags.get(tag) === entry) tags.delete(tag)
}
