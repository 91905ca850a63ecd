import fc from "fast-check"
import { assert, describe, it } from "vitest"
import {
  checkIntervalMs,
  FailureDetector,
  heartbeatIntervalMs,
  maxSilenceMs,
  toleratedStallMs
} from "../../src/training/FailureDetector.ts"

/** A member as its observer sees it: heartbeats at these times, checks at every interval except while the observer is paused. */
const firstLoss = (options: {
  readonly heartbeats: ReadonlyArray<number>
  readonly untilMs: number
  readonly checks?: (nowMs: number) => boolean
}): number | undefined => {
  const { heartbeats, untilMs, checks = () => true } = options
  const detector = new FailureDetector(0)
  detector.watch("member", 0)
  let next = 0
  for (let now = 0; now <= untilMs; now += checkIntervalMs) {
    if (!checks(now)) continue
    // As after a pause: the timer is first, the sockets are read after it.
    const [silent] = detector.check(now)
    if (silent !== undefined) return now
    for (; (heartbeats[next] ?? Infinity) <= now; next++) detector.heartbeat("member", heartbeats[next] ?? now)
  }
  return undefined
}

const regular = (count: number, fromMs = 0): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, index) => fromMs + (index + 1) * heartbeatIntervalMs)

describe("FailureDetector", () => {
  it("never gives up a member whose heartbeats come", () => {
    assert.isUndefined(firstLoss({ heartbeats: regular(600), untilMs: 600_000 }))
  })

  it.each([
    { after: "no heartbeat", count: 0 },
    { after: "one", count: 1 },
    { after: "ten", count: 10 },
    { after: "a thousand", count: 1_000 }
  ])("finds a member that falls silent within 5 s after $after", ({ count }) => {
    const fellSilentMs = count * heartbeatIntervalMs
    const lossMs = firstLoss({ heartbeats: regular(count), untilMs: fellSilentMs + 60_000 }) ?? Infinity
    assert.isAtMost(lossMs - fellSilentMs, 5_000)
  })

  it("lets every member stall for 3 s, wherever in the interval the stall begins and however often it has stalled", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: heartbeatIntervalMs })), {
          minLength: 1,
          maxLength: 20
        }),
        fc.boolean(),
        (stalls, repeatsMissed) => {
          const heartbeats: Array<number> = []
          let clock = 0
          let due = heartbeatIntervalMs
          const runUntil = (endMs: number): void => {
            for (; due <= endMs; due += heartbeatIntervalMs) heartbeats.push((clock = Math.max(clock, due)))
            clock = endMs
          }
          for (const [intervals, phaseMs] of stalls) {
            runUntil(clock + intervals * heartbeatIntervalMs + phaseMs)
            clock += toleratedStallMs
            // Timers differ: some fire once for every interval that was missed, others once for all.
            if (!repeatsMissed && due < clock)
              due += Math.floor((clock - due) / heartbeatIntervalMs) * heartbeatIntervalMs
          }
          runUntil(clock + 2 * heartbeatIntervalMs)
          assert.isUndefined(firstLoss({ heartbeats, untilMs: clock }))
        }
      ),
      { numRuns: 500 }
    )
  })

  it("allows between 3.5 and 4.5 s of silence, whatever came before", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 30_000 }), { maxLength: 200 }), gaps => {
        const detector = new FailureDetector(0)
        detector.watch("member", 0)
        let now = 0
        for (const gap of gaps) detector.heartbeat("member", (now += gap))
        const allowed = detector.allowedMs("member") ?? 0
        assert.isAtLeast(allowed, 3_500)
        assert.isAtMost(allowed, maxSilenceMs)
        assert.isAtLeast(allowed, heartbeatIntervalMs + toleratedStallMs)
        detector.check(now)
        for (; detector.check(now).length === 0; now += checkIntervalMs);
        assert.isAtMost(detector.silentMs("member", now) ?? Infinity, 5_000)
      })
    )
  })

  it("allows a regular member less than an irregular one", () => {
    const detector = new FailureDetector<"regular" | "irregular">(0)
    detector.watch("regular", 0)
    detector.watch("irregular", 0)
    for (let second = 1; second <= 60; second++) {
      detector.heartbeat("regular", second * 1_000)
      detector.heartbeat("irregular", second * 1_000 + (second % 2) * 400)
    }
    assert.strictEqual(detector.allowedMs("regular"), 4_200)
    assert.strictEqual(detector.allowedMs("irregular"), maxSilenceMs)
  })

  it("allows a member that sent many heartbeats at once no less than a regular one", () => {
    const detector = new FailureDetector(0)
    detector.watch("member", 0)
    for (let index = 1; index <= 100; index++) detector.heartbeat("member", index)
    assert.strictEqual(detector.allowedMs("member"), 4_200)
  })

  it("takes any other message for a sign of life", () => {
    const detector = new FailureDetector(0)
    detector.watch("member", 0)
    for (let now = 0; now <= 60_000; now += checkIntervalMs) {
      assert.isEmpty(detector.check(now))
      detector.heard("member", now)
    }
    assert.strictEqual(detector.silentMs("member", 60_500), 500)
  })

  it("gives nobody up for its own pause, and finds who is gone within 5 s after it", () => {
    const pause = { fromMs: 10_000, toMs: 30_000 }
    const checks = (now: number): boolean => now <= pause.fromMs || now >= pause.toMs
    assert.isUndefined(firstLoss({ heartbeats: regular(60), untilMs: 60_000, checks }))
    const lossMs = firstLoss({ heartbeats: regular(10), untilMs: 60_000, checks }) ?? Infinity
    assert.isAbove(lossMs, pause.toMs)
    assert.isAtMost(lossMs, pause.toMs + 5_000)
  })

  it("names the longest silence first, again and again until the member is forgotten or heard", () => {
    const detector = new FailureDetector<"a" | "b" | "c">(0)
    for (const peer of ["a", "b", "c"] as const) detector.watch(peer, 0)
    const run = (fromMs: number, toMs: number) => {
      let named: ReadonlyArray<string> = []
      for (let now = fromMs; now <= toMs; now += checkIntervalMs) named = detector.check(now).map(({ peer }) => peer)
      return named
    }
    assert.isEmpty(run(0, 1_000))
    detector.heard("a", 1_000)
    detector.heartbeat("c", 1_000)
    detector.heartbeat("c", 4_000)
    assert.deepStrictEqual(run(1_250, 8_000), ["b", "a"])
    detector.forget("b")
    assert.deepStrictEqual(run(8_000, 8_250), ["a"])
    detector.heartbeat("a", 8_250)
    assert.isEmpty(run(8_250, 8_250))
    assert.isUndefined(detector.allowedMs("b"))
    detector.heartbeat("b", 8_250)
    assert.isUndefined(detector.silentMs("b", 8_250))
  })
})
