import { assert, describe, it } from "@effect/vitest"
import { isPeerId, type PeerId } from "../../src/protocol/Identity.ts"
import { planView, type PlanOptions } from "../../src/training/PlanView.ts"

const peer = (name: string): PeerId => {
  const id = name.repeat(64)
  return isPeerId(id) ? id : assert.fail(id)
}
const [a, b, c] = [peer("a"), peer("b"), peer("c")]

const plan = (decision: Partial<PlanOptions["decision"]>, options: Partial<Omit<PlanOptions, "decision">> = {}) =>
  planView(
    {
      term: 3,
      view: 5,
      decision: { base: 7, stateSha256: "", current: [], behind: [], joiners: [], diverged: [], ...decision },
      lossSums: [1, 2],
      lanes: 4,
      elements: 10,
      impatient: new Set(),
      laneSeconds: () => undefined,
      ...options
    },
    isPeerId
  )

describe("A view", () => {
  it("gives all that compute equally many lanes where it must, whatever their speed, and leaves the others to observe", () => {
    const seconds = new Map([
      [a, 1],
      [b, 9],
      [c, 1]
    ])
    const laneSeconds = (of: PeerId) => seconds.get(of)
    const { members, observers } = plan({ current: [a, b, c] }, { equalLanes: true, laneSeconds })
    assert.deepStrictEqual(
      members.map(({ peer: of, lanes }) => [of, lanes]),
      [
        [a, [0, 1]],
        [b, [2, 3]]
      ]
    )
    assert.deepStrictEqual(observers, [c])
  })

  it("gives lanes and segments to those that hold the state or lack a step of it, and the state to joiners, which observe", () => {
    const { members, observers, gifts, base } = plan({ current: [b], behind: [a], joiners: [c] })
    assert.deepStrictEqual(members, [
      { peer: a, lanes: [0, 1], segment: [0, 5] },
      { peer: b, lanes: [2, 3], segment: [5, 10] }
    ])
    assert.deepStrictEqual(observers, [c])
    assert.deepStrictEqual(gifts, [
      { from: b, to: a, what: "gradient" },
      { from: b, to: c, what: "state" }
    ])
    assert.strictEqual(base, 7)
  })

  it("has one who fell behind as an observer compute at once", () => {
    const { members, observers, gifts } = plan({ current: [b], joiners: [c] }, { impatient: new Set([c]) })
    assert.deepStrictEqual(
      members.map(member => member.peer),
      [b, c]
    )
    assert.deepStrictEqual(observers, [])
    assert.deepStrictEqual(gifts, [{ from: b, to: c, what: "state" }])
  })

  it("keeps those that are more than there are lanes as observers, without a segment", () => {
    const { members, observers } = plan({ current: [a, b, c] }, { lanes: 2 })
    assert.strictEqual(members.length, 2)
    assert.strictEqual(observers.length, 1)
    assert.deepStrictEqual(
      members.map(({ segment }) => segment),
      [
        [0, 5],
        [5, 10]
      ]
    )
  })

  it("gives lanes by speed where that of all is known", () => {
    const seconds = new Map([
      [a, 0.003],
      [b, 0.001]
    ])
    const { members } = plan({ current: [a, b] }, { laneSeconds: of => seconds.get(of) })
    assert.deepStrictEqual(
      members.map(({ lanes }) => lanes),
      [[0], [1, 2, 3]]
    )
  })
})
