import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { addInto, maximalSubtrees, splitPoint, type LaneNode } from "../../src/compute/LaneTree.ts"
import { Reduction, ReductionError } from "../../src/training/Reduction.ts"
import { segmentOf } from "../../src/training/Segments.ts"

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

/** Element `index` of the gradient of a lane: a value of its own, of magnitudes from 2⁻²⁰ to 2²⁰. */
const laneElement = (lane: number, index: number): number => {
  const word = Math.imul(index + 1, 0x9e3779b1) ^ Math.imul(lane + 7, 0x85ebca6b)
  return Math.fround((word / 2 ** 31) * 2 ** ((word & 31) - 16))
}

/** The plain reference: one element of the tree sum over the lanes [from, to), formed as one machine would. */
const elementOf = (from: number, to: number, index: number): number => {
  if (to - from === 1) return laneElement(from, index)
  const middle = splitPoint(from, to)
  return Math.fround(elementOf(from, middle, index) + elementOf(middle, to, index))
}

/** Every owner reduces its segment of what all members send it, in the order that `order` gives; yields the whole reduced gradient. */
const reduceScatter = (
  elements: number,
  lanes: number,
  members: ReadonlyArray<ReadonlyArray<number>>,
  order: (index: number) => number
): Float32Array => {
  const whole = new Float32Array(elements)
  const nodes = members.flatMap(own => maximalSubtrees(own, lanes))
  for (let owner = 0; owner < members.length; owner++) {
    const { from, to } = segmentOf(elements, owner, members.length)
    const reduction = new Reduction(lanes, to - from)
    reduction.begin(nodes)
    const arrival = nodes
      .map((node, index) => ({ node, rank: order(owner * nodes.length + index) }))
      .toSorted((a, b) => a.rank - b.rank)
    for (const { node } of arrival) {
      const slot = reduction.slot(node)
      for (let index = from; index < to; index++) slot[index - from] = elementOf(node.from, node.to, index)
      reduction.place(node, 1)
    }
    const { firstNonFinite } = reduction.finish(whole.subarray(from, to))
    assert.strictEqual(firstNonFinite, -1)
  }
  return whole
}

const assertMean = (whole: Float32Array, lanes: number): void => {
  let different = -1
  for (let index = 0; index < whole.length && different < 0; index++)
    if (whole[index] !== Math.fround(elementOf(0, lanes, index) / lanes)) different = index
  assert.strictEqual(different, -1)
}

describe("The direct reduce-scatter", () => {
  it("gives every element the bits of one machine's tree, for any size, 1 to 8 members and any lanes of theirs", () => {
    const scenario = fc.integer({ min: 1, max: 20 }).chain(lanes =>
      fc.record({
        lanes: fc.constant(lanes),
        members: fc.integer({ min: 1, max: 8 }),
        owners: fc.array(fc.nat(7), { minLength: lanes, maxLength: lanes }),
        isContiguous: fc.boolean(),
        elements: fc.oneof(fc.constantFrom(0, 1, 2, 3, 511, 512, 513, 1_025), fc.nat(700)),
        order: fc.array(fc.nat(), { minLength: 160, maxLength: 160 })
      })
    )
    fc.assert(
      fc.property(scenario, ({ lanes, members, owners, isContiguous, elements, order }) => {
        const given = owners.map(owner => owner % members)
        if (isContiguous) given.sort((a, b) => a - b)
        const own = Array.from({ length: members }, (_, member) =>
          given.flatMap((owner, lane) => (owner === member ? [lane] : []))
        )
        assertMean(
          reduceScatter(elements, lanes, own, index => order[index] ?? 0),
          lanes
        )
      }),
      { numRuns: 300, seed: 2 }
    )
  })

  it("does so for ten million elements that two members share unevenly", () => {
    const whole = reduceScatter(10_000_001, 3, [[0, 2], [1]], index => (index * 5) % 3)
    assertMean(whole, 3)
  })

  it("says which element of the mean is the first that is not finite", () => {
    const reduction = new Reduction(2, 1_500)
    const nodes = [
      { from: 0, to: 1 },
      { from: 1, to: 2 }
    ]
    const meanOf = (left: number, right: number, at: number): number => {
      reduction.begin(nodes)
      for (const [index, node] of nodes.entries()) {
        reduction.slot(node).fill(1)
        reduction.slot(node)[at] = index === 0 ? left : right
        reduction.place(node, 0)
      }
      return reduction.finish(new Float32Array(1_500)).firstNonFinite
    }
    for (const at of [0, 511, 512, 1_499]) {
      assert.strictEqual(meanOf(Number.NaN, 1, at), at)
      assert.strictEqual(meanOf(1, Number.POSITIVE_INFINITY, at), at)
      // Finite lanes whose sum is not.
      assert.strictEqual(meanOf(3e38, 3e38, at), at)
      assert.strictEqual(meanOf(3e38, -3e38, at), -1)
    }
  })

  it("begins the same nodes again, and drops what had come of a step that was given up", () => {
    const reduction = new Reduction(3, 2)
    const nodes = maximalSubtrees([0], 3).concat(maximalSubtrees([1], 3), maximalSubtrees([2], 3))
    reduction.begin(nodes)
    const subsets = [[], [0], [1], [2], [1, 2], [0, 2], [0, 1], [0, 1, 2]]
    for (const [attempt, given] of [...subsets, ...subsets].entries()) {
      for (const index of given) {
        const node = nodes[index] ?? assert.fail()
        reduction.slot(node).fill(99)
        reduction.place(node, 99)
      }
      reduction.restart()
      assert.deepStrictEqual(reduction.missing(), nodes)
      for (const node of attempt < subsets.length ? nodes : nodes.toReversed()) {
        reduction.slot(node).fill(node.from)
        reduction.place(node, node.from)
      }
      const out = new Float32Array(2)
      assert.deepStrictEqual(reduction.finish(out), { loss: 3, firstNonFinite: -1 })
      assert.deepStrictEqual(out, Float32Array.of(1, 1))
      assert.throws(() => reduction.slot({ from: 0, to: 1 }), ReductionError, "not part of this step")
      reduction.restart()
    }
  })
})
