import { describe, expect, it } from "vitest"
import { blockBytes, maxIncompleteMessages, messageOverheadBytes } from "../../src/protocol/sllp/constants.ts"
import { IncomingMemory } from "../../src/protocol/sllp/IncomingMemory.ts"
import type { Inbox, InboxHost } from "../../src/protocol/sllp/Inbox.ts"
import { LatestInbox } from "../../src/protocol/sllp/LatestInbox.ts"
import { OrderedInbox } from "../../src/protocol/sllp/OrderedInbox.ts"
import { ReliableInbox, reliableWindowBytes } from "../../src/protocol/sllp/ReliableInbox.ts"
import { zeroFilled } from "../../src/protocol/sllp/SllpAssociation.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { HostilePeer } from "../support/protocolSession.ts"
import { numberOf, patterned } from "../support/sllpPair.ts"

const { refused } = HostilePeer

/** A channel's receiving side, and all that it says. */
class Receiving {
  readonly said: Array<string> = []
  readonly counters = { delivered: 0, late: 0, dropped: 0, superseded: 0 }
  readonly memory: IncomingMemory
  readonly inbox: Inbox
  nowMs = 0

  constructor(make: (host: InboxHost) => Inbox, budgetBytes = 128 * 1024 * 1024) {
    this.memory = new IncomingMemory(budgetBytes)
    this.inbox = make({
      memory: this.memory,
      counters: this.counters,
      onReadable: () => void this.said.push("readable"),
      onLost: (_, messageId, count) => void this.said.push(`lost ${messageId}+${count}`),
      onCredit: (_, limit) => void this.said.push(`credit ${limit}`)
    })
  }

  /** A range of the patterned message of this number and length. */
  chunk(id: number, total: number, from = 0, to = total): this {
    const bytes = patterned(id, total).slice(from, to)
    this.inbox.chunk(id, total, from, bytes, 0, bytes.length, this.nowMs)
    return this
  }

  at(nowMs: number): this {
    this.nowMs = nowMs
    if (this.inbox.deadlineMs <= nowMs) this.inbox.expire(nowMs)
    return this
  }

  /** What can be read: numbers of whole messages, ranges of others. Every byte is checked. */
  read(): ReadonlyArray<unknown> {
    const all: Array<unknown> = []
    for (;;) {
      const message = this.inbox.read(this.nowMs)
      if (message === undefined) return all
      if (message.complete) {
        expect(numberOf(message.bytes)).toBe(message.messageId)
        all.push(message.messageId)
        continue
      }
      const whole = patterned(message.messageId, message.total)
      for (const { offset, bytes } of message.pieces)
        expect(Buffer.compare(bytes, whole.subarray(offset, offset + bytes.length))).toBe(0)
      all.push([message.messageId, ...message.pieces.map(({ offset, bytes }) => [offset, offset + bytes.length])])
    }
  }
}

const latest = (budget?: number) => new Receiving(host => new LatestInbox(0, host), budget)
const ordered = (holes: "skip" | "deliver" = "skip", budget?: number, maxLagMs = 100) =>
  new Receiving(host => new OrderedInbox(0, host, { maxLagMs, holes }), budget)
const reliable = (maxMessageBytes = 1_000_000) => new Receiving(host => new ReliableInbox(0, host, maxMessageBytes))
const everyMode = [
  { mode: "latest", make: () => latest() },
  { mode: "ordered", make: () => ordered() },
  { mode: "reliable", make: () => reliable() }
]

describe.each(everyMode)("a message of mode $mode", ({ make }) => {
  it("is delivered when all its bytes are there, whatever the order and size of the pieces", () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = new SeededRandom(seed)
      const total = 1 + random.below(random.chance(30) ? 300_000 : 5_000)
      const cuts = [0, total]
      for (let count = random.below(12); count > 0; count--) cuts.push(random.below(total))
      const sorted = [...new Set(cuts)].toSorted((a, b) => a - b)
      const pieces = sorted.slice(1).map((to, at) => ({ from: sorted[at] ?? 0, to, place: random.u32() }))
      pieces.sort((a, b) => a.place - b.place)
      const receiving = make()
      for (const [at, { from, to }] of pieces.entries()) {
        expect(receiving.read()).toEqual([])
        receiving.chunk(0, total, from, to)
        if (at < pieces.length - 1) receiving.chunk(0, total, from, to)
      }
      expect(receiving.read()).toEqual([0])
      expect(receiving.memory.usedBytes).toBe(0)
    }
  })

  it("keeps the bytes that came first where ranges overlap", () => {
    const receiving = make()
    const lie = (from: number, to: number) => {
      const bytes = new Uint8Array(to - from).fill(0xee)
      receiving.inbox.chunk(0, 1_000, from, bytes, 0, bytes.length, 0)
    }
    receiving.chunk(0, 1_000, 100, 400).chunk(0, 1_000, 600, 900)
    lie(100, 400)
    lie(150, 300)
    expect(receiving.read()).toEqual([])
    receiving.chunk(0, 1_000, 50, 450).chunk(0, 1_000, 350, 650)
    lie(200, 800)
    receiving.chunk(0, 1_000, 0, 60).chunk(0, 1_000, 899, 1_000)
    expect(receiving.read()).toEqual([0])
  })

  it("takes what is missing from a range that covers several holes", () => {
    const receiving = make()
    for (const [from, to] of [
      [100, 200],
      [300, 400],
      [70_000, 70_100]
    ] as const)
      receiving.chunk(0, 100_000, from, to)
    receiving.chunk(0, 100_000, 0, 50_000).chunk(0, 100_000, 40_000, 100_000)
    expect(receiving.read()).toEqual([0])
  })

  it("does not keep a datagram for a few bytes of it", () => {
    const receiving = make()
    const plain = new Uint8Array(1_400).fill(7)
    receiving.inbox.chunk(0, 10, 0, plain, 100, 110, 0)
    const message = receiving.inbox.read(0)
    if (message?.complete !== true) return expect.fail()
    expect([message.bytes.length, message.bytes[0]]).toEqual([10, 7])
    expect(message.bytes.buffer.byteLength).toBeLessThan(100)
  })

  it("has one total", () => {
    expect(refused(() => make().chunk(0, 1_000, 0, 10).chunk(0, 1_001, 10, 20))).toBe("MALFORMED")
    expect(refused(() => make().chunk(0, 1_000, 0, 10).chunk(0, 999, 0, 10))).toBe("MALFORMED")
  })

  it("takes memory for the bytes that came, not for its total", () => {
    const receiving = make()
    const total = 1_000_000
    receiving.chunk(0, total, total - 1, total)
    // The last block of a million bytes is not a whole one.
    const lastBlock = total % blockBytes
    if (receiving.memory.usedBytes > 0) expect(receiving.memory.usedBytes).toBe(lastBlock + messageOverheadBytes)
    receiving.chunk(0, total, 0, 10)
    if (receiving.memory.usedBytes > 0)
      expect(receiving.memory.usedBytes).toBe(lastBlock + blockBytes + messageOverheadBytes)
  })

  it("is not delivered twice", () => {
    const receiving = make()
    receiving.chunk(0, 500)
    expect(receiving.read()).toEqual([0])
    receiving.chunk(0, 500).chunk(0, 500, 0, 100)
    expect(receiving.read()).toEqual([])
  })
})

describe("a message in more pieces than losses can explain", () => {
  const scatter = (receiving: Receiving) => {
    for (let at = 0; at < 400; at += 2) receiving.chunk(0, 1_000, at, at + 1)
    return receiving
  }

  it("is dropped, or ends the association where it may not be dropped", () => {
    const lossy = scatter(latest())
    expect(lossy.counters.dropped).toBeGreaterThan(0)
    expect(scatter(ordered()).said).toEqual(["lost 0+1"])
    expect(refused(() => scatter(reliable()))).toBe("LIMIT")
  })
})

describe("mode latest", () => {
  it("delivers the newest whole message and drops what is older", () => {
    const receiving = latest().chunk(3, 10)
    expect(receiving.read()).toEqual([3])
    receiving.chunk(2, 10).chunk(5, 10, 0, 5).chunk(6, 10).chunk(5, 10, 5, 10)
    expect(receiving.read()).toEqual([6])
    expect(receiving.counters).toEqual({ delivered: 2, late: 2, dropped: 1, superseded: 0 })
    expect(receiving.memory.usedBytes).toBe(0)
  })

  it("goes on with a newer message when an older one has become whole", () => {
    const receiving = latest().chunk(5, 10, 0, 5).chunk(4, 10)
    expect(receiving.read()).toEqual([4])
    expect(receiving.chunk(5, 10, 5, 10).read()).toEqual([5])
  })

  it("keeps one unread message: a newer one takes its place", () => {
    const receiving = latest().chunk(0, 10).chunk(1, 10).chunk(2, 10)
    expect(receiving.said).toEqual(["readable"])
    expect(receiving.read()).toEqual([2])
    expect(receiving.counters.superseded).toBe(2)
    receiving.chunk(3, 10)
    expect(receiving.said).toEqual(["readable", "readable"])
  })

  it("never delivers an older one after a newer one", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const random = new SeededRandom(seed)
      const receiving = latest()
      let last = -1
      for (let step = 0; step < 300; step++) {
        const id = random.below(40)
        const half = random.chance(50)
        receiving.chunk(id, 1_000, half ? 0 : 500, half ? 500 : 1_000)
        for (const read of receiving.read()) {
          expect(Number(read)).toBeGreaterThan(last)
          last = Number(read)
        }
      }
      expect(last).toBeGreaterThan(10)
    }
  })

  it("has at most 8 incomplete messages: the oldest goes", () => {
    const receiving = latest()
    for (let id = 1; id <= maxIncompleteMessages + 1; id++) receiving.chunk(id, 10, 0, 5)
    expect(receiving.counters.dropped).toBe(1)
    expect(receiving.memory.usedBytes).toBe(maxIncompleteMessages * (messageOverheadBytes + 10))
    // One that is older than all of them does not push out a newer one.
    receiving.chunk(0, 10, 0, 5).chunk(2, 10, 5, 10)
    expect(receiving.read()).toEqual([2])
  })

  it("lets go of a message that its sender has given up", () => {
    const receiving = latest().chunk(0, 10, 0, 5)
    receiving.inbox.drop(0, 0)
    receiving.inbox.drop(1, 0)
    expect(receiving.memory.usedBytes).toBe(0)
  })
})

describe("mode ordered", () => {
  it("delivers by number, whatever the order of arrival", () => {
    const receiving = ordered().chunk(1, 10).chunk(2, 10)
    expect(receiving.read()).toEqual([])
    receiving.chunk(0, 10)
    expect(receiving.read()).toEqual([0, 1, 2])
    expect(receiving.said).toEqual(["readable"])
  })

  it("waits maxLag for a missing message once something of a later one has come", () => {
    const receiving = ordered().at(1_000).chunk(0, 10, 0, 5)
    expect(receiving.inbox.deadlineMs).toBe(Infinity)
    receiving.at(5_000).chunk(1, 10, 0, 5)
    expect(receiving.inbox.deadlineMs).toBe(5_100)
    receiving.at(5_050).chunk(1, 10, 5, 10)
    expect(receiving.at(5_099).read()).toEqual([])
    expect(receiving.at(5_100).read()).toEqual([1])
    expect(receiving.said).toEqual(["lost 0+1", "readable"])
    receiving.chunk(0, 10, 5, 10)
    expect(receiving.counters).toEqual({ delivered: 1, late: 1, dropped: 1, superseded: 0 })
  })

  it("goes on at once when the missing bytes come within maxLag", () => {
    const receiving = ordered().chunk(0, 10, 0, 5).chunk(1, 10).at(99).chunk(0, 10, 5, 10)
    expect(receiving.read()).toEqual([0, 1])
    expect(receiving.inbox.deadlineMs).toBe(Infinity)
  })

  it("skips at once when 4 later messages are whole", () => {
    const receiving = ordered().chunk(1, 10).chunk(2, 10).chunk(3, 10)
    expect(receiving.read()).toEqual([])
    receiving.chunk(4, 10)
    expect(receiving.read()).toEqual([1, 2, 3, 4])
    expect(receiving.said).toEqual(["lost 0+1", "readable"])
  })

  it("reports a run of missing messages as one, and waits for each hole from its own beginning", () => {
    const receiving = ordered().at(0).chunk(5, 10).at(60).chunk(8, 10, 0, 5).at(80).chunk(9, 10)
    expect(receiving.at(100).read()).toEqual([5])
    // Of 6 and 7 the first sign that they are late came at 60, of 8 at 80.
    expect(receiving.at(159).said).toEqual(["lost 0+5", "readable"])
    receiving.at(160)
    expect(receiving.said).toEqual(["lost 0+5", "readable", "lost 6+2"])
    expect(receiving.at(180).read()).toEqual([9])
    expect(receiving.said.slice(3)).toEqual(["lost 8+1", "readable"])
  })

  it("with holes delivers the ranges of what is not whole, in its turn", () => {
    const receiving = ordered("deliver").chunk(0, 1_000, 0, 300).chunk(0, 1_000, 700, 800).chunk(1, 10)
    expect(receiving.at(99).read()).toEqual([])
    expect(receiving.at(100).read()).toEqual([[0, [0, 300], [700, 800]], 1])
    expect(receiving.said).toEqual(["readable"])
    // A message of which nothing came is lost all the same.
    receiving.chunk(3, 10)
    expect(receiving.at(200).read()).toEqual([3])
    expect(receiving.said.slice(1)).toEqual(["lost 2+1", "readable"])
  })

  it("holes are zeros for who wants the message as one array", () => {
    const receiving = ordered("deliver").chunk(0, 200_000, 10, 20).chunk(0, 200_000, 65_530, 131_080)
    receiving.inbox.drop(0, 0)
    const message = receiving.inbox.read(0)
    if (message === undefined) return expect.fail()
    expect(message.complete).toBe(false)
    const expected = new Uint8Array(200_000)
    const whole = patterned(0, 200_000)
    for (const [from, to] of [
      [10, 20],
      [65_530, 131_080]
    ] as const)
      expected.set(whole.subarray(from, to), from)
    expect(Buffer.compare(zeroFilled(message), expected)).toBe(0)
  })

  it("does not wait for what the sender has given up", () => {
    const receiving = ordered().chunk(1, 10).chunk(2, 10, 0, 5)
    receiving.inbox.drop(0, 0)
    expect(receiving.read()).toEqual([1])
    receiving.inbox.drop(2, 0)
    receiving.inbox.drop(2, 0)
    receiving.inbox.drop(3, 0)
    expect(receiving.said).toEqual(["lost 0+1", "readable", "lost 2+1", "lost 3+1"])
    const holes = ordered("deliver").chunk(0, 10, 2, 5)
    holes.inbox.drop(0, 0)
    expect(holes.read()).toEqual([[0, [2, 5]]])
  })

  it("has at most 8 incomplete messages: the oldest is passed over, or delivered with its holes", () => {
    for (const holes of ["skip", "deliver"] as const) {
      const receiving = ordered(holes)
      for (let id = 0; id <= maxIncompleteMessages; id++) receiving.chunk(id, 10, 0, 5)
      expect(receiving.read()).toEqual(holes === "skip" ? [] : [[0, [0, 5]]])
      if (holes === "skip") expect(receiving.said).toEqual(["lost 0+1"])
    }
  })

  it("keeps 16 unread messages: the oldest is lost", () => {
    const receiving = ordered()
    for (let id = 0; id < 20; id++) receiving.chunk(id, 10)
    expect(receiving.said).toEqual(["readable", "lost 0+1", "lost 1+1", "lost 2+1", "lost 3+1"])
    expect(receiving.read()).toEqual(Array.from({ length: 16 }, (_, at) => at + 4))
    expect(receiving.memory.usedBytes).toBe(0)
  })

  it("gives everything that came when the association ends", () => {
    const receiving = ordered("deliver").chunk(1, 10).chunk(3, 10, 0, 5).chunk(5, 10)
    receiving.inbox.finish()
    expect(receiving.read()).toEqual([1, [3, [0, 5]], 5])
  })

  it("delivers each message once and in order, whatever comes, and holds nothing in the end", () => {
    for (let seed = 1; seed <= 80; seed++) {
      const random = new SeededRandom(seed)
      const holes = random.chance(50) ? "deliver" : "skip"
      const receiving = ordered(holes, random.chance(50) ? 40_000 : undefined, random.below(50))
      let [due, last] = [0, -1]
      for (let step = 0; step < 400; step++) {
        due = Math.max(due, random.chance(60) ? due + 1 : 0)
        const id = Math.max(0, due - random.below(8))
        const [from, to] = random.pick([
          [0, 5_000],
          [5_000, 10_000],
          [2_000, 7_000],
          [0, 10_000]
        ] as const)
        if (random.chance(3)) receiving.inbox.drop(id, receiving.nowMs)
        else receiving.chunk(id, 10_000, from, to)
        receiving.at(receiving.nowMs + random.below(10))
        if (random.chance(60)) {
          for (const read of receiving.read()) {
            const number = Array.isArray(read) ? Number(read[0]) : Number(read)
            expect(number).toBeGreaterThan(last)
            last = number
          }
        }
      }
      receiving.inbox.finish()
      receiving.read()
      expect(receiving.memory.usedBytes).toBe(0)
      expect(last).toBeGreaterThan(50)
    }
  })
})

describe("mode reliable", () => {
  it("delivers every message in order", () => {
    const receiving = reliable().chunk(2, 10).chunk(1, 10, 5, 10).chunk(0, 10)
    expect(receiving.read()).toEqual([0])
    receiving.chunk(1, 10, 0, 5)
    expect(receiving.read()).toEqual([1, 2])
  })

  it("counts nothing twice against the credit", () => {
    const receiving = reliable(1_000_000)
    for (let id = 0; id < 20; id++) {
      receiving.chunk(id, 900_000).chunk(id, 900_000, 0, 500)
      expect(receiving.read()).toEqual([id])
      receiving.chunk(id, 900_000).chunk(id, 900_000, 0, 500)
    }
  })

  it("waits as long as it takes", () => {
    const receiving = reliable()
    for (let id = 1; id < 200; id++) receiving.chunk(id, 10)
    expect(receiving.at(10_000_000).read()).toEqual([])
    receiving.chunk(0, 10)
    expect(receiving.read().length).toBe(200)
  })

  it("gives credit as messages are read, in time for the largest message to begin", () => {
    const maxMessageBytes = 1_000_000
    const receiving = reliable(maxMessageBytes)
    const window = reliableWindowBytes(maxMessageBytes)
    let [limit, sent] = [window, 0]
    const random = new SeededRandom(8)
    for (let id = 0; id < 300; id++) {
      const total = random.chance(30) ? maxMessageBytes : 1 + random.below(50_000)
      // All has been read: any message may begin.
      expect(sent + maxMessageBytes + messageOverheadBytes).toBeLessThanOrEqual(limit)
      receiving.chunk(id, total)
      sent += total + messageOverheadBytes
      expect(receiving.read()).toEqual([id])
      const credits = receiving.said.filter(said => said.startsWith("credit")).map(said => Number(said.slice(7)))
      limit = Math.max(limit, ...credits)
      expect(limit).toBeLessThanOrEqual(sent + window)
    }
  })

  it("ends the association where a peer sends more than it has credit for", () => {
    const receiving = reliable(1_000_000)
    const flood = () => {
      for (let id = 1; id < 100; id++) receiving.chunk(id, 900_000, 0, 900_000)
    }
    expect(refused(flood)).toBe("LIMIT")
    const sparse = reliable(64 * 1024 * 1024)
    const scatter = () => {
      // A byte in each block of each message.
      for (let id = 1; id < 100; id++)
        for (let at = 0; at < 1_024; at++) {
          const bytes = Uint8Array.of(1)
          sparse.inbox.chunk(id, 64 * 1024 * 1024, at * blockBytes, bytes, 0, 1, 0)
        }
    }
    expect(refused(scatter)).toBe("LIMIT")
  })

  it("has no DROP", () => {
    expect(refused(() => reliable().inbox.drop(0, 0))).toBe("MALFORMED")
  })
})

describe("the memory budget", () => {
  it("drops the oldest incomplete message of any channel when it is used up", () => {
    const memory = new IncomingMemory(200_000)
    const counters = { delivered: 0, late: 0, dropped: 0, superseded: 0 }
    const lost: Array<string> = []
    const host: InboxHost = {
      memory,
      counters,
      onReadable: () => undefined,
      onLost: (channel, messageId) => void lost.push(`${channel}:${messageId}`),
      onCredit: () => undefined
    }
    const [a, b] = [new OrderedInbox(0, host, { maxLagMs: 100, holes: "skip" }), new LatestInbox(1, host)]
    const part = (inbox: Inbox, id: number, from: number, to: number) =>
      inbox.chunk(id, 180_000, from, patterned(id, 180_000), from, to, 0)
    part(a, 0, 0, 60_000)
    part(b, 0, 0, 60_000)
    expect(memory.usedBytes).toBe(2 * (blockBytes + messageOverheadBytes))
    // A third block fits, a fourth does not: the message on channel 0 is the oldest.
    part(b, 0, 60_000, 130_000)
    expect(counters.dropped).toBe(0)
    part(b, 0, 130_000, 180_000)
    expect(counters.dropped).toBe(1)
    expect(memory.usedBytes).toBe(180_000 + messageOverheadBytes)
    expect(a.deadlineMs).toBe(0)
    a.expire(0)
    expect(lost).toEqual(["0:0"])
    expect(b.read()?.complete).toBe(true)
    expect(memory.usedBytes).toBe(0)
  })

  it("gives up a message that is itself too much for it", () => {
    const receiving = latest(100_000).chunk(0, 180_000, 0, 60_000).chunk(0, 180_000, 60_000, 120_000)
    expect(receiving.counters.dropped).toBe(1)
    expect(receiving.memory.usedBytes).toBe(0)
  })

  it("drops what nobody reads when nothing incomplete is left", () => {
    const receiving = ordered("skip", 300_000)
    for (let id = 0; id < 10; id++) receiving.chunk(id, 60_000)
    expect(receiving.memory.usedBytes).toBeLessThanOrEqual(300_000)
    expect(receiving.read()).toEqual([6, 7, 8, 9])
    expect(receiving.said.filter(said => said.startsWith("lost")).length).toBe(6)
  })

  it("is kept to by random traffic on all kinds of channels", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = new SeededRandom(seed)
      const budget = 400_000
      const memory = new IncomingMemory(budget)
      const host: InboxHost = {
        memory,
        counters: { delivered: 0, late: 0, dropped: 0, superseded: 0 },
        onReadable: () => undefined,
        onLost: () => undefined,
        onCredit: () => undefined
      }
      const inboxes: ReadonlyArray<Inbox> = [
        new LatestInbox(0, host),
        new OrderedInbox(1, host, { maxLagMs: 50, holes: "skip" }),
        new OrderedInbox(2, host, { maxLagMs: 50, holes: "deliver" })
      ]
      for (let step = 0; step < 1_500; step++) {
        const id = Math.floor(step / 20) + random.below(5)
        const total = 1 + ((id * 7_919) % 150_000)
        const from = random.below(total)
        const to = Math.min(total, from + 1 + random.below(60_000))
        const bytes = new Uint8Array(to - from)
        const inbox = random.pick(inboxes)
        inbox.chunk(id, total, from, bytes, 0, bytes.length, step)
        if (inbox.deadlineMs <= step) inbox.expire(step)
        if (random.chance(10)) inbox.read(step)
        if (memory.usedBytes > budget) expect.fail(`${memory.usedBytes} bytes, seed ${seed}`)
      }
      for (const inbox of inboxes) {
        inbox.finish()
        while (inbox.read(0) !== undefined);
      }
      // What latest has not got whole is all that may be left.
      expect(memory.usedBytes).toBeLessThan(budget)
    }
  })
})
