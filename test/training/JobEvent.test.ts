import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { JobEvent, JobEventLine } from "../../src/training/JobEvent.ts"

const peer = "0f".repeat(32)
const finished = {
  event: "finished",
  job: "mnist",
  epochs: 3,
  steps: 702,
  members: 2,
  seconds: 12.5,
  examplesPerSecond: 14_000,
  trainLoss: 0.1,
  testLoss: 0.2,
  testAccuracy: 0.97,
  weightsSha256: "ab".repeat(32),
  shards: { expected: 5616, counted: 5616 }
}

const examples: ReadonlyArray<{ readonly event: string; readonly [field: string]: unknown }> = [
  { event: "process", role: "worker", pid: 12, peer },
  { event: "listening", peer, address: "127.0.0.1:7000" },
  { event: "listening", peer, address: "127.0.0.1:7000", dashboard: "http://127.0.0.1:7001/" },
  {
    event: "invite",
    token: "artf1.x",
    expiresAt: "2026-11-23T00:00:00.000Z",
    command: "artifice worker --join artf1.x"
  },
  { event: "member-joined", peer, members: 1 },
  { event: "member-lost", peer, members: 0, reason: "session closed" },
  { event: "view", view: 1, members: [{ peer, lanes: [0, 1], segment: [0, 100] }], lanes: 2 },
  { event: "step", epoch: 1, step: 1, steps: 702, loss: 2.3, examplesPerSecond: 9000, members: 2 },
  { event: "epoch", epoch: 1, trainLoss: 0.4, testLoss: 0.3, testAccuracy: 0.9 },
  { event: "resumed", step: 0 },
  { event: "resumed", step: 3, path: "/c/term-1-step-3.json" },
  { event: "checkpoint", step: 3, path: "/c/term-1-step-3.json" },
  { event: "checkpoint-failed", step: 3, reason: "DiskFull", message: "m", hint: "h" },
  { event: "checkpoint-skipped", path: "/c/term-1-step-3.json", reason: "torn" },
  finished,
  { event: "error", code: "NOT_PAIRED", message: "m", hint: "h" },
  { event: "left-out", step: 1, peer, lane: 3 }
]

const decode = Schema.decodeUnknownOption(JobEvent)

describe("a job's event", () => {
  it.each(examples)("$event reads back as it was printed", example => {
    const line = JSON.stringify({ ...example, at: "2026-11-23T00:00:00.000Z" })
    assert.deepEqual(Option.getOrThrow(Schema.decodeUnknownOption(JobEventLine)(line)), example)
  })

  it("may carry fields that this version does not know", () => {
    assert.isTrue(Option.isSome(decode({ ...finished, extra: { of: "later" } })))
  })

  it.each([
    { why: "an unknown event", value: { event: "unheard-of", path: "x", step: 1 } },
    { why: "a peer that is not 64 lower-case hex digits", value: { event: "member-joined", peer: "AB", members: 1 } },
    { why: "a step counted from 0", value: { ...examples[7], step: 0 } },
    { why: "a loss that is no number", value: { ...examples[7], loss: null } },
    { why: "an accuracy in percent", value: { ...examples[8], testAccuracy: 97 } },
    {
      why: "a code that is not SCREAMING_SNAKE",
      value: { event: "error", code: "notPaired", message: "m", hint: "h" }
    },
    { why: "a missing shard count", value: { ...finished, shards: { expected: 1 } } }
  ])("refuses $why", ({ value }) => {
    assert.isTrue(Option.isNone(decode(value)))
  })
})
