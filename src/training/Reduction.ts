import { Schema } from "effect"
import { divideInto } from "../compute/Blocks.ts"
import { addInto, isTreeNode, splitPoint, type LaneNode } from "../compute/LaneTree.ts"

/** The nodes of a step do not fit the lanes, a value came for a node that was not announced, or a sum was asked for too early. */
export class ReductionError extends Schema.TaggedError<ReductionError>()("ReductionError", {
  message: Schema.String
}) {}

const show = ({ from, to }: LaneNode): string => `[${from}, ${to})`

/** One addition of the tree: the value in slot `right` is added to that in slot `left`. */
interface Addition {
  readonly left: number
  readonly right: number
  /** The addition that takes this sum; undefined at the root. */
  readonly next: Addition | undefined
  /** How many of the two operands are still to come. */
  waiting: number
}

/** What is known of one node of the step. */
interface Part {
  readonly node: LaneNode
  readonly next: Addition | undefined
  placed: boolean
}

/**
 * Sums the lane gradients of one step, or a segment of them, along the lane tree, in whatever order the parts arrive: a sum is
 * formed as soon as both of its operands are there.
 *
 * One `Reduction` serves every step of a view: buffers are made when a step first needs them and used again. They are
 * shared memory, so a compute thread can fill a slot in place.
 *
 * @example
 * reduction.begin(assignment.flatMap(member => maximalSubtrees(member.lanes, lanes)))
 * reduction.slot(node).set(received)
 * reduction.place(node, loss)
 * if (reduction.complete) reduction.finish(gradient)
 */
export class Reduction {
  readonly lanes: number
  readonly elements: number
  readonly #divisor: number
  readonly #buffers: Array<Float32Array> = []
  readonly #losses: Float32Array
  #parts: ReadonlyArray<Part> = []
  #additions: ReadonlyArray<Addition> = []
  #waiting = 0
  #open = false

  /** `lanes` in the whole tree; `elements` in each gradient (or segment of one), which may be none. */
  constructor(lanes: number, elements: number, divisor = lanes) {
    this.lanes = lanes
    this.#divisor = divisor
    this.elements = elements
    this.#losses = new Float32Array(lanes)
  }

  /**
   * Starts a step that is made of `nodes`, in any order.
   * @throws ReductionError unless they are nodes of the tree that cover [0, lanes) exactly once
   */
  begin(nodes: ReadonlyArray<LaneNode>): void {
    const sorted = nodes.toSorted((left, right) => left.from - right.from)
    let covered = 0
    for (const node of sorted) {
      if (!isTreeNode(node, this.lanes))
        throw new ReductionError({ message: `${show(node)} is no node of the tree over ${this.lanes} lanes` })
      if (node.from !== covered)
        throw new ReductionError({
          message: `Lane ${Math.min(node.from, covered)} is covered ${node.from < covered ? "twice" : "by no node"}`
        })
      covered = node.to
    }
    if (covered !== this.lanes) throw new ReductionError({ message: `Lane ${covered} is covered by no node` })
    const parts: Array<Part> = []
    const additions: Array<Addition> = []
    const plan = (from: number, to: number, first: number, last: number, next: Addition | undefined): void => {
      if (last - first === 1) {
        parts.push({ node: { from, to }, next, placed: false })
        return
      }
      const middle = splitPoint(from, to)
      let boundary = first
      while ((sorted[boundary]?.from ?? to) < middle) boundary++
      const addition = { left: first, right: boundary, next, waiting: 2 }
      additions.push(addition)
      plan(from, middle, first, boundary, addition)
      plan(middle, to, boundary, last, addition)
    }
    plan(0, this.lanes, 0, sorted.length, undefined)
    this.#parts = parts
    this.#additions = additions
    this.#waiting = sorted.length
    this.#open = true
    while (this.#buffers.length < sorted.length)
      this.#buffers.push(
        new Float32Array(new SharedArrayBuffer(this.elements * Float32Array.BYTES_PER_ELEMENT), 0, this.elements)
      )
  }

  /** Starts another step of the same nodes; what had come of an unfinished one is dropped. */
  restart(): void {
    for (const part of this.#parts) part.placed = false
    for (const addition of this.#additions) addition.waiting = 2
    this.#waiting = this.#parts.length
    this.#open = true
  }

  #indexOf(node: LaneNode): number {
    let low = 0
    let high = this.#open ? this.#parts.length : 0
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#parts[middle]?.node.from ?? 0) < node.from) low = middle + 1
      else high = middle
    }
    const found = this.#open ? this.#parts[low]?.node : undefined
    if (found === undefined || found.from !== node.from || found.to !== node.to)
      throw new ReductionError({ message: `${show(node)} is not part of this step` })
    return low
  }

  #buffer(index: number): Float32Array {
    const buffer = this.#buffers[index]
    if (buffer === undefined) throw new ReductionError({ message: "No step has begun" })
    return buffer
  }

  /**
   * Where the value of `node` belongs, shape `[elements]`, in shared memory: fill it, then call {@link place}, and leave it alone.
   * @throws ReductionError when `node` is not part of this step
   */
  slot(node: LaneNode): Float32Array {
    return this.#buffer(this.#indexOf(node))
  }

  /**
   * Declares the slot of `node` filled, and forms the sums that waited for it alone; `loss` is the tree sum of the node's lane losses.
   * @throws ReductionError when `node` is not part of this step or was placed already
   */
  place(node: LaneNode, loss: number): void {
    const index = this.#indexOf(node)
    const part = this.#parts[index]
    if (part === undefined || part.placed) throw new ReductionError({ message: `${show(node)} was placed twice` })
    part.placed = true
    this.#losses[index] = loss
    this.#waiting--
    for (let addition = part.next; addition !== undefined; addition = addition.next) {
      addition.waiting--
      if (addition.waiting > 0) return
      const { left, right } = addition
      addInto(this.#buffer(left), this.#buffer(right))
      this.#losses[left] = (this.#losses[left] ?? 0) + (this.#losses[right] ?? 0)
    }
  }

  /** The nodes still awaited, from left to right. */
  missing(): Array<LaneNode> {
    return this.#open ? this.#parts.filter(({ placed }) => !placed).map(({ node }) => node) : []
  }

  /** True when every node of the step was placed. */
  get complete(): boolean {
    return this.#open && this.#waiting === 0
  }

  /**
   * Writes the mean gradient, `fround(tree sum / lanes)`, to `out` (shape `[elements]`). Ends the step: the slots are free for the
   * next one. `loss` is the tree sum of the lane losses; `firstNonFinite` the first element of `out` that is not finite, or −1.
   * @throws ReductionError when a node is missing or `out` has another length
   */
  finish(out: Float32Array): { readonly loss: number; readonly firstNonFinite: number } {
    if (!this.complete)
      throw new ReductionError({
        message: `The step still waits for ${this.missing().map(show).join(", ") || "begin"}`
      })
    if (out.length !== this.elements)
      throw new ReductionError({ message: `The result has ${this.elements} elements, the given array ${out.length}` })
    const firstNonFinite = divideInto(out, this.#buffer(0), this.#divisor)
    this.#open = false
    return { loss: this.#losses[0] ?? 0, firstNonFinite }
  }
}
