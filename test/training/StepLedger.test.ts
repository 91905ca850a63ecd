import { assert, describe, it } from "@effect/vitest"
import { StepLedger } from "../../src/training/StepLedger.ts"

describe("The ledger of steps", () => {
  it("counts each step once, in order, whoever tells of it first and however often", () => {
    const ledger = new StepLedger(10)
    assert.deepStrictEqual(
      ledger.told(2, [1, 2]).steps,
      [1, 2].map(step => ({ step, loss: step }))
    )
    assert.deepStrictEqual(ledger.told(2, [1, 2]).steps, [])
    assert.deepStrictEqual(ledger.told(3, [2, 3]).steps, [{ step: 3, loss: 3 }])
    // A gap is not counted: whoever knows the steps between tells of them.
    assert.deepStrictEqual(ledger.told(6, [6]).steps, [])
    assert.strictEqual(ledger.applied, 3)
  })

  it("sums an epoch's losses in the order of steps, and ends it with its last step", () => {
    const ledger = new StepLedger(3)
    assert.deepStrictEqual(ledger.told(4, [0.1, 0.2, 0.3, 5]).ended, [{ epoch: 1, step: 3, lossSum: 0.1 + 0.2 + 0.3 }])
    assert.deepStrictEqual(ledger.lossSums, [0.1 + 0.2 + 0.3, 5])
  })

  it("takes over what members know when it begins anew, with the epochs that have ended meanwhile", () => {
    const ledger = new StepLedger(3)
    assert.deepStrictEqual(ledger.rebase(7, [60, 7]), [{ epoch: 2, step: 6, lossSum: 60 }])
    assert.deepStrictEqual(ledger.told(9, [8, 9]).ended, [{ epoch: 3, step: 9, lossSum: 24 }])
  })

  it("ends an epoch whose last step is the base", () => {
    assert.deepStrictEqual(new StepLedger(3).rebase(6, [40, 60]), [
      { epoch: 1, step: 3, lossSum: 40 },
      { epoch: 2, step: 6, lossSum: 60 }
    ])
  })

  it("goes back where all that held the state are lost, and counts those steps anew", () => {
    const ledger = new StepLedger(3)
    ledger.told(4, [1, 1, 1, 1])
    assert.deepStrictEqual(ledger.rebase(0, [0, 0]), [])
    assert.strictEqual(ledger.applied, 0)
    assert.deepStrictEqual(ledger.told(1, [2]).steps, [{ step: 1, loss: 2 }])
    assert.deepStrictEqual(ledger.lossSums, [0, 2])
  })
})
