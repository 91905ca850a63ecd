import { Deferred, Effect, Fiber, Semaphore, type Exit, type Scope } from "effect"
import { toHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { MessageChunk, MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes } from "../protocol/Records.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import {
  allocate,
  bytesOfShape,
  dtypeOf,
  TensorExpired,
  TensorNotTaken,
  TensorQuota,
  TensorTruncated,
  TensorUnknown,
  TensorWrongPeer,
  type PutError,
  type TakeError,
  type TensorArray,
  type TensorRef
} from "./TensorRef.ts"

/** What one peer may make this one hold. The same numbers hold back what this peer puts for one other. */
export interface TensorLimits {
  /**
   * Tensors put and not yet taken, each holding up to a stream's window (1 MiB). Default 8: half of the window that all bulk streams of a
   * session share, so that tensors nobody takes cannot stop a gradient.
   */
  readonly maxRefs: number
  /** Bytes of the arrays into which tensors are arriving. Default 1 GiB. */
  readonly maxBytes: number
  /** Milliseconds until a tensor that nobody takes is given up. Default 30 s. */
  readonly expiryMs: number
  /** Milliseconds that a taken tensor may need to arrive: size over the slowest line. Default 10 min. */
  readonly transferMs: number
}

export const defaultTensorLimits: TensorLimits = {
  maxRefs: 8,
  maxBytes: 1024 ** 3,
  expiryMs: 30_000,
  transferMs: 10 * 60_000
}

/** Refs that ran out are remembered, so many per session, to tell them from those that never were. */
const maxRemembered = 64

export interface PutTensor {
  readonly ref: TensorRef
  /** Done when the other side has the whole tensor; until then the array must not change. */
  readonly taken: Effect.Effect<void, PutError>
}

/**
 * Tensors by reference: the bytes go as raw data on a bulk stream, the RPC names them. Neither side copies more than once: from the array
 * to the socket, and from the record to its place in the final array.
 */
export interface Tensors {
  /**
   * Begins to send an array to a peer and returns what names it there. Waits, `expiryMs` at most, while `maxRefs` others are not taken.
   * `shape` defaults to the array's length.
   */
  readonly put: (
    array: TensorArray,
    peer: PeerId,
    options?: { readonly shape?: ReadonlyArray<number> }
  ) => Effect.Effect<PutTensor, SessionError | TensorQuota>
  /** The whole array of a ref that came from this peer (`RpcPeer.caller` in a handler). Interrupted, it gives the tensor up. */
  readonly take: (ref: TensorRef, peer: string) => Effect.Effect<TensorArray, TakeError>
}

/** What is known of one session's tensors. */
interface Arrivals {
  readonly waiting: Map<number, { readonly stream: MuxStream; readonly timer: Fiber.Fiber<void> }>
  readonly expired: Set<number>
}

/** Bytes of a ref's random id: stream ids begin anew in every session, so a late ref must not find another's stream. */
const idBytes = 8
const service = "ref"
const streamName = (id: string): string => `${service}:${id}`

export const makeTensors = Effect.fnUntraced(function* (options: {
  readonly limits: TensorLimits
  readonly self: PeerId
  readonly randomBytes: (length: number) => Uint8Array
  readonly reach: (peerId: PeerId) => Effect.Effect<Session, SessionError>
  readonly live: (peer: string) => Session | undefined
  readonly onBulk: (
    name: string,
    take: (stream: MuxStream, session: Session) => void
  ) => Effect.Effect<void, never, Scope.Scope>
}) {
  const { limits, self, randomBytes, reach, live, onBulk } = options
  const scope = yield* Effect.scope
  const services = yield* Effect.context<never>()
  const arrivals = new WeakMap<Session, Arrivals>()
  const places = new WeakMap<Session, Semaphore.Semaphore>()
  const arrivingBytes = new Map<string, number>()
  const after = (delayMs: number, then: () => void) =>
    Fiber.runIn(Effect.runForkWith(services)(Effect.delay(Effect.sync(then), delayMs)), scope)

  const arrivalsOf = (session: Session): Arrivals => {
    const known = arrivals.get(session) ?? { waiting: new Map(), expired: new Set() }
    arrivals.set(session, known)
    for (const [id, { stream, timer }] of known.waiting) {
      if (stream.closed === undefined) continue
      known.waiting.delete(id)
      timer.interruptUnsafe()
    }
    return known
  }

  yield* onBulk(service, (stream, session) => {
    const { waiting, expired } = arrivalsOf(session)
    if (waiting.size >= limits.maxRefs) return stream.reset("LIMIT", `${limits.maxRefs} tensors wait already`)
    const timer = after(limits.expiryMs, () => {
      if (!waiting.delete(stream.id)) return
      stream.reset("TIMEOUT", "nobody took the tensor")
      expired.add(stream.id)
      const [oldest] = expired
      if (expired.size > maxRemembered && oldest !== undefined) expired.delete(oldest)
    })
    waiting.set(stream.id, { stream, timer })
  })

  const put: Tensors["put"] = Effect.fnUntraced(function* (array, peer, { shape = [array.length] } = {}) {
    const dtype = dtypeOf(array)
    if (bytesOfShape(dtype, shape) !== array.byteLength)
      return yield* Effect.die(new RangeError(`${array.length} elements are no tensor of shape [${shape.join(", ")}]`))
    const session = yield* reach(peer)
    const id = toHex(randomBytes(idBytes))
    const place = places.get(session) ?? Semaphore.makeUnsafe(limits.maxRefs)
    places.set(session, place)
    const crowded = Effect.fail(new TensorQuota({ peer, of: "refs", limit: limits.maxRefs }))
    const taken = Deferred.makeUnsafe<void, PutError>()
    const stream = yield* Effect.uninterruptibleMask(restore =>
      Effect.flatMap(
        restore(Effect.timeoutOrElse(place.take(1), { duration: limits.expiryMs, orElse: () => crowded })),
        () => Effect.onError(session.openStream(streamClasses.bulk, streamName(id)), () => place.release(1))
      )
    )
    const ended = (result: Effect.Effect<void, PutError>): void => {
      if (!Deferred.doneUnsafe(taken, result)) return
      timer.interruptUnsafe()
      Effect.runFork(place.release(1))
    }
    const timer = after(limits.expiryMs + limits.transferMs, () => stream.reset("TIMEOUT", "the tensor took too long"))
    stream.receive({
      onChunk: () => session.fail("UNEXPECTED", "data on the sending side of a tensor stream"),
      onAck: () => {
        stream.finish()
        ended(Effect.void)
      },
      onClose: reason => ended(Effect.fail(notTaken(reason, peer, stream.id, limits)))
    })
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
    stream.send(recordTypes.rawData, [bytes], () => undefined, { ackRequested: true })
    const ref: TensorRef = { from: self, id, stream: stream.id, bytes: array.byteLength, dtype, shape }
    return { ref, taken: Deferred.await(taken) }
  })

  /** The stream of a ref, for this one taker. */
  const claim = (ref: TensorRef, peer: string): Effect.Effect<MuxStream, TakeError> =>
    Effect.suspend((): Effect.Effect<MuxStream, TakeError> => {
      if (ref.from !== peer) return Effect.fail(new TensorWrongPeer({ named: ref.from, peer }))
      const session = live(peer)
      const known = session === undefined ? undefined : arrivalsOf(session)
      const waiting = known?.waiting.get(ref.stream)
      if (known === undefined || waiting?.stream.name !== streamName(ref.id)) {
        const where = { peer, stream: ref.stream }
        return Effect.fail(known?.expired.has(ref.stream) ? new TensorExpired(where) : new TensorUnknown(where))
      }
      const { stream, timer } = waiting
      known.waiting.delete(ref.stream)
      timer.interruptUnsafe()
      const others = arrivingBytes.get(peer) ?? 0
      if (others + ref.bytes > limits.maxBytes) {
        stream.reset("LIMIT", `more than ${limits.maxBytes} bytes of tensors`)
        return Effect.fail(new TensorQuota({ peer, of: "bytes", limit: limits.maxBytes }))
      }
      arrivingBytes.set(peer, others + ref.bytes)
      return Effect.succeed(stream)
    })

  const release = (stream: MuxStream, exit: Exit.Exit<unknown, unknown>, peer: string, bytes: number) =>
    Effect.sync(() => {
      if (exit._tag === "Failure") stream.reset("NORMAL", "the taker gave up")
      const left = (arrivingBytes.get(peer) ?? 0) - bytes
      if (left > 0) arrivingBytes.set(peer, left)
      else arrivingBytes.delete(peer)
    })

  const take: Tensors["take"] = (ref, peer) =>
    Effect.acquireUseRelease(
      claim(ref, peer),
      stream =>
        Effect.timeoutOrElse(receive(stream, ref, peer), {
          duration: limits.transferMs,
          orElse: () => Effect.fail(new TensorExpired({ peer, stream: ref.stream }))
        }),
      (stream, exit) => release(stream, exit, peer, ref.bytes)
    )

  const tensors: Tensors = { put, take }
  return tensors
})

const receive = (stream: MuxStream, ref: TensorRef, peer: string): Effect.Effect<TensorArray, TensorTruncated> =>
  Effect.callback(resume => {
    const array = allocate(ref.dtype, ref.bytes)
    const target = new Uint8Array(array.buffer)
    let filled = 0
    const truncated = (receivedBytes: number, reason: string): void =>
      resume(
        Effect.fail(new TensorTruncated({ peer, stream: stream.id, expectedBytes: ref.bytes, receivedBytes, reason }))
      )
    const wrongSize = (bytes: number): void => {
      stream.reset("MALFORMED", "the stream and the ref differ in size")
      truncated(bytes, "the stream and the ref differ in size")
    }
    const onChunk = (chunk: MessageChunk): void => {
      if (chunk.type !== recordTypes.rawData || (chunk.first && filled > 0))
        throw new ProtocolError("UNEXPECTED", "more than one tensor on its stream")
      const { bytes, last, total } = chunk
      if (total !== undefined && total !== ref.bytes) return wrongSize(total)
      const end = filled + bytes.length
      if (end > ref.bytes || (last && end < ref.bytes)) return wrongSize(end)
      target.set(bytes, filled)
      filled = end
      stream.consumed(chunk)
      if (!last) return
      stream.acknowledge(chunk.messageId)
      stream.finish()
      resume(Effect.succeed(array))
    }
    stream.receive({
      onChunk,
      onEnd: () => (filled < ref.bytes ? wrongSize(filled) : undefined),
      onClose: reason => truncated(filled, reason.message)
    })
  })

const notTaken = (reason: ProtocolError, peer: string, stream: number, limits: TensorLimits): PutError => {
  switch (reason.code) {
    case "TIMEOUT":
      return new TensorExpired({ peer, stream })
    case "LIMIT":
      return new TensorQuota({ peer, of: "refs", limit: limits.maxRefs })
    default:
      return new TensorNotTaken({ peer, stream, reason: reason.message })
  }
}
