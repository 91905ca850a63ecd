import { assert, describe, it } from "@effect/vitest"
import { pairAttempts, pairPatienceMs, Troubles } from "../../src/training/Troubles.ts"

const begun = (members = ["a", "b", "c"], observers: ReadonlyArray<string> = []) => {
  const troubles = new Troubles()
  troubles.begin(members, 10, observers)
  return troubles
}

describe("What members wait for", () => {
  it("is nothing to see to while the one that is waited for still computes, however long that takes", () => {
    const troubles = begun()
    for (let atMs = 0; atMs < 60_000; atMs += 1_000) troubles.told("a", { what: "parts", step: 11, peers: ["b"] }, atMs)
    assert.isUndefined(troubles.remedy(60_000))
  })

  it("is a pair that cannot talk when both have done their part, and asks for a new view after a while", () => {
    const troubles = begun()
    for (let atMs = 0; atMs < pairPatienceMs; atMs += 1_000) {
      troubles.told("a", { what: "parts", step: 11, peers: ["b"] }, atMs)
      troubles.told("b", { what: "parts", step: 11, peers: ["a"] }, atMs)
    }
    assert.isUndefined(troubles.remedy(pairPatienceMs - 1))
    assert.strictEqual(troubles.remedy(pairPatienceMs)?.remedy, "view")
  })

  it("is a pair that cannot talk when the other has applied the step that the one waits for", () => {
    const troubles = begun()
    troubles.told("a", { what: "gradient", step: 11, peers: ["b"] }, 0)
    assert.isUndefined(troubles.remedy(1_000))
    troubles.progress("b", 11)
    for (let atMs = 1_000; atMs <= pairPatienceMs; atMs += 1_000)
      troubles.told("a", { what: "gradient", step: 11, peers: ["b"] }, atMs)
    assert.strictEqual(troubles.remedy(pairPatienceMs)?.remedy, "view")
  })

  it("is not the fault of an owner that itself waits for parts", () => {
    const troubles = begun()
    for (let atMs = 0; atMs <= pairPatienceMs; atMs += 1_000) {
      troubles.told("a", { what: "gradient", step: 11, peers: ["b"] }, atMs)
      troubles.told("b", { what: "parts", step: 11, peers: ["c"] }, atMs)
    }
    assert.isUndefined(troubles.remedy(pairPatienceMs))
  })

  it("is forgotten when the step is applied, and when a view begins", () => {
    const troubles = begun()
    const wait = (): void => {
      for (let atMs = 0; atMs <= pairPatienceMs; atMs += 1_000) {
        troubles.told("a", { what: "parts", step: 11, peers: ["b"] }, atMs)
        troubles.told("b", { what: "parts", step: 11, peers: ["a"] }, atMs)
      }
    }
    wait()
    troubles.progress("a", 11)
    troubles.progress("b", 11)
    assert.isUndefined(troubles.remedy(pairPatienceMs))
    troubles.begin(["a", "b", "c"], 10, [])
    wait()
    troubles.begin(["a", "b", "c"], 10, [])
    assert.isUndefined(troubles.remedy(pairPatienceMs))
  })
})

describe("A pair that has lost each other", () => {
  const loses = (troubles: Troubles, times: number, lost: ReadonlyArray<readonly [string, string]>) => {
    for (let time = 0; time < times; time++) {
      troubles.begin(["a", "b", "c"], 10, [])
      for (const [one, other] of lost) troubles.told(one, { what: "lost", step: 11, peers: [other] }, 0)
    }
    return troubles.remedy(0)
  }

  it("is given new views first; then the end with more accusers is removed, never both", () => {
    const pairs = [
      ["a", "b"],
      ["c", "b"]
    ] as const
    assert.strictEqual(loses(begun(), pairAttempts, pairs)?.remedy, "view")
    const remedy = loses(begun(), pairAttempts + 1, pairs)
    assert.deepStrictEqual([remedy?.remedy, remedy?.remedy === "remove" ? remedy.peer : ""], ["remove", "b"])
  })

  it("loses the one with the greater PeerID where both have as many accusers", () => {
    const remedy = loses(begun(), pairAttempts + 1, [["a", "c"]])
    assert.deepInclude(remedy, { remedy: "remove", peer: "c" })
  })

  it("loses the one that only observes", () => {
    const troubles = begun()
    for (let time = 0; time <= pairAttempts; time++) {
      troubles.begin(["a", "b"], 10, ["a"])
      troubles.told("b", { what: "lost", step: 11, peers: ["a"] }, 0)
    }
    assert.deepInclude(troubles.remedy(0), { remedy: "remove", peer: "a" })
  })

  it("begins anew when a step was done between two failures", () => {
    const troubles = begun()
    loses(troubles, pairAttempts, [["a", "b"]])
    troubles.begin(["a", "b", "c"], 10, [])
    troubles.progress("a", 11)
    troubles.told("a", { what: "lost", step: 12, peers: ["b"] }, 0)
    assert.strictEqual(troubles.remedy(0)?.remedy, "view")
  })

  it("is given a new view at once where one says that its state is wrong", () => {
    const troubles = begun()
    troubles.told("a", { what: "state", step: 10, peers: ["b"] }, 0)
    assert.strictEqual(troubles.remedy(0)?.remedy, "view")
  })
})
