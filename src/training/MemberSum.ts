import { addInto, type LaneNode } from "../compute/LaneTree.ts"

/** The sum of what a member has computed of a step. */
export interface NodeSum {
  /** In the array of the first node. */
  readonly value: Float32Array
  readonly loss: number
  readonly lanes: number
}

/** Adds up the values of a member's nodes, step after step, from left to right. */
export class MemberSum {
  readonly #nodes: ReadonlyArray<LaneNode>
  readonly #lanes: number
  #added = 0
  #value: Float32Array | undefined
  #loss = 0

  constructor(nodes: ReadonlyArray<LaneNode>) {
    this.#nodes = nodes
    this.#lanes = nodes.reduce((sum, { from, to }) => sum + to - from, 0)
  }

  /** The value of the next node; gives the sum with the last of a step. */
  add(value: Float32Array, loss: number): NodeSum | undefined {
    if (this.#value === undefined) {
      this.#value = value
      this.#loss = loss
    } else {
      addInto(this.#value, value)
      this.#loss = Math.fround(this.#loss + loss)
    }
    this.#added++
    if (this.#added < this.#nodes.length) return undefined
    const sum = { value: this.#value, loss: this.#loss, lanes: this.#lanes }
    this.#value = undefined
    this.#added = 0
    return sum
  }
}
