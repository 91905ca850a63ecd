import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { addInto, maximalSubtrees, splitPoint, type LaneNode } from "../../src/compute/LaneTree.ts"
import { Reduction, ReductionError } from "../../src/training/Reduction.ts"

const elements = 5

/** Lane gradients whose sum depends on the order of addition: magnitudes from 2⁻²⁰ to 2²⁰. */
const laneValues = (lane: number): Float32Array =>
  Float32Array.from(
    { length: elements },
    (_, index) => Math.sin(lane * 7 + index * 3 + 1) * 2 ** (((lane * 13 + index * 5) % 41) - 20)
  )
const laneLoss = (lane: number): number => Math.fround(Math.abs(Math.cos(lane)) * 10 ** ((lane % 5) - 2))

/** What one machine computes: the value of a node, straight from the rule. */
const nodeValue = (from: number, to: number): { values: Float32Array; loss: number } => {
  if (to - from === 1) return { values: laneValues(from), loss: laneLoss(from) }
  const middle = splitPoint(from, to)
  const left = nodeValue(from, middle)
  const right = nodeValue(middle, to)
  addInto(left.values, right.values)
  return { values: left.values, loss: Math.fround(left.loss + right.loss) }
}

const fill = (reduction: Reduction, nodes: ReadonlyArray<LaneNode>): void => {
  for (const node of nodes) {
    const { values, loss } = nodeValue(node.from, node.to)
    reduction.slot(node).set(values)
    reduction.place(node, loss)
  }
}

describe("The reduction of a step", () => {
  it("gives the bits of the one-machine tree for any assignment of 1 to 16 lanes to 1 to 8 members, in any order of arrival", () => {
    const assignment = fc
      .integer({ min: 1, max: 16 })
      .chain(lanes =>
        fc.tuple(
          fc.constant(lanes),
          fc.array(fc.nat(7), { minLength: lanes, maxLength: lanes }),
          fc.array(fc.nat(), { minLength: 16, maxLength: 16 })
        )
      )
    fc.assert(
      fc.property(assignment, ([lanes, owners, order]) => {
        const nodes = Array.from({ length: 8 }, (_, member) =>
          maximalSubtrees(
            owners.flatMap((owner, lane) => (owner === member ? [lane] : [])),
            lanes
          )
        ).flat()
        const arrival = nodes.map((node, index) => [order[index] ?? 0, node] as const).toSorted(([a], [b]) => a - b)
        const reduction = new Reduction(lanes, elements)
        reduction.begin(nodes)
        fill(
          reduction,
          arrival.map(([, node]) => node)
        )
        const out = new Float32Array(elements)
        const { loss } = reduction.finish(out)
        const expected = nodeValue(0, lanes)
        assert.deepStrictEqual(
          out,
          expected.values.map(sum => Math.fround(sum / lanes))
        )
        assert.strictEqual(loss, expected.loss)
      }),
      { numRuns: 2_000, seed: 1 }
    )
  })

  it("divides by the number of lanes rather than multiplying by its reciprocal", () => {
    const reduction = new Reduction(3, 1)
    reduction.begin([{ from: 0, to: 3 }])
    reduction.slot({ from: 0, to: 3 }).set([5])
    reduction.place({ from: 0, to: 3 }, 0)
    const out = new Float32Array(1)
    reduction.finish(out)
    assert.strictEqual(out[0], Math.fround(5 / 3))
    assert.notStrictEqual(out[0], Math.fround(5 * Math.fround(1 / 3)))
  })

  it("keeps a negative zero that all lanes agree on", () => {
    const reduction = new Reduction(2, 1)
    reduction.begin([
      { from: 0, to: 1 },
      { from: 1, to: 2 }
    ])
    for (const node of reduction.missing()) {
      reduction.slot(node).set([-0])
      reduction.place(node, 0)
    }
    const out = new Float32Array(1)
    reduction.finish(out)
    assert.isTrue(Object.is(out[0], -0))
  })

  it("uses the buffers of one step again in the next, in shared memory", () => {
    const reduction = new Reduction(4, elements)
    const nodes = maximalSubtrees([0, 1], 4).concat(maximalSubtrees([2, 3], 4))
    reduction.begin(nodes)
    const first = nodes.map(node => reduction.slot(node))
    fill(reduction, nodes)
    reduction.finish(new Float32Array(elements))
    reduction.begin(nodes)
    assert.isFalse(reduction.complete)
    assert.deepStrictEqual(reduction.missing(), nodes)
    for (const [index, node] of nodes.entries()) assert.strictEqual(reduction.slot(node), first[index])
    assert.instanceOf(first[0]?.buffer, SharedArrayBuffer)
  })

  it.each([
    {
      name: "a gap",
      nodes: [
        { from: 0, to: 2 },
        { from: 3, to: 4 }
      ],
      message: "Lane 2 is covered by no node"
    },
    { name: "a missing end", nodes: [{ from: 0, to: 2 }], message: "Lane 2 is covered by no node" },
    {
      name: "an overlap",
      nodes: [
        { from: 0, to: 2 },
        { from: 1, to: 2 },
        { from: 2, to: 4 }
      ],
      message: "Lane 1 is covered twice"
    },
    {
      name: "a range that is no node",
      nodes: [
        { from: 0, to: 1 },
        { from: 1, to: 3 },
        { from: 3, to: 4 }
      ],
      message: "[1, 3) is no node of the tree over 4 lanes"
    },
    { name: "nothing", nodes: [], message: "Lane 0 is covered by no node" }
  ])("refuses to begin with $name", ({ nodes, message }) => {
    const reduction = new Reduction(4, elements)
    assert.throws(() => reduction.begin(nodes), ReductionError, message)
  })

  it("refuses a node that is not part of the step, a second value, and an early end", () => {
    const reduction = new Reduction(4, elements)
    reduction.begin([
      { from: 0, to: 2 },
      { from: 2, to: 4 }
    ])
    assert.throws(() => reduction.slot({ from: 0, to: 1 }), ReductionError, "[0, 1) is not part of this step")
    reduction.place({ from: 0, to: 2 }, 1)
    assert.throws(() => reduction.place({ from: 0, to: 2 }, 1), ReductionError, "placed twice")
    assert.throws(() => reduction.finish(new Float32Array(elements)), ReductionError, "still waits for [2, 4)")
    reduction.place({ from: 2, to: 4 }, 1)
    assert.throws(() => reduction.finish(new Float32Array(1)), ReductionError, "5 elements")
  })
})
