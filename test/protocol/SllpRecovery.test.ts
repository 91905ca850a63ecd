import { describe, expect, it } from "vitest"
import { AckRanges } from "../../src/protocol/sllp/AckRanges.ts"
import { DatagramSize } from "../../src/protocol/sllp/DatagramSize.ts"
import { LossRecovery } from "../../src/protocol/sllp/LossRecovery.ts"
import { NewReno } from "../../src/protocol/sllp/NewReno.ts"
import { Pacer } from "../../src/protocol/sllp/Pacer.ts"
import { Paths } from "../../src/protocol/sllp/Paths.ts"
import { RttEstimator } from "../../src/protocol/sllp/RttEstimator.ts"
import { HostilePeer } from "../support/protocolSession.ts"

const { refused } = HostilePeer

describe("the round trip (RFC 9002, section 5)", () => {
  it("begins with what was configured, its variation half of that", () => {
    const rtt = new RttEstimator(333)
    expect([rtt.smoothedMs, rtt.variationMs, rtt.measured]).toEqual([333, 166.5, false])
    // 333 + 4 × 166.5 + 25
    expect(rtt.ptoMs).toBe(1_024)
  })

  it("takes the first sample as it is, and then an eighth of the new and a quarter of its deviation", () => {
    const rtt = new RttEstimator(333)
    const table: ReadonlyArray<readonly [sample: number, delay: number, smoothed: number, variation: number]> = [
      // The first sample stands, whatever the other side says of its delay.
      [100, 20, 100, 50],
      // 100 − 0 is no less than the least: adjusted to 108 − 8.
      [108, 8, 100, 37.5],
      // A delay beyond 25 ms counts as 25: adjusted to 135.
      [160, 50, 104.375, 36.875],
      // An adjustment below the least that was measured is not made: 110 stays 110.
      [110, 20, 105.078_125, 29.062_5],
      [50, 0, 98.193_359_375, 35.566_406_25]
    ]
    for (const [sample, delay, smoothed, variation] of table) {
      rtt.sample(sample, delay)
      expect([rtt.smoothedMs, rtt.variationMs]).toEqual([smoothed, variation])
    }
    expect(rtt.minMs).toBe(50)
  })

  it("gives the time threshold 9/8 of the larger of the last and the smoothed one, and no less than a millisecond", () => {
    const rtt = new RttEstimator(333)
    rtt.sample(80, 0)
    expect(rtt.lossDelayMs).toBe(90)
    rtt.sample(160, 0)
    expect(rtt.lossDelayMs).toBe(180)
    const near = new RttEstimator(333)
    near.sample(0.1, 0)
    expect(near.lossDelayMs).toBe(1)
    expect(near.ptoMs).toBe(0.1 + 1 + 25)
  })

  it("doubles the probe timeout each time, up to 3 s", () => {
    const rtt = new RttEstimator(333)
    rtt.sample(100, 0)
    expect([0, 1, 2, 3, 4, 9].map(count => rtt.backedOffPtoMs(count))).toEqual([325, 650, 1_300, 2_600, 3_000, 3_000])
    const far = new RttEstimator(2_000)
    expect(far.backedOffPtoMs(3)).toBe(far.ptoMs)
  })
})

describe("NewReno (RFC 9002, section 7)", () => {
  it.each([
    [1_200, 12_000],
    [1_400, 14_000],
    [1_472, 14_720],
    [8_900, 17_800],
    [65_000, 130_000]
  ])("begins with 10 datagrams, but no more than 14,720 bytes or 2 datagrams: of %i B with %i", (datagram, window) => {
    expect(new NewReno(datagram).windowBytes).toBe(window)
  })

  it("grows by what is acknowledged in slow start, and by a datagram per window after a loss", () => {
    const reno = new NewReno(1_000)
    reno.acknowledged(4_000, 0, true)
    expect(reno.windowBytes).toBe(14_000)
    reno.lost(10, 20)
    expect([reno.windowBytes, reno.slowStart]).toEqual([7_000, false])
    reno.acknowledged(7_000, 21, true)
    expect(reno.windowBytes).toBe(8_000)
  })

  it("is halved once for all losses of what was sent before the reduction, and does not grow by it either", () => {
    const reno = new NewReno(1_000)
    reno.lost(10, 20)
    reno.lost(15, 25)
    reno.lost(20, 30)
    expect(reno.windowBytes).toBe(5_000)
    reno.acknowledged(5_000, 20, true)
    expect(reno.windowBytes).toBe(5_000)
    reno.lost(21, 40)
    expect(reno.windowBytes).toBe(2_500)
    for (let sent = 41; sent < 100; sent += 2) reno.lost(sent, sent + 1)
    expect(reno.windowBytes).toBe(2_000)
  })

  it("does not grow while the window is not what limits the sender", () => {
    const reno = new NewReno(1_000)
    reno.acknowledged(5_000, 0, false)
    expect(reno.windowBytes).toBe(10_000)
  })

  it("is at its least after persistent congestion, and in slow start again", () => {
    const reno = new NewReno(1_000)
    reno.lost(10, 20)
    reno.persistentCongestion()
    expect([reno.windowBytes, reno.slowStart]).toEqual([2_000, true])
  })

  it("has room for two datagrams of a new size", () => {
    const reno = new NewReno(1_200)
    reno.lost(10, 20)
    reno.resize(9_000)
    expect(reno.windowBytes).toBe(18_000)
    const fresh = new NewReno(1_200)
    fresh.resize(9_000)
    expect(fresh.windowBytes).toBe(18_000)
  })
})

describe("pacing (§4.5)", () => {
  /** 1.25 × 100,000 B in 100 ms: 1,250 B per ms. */
  const fill = (pacer: Pacer, nowMs: number) => pacer.fill(nowMs, 100_000, 100, 1_000)
  const burst = (pacer: Pacer): number => {
    let count = 0
    while (pacer.readyAtMs(1_000) === -Infinity) {
      pacer.sent(1_000)
      count++
    }
    return count
  }

  it("lets 10 datagrams go at once, and then 1.25 windows per round trip", () => {
    const pacer = new Pacer(Infinity)
    fill(pacer, 0)
    expect(burst(pacer)).toBe(10)
    expect(pacer.readyAtMs(1_000)).toBe(0.8)
    fill(pacer, 4)
    expect(burst(pacer)).toBe(5)
  })

  it("follows the clock, not the number of calls", () => {
    const [often, seldom] = [new Pacer(Infinity), new Pacer(Infinity)]
    let [first, second] = [0, 0]
    for (let tenths = 0; tenths <= 1_000; tenths++) {
      fill(often, tenths / 10)
      first += burst(often)
      if (tenths % 40 !== 0) continue
      fill(seldom, tenths / 10)
      second += burst(seldom)
    }
    expect(first).toBe(10 + 125)
    expect(second).toBe(10 + 125)
  })

  it("lets 2 ms of a high rate go at once", () => {
    const pacer = new Pacer(Infinity)
    pacer.fill(0, 4_000_000, 10, 1_000)
    expect(burst(pacer)).toBe(1_000)
  })

  it("holds nothing over from a pause beyond its burst", () => {
    const pacer = new Pacer(Infinity)
    fill(pacer, 0)
    burst(pacer)
    fill(pacer, 100_000)
    expect(burst(pacer)).toBe(10)
  })

  it("keeps to a configured ceiling", () => {
    const pacer = new Pacer(500_000)
    fill(pacer, 0)
    burst(pacer)
    let count = 0
    for (let ms = 1; ms <= 1_000; ms++) {
      fill(pacer, ms)
      count += burst(pacer)
    }
    expect(count).toBe(500)
  })
})

/** A recovery whose datagrams of 1,000 bytes are told by their numbers. */
class Recovering {
  readonly lost: Array<number> = []
  readonly acknowledged: Array<number> = []
  readonly recovery = new LossRecovery(
    {
      onAcknowledged: ({ number }) => void this.acknowledged.push(number),
      onLost: ({ number }) => void this.lost.push(number)
    },
    333,
    1_000
  )

  send(nowMs: number, eliciting = true): void {
    this.recovery.onSent(this.recovery.begin(), 1_000, eliciting, nowMs)
  }

  ack(nowMs: number, ...ranges: ReadonlyArray<readonly [number, number]>): void {
    const filled = new AckRanges()
    for (const [low, high] of ranges) filled.add(low, high)
    this.recovery.onAck(filled, nowMs)
  }
}

describe("loss detection (RFC 9002, section 6)", () => {
  it("takes what lies 3 datagrams below an acknowledged one for lost", () => {
    const all = new Recovering()
    for (let number = 0; number < 6; number++) all.send(number)
    all.ack(20, [2, 2])
    expect(all.lost).toEqual([])
    all.ack(20, [3, 3])
    expect(all.lost).toEqual([0])
    all.ack(21, [5, 5])
    expect(all.lost).toEqual([0, 1])
    expect(all.recovery.congestion.inFlightBytes).toBe(1_000)
  })

  it("takes what was sent 9/8 of a round trip before an acknowledged one for lost, by a timer", () => {
    const all = new Recovering()
    all.send(0)
    all.send(8)
    all.ack(88, [1, 1])
    expect(all.recovery.rtt.smoothedMs).toBe(80)
    expect(all.lost).toEqual([])
    expect(all.recovery.deadlineMs).toBe(90)
    expect(all.recovery.onTimeout(89.9)).toBe(false)
    expect(all.lost).toEqual([])
    expect(all.recovery.onTimeout(90)).toBe(false)
    expect(all.lost).toEqual([0])
    expect(all.recovery.deadlineMs).toBe(Infinity)
  })

  it("measures the round trip by the highest number only, where that is new", () => {
    const all = new Recovering()
    all.send(9)
    all.send(10)
    all.ack(50, [1, 1])
    expect(all.recovery.rtt.smoothedMs).toBe(40)
    all.ack(500, [0, 1])
    expect(all.recovery.rtt.smoothedMs).toBe(40)
    expect(all.acknowledged).toEqual([1, 0])
  })

  it("measures it by a datagram that asked for nothing too, where one that did is acknowledged with it", () => {
    const all = new Recovering()
    all.send(0)
    all.send(10, false)
    all.ack(40, [0, 1])
    expect(all.recovery.rtt.smoothedMs).toBe(30)
    all.send(50, false)
    all.ack(900, [0, 2])
    expect(all.recovery.rtt.smoothedMs).toBe(30)
  })

  it("probes when nothing is acknowledged, twice as late each time, and loses nothing by it", () => {
    const all = new Recovering()
    all.send(0)
    all.ack(100, [0, 0])
    all.send(100)
    // 100 + 4 × 50 + 25
    expect(all.recovery.deadlineMs).toBe(425)
    expect(all.recovery.onTimeout(425)).toBe(true)
    expect([all.recovery.probes, all.recovery.ptoCount]).toEqual([2, 1])
    expect([...all.recovery.oldest()].map(({ number }) => number)).toEqual([1])
    all.send(425)
    expect(all.recovery.deadlineMs).toBe(425 + 650)
    expect(all.lost).toEqual([])
    all.ack(525, [1, 2])
    expect([all.recovery.probes, all.recovery.ptoCount]).toEqual([0, 0])
    expect(all.recovery.deadlineMs).toBe(Infinity)
  })

  it("waits for nothing that does not ask for an acknowledgement", () => {
    const all = new Recovering()
    for (let number = 0; number < 1_000; number++) all.send(number, false)
    expect(all.recovery.deadlineMs).toBe(Infinity)
    expect(all.recovery.congestion.inFlightBytes).toBe(0)
    expect(all.recovery.sent.lowest).toBe(1_000)
  })

  it("finds persistent congestion where nothing of more than 3 PTOs arrived", () => {
    const through = (arrives: (number: number) => boolean): number => {
      const all = new Recovering()
      all.send(0)
      all.ack(100, [0, 0])
      // PTO is 325 ms.
      for (let number = 1; number <= 20; number++) all.send(100 * number)
      const ranges: Array<[number, number]> = []
      for (let number = 20; number > 0; number--) if (arrives(number)) ranges.push([number, number])
      all.ack(2_100, ...ranges)
      return all.recovery.congestion.windowBytes
    }
    expect(through(number => number === 20)).toBe(2_000)
    // The same losses with one arrival in the middle are just congestion.
    expect(through(number => number === 20 || number === 10)).toBe(5_000)
  })

  it("does not take a lost probe of the path for congestion", () => {
    const all = new Recovering()
    const probe = all.recovery.begin()
    probe.trial = true
    all.recovery.onSent(probe, 1_000, true, 0)
    for (let number = 1; number < 5; number++) all.send(number)
    all.ack(50, [1, 4])
    expect(all.lost).toEqual([0])
    expect(all.recovery.congestion.windowBytes).toBe(10_000)
    expect(all.recovery.lostDatagrams).toBe(0)
  })

  it("refuses an acknowledgement of what was not sent", () => {
    const all = new Recovering()
    all.send(0)
    expect(refused(() => all.ack(1, [0, 1]))).toBe("MALFORMED")
  })

  it("forgets a path whole: what was under way is sent again, and no window is reduced for it", () => {
    const all = new Recovering()
    for (let number = 0; number < 5; number++) all.send(number)
    all.ack(50, [0, 0])
    all.recovery.restart(1_200)
    expect(all.lost).toEqual([1, 2, 3, 4])
    expect(all.recovery.congestion.windowBytes).toBe(12_000)
    expect(all.recovery.congestion.inFlightBytes).toBe(0)
    expect(all.recovery.deadlineMs).toBe(Infinity)
    // They may still have arrived.
    all.ack(60, [0, 4])
    expect(all.acknowledged).toEqual([0])
  })

  it("keeps the books of many thousand datagrams", () => {
    const all = new Recovering()
    for (let number = 0; number < 10_000; number++) all.send(number / 100)
    all.ack(200, [5_000, 9_999])
    expect(all.lost.length).toBe(5_000)
    expect(all.recovery.congestion.inFlightBytes).toBe(0)
    expect(all.recovery.sent.lowest).toBe(10_000)
    for (let number = 0; number < 16_384; number++) all.send(200)
    expect(all.recovery.sent.full).toBe(true)
    // A peer that never acknowledges the first of them does not make them grow.
    for (let number = 0; number < 100; number++) all.send(200, false)
    expect(all.recovery.sent.next - all.recovery.sent.lowest).toBe(16_384)
    expect(all.lost.length).toBe(5_100)
  })
})

describe("the size of datagrams (§4.5)", () => {
  it("is 1,200 until three probes of the configured size are answered, one after another", () => {
    const size = new DatagramSize(1_452)
    for (const number of [5, 6, 7]) {
      expect([size.bytes, size.probeAtMs]).toEqual([1_200, -Infinity])
      size.onProbe(number)
      expect(size.probeAtMs).toBe(Infinity)
      expect(size.onAcknowledged(4, 1_452)).toBe(false)
      expect(size.onAcknowledged(number, 1_452)).toBe(number === 7)
    }
    expect([size.bytes, size.probeAtMs]).toEqual([1_452, Infinity])
  })

  it("is left at 1,200 for 10 minutes when 6 probes in a row are lost", () => {
    const size = new DatagramSize(9_000)
    for (let number = 0; number < 6; number++) {
      expect(size.probeAtMs).toBe(-Infinity)
      size.onProbe(number)
      size.onLost(number, 9_000, 777)
    }
    expect(size.probeAtMs).toBe(777 + 600_000)
  })

  it("is tried further when one of them is answered", () => {
    const size = new DatagramSize(9_000)
    for (let number = 0; number < 12; number++) {
      expect(size.probeAtMs).toBe(-Infinity)
      size.onProbe(number)
      if (number === 5) size.onAcknowledged(number, 9_000)
      else size.onLost(number, 9_000, 777)
    }
    expect(size.probeAtMs).toBe(600_777)
  })

  it("asks for nothing where 1,200 is what is wanted", () => {
    expect(new DatagramSize(1_200).probeAtMs).toBe(Infinity)
  })

  const confirmed = (): DatagramSize => {
    const size = new DatagramSize(1_400)
    for (const number of [0, 1, 2]) {
      size.onProbe(number)
      size.onAcknowledged(number, 1_400)
    }
    return size
  }

  it("falls back to 1,200 after 3 probe timeouts in a row", () => {
    const size = confirmed()
    expect([1, 2, 3, 4].map(count => size.onTimeouts(count, 100))).toEqual([false, false, true, false])
    expect([size.bytes, size.probeAtMs]).toEqual([1_200, 600_100])
  })

  it("falls back when ten full datagrams in a row are lost while small ones arrive", () => {
    const size = confirmed()
    const losses = (from: number, count: number) =>
      Array.from({ length: count }, (_, at) => size.onLost(from + at, 1_400, 0))
    expect(losses(10, 9)).not.toContain(true)
    size.onAcknowledged(30, 1_400)
    expect(losses(40, 9)).not.toContain(true)
    size.onAcknowledged(60, 100)
    expect(losses(49, 1)).toEqual([true])
    expect(size.bytes).toBe(1_200)
  })

  it("does not fall back for a run of losses before a full datagram that passed: that is a queue that was full", () => {
    const size = confirmed()
    size.onAcknowledged(100, 1_400)
    for (let number = 10; number < 100; number++) expect(size.onLost(number, 1_400, 0)).toBe(false)
    expect(size.bytes).toBe(1_400)
  })
})

describe("the peer's address (§4.5)", () => {
  const data = new Uint8Array(8).fill(7)
  const paths = (address?: string) => new Paths(address, () => Uint8Array.from(data))

  it("changes when the new one has answered the challenge, and only then", () => {
    const known = paths("old")
    known.onReceived("new", 100, true, 0)
    expect([known.address, known.destination]).toEqual(["old", "old"])
    expect(known.onResponse(data)).toBe(false)
    expect(known.takeChallenge(0, 50)).toEqual({ to: "new", data })
    expect(known.onResponse(new Uint8Array(8))).toBe(false)
    expect(known.address).toBe("old")
    expect(known.onResponse(data)).toBe(true)
    expect(known.address).toBe("new")
    expect(known.onResponse(data)).toBe(false)
  })

  it("is not questioned by datagrams that are not the newest", () => {
    const known = paths("old")
    known.onReceived("new", 100, false, 0)
    expect(known.takeChallenge(0, 50)).toBeUndefined()
    expect(known.deadlineMs).toBe(Infinity)
  })

  it("that is new is asked three times, later each time, and then forgotten", () => {
    const known = paths("old")
    known.onReceived("new", 1_000, true, 0)
    for (const [at, next] of [
      [0, 50],
      [50, 150],
      [150, 350]
    ] as const) {
      expect(known.takeChallenge(at, 50)?.to).toBe("new")
      expect(known.takeChallenge(at, 50)).toBeUndefined()
      expect(known.deadlineMs).toBe(next)
    }
    expect(known.takeChallenge(350, 50)).toBeUndefined()
    expect(known.deadlineMs).toBe(Infinity)
    expect(known.onResponse(data)).toBe(false)
  })

  it("that is not certain gets three times the bytes that came from it", () => {
    const learning = paths()
    expect([learning.destination, learning.allowedBytes]).toEqual([undefined, 0])
    learning.onReceived("somebody", 100, true, 0)
    expect([learning.address, learning.destination, learning.allowedBytes]).toEqual([undefined, "somebody", 300])
    learning.onSent("somebody", 200)
    expect(learning.allowedBytes).toBe(100)
    learning.onSent("somebody", 60)
    expect(learning.allowedBytes).toBe(0)
    learning.onReceived("somebody", 20, false, 0)
    expect(learning.allowedBytes).toBe(100)
    expect(learning.takeChallenge(0, 50)?.to).toBe("somebody")
    learning.onResponse(data)
    expect(learning.allowedBytes).toBe(Infinity)
  })

  it("is challenged no further than that", () => {
    const known = paths("old")
    known.onReceived("victim", 42, true, 0)
    let sent = 0
    for (let at = 0; at < 10_000; at += 50) {
      const challenge = known.takeChallenge(at, 50)
      if (challenge === undefined) continue
      known.onSent(challenge.to, 42)
      sent += 42
    }
    expect(sent).toBeLessThanOrEqual(3 * 42)
    expect(sent).toBeGreaterThan(0)
  })

  it("of a challenge is where its answer goes; no more than 4 answers wait", () => {
    const known = paths("old")
    for (let at = 0; at < 6; at++) known.onChallenge(`from ${at}`, Uint8Array.of(at, 0, 0, 0, 0, 0, 0, 0))
    const answers = []
    for (let answer = known.takeResponse(); answer !== undefined; answer = known.takeResponse())
      answers.push([answer.to, answer.data[0]])
    expect(answers).toEqual([
      ["from 2", 2],
      ["from 3", 3],
      ["from 4", 4],
      ["from 5", 5]
    ])
  })
})
