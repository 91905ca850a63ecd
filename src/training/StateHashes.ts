import { mostHeld } from "./ViewChange.ts"

/** Steps whose hashes are kept until all members have told theirs. */
const maxSteps = 8

/** Which state each member says it has after a step: replicas must agree. Pure. */
export class StateHashes {
  readonly #steps = new Map<number, Map<string, string>>()
  /** All hashes that were told of the last steps. */
  readonly #told = new Map<number, Set<string>>()

  told(step: number, peer: string, sha256: string): void {
    const known = this.#steps.get(step) ?? new Map<string, string>()
    known.set(peer, sha256)
    this.#steps.set(step, known)
    if (this.#steps.size > maxSteps) this.#steps.delete(Math.min(...this.#steps.keys()))
    this.#told.set(step, (this.#told.get(step) ?? new Set()).add(sha256))
    if (this.#told.size > maxSteps) this.#told.delete(Math.min(...this.#told.keys()))
  }

  /** Whether nobody has told another hash of the state after this step. */
  agree(step: number, sha256: string): boolean {
    return [...(this.#told.get(step) ?? [])].every(told => told === sha256)
  }

  /** The first step after which members differ, once all of these have told theirs, and those that do not hold what most hold. */
  diverged(members: Iterable<string>): { readonly step: number; readonly peers: ReadonlyArray<string> } | undefined {
    const all = [...members]
    for (const [step, known] of this.#steps) {
      const holders = all.toSorted().flatMap(peer => {
        const hash = known.get(peer)
        return hash === undefined ? [] : [[peer, hash] as const]
      })
      if (holders.length < all.length) continue
      this.#steps.delete(step)
      const most = mostHeld(holders)
      const peers = holders.filter(([, hash]) => hash !== most).map(([peer]) => peer)
      if (peers.length > 0) return { step, peers }
    }
    return undefined
  }
}
