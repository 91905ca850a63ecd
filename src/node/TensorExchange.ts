import { Deferred, Effect, Fiber, Semaphore, type Scope } from "effect"
import { toHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import type { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes } from "../protocol/Records.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { SpareMemory } from "./SpareMemory.ts"
import { TensorArrival } from "./TensorArrival.ts"
import {
  bytesOfShape,
  dtypeOf,
  TensorExpired,
  TensorNotTaken,
  TensorQuota,
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
   * Tensors put and not yet taken, each of which may fill a stream's window (1 MiB). Default 8: half of the window that all bulk streams of
   * a session share, so that tensors nobody takes cannot stop a gradient.
   */
  readonly maxRefs: number
  /** Bytes of the arrays into which tensors arrive. Default 1 GiB. */
  readonly maxBytes: number
  /** Bytes that may arrive before anyone asks for them; the rest of a larger tensor waits for its `take`. Default 64 MiB. */
  readonly maxBytesAhead: number
  /** Milliseconds until a tensor that nobody takes is given up. Default 30 s. */
  readonly expiryMs: number
  /** Milliseconds that a taken tensor may need to arrive: size over the slowest line. Default 10 min. */
  readonly transferMs: number
}

export const defaultTensorLimits: TensorLimits = {
  maxRefs: 8,
  maxBytes: 1024 ** 3,
  maxBytesAhead: 64 * 1024 ** 2,
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
  /**
   * Gives the memory of an array that is no longer needed to the tensors that come next; the array is then empty, in whatever view. Worth
   * it where large tensors of the same size are taken again and again. At most `maxBytesAhead` are kept.
   */
  readonly reuse: (array: TensorArray) => void
}

/** What is known of one session's tensors. */
interface Arrivals {
  readonly waiting: Map<number, { readonly arrival: TensorArrival; readonly timer: Fiber.Fiber<void> }>
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
  const memory = new SpareMemory(limits.maxBytesAhead)
  /** Bytes of the arrays of each peer's arrivals. */
  const heldBytes = new Map<string, number>()
  const after = (delayMs: number, then: () => void) =>
    Fiber.runIn(Effect.runForkWith(services)(Effect.delay(Effect.sync(then), delayMs)), scope)

  const hold = (peer: string, bytes: number, limit: number): boolean => {
    const held = (heldBytes.get(peer) ?? 0) + bytes
    if (held > limit) return false
    heldBytes.set(peer, held)
    return true
  }
  const letGo = (peer: string, bytes: number): void => {
    const held = (heldBytes.get(peer) ?? 0) - bytes
    if (held > 0) heldBytes.set(peer, held)
    else heldBytes.delete(peer)
  }

  const arrivalsOf = (session: Session): Arrivals => {
    const known = arrivals.get(session) ?? { waiting: new Map(), expired: new Set() }
    arrivals.set(session, known)
    return known
  }

  yield* onBulk(service, (stream, session) => {
    const { peerId } = session.peer
    const { waiting, expired } = arrivalsOf(session)
    if (waiting.size >= limits.maxRefs) return stream.reset("LIMIT", `${limits.maxRefs} tensors wait already`)
    const drop = (): boolean => {
      const entry = waiting.get(stream.id)
      if (entry === undefined) return false
      waiting.delete(stream.id)
      entry.timer.interruptUnsafe()
      letGo(peerId, entry.arrival.heldBytes)
      return true
    }
    const timer = after(limits.expiryMs, () => {
      if (!drop()) return
      stream.reset("TIMEOUT", "nobody took the tensor")
      expired.add(stream.id)
      const [oldest] = expired
      if (expired.size > maxRemembered && oldest !== undefined) expired.delete(oldest)
    })
    const admit = (bytes: number): boolean => hold(peerId, bytes, Math.min(limits.maxBytes, limits.maxBytesAhead))
    waiting.set(stream.id, { arrival: new TensorArrival(stream, peerId, memory, admit, drop), timer })
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

  /** The arrival of a ref, for this one taker. */
  const claim = (ref: TensorRef, peer: string): Effect.Effect<TensorArrival, TakeError> =>
    Effect.suspend((): Effect.Effect<TensorArrival, TakeError> => {
      if (ref.from !== peer) return Effect.fail(new TensorWrongPeer({ named: ref.from, peer }))
      const session = live(peer)
      const known = session === undefined ? undefined : arrivalsOf(session)
      const entry = known?.waiting.get(ref.stream)
      if (known === undefined || entry?.arrival.stream.name !== streamName(ref.id)) {
        const where = { peer, stream: ref.stream }
        return Effect.fail(known?.expired.has(ref.stream) ? new TensorExpired(where) : new TensorUnknown(where))
      }
      const { arrival, timer } = entry
      known.waiting.delete(ref.stream)
      timer.interruptUnsafe()
      if (arrival.heldBytes === 0 && !hold(peer, ref.bytes, limits.maxBytes)) {
        arrival.stream.reset("LIMIT", `more than ${limits.maxBytes} bytes of tensors`)
        return Effect.fail(new TensorQuota({ peer, of: "bytes", limit: limits.maxBytes }))
      }
      arrival.allocate(ref.bytes)
      return Effect.succeed(arrival)
    })

  const take: Tensors["take"] = (ref, peer) =>
    Effect.acquireUseRelease(
      claim(ref, peer),
      arrival =>
        Effect.timeoutOrElse(arrival.take(ref), {
          duration: limits.transferMs,
          orElse: () => Effect.fail(new TensorExpired({ peer, stream: ref.stream }))
        }),
      (arrival, exit) =>
        Effect.sync(() => {
          if (exit._tag === "Failure") arrival.stream.reset("NORMAL", "the taker gave up")
          letGo(peer, arrival.heldBytes)
        })
    )

  const tensors: Tensors = { put, take, reuse: ({ buffer }) => memory.give(buffer) }
  return tensors
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
