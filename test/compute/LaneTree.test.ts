import { assert, describe, it } from "@effect/vitest"
import { addInto, isTreeNode, maximalSubtrees, splitPoint } from "../../src/compute/LaneTree.ts"

const show = (nodes: ReadonlyArray<{ from: number; to: number }>) =>
  nodes.map(({ from, to }) => `${from}-${to}`).join(" ")

describe("The lane tree", () => {
  it.each([
    [0, 2, 1],
    [0, 3, 2],
    [0, 4, 2],
    [0, 5, 4],
    [0, 8, 4],
    [0, 9, 8],
    [4, 7, 6],
    [8, 16, 12],
    [0, 256, 128]
  ])("splits [%i, %i) at %i", (from, to, middle) => {
    assert.strictEqual(splitPoint(from, to), middle)
  })

  it.each([
    { lanes: [0, 1, 2, 3, 4, 5, 6, 7], total: 8, nodes: "0-8" },
    { lanes: [3, 2, 1, 0], total: 8, nodes: "0-4" },
    { lanes: [1, 2, 3, 4], total: 8, nodes: "1-2 2-4 4-5" },
    { lanes: [0, 2, 4, 6], total: 8, nodes: "0-1 2-3 4-5 6-7" },
    { lanes: [4, 5, 6], total: 7, nodes: "4-7" },
    { lanes: [4], total: 5, nodes: "4-5" },
    { lanes: [2, 3, 4], total: 5, nodes: "2-4 4-5" },
    { lanes: [], total: 5, nodes: "" }
  ])("holds $nodes as the maximal subtrees of lanes $lanes of $total", ({ lanes, total, nodes }) => {
    assert.strictEqual(show(maximalSubtrees(lanes, total)), nodes)
  })

  it("knows its nodes", () => {
    for (const [from, to] of [
      [0, 5],
      [0, 4],
      [2, 4],
      [4, 5],
      [3, 4]
    ] as const)
      assert.isTrue(isTreeNode({ from, to }, 5))
    for (const [from, to] of [
      [1, 3],
      [0, 3],
      [3, 5],
      [0, 6],
      [2, 2],
      [-1, 1],
      [0.5, 1]
    ] as const)
      assert.isFalse(isTreeNode({ from, to }, 5))
  })

  it("adds with every sum rounded to float32, and keeps the sign of a zero", () => {
    const target = Float32Array.of(16_777_216, -0, 0.1)
    addInto(target, Float32Array.of(1, -0, 0.2))
    assert.deepStrictEqual(target, Float32Array.of(16_777_216, -0, Math.fround(Math.fround(0.1) + Math.fround(0.2))))
  })
})
