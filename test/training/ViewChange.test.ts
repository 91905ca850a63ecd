import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { decideBase, ViewChange, type Answer, type Decision, type ViewId } from "../../src/training/ViewChange.ts"

const answer = (view: number, applied: number, stateSha256 = `state ${applied}`, term = 1): Answer => ({
  started: { term, view },
  applied,
  stateSha256
})

const decided = (answers: Readonly<Record<string, Answer>>): Decision => {
  const decision = decideBase(new Map(Object.entries(answers)))
  return decision ?? assert.fail("nothing was decided")
}

describe("The base of a view", () => {
  it("is the most that a member of the newest view has applied; one who lacks that step alone is behind", () => {
    assert.deepStrictEqual(decided({ b: answer(3, 10), a: answer(3, 9), c: answer(3, 10) }), {
      base: 10,
      stateSha256: "state 10",
      current: ["b", "c"],
      behind: ["a"],
      joiners: [],
      diverged: []
    })
  })

  it("is not that of an older view, however many steps it has applied: its member joins anew", () => {
    const { base, current, joiners } = decided({ a: answer(2, 40), b: answer(3, 10) })
    assert.deepStrictEqual([base, current, joiners], [10, ["b"], ["a"]])
  })

  it("is that of the newest term, whatever the numbers of the views", () => {
    const { base, joiners } = decided({ a: answer(9, 12, "state 12", 1), b: answer(1, 11, "state 11", 2) })
    assert.deepStrictEqual([base, joiners], [11, ["a"]])
  })

  it("is the beginning where all are new", () => {
    const fresh = answer(0, 0, "initial", 0)
    assert.deepStrictEqual(decided({ a: fresh, b: fresh }).current, ["a", "b"])
  })

  it("takes one of an older view that holds the very same state for current: nothing must be sent to it", () => {
    assert.deepStrictEqual(decided({ a: answer(2, 10), b: answer(3, 10) }).current, ["a", "b"])
  })

  it("names those whose state differs from what most hold", () => {
    const { diverged, stateSha256 } = decided({ a: answer(3, 10, "wrong"), b: answer(3, 10), c: answer(3, 10) })
    assert.deepStrictEqual([diverged, stateSha256], [["a"], "state 10"])
  })

  it("is none where nobody answers", () => {
    assert.isUndefined(decideBase(new Map()))
  })
})

describe("A change of view", () => {
  it("asks all, then tells all, then is done", () => {
    const change = new ViewChange(4, ["b", "a"])
    assert.deepStrictEqual(change.next(), { move: "prepare", view: 5, members: ["a", "b"] })
    change.answered(5, "a", answer(4, 7))
    assert.deepStrictEqual(change.next(), { move: "wait", for: ["b"] })
    change.answered(5, "b", answer(4, 7))
    assert.strictEqual(change.next().move, "start")
    change.started(5, "a")
    assert.deepStrictEqual(change.next(), { move: "wait", for: ["b"] })
    change.started(5, "b")
    assert.strictEqual(change.next().move, "done")
  })

  it("starts again with the next number when a member is lost, in either phase, and forgets what was answered before", () => {
    const change = new ViewChange(0, ["a", "b", "c"])
    change.next()
    change.answered(1, "a", answer(0, 0))
    change.lost("c")
    change.answered(1, "b", answer(0, 0))
    assert.deepStrictEqual(change.next(), { move: "prepare", view: 2, members: ["a", "b"] })
    change.answered(2, "a", answer(0, 0))
    change.answered(2, "b", answer(0, 0))
    assert.strictEqual(change.next().move, "start")
    change.lost("b")
    assert.deepStrictEqual(change.next(), { move: "prepare", view: 3, members: ["a"] })
  })

  it("has nobody left when the last one is lost", () => {
    const change = new ViewChange(0, ["a"])
    change.lost("a")
    assert.deepStrictEqual(change.next(), { move: "none" })
  })
})

/** A member as the rules have it: in a view it applies the next step only when all who compute have applied the one before. */
interface Model {
  started: ViewId
  prepared: number
  applied: number
  alive: boolean
}

type Happening =
  | { readonly kind: "crash" | "step"; readonly who: number }
  | { readonly kind: "change" }
  | { readonly kind: "crashInChange"; readonly who: number; readonly after: number }
  | { readonly kind: "join" }

const happenings: fc.Arbitrary<ReadonlyArray<Happening>> = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: fc.record({ kind: fc.constant("step" as const), who: fc.nat(7) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("crash" as const), who: fc.nat(7) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("change" as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant("crashInChange" as const), who: fc.nat(7), after: fc.nat(8) })
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("join" as const) }) }
  ),
  { maxLength: 80 }
)

describe("Whatever happens to members and coordinator", () => {
  it("no applied step is rolled back while one member of the newest view lives, and nobody is sent more than it lacks", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), happenings, (size, script) => {
        const members = new Map<string, Model>()
        const join = (): void => {
          members.set(`m${members.size}`, { started: { term: 0, view: 0 }, prepared: 0, applied: 0, alive: true })
        }
        for (let count = 0; count < size; count++) join()
        let lastView = 0
        let computing: ReadonlyArray<string> = []

        const changeView = (victim?: string, after = Infinity): void => {
          const parties = [...members].filter(([, { alive }]) => alive).map(([name]) => name)
          const change = new ViewChange(lastView, parties)
          let messages = 0
          /** One message more; the victim dies when its time has come. */
          const passes = (name: string): boolean => {
            if (messages++ === after && victim !== undefined) {
              const model = members.get(victim)
              if (model !== undefined) model.alive = false
            }
            return members.get(name)?.alive === true
          }
          for (;;) {
            const move = change.next()
            assert.isAbove(change.view, lastView - (change.view === lastView ? 1 : 0))
            lastView = change.view
            if (move.move === "none") {
              computing = []
              return
            }
            if (move.move === "prepare") {
              for (const name of move.members) {
                const model = members.get(name)
                if (model === undefined) throw new Error("unknown")
                if (!passes(name)) change.lost(name)
                else {
                  assert.isAbove(move.view, model.prepared)
                  model.prepared = move.view
                  change.answered(move.view, name, { ...model, stateSha256: `state ${model.applied}` })
                }
              }
              continue
            }
            if (move.move === "start") {
              const { base, current, behind, joiners, diverged } = move.decision
              const all = [...current, ...behind, ...joiners]
              assert.deepStrictEqual(diverged, [])
              assert.isAbove(current.length, 0)
              const newest = Math.max(...all.map(name => members.get(name)?.started.view ?? 0))
              for (const name of all) {
                const model = members.get(name)
                if (model?.started.view === newest) assert.isAtMost(model.applied, base)
                if (behind.includes(name)) assert.strictEqual(model?.applied, base - 1)
                if (current.includes(name)) assert.strictEqual(model?.applied, base)
              }
              for (const name of all) {
                const model = members.get(name)
                if (model === undefined) throw new Error("unknown")
                if (!passes(name)) {
                  change.lost(name)
                  continue
                }
                model.applied = base
                model.started = { term: 1, view: move.view }
                change.started(move.view, name)
              }
              continue
            }
            if (move.move === "wait") {
              for (const name of move.for) change.lost(name)
              continue
            }
            computing = parties.filter(name => members.get(name)?.started.view === move.view)
            return
          }
        }

        changeView()
        for (const happening of script) {
          const names = [...members.keys()]
          const chosen = names[("who" in happening ? happening.who : 0) % names.length] ?? ""
          const model = members.get(chosen)
          if (model === undefined) continue
          if (happening.kind === "join") join()
          else if (happening.kind === "crash") model.alive = false
          else if (happening.kind === "change") changeView()
          else if (happening.kind === "crashInChange") changeView(chosen, happening.after)
          else if (
            model.alive &&
            computing.includes(chosen) &&
            model.prepared === model.started.view &&
            // It has a part of the next step from everybody, so all are where it is, or one further.
            computing.every(name => (members.get(name)?.applied ?? 0) >= model.applied) &&
            (computing.every(name => members.get(name)?.alive === true) ||
              computing.some(name => (members.get(name)?.applied ?? 0) > model.applied))
          )
            model.applied++
        }
      }),
      { numRuns: 500 }
    )
  })
})
