/** What a member cannot get over by itself. */
export interface Trouble {
  readonly what: "parts" | "products" | "gradient" | "lost" | "state"
  readonly step: number
  readonly peers: ReadonlyArray<string>
}

/** How long a pair may be stuck before the view is made anew, with new introductions. */
export const pairPatienceMs = 3_000
/** A member that waits says so every second: what was said longer ago may be over. */
const freshMs = 2_500
/** Views that may fail on the same pair, without a step between them, before one end of it is removed. */
export const pairAttempts = 3

interface Waiting extends Trouble {
  readonly sinceMs: number
  atMs: number
}

/** What a member that computes waits for, in the order of a step. */
const stages: ReadonlyArray<string> = ["parts", "products", "gradient"]

/** What is to be done about troubles: nothing yet, a new view, or a new view without this member. */
export type Remedy =
  | { readonly remedy: "view"; readonly reason: string }
  | { readonly remedy: "remove"; readonly peer: string; readonly reason: string }

const keyOf = (a: string, b: string): string => (a < b ? `${a} ${b}` : `${b} ${a}`)

/**
 * What members of a view say they wait for, and what follows from it. A member that computes is waited for as long as its deadline lets it; a
 * pair of which both ends have done their part, and nothing passes between them, cannot talk. Pure.
 */
export class Troubles {
  readonly #waiting = new Map<string, Waiting>()
  readonly #applied = new Map<string, number>()
  readonly #failures = new Map<string, number>()
  #observers: ReadonlySet<string> = new Set()
  #remedy: Remedy | undefined

  /** A view begins: what was said of the one before counts no more. */
  begin(members: Iterable<string>, base: number, observers: Iterable<string>): void {
    this.#observers = new Set(observers)
    this.#waiting.clear()
    this.#applied.clear()
    this.#remedy = undefined
    for (const member of members) this.#applied.set(member, base)
  }

  /** A member has applied a step of this view. */
  progress(member: string, applied: number): void {
    if ((this.#applied.get(member) ?? applied) >= applied) return
    this.#applied.set(member, applied)
    this.#waiting.delete(member)
    this.#failures.clear()
  }

  /** A member of this view has said what it cannot get over. */
  told(member: string, trouble: Trouble, nowMs: number): void {
    if (trouble.what === "state") {
      this.#remedy ??= { remedy: "view", reason: `${member} must be given the state again` }
    } else if (trouble.what === "lost") {
      this.#pairsFailed(trouble.peers.map(peer => [member, peer]))
    } else {
      const before = this.#waiting.get(member)
      const goesOn = before !== undefined && before.step === trouble.step && before.what === trouble.what
      this.#waiting.set(member, { ...trouble, sinceMs: goesOn ? before.sinceMs : nowMs, atMs: nowMs })
    }
  }

  /** Whether a member has said that it has done its own part and waits for others. */
  isWaiting(member: string): boolean {
    return this.#waiting.has(member)
  }

  /** Pairs of which both ends have done their part of a step while nothing passes between them. */
  #stuck(nowMs: number): ReadonlyArray<readonly [string, string]> {
    const pairs: Array<readonly [string, string]> = []
    for (const [member, { what, step, peers, sinceMs, atMs }] of this.#waiting) {
      if (nowMs - sinceMs < pairPatienceMs || nowMs - atMs > freshMs) continue
      for (const peer of peers) {
        const isPast = (this.#applied.get(peer) ?? 0) >= step
        const other = this.#waiting.get(peer)
        // Whoever waits for one thing has sent what comes before it.
        const isReady = other?.step === step && stages.indexOf(other.what) >= stages.indexOf(what)
        if (isPast || isReady) pairs.push([member, peer])
      }
    }
    return pairs
  }

  #pairsFailed(pairs: ReadonlyArray<readonly [string, string]>): void {
    if (pairs.length === 0 || this.#remedy?.remedy === "remove") return
    const accusers = new Map<string, number>()
    let worn = false
    for (const key of new Set(pairs.map(([a, b]) => keyOf(a, b)))) {
      const failures = (this.#failures.get(key) ?? 0) + 1
      this.#failures.set(key, failures)
      if (failures > pairAttempts) worn = true
      for (const end of key.split(" ")) accusers.set(end, (accusers.get(end) ?? 0) + 1)
    }
    if (!worn) {
      this.#remedy = { remedy: "view", reason: "two members cannot talk to each other" }
      return
    }
    // One that only observes is missed by nobody.
    const idle = [...accusers].filter(([end]) => this.#observers.has(end))
    const candidates = idle.length > 0 ? idle : [...accusers]
    const most = Math.max(...candidates.map(([, count]) => count))
    const worst = candidates.filter(([, count]) => count === most).map(([end]) => end)
    const peer = worst.toSorted().at(-1) ?? ""
    this.#remedy = { remedy: "remove", peer, reason: "it cannot be reached by others, or cannot reach them" }
  }

  /** What is to be done now. */
  remedy(nowMs: number): Remedy | undefined {
    if (this.#remedy === undefined) this.#pairsFailed(this.#stuck(nowMs))
    return this.#remedy
  }
}
