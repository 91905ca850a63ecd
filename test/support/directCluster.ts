import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { generateIdentity } from "../../src/identity.ts"
import { PeerNode } from "../../src/node/PeerNode.ts"
import { parseTensorHeader, tensorHeaderBytes, type TensorHeader } from "../../src/node/TensorHeader.ts"
import { viewStreams } from "../../src/node/GradientExchanger.ts"
import type { LocalIdentity } from "../../src/protocol/Identity.ts"
import type { MuxStream } from "../../src/protocol/MuxStream.ts"
import type { Session } from "../../src/transport/Session.ts"
import { Checkpoints } from "../../src/training/Checkpoint.ts"
import { coordinate } from "../../src/training/Coordinator.ts"
import type { JobEvent } from "../../src/training/JobEvent.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { work } from "../../src/training/Worker.ts"
import { loopback, pair, startNode } from "./nodes.ts"
import { alice } from "./vectors.ts"

/** Clusters of the direct exchange in this process: every worker a peer of its own, with real sockets on loopback. */

export type Overrides = ReadonlyArray<readonly [string, string]>

/** Says of each tensor that a worker is about to send whether it goes on its way; false: the worker dies instead. */
export type Fate = (header: TensorHeader) => boolean

/** What a worker sends in place of a tensor; what it is given must not be changed. */
export type Lie = (header: TensorHeader, data: Uint8Array) => Uint8Array

/** In the order of their PeerIDs, as views list them. */
export const identities: Promise<ReadonlyArray<LocalIdentity>> = Promise.all(
  Array.from({ length: 8 }, () => generateIdentity())
).then(all => all.toSorted((a, b) => (a.peerId < b.peerId ? -1 : 1)))

/** Has `fate` look at every tensor of a view that goes out on a stream; once it has said no, nothing goes out any more. */
const watched = (stream: MuxStream, fate: Fate, lie: Lie | undefined, died: () => void): MuxStream => {
  const send = stream.send.bind(stream)
  let dead = false
  stream.send = (type, parts, done, options) => {
    const [head, data] = parts
    const header = head?.length === tensorHeaderBytes ? parseTensorHeader(head) : undefined
    if (!dead && header !== undefined) dead = !fate(header)
    if (!dead && lie !== undefined && header !== undefined && head !== undefined && data !== undefined)
      return send(type, [head, lie(header, data)], done, options)
    if (!dead) return send(type, parts, done, options)
    died()
    return 0
  }
  return stream
}

export const directCluster = Effect.fnUntraced(function* (
  path: string,
  options: {
    readonly workers: number
    readonly set?: Overrides
    readonly onEvent?: (event: JobEvent) => void
    /** A folder for checkpoints. */
    readonly folder?: string
  }
) {
  const { workers, set = [], onEvent, folder } = options
  const jobUrl = TrainingJob.url(path)
  const job = yield* TrainingJob.load(path, { set })
  const known = yield* Effect.promise(() => identities)
  const host = yield* startNode({ identity: alice, listen: loopback })
  const checkpoints = folder === undefined ? undefined : yield* Checkpoints.make({ folder, keep: 3 })
  const events: Array<JobEvent> = []
  const coordinating = yield* coordinate({
    job,
    jobUrl,
    module: path,
    set,
    minWorkers: workers,
    checkpoints,
    onEvent: event =>
      Effect.sync(() => {
        events.push(event)
        onEvent?.(event)
      })
  }).pipe(Effect.provideService(PeerNode, host), Effect.forkScoped)

  /** Starts the worker with this place among the PeerIDs; `fate` may end it in the middle of what it sends, `lie` change that. */
  const startWorker = Effect.fnUntraced(function* (index: number, fate?: Fate, lie?: Lie) {
    const identity = known[index]
    if (identity === undefined) return yield* Effect.die(new Error("no such worker"))
    const scope = yield* Scope.make()
    const network = yield* Scope.make()
    // The network goes first, as for a process that is killed: nobody hears how the rest comes to its end.
    const kill = Effect.andThen(Scope.close(network, Exit.void), Scope.close(scope, Exit.void))
    yield* Effect.addFinalizer(() => kill)
    const died = yield* Deferred.make<void>()
    const node = yield* Scope.provide(startNode({ identity, listen: loopback }), network)
    yield* pair(host, node)
    const seen = new WeakSet<Session>()
    const watchedSession = (session: Session): Session => {
      if ((fate === undefined && lie === undefined) || seen.has(session)) return session
      seen.add(session)
      const open = session.openStream.bind(session)
      session.openStream = (streamClass, name) =>
        Effect.map(open(streamClass, name), stream =>
          name.startsWith(`${viewStreams}:`)
            ? watched(stream, fate ?? (() => true), lie, () => void Deferred.doneUnsafe(died, Effect.void))
            : stream
        )
      return session
    }
    const service: PeerNode["Service"] = {
      ...node,
      session: peer => {
        const session = node.session(peer)
        return session === undefined ? undefined : watchedSession(session)
      },
      connect: (peer, addresses) => Effect.map(node.connect(peer, addresses), watchedSession)
    }
    yield* work({
      connect: node.connect(alice.peerId),
      load: () => Effect.succeed({ job, jobUrl })
    }).pipe(Effect.provideService(PeerNode, service), Effect.forkIn(scope), Scope.provide(scope))
    yield* Effect.forkScoped(Effect.andThen(Deferred.await(died), kill))
    return { identity, kill, died }
  })

  return { coordinating, host, events, startWorker, finished: Fiber.join(coordinating) }
})
