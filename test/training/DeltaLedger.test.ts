import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { DeltaLedger, DeltaRefused, roundCount, unitShards, type DeltaLease } from "../../src/training/DeltaLedger.ts"

const plan = { steps: 10, lanes: 8, replicas: 3, innerSteps: 4 }

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof DeltaRefused) return error.reason
    throw error
  }
  return "accepted"
}

const leased = (ledger: DeltaLedger, replica: number, holder: string): DeltaLease => {
  const lease = ledger.lease(replica, holder)
  return lease ?? assert.fail(`replica ${replica} could not be leased`)
}

describe("The units of local SGD", () => {
  it("cover every shard of the job once, for any plan", () => {
    const plans = fc.integer({ min: 1, max: 32 }).chain(lanes =>
      fc.record({
        steps: fc.integer({ min: 1, max: 60 }),
        lanes: fc.constant(lanes),
        replicas: fc.integer({ min: 1, max: lanes }),
        innerSteps: fc.integer({ min: 1, max: 70 })
      })
    )
    fc.assert(
      fc.property(plans, plan => {
        const seen = new Set<string>()
        for (let round = 0; round < roundCount(plan); round++)
          for (let replica = 0; replica < plan.replicas; replica++) {
            const { steps, lanes, count } = unitShards(plan, { round, replica })
            let own = 0
            for (let step = steps.from; step < steps.to; step++)
              for (let lane = lanes.from; lane < lanes.to; lane++, own++) {
                assert.isFalse(seen.has(`${step} ${lane}`))
                seen.add(`${step} ${lane}`)
              }
            assert.strictEqual(own, count)
            assert.isAbove(count, 0)
          }
        assert.strictEqual(seen.size, plan.steps * plan.lanes)
      }),
      { numRuns: 200, seed: 1 }
    )
  })
})

describe("The ledger of deltas", () => {
  it("accepts the first delta with the current lease, and counts shards when the round is applied", () => {
    const ledger = new DeltaLedger(plan, 1)
    for (const [round, counted] of [
      [0, 32],
      [1, 64],
      [2, 80]
    ] as const) {
      const leases = [0, 1, 2].map(replica => leased(ledger, replica, `peer-${replica}`))
      assert.isFalse(ledger.advance())
      for (const [replica, lease] of leases.entries()) {
        assert.deepStrictEqual(lease.unit, { round, replica })
        ledger.accept(lease, `peer-${replica}`)
      }
      assert.deepStrictEqual(ledger.missing(), [])
      assert.isTrue(ledger.advance())
      assert.strictEqual(ledger.countedShards, counted)
    }
    assert.strictEqual(ledger.round, roundCount(plan))
    assert.isUndefined(ledger.lease(0, "peer-0"))
    assert.isFalse(ledger.complete)
    assert.isFalse(ledger.advance())
  })

  it("refuses a second delta, one whose lease was given to another, another peer's, another round's and another term's", () => {
    const ledger = new DeltaLedger(plan, 4)
    const first = leased(ledger, 0, "slow")
    assert.strictEqual(
      reasonOf(() => ledger.accept(first, "thief")),
      "NotLeased"
    )
    const second = leased(ledger, 0, "fast")
    for (const [lease, from, reason] of [
      [first, "slow", "NotLeased"],
      [{ ...second, token: 99 }, "fast", "NotLeased"],
      [{ ...second, term: 3 }, "fast", "StaleTerm"],
      [{ ...second, term: 5 }, "fast", "StaleTerm"],
      [{ ...second, unit: { round: 1, replica: 0 } }, "fast", "NotThisRound"],
      [{ ...second, unit: { round: 0, replica: 3 } }, "fast", "NotThisRound"],
      [{ ...second, unit: { round: 0, replica: 1 } }, "fast", "NotLeased"]
    ] as const) {
      assert.strictEqual(ledger.judge(lease, from)?.reason, reason)
      assert.strictEqual(
        reasonOf(() => ledger.accept(lease, from)),
        reason
      )
    }
    assert.deepStrictEqual(ledger.missing(), [0, 1, 2])
    assert.isUndefined(ledger.judge(second, "fast"))
    ledger.accept(second, "fast")
    assert.strictEqual(
      reasonOf(() => ledger.accept(second, "fast")),
      "HasCome"
    )
    assert.isUndefined(ledger.lease(0, "slow"))
    assert.deepStrictEqual(ledger.missing(), [1, 2])
  })

  it("refuses at its end a delta that might come at its beginning, when its lease changed hands meanwhile", () => {
    const ledger = new DeltaLedger(plan, 1)
    const lease = leased(ledger, 2, "slow")
    assert.isUndefined(ledger.judge(lease, "slow"))
    leased(ledger, 2, "fast")
    assert.strictEqual(
      reasonOf(() => ledger.accept(lease, "slow")),
      "NotLeased"
    )
  })

  it("goes on from a checkpoint under a new term, and knows none of the old leases", () => {
    const before = new DeltaLedger(plan, 1)
    const old = leased(before, 1, "peer")
    const after = new DeltaLedger(plan, 2, 1)
    assert.strictEqual(after.countedShards, 32)
    assert.strictEqual(
      reasonOf(() => after.accept(old, "peer")),
      "StaleTerm"
    )
  })

  it("counts every shard once, through any schedule of leases, repeats, losses and takeovers", () => {
    const actions = fc.array(
      fc.record({
        kind: fc.constantFrom("lease", "deliver", "repeat", "takeover"),
        replica: fc.nat(3),
        peer: fc.constantFrom("a", "b", "c"),
        which: fc.nat()
      }),
      { maxLength: 300 }
    )
    fc.assert(
      fc.property(actions, schedule => {
        let term = 1
        let ledger = new DeltaLedger(plan, term)
        let issued: Array<{ readonly lease: DeltaLease; readonly peer: string }> = []
        const used: Array<{ readonly lease: DeltaLease; readonly peer: string }> = []
        /** Units whose delta entered the parameters: those of rounds that were applied. */
        const applied: Array<string> = []
        let inRound: Array<string> = []
        for (const { kind, replica, peer, which } of schedule) {
          if (kind === "lease") {
            const lease = ledger.lease(replica, peer)
            if (lease !== undefined) issued.push({ lease, peer })
          } else if (kind === "takeover" && which % 5 === 0) {
            ledger = new DeltaLedger(plan, ++term, ledger.round)
            inRound = []
          } else {
            const pool = kind === "deliver" ? issued : used
            const delta = pool[which % Math.max(1, pool.length)]
            if (delta === undefined) continue
            if (reasonOf(() => ledger.accept(delta.lease, delta.peer)) !== "accepted") continue
            used.push(delta)
            inRound.push(`${delta.lease.unit.round} ${delta.lease.unit.replica}`)
            if (ledger.advance()) {
              applied.push(...inRound)
              inRound = []
            }
          }
          if (which % 7 === 0) issued = issued.slice(-5)
        }
        assert.strictEqual(new Set(applied).size, applied.length)
        assert.strictEqual(applied.length, ledger.round * plan.replicas)
        assert.strictEqual(ledger.countedShards, Math.min(plan.steps, ledger.round * plan.innerSteps) * plan.lanes)
      }),
      { numRuns: 500, seed: 2 }
    )
  })
})
