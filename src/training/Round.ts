import type { LaneNode } from "../compute/LaneTree.ts"
import { maximalSubtrees } from "../compute/LaneTree.ts"
import { Reduction } from "./Reduction.ts"

/** One member of a view and the lanes it computes, in order. */
export interface ViewMember<Peer extends string = string> {
  readonly peer: Peer
  readonly lanes: ReadonlyArray<number>
}

/** Lanes for members in the order given: contiguous ranges as equal as can be. With more members than lanes some have none. */
export const assignLanes = <Peer extends string>(
  members: ReadonlyArray<Peer>,
  lanes: number
): ReadonlyArray<ViewMember<Peer>> =>
  members.map((peer, index) => {
    const from = Math.floor((lanes * index) / members.length)
    const to = Math.floor((lanes * (index + 1)) / members.length)
    return { peer, lanes: Array.from({ length: to - from }, (_, lane) => from + lane) }
  })

type Part = LaneNode & { readonly peer: string; state: "missing" | "arriving" | "placed" }

/**
 * The step in progress at the one that sums for all: which member owes which nodes of the lane tree, what has come, and the sum when all
 * has. Pure: it neither sends nor waits.
 */
export class Round {
  readonly #reduction: Reduction
  readonly #lanes: number
  #parts: ReadonlyArray<Part> = []
  #members: ReadonlyArray<ViewMember> = []

  constructor(lanes: number, elements: number) {
    this.#lanes = lanes
    this.#reduction = new Reduction(lanes, elements)
  }

  /** Begins a step with these members; whatever had come of an unfinished one is dropped. */
  begin(members: ReadonlyArray<ViewMember>): void {
    this.#members = members
    this.#parts = members.flatMap(({ peer, lanes }) =>
      maximalSubtrees(lanes, this.#lanes).map(node => ({ ...node, peer, state: "missing" as const }))
    )
    this.#reduction.begin(this.#parts)
  }

  /** Begins the next step of the same view. */
  next(): void {
    this.begin(this.#members)
  }

  /** Where the value of a node goes; undefined where this member does not owe it, or has sent it already. */
  claim(peer: string, node: LaneNode): Float32Array | undefined {
    const part = this.#parts.find(({ from, to }) => from === node.from && to === node.to)
    if (part === undefined || part.peer !== peer || part.state !== "missing") return undefined
    part.state = "arriving"
    return this.#reduction.slot(part)
  }

  /** The value of a claimed node has come whole. */
  place(node: LaneNode, loss: number): void {
    const part = this.#parts.find(({ from, to }) => from === node.from && to === node.to)
    if (part?.state !== "arriving") return
    part.state = "placed"
    this.#reduction.place(part, loss)
  }

  get complete(): boolean {
    return this.#reduction.complete
  }

  /** Members whose part has not come. */
  missing(): ReadonlyArray<string> {
    return [...new Set(this.#parts.filter(({ state }) => state !== "placed").map(({ peer }) => peer))]
  }

  /** Writes the step's mean gradient to `out`; gives the tree sum of the lane losses. */
  finish(out: Float32Array): { readonly loss: number } {
    return this.#reduction.finish(out)
  }
}

/** Index of the first element that is not a finite number, or −1. */
export const firstNonFinite = (values: Float32Array): number => {
  // x − x is 0 for a finite x and NaN otherwise: the sum tells of all elements at once.
  let sum = 0
  for (let index = 0; index < values.length; index++) {
    const value = values[index] ?? 0
    sum += value - value
  }
  return sum === 0 ? -1 : values.findIndex(value => !Number.isFinite(value))
}
