import { assert, describe, it } from "@effect/vitest"
import { AggregationError } from "../../src/compute/Aggregation.ts"
import { MemberMomentum } from "../../src/compute/MemberMomentum.ts"
import { normals } from "../support/attacks.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const parameters = 1_300
const fround = Math.fround

const gradients = (seed: number, count: number): ReadonlyArray<Float32Array> => {
  const random = new SeededRandom(seed)
  return Array.from({ length: count }, () => normals(random, parameters))
}

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof AggregationError) return error.reason
    throw error
  }
  return "none"
}

describe("The momentum of a member", () => {
  it("is the first gradient, then β·m + (1 − β)·g, each operation rounded to float32", () => {
    const momentum = new MemberMomentum(parameters, 0.9)
    let expected: Float32Array | undefined
    for (const gradient of gradients(1, 5)) {
      const before = expected
      expected =
        before === undefined
          ? gradient
          : gradient.map((value, index) =>
              fround(fround(fround(0.9) * (before[index] ?? 0)) + fround(fround(1 - fround(0.9)) * value))
            )
      assert.deepStrictEqual(momentum.stage(gradient), expected)
      momentum.commit()
    }
  })

  it("does not change by a step that is given up, however often it is tried", () => {
    const [first, second, third] = gradients(2, 3)
    const momentum = new MemberMomentum(parameters, 0.5)
    if (first === undefined || second === undefined || third === undefined) return assert.fail()
    momentum.stage(first)
    momentum.abandon()
    assert.deepStrictEqual(momentum.stage(second), second)
    momentum.commit()
    momentum.stage(first)
    momentum.abandon()
    const sent = momentum.stage(third).slice()
    assert.deepStrictEqual(
      sent,
      third.map((value, index) => fround(fround(0.5 * (second[index] ?? 0)) + fround(0.5 * value)))
    )
    momentum.commit()
    // A second commit of the same attempt is none.
    momentum.commit()
    assert.deepStrictEqual(
      momentum.stage(new Float32Array(parameters)),
      sent.map(value => value / 2)
    )
  })

  it("goes on after a restart as if there had been none, and refuses a torn state", () => {
    const [first, second, third] = gradients(3, 3)
    if (first === undefined || second === undefined || third === undefined) return assert.fail()
    const momentum = new MemberMomentum(parameters, 0.9)
    const state = new Uint8Array(momentum.stateByteLength)
    const restarted = () => {
      const other = new MemberMomentum(parameters, 0.9)
      other.writeState(state)
      return other
    }
    momentum.readState(state)
    assert.deepStrictEqual(restarted().stage(third), third)
    momentum.stage(first)
    momentum.commit()
    momentum.stage(second)
    momentum.commit()
    momentum.readState(state)
    assert.deepStrictEqual(restarted().stage(third), momentum.stage(third))
    assert.strictEqual(
      reasonOf(() => momentum.writeState(state.subarray(1))),
      "Length"
    )
    const torn = Uint8Array.from(state)
    new DataView(torn.buffer).setUint32(100, 0x7f80_0000, true)
    assert.strictEqual(
      reasonOf(() => momentum.writeState(torn)),
      "NonFinite"
    )
    const sent = momentum.stage(third).slice()
    assert.deepStrictEqual(restarted().stage(third), sent)
    assert.strictEqual(
      reasonOf(() => momentum.stage(new Float32Array(1))),
      "Length"
    )
  })
})
