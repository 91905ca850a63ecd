/**
 * Artifice without Effect: peers, calls and jobs as Promises and async iterables. Protocols are the same as everywhere else, so a peer that
 * is written with this talks to one that is not.
 *
 * ```ts
 * import { Rpc, RpcGroup, Schema, startPeer } from "artifice/promise"
 *
 * const Hello = RpcGroup.make(Rpc.make("Greet", { payload: { name: Schema.String }, success: Schema.String }))
 *
 * await using host = await startPeer({ listen: "127.0.0.1:0" })
 * await host.serve("hello", Hello, { Greet: async ({ name }) => `hello ${name}` })
 * const { token } = await host.invite()
 *
 * await using guest = await startPeer()
 * const hostId = await guest.join(token)
 * console.log(await guest.client(hostId, "hello", Hello).Greet({ name: "world" }))
 * ```
 */
import { Effect, Exit, Layer, ManagedRuntime, Redacted, Schema, Scope, Stream } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { clientOf } from "./actor/ActorClient.ts"
import { PeerNode, type PeerNodeOptions } from "./node/PeerNode.ts"
import type { SllpClosed, SllpLink } from "./node/SllpLink.ts"
import type { SllpOpenOptions, SllpServeOptions } from "./node/SllpStreams.ts"
import type { PutTensor } from "./node/TensorExchange.ts"
import type { TensorArray, TensorRef } from "./node/TensorRef.ts"
import { generateIdentity, isPeerId, type PeerId } from "./protocol/Identity.ts"
import * as RpcPeer from "./rpc/RpcPeer.ts"
import type { SllpCloseName, SllpMessage, SllpStatistics } from "./protocol/sllp/SllpAssociation.ts"
import { openHome } from "./store/Home.ts"
import { PeerStore } from "./store/PeerStore.ts"
import { coordinate } from "./training/Coordinator.ts"
import type { FinishedEvent, JobEvent } from "./training/JobEvent.ts"
import { TrainingJob } from "./training/TrainingJob.ts"
import { work } from "./training/Worker.ts"
import { Cryptography } from "./transport/Cryptography.ts"
import { formatAddress, parseAddress } from "./transport/Network.ts"
import * as NetworkTcp from "./transport/NetworkTcp.ts"

export { Rpc, RpcGroup, Schema }
export { TensorRef } from "./node/TensorRef.ts"
export { SllpClosed, SllpRefused } from "./node/SllpLink.ts"
export type { SllpOpenOptions, SllpServeOptions } from "./node/SllpStreams.ts"
export type { PeerId } from "./protocol/Identity.ts"
export { zeroFilled, type SllpMessage, type SllpStatistics } from "./protocol/sllp/SllpAssociation.ts"
export type { FinishedEvent, JobEvent } from "./training/JobEvent.ts"

export interface StartOptions extends Pick<PeerNodeOptions, "parameters" | "suites" | "tensors"> {
  /** Where to listen, `host:port`; port 0 lets the system choose. Absent: this peer only dials. */
  readonly listen?: string
  /** Folder that keeps this peer's identity and the peers it is paired with, encrypted. Absent: both last as long as the peer. */
  readonly home?: string
  /** Protects the home. Absent: its key is a file in it, and a home that has a passphrase is refused. */
  readonly passphrase?: string
}

/** What a handler is told beside its payload. */
export interface CallContext {
  /** The id of the peer that calls, as its session proved it. */
  readonly peer: string
  /** Aborted when the caller gives up or its session is lost. */
  readonly signal: AbortSignal
}

type Reply<R> =
  Rpc.Success<R> extends Stream.Stream<infer A, infer _E, infer _R>
    ? AsyncIterable<A>
    : Rpc.Success<R> | Promise<Rpc.Success<R>>

/**
 * One function per rpc; of a streaming one it returns an async iterable. To throw an error that the protocol declares fails the call with
 * it at the caller; anything else is a defect of that call.
 */
export type Handlers<Rpcs extends Rpc.Any> = {
  readonly [Current in Rpcs as Current["_tag"]]: (payload: Rpc.Payload<Current>, context: CallContext) => Reply<Current>
}

export interface CallOptions {
  /** Gives the call up; its handler is told. */
  readonly signal?: AbortSignal
}

/** One function per rpc. Promises reject, and iterables throw, with the protocol's errors or with a `RemoteActorError`. */
export type Client<Rpcs extends Rpc.Any> = {
  readonly [Current in Rpcs as Current["_tag"]]: Rpc.Success<Current> extends Stream.Stream<infer A, infer _E, infer _R>
    ? (payload: Rpc.PayloadConstructor<Current>) => AsyncIterable<A>
    : (payload: Rpc.PayloadConstructor<Current>, options?: CallOptions) => Promise<Rpc.Success<Current>>
}

export interface CoordinateOptions {
  /** Path of the job's module. */
  readonly job: string
  /** Options of the job to replace, as on the command line: `[["epochs", "1"]]`. */
  readonly set?: ReadonlyArray<readonly [path: string, text: string]>
  /** Workers to wait for. Default 1. */
  readonly minWorkers?: number
  readonly onEvent?: (event: JobEvent) => void
  readonly signal?: AbortSignal
}

export interface WorkOptions {
  /** Path of this machine's module of the job. */
  readonly job: string
  /** A coordinator's token, or the id of one that is paired already. */
  readonly coordinator: { readonly token: string } | { readonly peer: PeerId }
  readonly signal?: AbortSignal
}

/** One end of an SLLP association; see `SllpLink`. Promises reject, and iterables throw, with `SllpClosed` once it is over. */
export interface Sllp {
  readonly peer: PeerId
  readonly send: (channel: number, message: Uint8Array | ReadonlyArray<Uint8Array>) => Promise<void>
  /** The messages of a channel, until the association is closed with `normal`. */
  readonly messages: (channel: number) => AsyncIterable<SllpMessage>
  /** Everything handed over has left, and, on reliable channels, has arrived. */
  readonly flush: () => Promise<void>
  readonly statistics: () => SllpStatistics
  /** What was not flushed is lost. */
  readonly close: (code?: SllpCloseName, reason?: string) => void
  readonly closed: Promise<SllpClosed>
}

export interface Peer extends AsyncDisposable {
  readonly id: PeerId
  /** Where it listens, `host:port`. */
  readonly address: string | undefined
  /** A one-time token by which another machine pairs with this one. */
  readonly invite: (options?: {
    readonly name?: string
    readonly ttlMs?: number
    readonly addresses?: ReadonlyArray<string>
  }) => Promise<{ readonly token: string; readonly expiresAt: number }>
  /** Pairs with the peer that made the token; gives its id. */
  readonly join: (token: string) => Promise<PeerId>
  /** Makes sure that there is a session with a paired peer. Calls do so by themselves. */
  readonly connect: (peer: PeerId, addresses?: ReadonlyArray<string>) => Promise<void>
  /** Answers calls under a name, until the function that it gives is called. */
  readonly serve: <Rpcs extends Rpc.Any>(
    name: string,
    protocol: RpcGroup.RpcGroup<Rpcs>,
    handlers: NoInfer<Handlers<Rpcs>>,
    options?: {
      readonly authorize?: ReadonlyArray<string> | ((peer: string, rpc: string) => boolean | Promise<boolean>)
    }
  ) => Promise<() => Promise<void>>
  /** Calls what a peer serves under a name. It survives lost sessions; a call in flight then rejects with `PeerLost`. */
  readonly client: <Rpcs extends Rpc.Any>(peer: PeerId, name: string, protocol: RpcGroup.RpcGroup<Rpcs>) => Client<Rpcs>
  /** Sends a tensor beside the calls; the ref goes into one. Do not change the array before `taken`. */
  readonly putTensor: (
    array: TensorArray,
    peer: PeerId,
    options?: { readonly shape?: ReadonlyArray<number> }
  ) => Promise<{ readonly ref: TensorRef; readonly taken: Promise<void> }>
  readonly takeTensor: (ref: TensorRef, peer: string) => Promise<TensorArray>
  /** Opens an association over UDP to what a paired peer serves under a name. It ends by `close`. */
  readonly openSllp: (peer: PeerId, name: string, options: SllpOpenOptions) => Promise<Sllp>
  /** Takes the associations that peers open under a name, until the function that it gives is called. Each ends when `handle` does. */
  readonly serveSllp: (
    name: string,
    handle: (sllp: Sllp) => Promise<void>,
    options?: SllpServeOptions
  ) => Promise<() => Promise<void>>
  /** Coordinates a training job until its last step. */
  readonly coordinate: (options: CoordinateOptions) => Promise<FinishedEvent>
  /** Works on a coordinator's job until it is done. */
  readonly work: (options: WorkOptions) => Promise<{ readonly steps: number }>
  /** Ends all sessions and everything that was started here. */
  readonly close: () => Promise<void>
}

/**
 * Starts a peer. Rejects with `SessionError` where it cannot listen, with `StoreError` where its home cannot be opened: another process has it, the
 * passphrase is wrong, a file is damaged.
 */
export const startPeer = async (options: StartOptions = {}): Promise<Peer> => {
  const { listen, home, passphrase, ...rest } = options
  const address = listen === undefined ? undefined : parseAddress(listen)
  if (listen !== undefined && address === undefined) throw new TypeError(`"${listen}" is no address: give host:port`)
  const node = Effect.map(whoWeAre(home, passphrase), ({ identity, store }) =>
    PeerNode.layer({ ...rest, identity, ...(address === undefined ? {} : { listen: address }) }).pipe(
      Layer.provide(Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, store))
    )
  )
  const runtime = ManagedRuntime.make(Layer.unwrap(node))
  try {
    return peerOf(await runtime.runPromise(PeerNode), runtime)
  } catch (error) {
    await runtime.dispose()
    throw error
  }
}

const whoWeAre = Effect.fnUntraced(function* (home: string | undefined, passphrase: string | undefined) {
  if (home === undefined) return { identity: yield* Effect.promise(generateIdentity), store: PeerStore.memory }
  const { identity, peers } = yield* openHome(
    home,
    passphrase === undefined ? {} : { passphrase: Redacted.make(passphrase) }
  )
  return { identity, store: Layer.succeed(PeerStore, peers) }
})

const peerOf = (node: PeerNode["Service"], runtime: ManagedRuntime.ManagedRuntime<PeerNode, unknown>): Peer => {
  const run = <A, E>(effect: Effect.Effect<A, E, PeerNode>, signal?: AbortSignal): Promise<A> =>
    runtime.runPromise(effect, signal === undefined ? {} : { signal })

  const peer: Omit<Peer, typeof Symbol.asyncDispose> = {
    id: node.identity.peerId,
    get address() {
      return node.address === undefined ? undefined : formatAddress(node.address)
    },
    invite: ({ name = "", ...options } = {}) => run(node.invite({ name, ...options })),
    join: token => run(Effect.map(node.join(token), session => session.peer.peerId)),
    connect: (peer, addresses) => run(Effect.asVoid(node.connect(peer, addresses))),
    serve: async (name, protocol, handlers, { authorize } = {}) => {
      const scope = Scope.makeUnsafe()
      const allows =
        typeof authorize === "function"
          ? (caller: { readonly peer: string }, rpc: string) => Effect.promise(async () => authorize(caller.peer, rpc))
          : authorize
      const serving = node
        .serve(name, protocol, allows === undefined ? {} : { authorize: allows })
        .pipe(Effect.provide(handlersOf(protocol, handlers)), Scope.provide(scope))
      // A protocol that needs services of its own is one for users of Effect.
      await run(serving as Effect.Effect<void>)
      return () => Effect.runPromise(Scope.close(scope, Exit.void))
    },
    client: (peer, name, protocol) => clientFor(node, run, peer, name, protocol),
    putTensor: async (array, peer, options) => {
      const { ref, taken } = await run<PutTensor, unknown>(node.tensors.put(array, peer, options))
      const done = run(taken)
      // Whoever does not wait for it must not be ended by it.
      done.catch(() => undefined)
      return { ref, taken: done }
    },
    takeTensor: (ref, peer) => run(node.tensors.take(ref, peer)),
    openSllp: async (peer, name, options) =>
      sllpOf(await run(Scope.provide(node.sllp.open(peer, name, options), Scope.makeUnsafe()))),
    serveSllp: async (name, handle, options) => {
      const scope = Scope.makeUnsafe()
      const take = (link: SllpLink) => Effect.tryPromise({ try: () => handle(sllpOf(link)), catch: error => error })
      await run(Scope.provide(node.sllp.serve(name, take, options), scope))
      return () => Effect.runPromise(Scope.close(scope, Exit.void))
    },
    coordinate: ({ job: path, set = [], minWorkers = 1, onEvent, signal }) =>
      run(
        Effect.gen(function* () {
          const job = yield* TrainingJob.load(path, { set })
          const members = new Set<string>()
          const tell = (event: JobEvent) =>
            Effect.sync(() => {
              if (event.event === "member-joined") members.add(event.peer)
              onEvent?.(event)
            })
          const jobUrl = TrainingJob.url(path)
          const finished = yield* coordinate({ job, jobUrl, module: "", set, minWorkers, onEvent: tell })
          // A worker's part is over when its session with the coordinator is.
          for (const member of members)
            if (isPeerId(member)) yield* node.session(member)?.close("NORMAL", "the job is done") ?? Effect.void
          return finished
        }).pipe(Effect.scoped),
        signal
      ),
    work: ({ job: path, coordinator, signal }) =>
      run(
        work({
          connect: "token" in coordinator ? node.join(coordinator.token) : node.connect(coordinator.peer),
          load: ({ set }) =>
            Effect.map(TrainingJob.load(path, { set }), job => ({ job, jobUrl: TrainingJob.url(path) }))
        }).pipe(Effect.scoped),
        signal
      ),
    close: () => runtime.dispose()
  }
  return Object.assign(peer, { [Symbol.asyncDispose]: peer.close })
}

const sllpOf = (link: SllpLink): Sllp => ({
  peer: link.peer,
  send: (channel, message) => Effect.runPromise(link.send(channel, message)),
  messages: channel => Stream.toAsyncIterable(link.messages(channel)),
  flush: () => Effect.runPromise(link.flush),
  statistics: () => Effect.runSync(link.statistics),
  close: (code = "normal", reason = "closed") => Effect.runSync(link.close(code, reason)),
  closed: Effect.runPromise(link.closed)
})

type AnyHandler = (payload: unknown, context: CallContext) => unknown

/** A thrown value as what it is to the caller: an error that the protocol declares, or a defect. */
const thrown = ({ errorSchema, successSchema }: Rpc.AnyWithProps) => {
  const streamErrors = RpcSchema.isStreamSchema(successSchema) ? [successSchema.error] : []
  const declared = Schema.is(Schema.Union([errorSchema, ...streamErrors]))
  return (error: unknown): Effect.Effect<never, unknown> => (declared(error) ? Effect.fail(error) : Effect.die(error))
}

const handlersOf = <Rpcs extends Rpc.Any>(protocol: RpcGroup.RpcGroup<Rpcs>, handlers: Handlers<Rpcs>) => {
  const given: Readonly<Record<string, unknown>> = handlers
  const effects: Record<string, (payload: unknown) => unknown> = {}
  for (const [tag, rpc] of protocol.requests) {
    const handler = given[tag]
    if (!Rpc.isRpc(rpc) || typeof handler !== "function") throw new TypeError(`there is no handler for ${tag}`)
    const call: AnyHandler = (payload, context) => Reflect.apply(handler, handlers, [payload, context])
    const fail = thrown(rpc)
    const isStream = RpcSchema.isStreamSchema(rpc.successSchema)
    effects[tag] = payload => (isStream ? streamFrom(call, payload, fail) : promiseFrom(call, payload, fail))
  }
  // Checked core: `Handlers<Rpcs>` proved every function against its rpc.
  return protocol.toLayer(effects as never) as Layer.Layer<Rpc.ToHandler<Rpcs>>
}

const promiseFrom = (call: AnyHandler, payload: unknown, fail: ReturnType<typeof thrown>) =>
  Effect.flatMap(RpcPeer.caller, ({ peer }) =>
    Effect.tryPromise({ try: async signal => call(payload, { peer, signal }), catch: error => ({ error }) }).pipe(
      Effect.catch(({ error }) => fail(error))
    )
  )

const streamFrom = (call: AnyHandler, payload: unknown, fail: ReturnType<typeof thrown>) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const { peer } = yield* RpcPeer.caller
      const gone = new AbortController()
      yield* Effect.addFinalizer(() => Effect.sync(() => gone.abort()))
      // Inside an async generator, so that a handler that throws before its first element throws like any later one.
      const elements = (async function* () {
        const reply = await call(payload, { peer, signal: gone.signal })
        if (!isAsyncIterable(reply)) throw new TypeError("the handler of a streaming rpc must return an async iterable")
        yield* reply
      })()
      return Stream.fromAsyncIterable(elements, error => ({ error })).pipe(
        Stream.catch(({ error }) => Stream.fromEffect(fail(error)))
      )
    })
  )

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === "object" && value !== null && Symbol.asyncIterator in value

const clientFor = <Rpcs extends Rpc.Any>(
  node: PeerNode["Service"],
  run: <A, E>(effect: Effect.Effect<A, E, PeerNode>, signal?: AbortSignal) => Promise<A>,
  peer: PeerId,
  name: string,
  protocol: RpcGroup.RpcGroup<Rpcs>
): Client<Rpcs> => {
  const { ask } = node.actor(peer, name, protocol)
  const call = ask as unknown as (tag: string, payload: unknown) => Effect.Effect<unknown, unknown>
  const methods = clientOf(protocol, (rpc, input) =>
    Effect.suspend(() => call(rpc._tag, rpc.payloadSchema.make(input)))
  )
  const client = Object.fromEntries(
    Object.entries(methods).map(([tag, method]) => [
      tag,
      (payload: unknown, options?: CallOptions) => {
        const reply = method(payload)
        return Stream.isStream(reply)
          ? Stream.toAsyncIterable(reply as Stream.Stream<unknown, unknown>)
          : run(reply as Effect.Effect<unknown, unknown>, options?.signal)
      }
    ])
  )
  // Checked core: the names and types of the methods are those of the protocol's rpcs.
  return client as unknown as Client<Rpcs>
}
