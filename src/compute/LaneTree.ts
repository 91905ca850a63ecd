import { blockElements } from "./Blocks.ts"

/**
 * The binary tree along which lane gradients are added. Float32 addition is not associative, so the tree, not the order
 * of arrival, decides the bits: whoever computes which lanes, every sum is formed from the same two operands.
 */

/** The lanes [from, to) of a tree node. */
export interface LaneNode {
  readonly from: number
  readonly to: number
}

/** Where the node [from, to) splits: `from` + the largest power of two below its width. The node must hold two lanes or more. */
export const splitPoint = (from: number, to: number): number => from + 2 ** (31 - Math.clz32(to - from - 1))

/** True when [from, to) is a node of the tree over [0, total). */
export const isTreeNode = ({ from, to }: LaneNode, total: number): boolean => {
  if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0 || from >= to || to > total) return false
  let low = 0
  let high = total
  while (low !== from || high !== to) {
    if (high - low < 2) return false
    const middle = splitPoint(low, high)
    if (to <= middle) high = middle
    else if (from >= middle) low = middle
    else return false
  }
  return true
}

/**
 * The maximal complete subtrees of the tree over [0, total) whose lanes all lie in `lanes`, from left to right: what a
 * member that computes `lanes` sends. Lanes may be in any order and need not be contiguous.
 */
export const maximalSubtrees = (lanes: ReadonlyArray<number>, total: number): ReadonlyArray<LaneNode> => {
  const held = new Set(lanes)
  const nodes: Array<LaneNode> = []
  const visit = (from: number, to: number): void => {
    let count = 0
    for (let lane = from; lane < to; lane++) if (held.has(lane)) count++
    if (count === 0) return
    if (count === to - from) {
      nodes.push({ from, to })
      return
    }
    const middle = splitPoint(from, to)
    visit(from, middle)
    visit(middle, to)
  }
  visit(0, total)
  return nodes
}

const addBlock = (target: Float32Array, addend: Float32Array, from: number, to: number): void => {
  let index = from
  for (; index + 3 < to; index += 4) {
    target[index] = (target[index] ?? 0) + (addend[index] ?? 0)
    target[index + 1] = (target[index + 1] ?? 0) + (addend[index + 1] ?? 0)
    target[index + 2] = (target[index + 2] ?? 0) + (addend[index + 2] ?? 0)
    target[index + 3] = (target[index + 3] ?? 0) + (addend[index + 3] ?? 0)
  }
  for (; index < to; index++) target[index] = (target[index] ?? 0) + (addend[index] ?? 0)
}

/** `target += addend`, each sum rounded to float32 by the store. Both have the same length. */
export const addInto = (target: Float32Array, addend: Float32Array): void => {
  const { length } = target
  for (let from = 0; from < length; from += blockElements)
    addBlock(target, addend, from, Math.min(length, from + blockElements))
}
