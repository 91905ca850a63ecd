import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import { ComputeThread } from "../../src/compute/ComputeThread.ts"
import type { LaneNode } from "../../src/compute/LaneTree.ts"
import { bytesOf, gradientExchanger, Placement, sendTensor } from "../../src/node/GradientExchanger.ts"
import { PeerNode } from "../../src/node/PeerNode.ts"
import { jobIdBytes, tensorKinds, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { fromHex } from "../../src/protocol/Bytes.ts"
import type { Session } from "../../src/transport/Session.ts"
import { fingerprintOf, fingerprintSha256 } from "../../src/training/Fingerprint.ts"
import {
  CoordinatorProtocol,
  coordinatorService,
  WorkerProtocol,
  workerService
} from "../../src/training/JobProtocol.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { work } from "../../src/training/Worker.ts"
import { loopback, pair, startNode } from "../support/nodes.ts"
import { alice, bob } from "../support/vectors.ts"

const path = "test/fixtures/jobs/starClouds.ts"
const jobUrl = TrainingJob.url(path)

/** Lanes that make three nodes of the tree over eight. */
const lanes = [0, 1, 2, 4]
const nodes: ReadonlyArray<LaneNode> = [
  { from: 0, to: 2 },
  { from: 2, to: 3 },
  { from: 4, to: 5 }
]

/** Time in which a part that must not come would come: a lane takes a millisecond. */
const graceMs = 300

const shared = (length: number): Float32Array => new Float32Array(new SharedArrayBuffer(length * 4))

describe("A worker of the star that has lost its session", () => {
  it.live(
    "computes nothing before it has been given the state, each part once, and begins anew where the coordinator does",
    () =>
      Effect.gen(function* () {
        const job = yield* TrainingJob.load(path)
        const reference = yield* ComputeThread.make({ jobUrl, set: [] })
        yield* reference.initialise
        const { parameterCount } = reference.info
        const jobId = fromHex(fingerprintSha256(fingerprintOf(job, reference.info))).subarray(0, jobIdBytes)

        // A coordinator that does what this test says, step by step.
        const host = yield* startNode({ identity: alice, listen: loopback })
        const joins = yield* Queue.unbounded<void>()
        const answers = yield* Queue.unbounded<number>()
        const handlers = CoordinatorProtocol.toLayer({
          Describe: () => Effect.succeed({ name: job.name, module: path, set: [] }),
          Join: () =>
            Effect.andThen(
              Queue.offer(joins, undefined),
              Effect.map(Queue.take(answers), steps => ({ steps }))
            ),
          ReportNonFinite: () => Effect.void
        })
        yield* Effect.provide(host.serve(coordinatorService, CoordinatorProtocol), handlers)
        const parts = yield* Queue.unbounded<{ readonly header: TensorHeader; readonly value: Float32Array }>()
        const exchanger = yield* host.supervisor.spawn(
          "exchanger",
          gradientExchanger(host, jobId, header => {
            const value = new Float32Array(parameterCount)
            return new Placement(bytesOf(value), () => void Queue.offerUnsafe(parts, { header, value }))
          })
        )
        const send = (session: Session, kind: TensorHeader["kind"], step: number, bytes: Uint8Array, length: number) =>
          sendTensor(
            exchanger,
            session,
            {
              kind,
              job: jobId,
              term: 0,
              view: 1,
              step,
              lanes: { from: 0, to: 8 },
              segment: { from: 0, to: length },
              loss: 0
            },
            bytes
          )

        const node = yield* startNode({ identity: bob })
        yield* pair(host, node)
        yield* work({ connect: node.connect(alice.peerId), load: () => Effect.succeed({ job, jobUrl }) }).pipe(
          Effect.provideService(PeerNode, node),
          Effect.forkChild
        )

        /** Lets the worker in, with that many steps applied, and tells it its lanes. */
        const admit = Effect.fnUntraced(function* (steps: number, view: number) {
          yield* Queue.take(joins)
          yield* Queue.offer(answers, steps)
          const session = host.session(bob.peerId)
          if (session === undefined) return yield* Effect.die(new Error("no session"))
          const client = yield* host.client(session, workerService, WorkerProtocol)
          yield* client.AssignLanes({ view, base: steps, lanes })
          return session
        })
        /** The parts of a step, which must be those of the reference as it stands, and no others. */
        const expectParts = Effect.fnUntraced(function* (view: number, step: number) {
          const value = shared(parameterCount)
          for (const lanes of nodes) {
            const part = yield* Queue.take(parts)
            assert.deepStrictEqual(
              { view: part.header.view, step: part.header.step, lanes: part.header.lanes },
              { view, step, lanes }
            )
            yield* reference.computeNode({ epoch: 1, step: step - 1, ...lanes, output: value })
            assert.deepStrictEqual(part.value, new Float32Array(value), `lanes ${lanes.from} to ${lanes.to}`)
          }
        })

        const first = yield* admit(0, 1)
        yield* expectParts(1, 1)
        const gradient = shared(parameterCount).fill(0.5)
        yield* send(first, tensorKinds.reduced, 1, bytesOf(gradient), parameterCount)
        yield* reference.applyStep(gradient)
        yield* expectParts(1, 2)

        first.fail("INTERNAL", "the test ends this session")
        const second = yield* admit(1, 2)
        yield* Effect.sleep(graceMs)
        assert.strictEqual(yield* Queue.size(parts), 0)
        // Not what the worker holds, so that it shows from which parameters it computes.
        reference.parameters.fill(0.01)
        const state = new Uint8Array(reference.stateByteLength)
        reference.readState(state)
        yield* send(second, tensorKinds.state, 1, state, state.length)
        yield* expectParts(2, 2)
        assert.strictEqual(yield* Queue.size(parts), 0)

        second.fail("INTERNAL", "the test ends this session too")
        yield* admit(0, 1)
        yield* reference.initialise
        yield* expectParts(1, 1)
      })
  )
})
