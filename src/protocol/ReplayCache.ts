import { toHex } from "./Bytes.ts"
import { replayCacheEntries, replayCacheEntriesPerPeer, tagEpochSeconds, tagEpochTolerance } from "./constants.ts"

/**
 * Remembers the nonces of accepted HELLOs (§2.3), bounded per host and per entry, so that one insider cannot push out another's.
 * Nonces older than the hours in which their tag is valid are forgotten.
 */
export class ReplayCache {
  readonly #seen = new Map<string, { readonly name: string; readonly at: number }>()
  readonly #perEntry = new Map<string, Set<string>>()
  readonly #keptSeconds: number

  /** @param tolerance hours that the two clocks may differ, as of the `TagIndex`: a tag is valid for twice that and one more. */
  constructor(tolerance: number = tagEpochTolerance) {
    this.#keptSeconds = (2 * tolerance + 1) * tagEpochSeconds
  }

  get size(): number {
    return this.#seen.size
  }

  /** True when this entry has used its share: its next HELLO must carry a cookie. */
  isFull(name: string): boolean {
    return (this.#perEntry.get(name)?.size ?? 0) >= replayCacheEntriesPerPeer
  }

  /** Notes a nonce; false when it has been seen before. */
  accept(name: string, nonce: Uint8Array, unixSeconds: number): boolean {
    // Under its own name, so that nobody can use up a nonce that he saw in another's HELLO.
    const key = `${name} ${toHex(nonce)}`
    if (this.#seen.has(key)) return false
    this.#forget(unixSeconds - this.#keptSeconds)
    const own = this.#perEntry.get(name) ?? new Set<string>()
    if (own.size >= replayCacheEntriesPerPeer) this.#drop(first(own))
    else if (this.#seen.size >= replayCacheEntries) this.#drop(first(this.#seen.keys()))
    own.add(key)
    this.#perEntry.set(name, own)
    this.#seen.set(key, { name, at: unixSeconds })
    return true
  }

  /** Entries stand in the order of arrival, so the old ones are at the front. */
  #forget(before: number): void {
    for (const [key, { at }] of this.#seen) {
      if (at >= before) return
      this.#drop(key)
    }
  }

  #drop(key: string | undefined): void {
    if (key === undefined) return
    const name = this.#seen.get(key)?.name
    this.#seen.delete(key)
    if (name === undefined) return
    const own = this.#perEntry.get(name)
    own?.delete(key)
    if (own?.size === 0) this.#perEntry.delete(name)
  }
}

const first = <A>(values: Iterable<A>): A | undefined => {
  for (const value of values) return value
  return undefined
}
