import { assert, describe, it } from "vitest"
import {
  firstStepDeadlineMs,
  minStepDeadlineMs,
  StepDeadline,
  stepDeadlineWindow
} from "../../src/training/StepDeadline.ts"

const after = (...times: ReadonlyArray<readonly [ms: number, lanes: number]>): StepDeadline => {
  const deadline = new StepDeadline()
  for (const [ms, lanes] of times) deadline.completed(ms, lanes)
  return deadline
}

describe("StepDeadline", () => {
  it.each([
    { when: "before the first step", of: after(), lanes: 4, expected: firstStepDeadlineMs },
    { when: "after a quick one", of: after([50, 1]), lanes: 1, expected: minStepDeadlineMs },
    { when: "after a slow one", of: after([2_000, 1]), lanes: 1, expected: 16_000 },
    {
      when: "after one that was slow for once",
      of: after([2_000, 1], [90_000, 1], [2_100, 1]),
      lanes: 1,
      expected: 16_800
    },
    { when: "after two", of: after([2_000, 1], [3_000, 1]), lanes: 1, expected: 20_000 },
    { when: "with more lanes than it had", of: after([2_000, 1]), lanes: 8, expected: 128_000 },
    { when: "with fewer lanes than it had", of: after([8_000, 4]), lanes: 1, expected: 16_000 },
    { when: "of a spare", of: after([2_000, 0]), lanes: 0, expected: 16_000 }
  ])("is $expected ms $when", ({ of, lanes, expected }) => {
    assert.strictEqual(of.deadlineMs(lanes), expected)
  })

  it("forgets steps of long ago", () => {
    const deadline = new StepDeadline()
    for (let step = 0; step < stepDeadlineWindow; step++) deadline.completed(60_000, 1)
    assert.strictEqual(deadline.deadlineMs(1), 480_000)
    for (let step = 0; step < stepDeadlineWindow; step++) deadline.completed(2_000, 1)
    assert.strictEqual(deadline.deadlineMs(1), 16_000)
  })

  it("removes a member at the second overrun in a row, not when a step lies between", () => {
    const deadline = new StepDeadline()
    assert.strictEqual(deadline.overran(), "shrink")
    deadline.completed(1_000, 1)
    assert.strictEqual(deadline.overran(), "shrink")
    assert.strictEqual(deadline.overran(), "remove")
  })
})
