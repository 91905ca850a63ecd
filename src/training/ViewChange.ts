/** A view's place in the job: views are ordered by term, then by number. */
export interface ViewId {
  readonly term: number
  readonly view: number
}

export const compareViews = (a: ViewId, b: ViewId): number => a.term - b.term || a.view - b.view

/** What a member says when a view is prepared; from then on it applies no step of an older view. */
export interface Answer {
  /** The last view in which it held the view's state; term 0, view 0 where there was none. */
  readonly started: ViewId
  /** Steps applied to the state that it holds. */
  readonly applied: number
  readonly stateSha256: string
}

/** Where everyone stands, and what each needs to stand at the base. */
export interface Decision {
  /** Steps applied in the state from which the view goes on: never fewer than any member of the newest view has applied. */
  readonly base: number
  readonly stateSha256: string
  /** Hold the base's state. In the order of their PeerIDs, as all lists here. */
  readonly current: ReadonlyArray<string>
  /** Lack one step of the newest view: its reduced gradient brings them there. */
  readonly behind: ReadonlyArray<string>
  /** Must be given the whole state. */
  readonly joiners: ReadonlyArray<string>
  /** Held another state than most at the base: replicas that are none. */
  readonly diverged: ReadonlyArray<string>
}

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** The state that most hold; of two that are held by as many, the one whose first holder has the smaller PeerID. */
export const mostHeld = (holders: ReadonlyArray<readonly [peer: string, stateSha256: string]>): string => {
  const counts = new Map<string, number>()
  for (const [, hash] of holders) counts.set(hash, (counts.get(hash) ?? 0) + 1)
  let best = ""
  for (const [hash, count] of counts) if (count > (counts.get(best) ?? 0)) best = hash
  return best
}

/**
 * Finds the base among the answers to a view that is prepared: the most steps applied by a member of the newest view. Members of one view are
 * at most one step apart, as a step needs a part from each of them; so nothing that was applied is ever rolled back as long as one of them
 * answers. Undefined where nobody has answered.
 */
export const decideBase = (answers: ReadonlyMap<string, Answer>): Decision | undefined => {
  const sorted = [...answers].toSorted(([a], [b]) => byText(a, b))
  const newest = sorted
    .map(([, { started }]) => started)
    .toSorted(compareViews)
    .at(-1)
  if (newest === undefined) return undefined
  const ofNewest = sorted.filter(([, { started }]) => compareViews(started, newest) === 0)
  const base = Math.max(...ofNewest.map(([, { applied }]) => applied))
  const atBase = ofNewest.filter(([, { applied }]) => applied === base)
  const stateSha256 = mostHeld(atBase.map(([peer, answer]) => [peer, answer.stateSha256]))
  const current: Array<string> = []
  const behind: Array<string> = []
  const joiners: Array<string> = []
  const diverged: Array<string> = []
  for (const [peer, answer] of sorted) {
    const isOfNewest = compareViews(answer.started, newest) === 0
    if (answer.applied === base && answer.stateSha256 === stateSha256) current.push(peer)
    else if (answer.applied === base && isOfNewest) diverged.push(peer)
    else if (answer.applied === base - 1 && isOfNewest) behind.push(peer)
    else joiners.push(peer)
  }
  return { base, stateSha256, current, behind, joiners, diverged }
}

/** What is to be done next in a change of view. */
export type NextMove =
  /** Ask these members to prepare the view with this number. */
  | { readonly move: "prepare"; readonly view: number; readonly members: ReadonlyArray<string> }
  /** Wait for answers, or for these members to start. */
  | { readonly move: "wait"; readonly for: ReadonlyArray<string> }
  /** Tell the members that it starts. */
  | { readonly move: "start"; readonly view: number; readonly decision: Decision }
  | { readonly move: "done"; readonly view: number; readonly decision: Decision }
  /** Nobody is left. */
  | { readonly move: "none" }

/**
 * One change of view, in two phases: members are asked to prepare, then told to start. A member that is lost in either phase starts it again
 * with the next number. Pure: it is told what happens, and `next` says what to do about it.
 */
export class ViewChange {
  readonly #members: Set<string>
  readonly #answers = new Map<string, Answer>()
  readonly #started = new Set<string>()
  #view: number
  #phase: "fresh" | "preparing" | "starting" = "fresh"
  #decision: Decision | undefined

  /** `lastView` is the number of the last view that was prepared in this term, whether or not it started. */
  constructor(lastView: number, members: Iterable<string>) {
    this.#view = lastView + 1
    this.#members = new Set(members)
  }

  /** The number of the view that is being made. */
  get view(): number {
    return this.#view
  }

  /** A member has answered to this view number; an answer to an older one is nothing. */
  answered(view: number, peer: string, answer: Answer): void {
    if (view === this.#view && this.#phase === "preparing" && this.#members.has(peer)) this.#answers.set(peer, answer)
  }

  /** A member has taken the start of this view. */
  started(view: number, peer: string): void {
    if (view === this.#view && this.#phase === "starting" && this.#members.has(peer)) this.#started.add(peer)
  }

  /** A member has gone, has not answered in time, or is no replica. */
  lost(peer: string): void {
    if (this.#members.delete(peer) && this.#phase !== "fresh") this.#again()
  }

  #again(): void {
    this.#view++
    this.#phase = "fresh"
    this.#answers.clear()
    this.#started.clear()
    this.#decision = undefined
  }

  next(): NextMove {
    const view = this.#view
    if (this.#members.size === 0) return { move: "none" }
    if (this.#phase === "fresh") {
      this.#phase = "preparing"
      return { move: "prepare", view, members: [...this.#members].toSorted(byText) }
    }
    if (this.#phase === "preparing") {
      const waiting = [...this.#members].filter(peer => !this.#answers.has(peer))
      const decision = waiting.length === 0 ? decideBase(this.#answers) : undefined
      if (decision === undefined) return { move: "wait", for: waiting.toSorted(byText) }
      this.#decision = decision
      this.#phase = "starting"
      return { move: "start", view, decision }
    }
    const waiting = [...this.#members].filter(peer => !this.#started.has(peer))
    if (waiting.length > 0 || this.#decision === undefined) return { move: "wait", for: waiting.toSorted(byText) }
    return { move: "done", view, decision: this.#decision }
  }
}
