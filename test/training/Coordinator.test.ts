import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Queue } from "effect"
import { ComputeThread } from "../../src/compute/ComputeThread.ts"
import { bytesOf, gradientExchanger, sendTensor } from "../../src/node/GradientExchanger.ts"
import { PeerNode } from "../../src/node/PeerNode.ts"
import { jobIdBytes, tensorKinds } from "../../src/node/TensorHeader.ts"
import { fromHex } from "../../src/protocol/Bytes.ts"
import type { LocalIdentity } from "../../src/protocol/Identity.ts"
import { coordinate } from "../../src/training/Coordinator.ts"
import { fingerprintOf, fingerprintSha256 } from "../../src/training/Fingerprint.ts"
import type { JobEvent } from "../../src/training/JobEvent.ts"
import {
  CoordinatorProtocol,
  coordinatorService,
  WorkerProtocol,
  workerService
} from "../../src/training/JobProtocol.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { work } from "../../src/training/Worker.ts"
import { loopback, pair, startNode } from "../support/nodes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { trainedAlone } from "../support/systemReference.ts"
import { alice, bob } from "../support/vectors.ts"

const path = "test/fixtures/jobs/starClouds.ts"
const jobUrl = TrainingJob.url(path)
type Set = ReadonlyArray<readonly [string, string]>

/** Whose PeerID comes first gets the first lanes, is a spare where there are too few, and evaluates. */
const [first, second] = [bob, mallory].toSorted((a, b) => (a.peerId < b.peerId ? -1 : 1))
if (first === undefined || second === undefined) throw new Error("two identities are needed")

interface Manners {
  /** What the rogue does when it is told its lanes. */
  readonly onView?: (rogue: Rogue, view: number, base: number, lanes: ReadonlyArray<number>) => Effect.Effect<void>
  readonly evaluate?: Effect.Effect<{ count: number; lossSum: number; metricSums: Record<string, number> }>
}

interface Rogue {
  readonly send: (
    view: number,
    step: number,
    lanes: { from: number; to: number },
    elements: number
  ) => Effect.Effect<void>
  readonly ended: Effect.Effect<string>
}

/** A cluster of a coordinator, an honest worker, and a rogue: paired, with the right job, and with manners of its own. */
const withRogue = (rogueIdentity: LocalIdentity, set: Set, manners: Manners) =>
  Effect.gen(function* () {
    const honestIdentity = rogueIdentity === first ? second : first
    const job = yield* TrainingJob.load(path, { set })
    const compute = yield* ComputeThread.make({ jobUrl, set })
    const initialWeightsSha256 = yield* compute.initialise
    const fingerprint = fingerprintOf(job, compute.info)
    const jobId = fromHex(fingerprintSha256(fingerprint)).subarray(0, jobIdBytes)

    const host = yield* startNode({ identity: alice, listen: loopback })
    const events: Array<JobEvent> = []
    const coordinating = yield* coordinate({
      job,
      jobUrl,
      module: path,
      set,
      minWorkers: 2,
      onEvent: event => Effect.sync(() => void events.push(event))
    }).pipe(Effect.provideService(PeerNode, host), Effect.forkChild)

    const honest = yield* startNode({ identity: honestIdentity })
    yield* pair(host, honest)
    yield* work({
      connect: honest.connect(alice.peerId),
      load: () => Effect.succeed({ job, jobUrl })
    }).pipe(Effect.provideService(PeerNode, honest), Effect.forkChild)

    const node = yield* startNode({ identity: rogueIdentity })
    yield* pair(host, node)
    const session = yield* node.connect(alice.peerId)
    const exchanger = yield* node.supervisor.spawn(
      "exchanger",
      gradientExchanger(node, jobId, () => undefined)
    )
    const zeros = new Float32Array(compute.info.parameterCount)
    const rogue: Rogue = {
      send: (view, step, lanes, elements) =>
        Effect.ignore(
          sendTensor(
            exchanger,
            session,
            {
              kind: tensorKinds.partial,
              job: jobId,
              term: 0,
              view,
              step,
              lanes,
              segment: { from: 0, to: elements },
              loss: 0
            },
            bytesOf(zeros.subarray(0, elements))
          )
        ),
      ended: Effect.map(Deferred.await(session.closed), ({ code }) => code)
    }
    const views = yield* Queue.unbounded<readonly [number, number, ReadonlyArray<number>]>()
    const handlers = WorkerProtocol.toLayer({
      AssignLanes: ({ view, base, lanes }) => Effect.asVoid(Queue.offer(views, [view, base, lanes])),
      Evaluate: () => manners.evaluate ?? Effect.never,
      Finish: () => Effect.succeed({ weightsSha256: "0".repeat(64), sentBytes: 0 }),
      Stop: () => Effect.void
    })
    yield* Effect.provide(node.serve(workerService, WorkerProtocol), handlers)
    const client = yield* node.client(session, coordinatorService, CoordinatorProtocol)
    yield* client.Join({ fingerprint, initialWeightsSha256, term: 0 })
    const [view, base, lanes] = yield* Queue.take(views)
    if (manners.onView !== undefined) yield* manners.onView(rogue, view, base, lanes)

    const finished = yield* Fiber.join(coordinating)
    const lost = events.flatMap(event => (event.event === "member-lost" ? [event] : []))
    return { finished, lost, events, rogue, lanes }
  })

const oneEpoch: Set = [["epochs", "1"]]
const oneLane: Set = [...oneEpoch, ["lanes", "1"], ["microBatch", "64"]]
const alone = (set: Set) => Effect.promise(() => trainedAlone(path, set))

describe("A member of the star that breaks the rules loses its session, and the job ends with the right weights, where it", () => {
  it.live.each([
    { sends: "a part that another member owes", lanes: { from: 4, to: 8 }, elements: 1408, code: "UNEXPECTED" },
    { sends: "less than the whole of its part", lanes: { from: 0, to: 2 }, elements: 1408, code: "UNEXPECTED" },
    { sends: "a part of the gradient", lanes: { from: 0, to: 4 }, elements: 1000, code: "MALFORMED" }
  ])("sends $sends", ({ lanes, elements, code }) =>
    Effect.gen(function* () {
      const { finished, lost, rogue } = yield* withRogue(first, oneEpoch, {
        onView: (rogue, view, base) => rogue.send(view, base + 1, lanes, elements)
      })
      assert.strictEqual(yield* rogue.ended, code)
      assert.deepStrictEqual(
        lost.map(({ peer }) => peer),
        [first.peerId]
      )
      assert.include(lost[0]?.reason, code)
      assert.strictEqual(finished.weightsSha256, (yield* alone(oneEpoch)).weightsSha256)
      assert.deepStrictEqual(finished.shards, { expected: 320, counted: 320 })
      assert.strictEqual(finished.members, 1)
    })
  )
})

describe("A coordinator of the star", () => {
  it.live("lets a part of an old view or of another step pass unread", () =>
    Effect.gen(function* () {
      const { finished, lost } = yield* withRogue(first, oneLane, {
        evaluate: Effect.succeed({ count: 500, lossSum: 250, metricSums: { accuracy: 400 } }),
        onView: (rogue, view, base) =>
          Effect.andThen(
            rogue.send(view + 1, base + 1, { from: 0, to: 1 }, 1408),
            rogue.send(view, base + 1_000, { from: 0, to: 1 }, 1408)
          )
      })
      assert.strictEqual(finished.weightsSha256, (yield* alone(oneLane)).weightsSha256)
      assert.deepStrictEqual(
        lost.map(({ reason }) => reason),
        [`its weights differ: ${"0".repeat(64)}`]
      )
    })
  )

  it.live("reports a member whose final weights differ, and does not count it", () =>
    Effect.gen(function* () {
      const { finished, lost, lanes, events } = yield* withRogue(first, oneLane, {
        evaluate: Effect.succeed({ count: 500, lossSum: 250, metricSums: { accuracy: 400 } })
      })
      // It is a spare: it has had no part in the sums.
      assert.deepStrictEqual(lanes, [])
      assert.deepStrictEqual(
        lost.map(({ peer, reason }) => [peer, reason]),
        [[first.peerId, `its weights differ: ${"0".repeat(64)}`]]
      )
      assert.strictEqual(finished.members, 1)
      assert.strictEqual(finished.testLoss, 0.5)
      assert.strictEqual(finished.testAccuracy, 0.8)
      assert.deepStrictEqual(events.at(-1), finished)
    })
  )

  it.live.each([
    { what: "crashes", evaluate: Effect.die(new Error("no mind to")), says: /could not evaluate.*no mind to/ },
    { what: "is interrupted there", evaluate: Effect.interrupt, says: /could not evaluate/ }
  ])("has another member evaluate where one $what, and loses no more than that one", ({ evaluate, says }) =>
    Effect.gen(function* () {
      const { finished, lost } = yield* withRogue(first, oneLane, { evaluate })
      assert.deepStrictEqual(
        lost.map(({ peer }) => peer),
        [first.peerId]
      )
      assert.match(lost[0]?.reason ?? "", says)
      assert.isAbove(finished.testAccuracy ?? 0, 0.5)
      assert.strictEqual(finished.weightsSha256, (yield* alone(oneLane)).weightsSha256)
    })
  )
})
