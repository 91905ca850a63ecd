import { concat, utf8 } from "../../src/protocol/Bytes.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { FrameReader, type FrameHandler } from "../../src/protocol/sllp/Frames.ts"
import type { SllpChannelOptions } from "../../src/protocol/sllp/SllpAssociation.ts"
import { expectThat } from "./protocolFuzz.ts"
import type { SeededRandom } from "./protocolRandom.ts"
import { HostileEnd, rawFrames } from "./sllpHostile.ts"

const { ack, challenge, chunk, close, credit, drop, ping, response } = rawFrames

/** One frame of any kind, in range more often than not. */
const anyFrame = (random: SeededRandom): Uint8Array => {
  const total = 1 + random.below(random.chance(10) ? 3_000 : 300)
  const offset = random.below(total)
  const data = random.bytes(1 + random.below(Math.min(total - offset, 200)))
  return random.pick([
    () => chunk(random.below(random.chance(2) ? 5 : 3), random.below(12), total, offset, data),
    () => chunk(random.below(3), random.below(30), data.length, 0, data),
    () => ack(random.below(4), 0),
    () => ack(random.below(40), random.below(3), [1 + random.below(3), 1], [1, 1 + random.below(3)]),
    () => ping,
    () => challenge(random.bytes(8)),
    () => response(random.bytes(8)),
    () => drop(random.below(random.chance(2) ? 5 : 2), random.below(12)),
    () => credit(random.chance(2) ? 0 : 2, random.u32()),
    () => close(random.below(8), utf8("grund")),
    () => new Uint8Array(random.below(9))
  ])()
}

const manyFrames = (random: SeededRandom): Uint8Array =>
  concat(...Array.from({ length: 1 + random.below(5) }, () => anyFrame(random)))

/** What comes out of a datagram lies within it, whatever it says. */
export const framesRound = (random: SeededRandom): void => {
  const plain = random.mutate(manyFrames(random))
  const handler: FrameHandler = {
    onChunk: (channel, messageId, total, offset, bytes, from, to) => {
      expectThat(bytes === plain && from < to && to <= plain.length, "a chunk from outside")
      expectThat(offset + to - from <= total && channel < 2 ** 16 && messageId < 2 ** 32, "a chunk out of range")
    },
    onAck: ({ count, high, low }) => {
      for (let at = 0; at < count; at++) {
        const [from, to] = [low[at] ?? -1, high[at] ?? -1]
        expectThat(from >= 0, "a range below 0")
        expectThat(from <= to && (at === 0 || to < (low[at - 1] ?? 0) - 1), "ranges out of order")
      }
    },
    onClose: (code, reason) => expectThat(code < 2 ** 16 && utf8(reason).length <= 256, "a reason that is too long"),
    onPathChallenge: data => expectThat(data.length === 8, "a short challenge"),
    onPathResponse: data => expectThat(data.length === 8, "a short response"),
    onDrop: (channel, messageId) => expectThat(channel < 2 ** 16 && messageId < 2 ** 32, "a DROP out of range"),
    onCredit: (_, limit) => expectThat(Number.isSafeInteger(limit), "a credit that is no number")
  }
  new FrameReader().read(plain, handler)
}

const channels: ReadonlyArray<SllpChannelOptions> = [
  { mode: "latest", maxMessageBytes: 2_000 },
  { mode: "ordered", maxMessageBytes: 2_000, holes: "deliver" },
  { mode: "reliable", maxMessageBytes: 2_000 }
]
const budgetBytes = 20_000

/** A peer with the keys says anything in any order: the association ends with a reason or goes on, and keeps its bounds. */
export const datagramsRound = (random: SeededRandom): void => {
  const end = new HostileEnd(channels, { memoryBudgetBytes: budgetBytes })
  if (random.chance(80)) end.connect()
  for (let datagrams = 0; datagrams < 20; datagrams++) {
    const plain = manyFrames(random)
    end.say(random.chance(10) ? random.mutate(plain) : plain)
    if (random.chance(30)) end.victim.send(random.below(3), random.bytes(1 + random.below(2_000)), end.nowMs)
    if (random.chance(30)) end.wait(random.below(500))
    if (random.chance(5)) end.address = `somewhere ${random.below(3)}`
    if (random.chance(50)) {
      for (const channel of [0, 1, 2]) {
        const message = end.victim.read(channel, end.nowMs)
        if (message === undefined || message.complete) continue
        for (const { offset, bytes } of message.pieces)
          expectThat(offset + bytes.length <= message.total && bytes.length > 0, "a piece out of its message")
      }
    }
    expectThat(end.victim.statistics(end.nowMs).memoryBytes <= budgetBytes, "more memory than is allowed")
  }
  const { closed } = end
  if (closed === undefined) return
  expectThat(closed.by === "peer" || closed.code === "protocol" || closed.code === "limit", `closed as ${closed.code}`)
  throw new ProtocolError("MALFORMED", closed.reason)
}
