import { Schema } from "effect"
import { addInto, isTreeNode, splitPoint, type LaneNode } from "../compute/LaneTree.ts"

/** The nodes of a step do not fit the lanes, a value came for a node that was not announced, or a sum was asked for too early. */
export class ReductionError extends Schema.TaggedError<ReductionError>()("ReductionError", {
  message: Schema.String
}) {}

const show = ({ from, to }: LaneNode): string => `[${from}, ${to})`

/**
 * Sums the lane gradients of one step along the lane tree, in whatever order the parts arrive.
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
  readonly #buffers: Array<Float32Array> = []
  readonly #losses: Float32Array
  readonly #placed: Array<boolean> = []
  #nodes: Array<LaneNode> = []
  #waiting = 0

  /** `lanes` in the whole tree; `elements` in each gradient (or segment of one). */
  constructor(lanes: number, elements: number) {
    this.lanes = lanes
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
    this.#nodes = sorted
    this.#waiting = sorted.length
    while (this.#buffers.length < sorted.length)
      this.#buffers.push(
        new Float32Array(new SharedArrayBuffer(this.elements * Float32Array.BYTES_PER_ELEMENT), 0, this.elements)
      )
    for (let index = 0; index < sorted.length; index++) this.#placed[index] = false
  }

  #indexOf(node: LaneNode): number {
    let low = 0
    let high = this.#nodes.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#nodes[middle]?.from ?? 0) < node.from) low = middle + 1
      else high = middle
    }
    const found = this.#nodes[low]
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
   * Where the value of `node` belongs, shape `[elements]`, in shared memory: fill it, then call {@link place}.
   * @throws ReductionError when `node` is not part of this step
   */
  slot(node: LaneNode): Float32Array {
    return this.#buffer(this.#indexOf(node))
  }

  /**
   * Declares the slot of `node` filled; `loss` is the tree sum of the node's lane losses.
   * @throws ReductionError when `node` is not part of this step or was placed already
   */
  place(node: LaneNode, loss: number): void {
    const index = this.#indexOf(node)
    if (this.#placed[index] === true) throw new ReductionError({ message: `${show(node)} was placed twice` })
    this.#placed[index] = true
    this.#losses[index] = loss
    this.#waiting--
  }

  /** The nodes still awaited, from left to right. */
  missing(): Array<LaneNode> {
    return this.#nodes.filter((_, index) => this.#placed[index] !== true)
  }

  /** True when every node of the step was placed. */
  get complete(): boolean {
    return this.#nodes.length > 0 && this.#waiting === 0
  }

  /**
   * Writes the mean gradient, `fround(tree sum / lanes)`, to `out` (shape `[elements]`), and returns the tree sum of the
   * lane losses. Ends the step: the slots are free for the next one.
   * @throws ReductionError when a node is missing or `out` has another length
   */
  finish(out: Float32Array): { readonly loss: number } {
    if (!this.complete)
      throw new ReductionError({
        message: `The step still waits for ${this.missing().map(show).join(", ") || "begin"}`
      })
    if (out.length !== this.elements)
      throw new ReductionError({ message: `The result has ${this.elements} elements, the given array ${out.length}` })
    const sum = this.#buffer(this.#sumOver(0, this.lanes, 0, this.#nodes.length))
    const lanes = this.lanes
    for (let index = 0; index < out.length; index++) out[index] = (sum[index] ?? 0) / lanes
    this.#nodes = []
    return { loss: this.#losses[0] ?? 0 }
  }

  /** Sums the nodes [first, last), which make up [from, to), into the slot of the leftmost; returns its index. */
  #sumOver(from: number, to: number, first: number, last: number): number {
    if (last - first === 1) return first
    const middle = splitPoint(from, to)
    let boundary = first
    while ((this.#nodes[boundary]?.from ?? to) < middle) boundary++
    const left = this.#sumOver(from, middle, first, boundary)
    const right = this.#sumOver(middle, to, boundary, last)
    addInto(this.#buffer(left), this.#buffer(right))
    this.#losses[left] = (this.#losses[left] ?? 0) + (this.#losses[right] ?? 0)
    return left
  }
}
