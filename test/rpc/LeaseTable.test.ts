import { assert, describe, it } from "vitest"
import { LeaseTable, maxMachineIds } from "../../src/node/LeaseTable.ts"

const expirationMs = 100

/** A table that is past its grace, with runners a and b on its list. */
const table = () => {
  const leases = new LeaseTable({ expirationMs, graceMs: 0 }, 0)
  leases.register("a", "A", true, 0)
  leases.register("b", "B", true, 0)
  return leases
}

describe("a shard", () => {
  it("belongs to the first who asks, and to nobody else while its lease lasts", () => {
    const leases = table()
    assert.deepStrictEqual(leases.acquire("a", ["1", "2"], 0), ["1", "2"])
    leases.refresh("b", [], 99)
    assert.deepStrictEqual(leases.acquire("b", ["1", "3"], 99), ["3"])
    assert.deepStrictEqual(leases.acquire("b", ["1"], 100), ["1"])
    assert.deepStrictEqual(leases.refresh("a", ["1", "2"], 100), [])
  })

  it("stays with who renews in time", () => {
    const leases = table()
    leases.acquire("a", ["1"], 0)
    for (let now = 0; now <= 1_000; now += 50) {
      assert.deepStrictEqual(leases.refresh("a", ["1"], now), ["1"])
      leases.refresh("b", [], now)
      assert.deepStrictEqual(leases.acquire("b", ["1"], now), [])
    }
  })

  it("is free at once when it is given back, but only by its holder", () => {
    const leases = table()
    leases.acquire("a", ["1", "2", "3"], 0)
    leases.release("b", "1")
    leases.releaseAll("b")
    assert.deepStrictEqual(leases.acquire("b", ["1"], 1), [])
    leases.release("a", "1")
    assert.deepStrictEqual(leases.acquire("b", ["1", "2"], 1), ["1"])
    leases.releaseAll("a")
    assert.deepStrictEqual(leases.acquire("b", ["1", "2", "3"], 1), ["1", "2", "3"])
  })

  it("is not granted by a renewal", () => {
    const leases = table()
    assert.deepStrictEqual(leases.refresh("a", ["1"], 0), [])
  })

  it("stays leased when its runner leaves the list: it may still be stopping", () => {
    const leases = table()
    leases.acquire("a", ["1"], 0)
    leases.unregister("a")
    assert.deepStrictEqual(leases.acquire("b", ["1"], 1), [])
    assert.deepStrictEqual(leases.acquire("a", ["2"], 1), [])
    assert.deepStrictEqual(leases.refresh("a", ["1"], 90), ["1"])
  })
})

describe("a table that has just started", () => {
  it("grants nothing while an earlier one's leases may last, and believes those who say they hold some", () => {
    const leases = new LeaseTable({ expirationMs }, 0)
    leases.register("a", "A", true, 0)
    leases.register("b", "B", true, 0)
    assert.deepStrictEqual(leases.acquire("b", ["1"], 99), [])
    assert.deepStrictEqual(leases.refresh("a", ["1"], 99), ["1"])
    leases.refresh("b", [], 99)
    assert.deepStrictEqual(leases.refresh("b", ["1"], 99), [])
    assert.deepStrictEqual(leases.acquire("b", ["1", "2"], 100), ["2"])
  })
})

describe("the list of runners", () => {
  it("drops who does not renew, and keeps health and machine id of who does", () => {
    const leases = table()
    leases.setHealth("b", false)
    leases.setHealth("nobody", true)
    leases.refresh("b", [], 50)
    assert.deepStrictEqual(leases.runners(99).length, 2)
    assert.deepStrictEqual(leases.runners(100), [{ description: "B", healthy: false }])
    assert.strictEqual(leases.register("b", "B", true, 100), 1)
    assert.strictEqual(leases.register("c", "C", true, 100), 0)
  })

  it("has an end", () => {
    const leases = new LeaseTable({ expirationMs, maxRunners: 2 }, 0)
    assert.deepStrictEqual(
      ["a", "b", "c"].map(address => leases.register(address, "", true, 0)),
      [0, 1, undefined]
    )
    assert.strictEqual(leases.register("c", "", true, expirationMs), 0)
    const large = new LeaseTable({ expirationMs, maxRunners: 10_000 }, 0)
    for (let i = 0; i < maxMachineIds; i++) assert.strictEqual(large.register(`${i}`, "", true, 0), i)
    assert.isUndefined(large.register("one more", "", true, 0))
  })
})
