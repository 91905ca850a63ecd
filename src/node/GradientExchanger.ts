import { Deferred, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Actor from "../actor/Actor.ts"
import type { ActorRef } from "../actor/ActorRef.ts"
import { equal, toHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { MessageChunk, MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes, release } from "../protocol/Records.ts"
import type { Session } from "../transport/Session.ts"
import { failure, sessionError, type SessionError } from "../transport/SessionError.ts"
import type { PeerNode } from "./PeerNode.ts"
import { encodeTensorHeader, parseTensorHeader, tensorHeaderBytes, type TensorHeader } from "./TensorHeader.ts"

/** Where the bytes of an arriving tensor go. Once revoked, nothing more is written and its arrival is not told. */
export class Placement {
  readonly target: Uint8Array
  readonly #arrived: () => void
  #revoked = false

  constructor(target: Uint8Array, arrived: () => void) {
    this.target = target
    this.#arrived = arrived
  }

  get revoked(): boolean {
    return this.#revoked
  }

  revoke(): void {
    this.#revoked = true
  }

  complete(): void {
    if (!this.#revoked) this.#arrived()
  }
}

/**
 * Decides for each tensor, from its header alone, where it goes. Undefined lets it pass unread: it is late, of an old view. A ProtocolError
 * ends the session of the peer that sent it.
 */
export type PlaceTensor = (header: TensorHeader, from: PeerId, session: Session) => Placement | undefined

/** A tensor on its way out. Its data must not change until `sent` is done: when the last byte has been handed to the socket. */
export class TensorSend {
  readonly session: Session
  readonly header: TensorHeader
  readonly data: Uint8Array
  readonly sent = Deferred.makeUnsafe<void, SessionError>()

  constructor(session: Session, header: TensorHeader, data: Uint8Array) {
    this.session = session
    this.header = header
    this.data = data
  }
}

export const ExchangerProtocol = RpcGroup.make(Rpc.make("Send", { payload: { tensor: Schema.instanceOf(TensorSend) } }))
export type ExchangerRpcs = RpcGroup.Rpcs<typeof ExchangerProtocol>

const streamName = (job: Uint8Array): string => `tensor:${toHex(job)}`

/** Little-endian bytes of floats, without a copy. Every platform that Node runs on is little-endian, bar one that this refuses. */
export const bytesOf = (floats: Float32Array): Uint8Array =>
  new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength)

if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) throw new Error("Artifice needs a little-endian machine")

/**
 * Moves a job's tensors between this peer and others, over bulk streams of their sessions: floats go from the array that holds them to the
 * socket, and from the socket into the array that waits for them.
 */
export const gradientExchanger = (node: PeerNode["Service"], job: Uint8Array, place: PlaceTensor) =>
  Actor.make(ExchangerProtocol, () =>
    Effect.gen(function* () {
      const streams = new WeakMap<Session, MuxStream>()
      yield* node.onBulk("tensor", (stream, session) => {
        if (stream.name === streamName(job)) receiveTensors(stream, session, job, place)
        else stream.reset("NOT_AUTHORIZED", "a tensor stream of another job")
      })

      const streamTo = (session: Session): Effect.Effect<MuxStream, SessionError> => {
        const open = streams.get(session)
        if (open !== undefined && open.closed === undefined) return Effect.succeed(open)
        return Effect.tap(session.openStream(streamClasses.bulk, streamName(job)), stream =>
          Effect.sync(() => {
            streams.set(session, stream)
            // Tensors go one way on a stream; what comes back on it is only its end.
            stream.receive({ onChunk: () => session.fail("UNEXPECTED", "data on the sending side of a tensor stream") })
          })
        )
      }

      const handlers: Actor.Handlers<ExchangerRpcs> = {
        Send: ({ tensor }) =>
          streamTo(tensor.session).pipe(
            Effect.flatMap(stream =>
              Effect.sync(() => {
                stream.send(recordTypes.rawData, [encodeTensorHeader(tensor.header), tensor.data], error => {
                  const peer = tensor.session.peer.peerId
                  Deferred.doneUnsafe(
                    tensor.sent,
                    error === undefined ? Effect.void : Effect.fail(sessionError(error, peer))
                  )
                })
              })
            ),
            Effect.catch(error => Effect.asVoid(Deferred.fail(tensor.sent, error)))
          )
      }
      return handlers
    })
  )

/** Sends a tensor and waits until its last byte has been handed to the socket. */
export const sendTensor = (
  exchanger: ActorRef<ExchangerRpcs>,
  session: Session,
  header: TensorHeader,
  data: Uint8Array
): Effect.Effect<void, SessionError> =>
  Effect.suspend(() => {
    const tensor = new TensorSend(session, header, data)
    return exchanger.tell("Send", { tensor }).pipe(
      Effect.mapError(error => failure("INTERNAL", error.message, session.peer.peerId)),
      Effect.andThen(Deferred.await(tensor.sent))
    )
  })

/** Streams of one view of a job's direct exchange: their service, and their names below it. */
export const viewStreams = "view"
export const viewStreamName = (job: Uint8Array, term: number, view: number): string =>
  `${viewStreams}:${toHex(job)}:${term}:${view}`

/** The view of this job that a stream is of; undefined for any other name. */
export const parseViewStream = (name: string, job: Uint8Array): { term: number; view: number } | undefined => {
  const [service, id, term = "", view = "", ...rest] = name.split(":")
  const isNumber = (text: string): boolean => /^(0|[1-9]\d{0,9})$/.test(text)
  if (service !== viewStreams || id !== toHex(job) || rest.length > 0 || !isNumber(term) || !isNumber(view))
    return undefined
  return { term: Number(term), view: Number(view) }
}

/**
 * A bulk stream that carries tensors to one peer, one way, for members that exchange directly: nothing on the way of a tensor but plain calls.
 * Data must not change until `sent` is called with its error or without one.
 */
export class TensorSender {
  readonly session: Session
  readonly #stream: MuxStream
  #queuedBytes = 0
  #sentBytes = 0

  private constructor(session: Session, stream: MuxStream) {
    this.session = session
    this.#stream = stream
  }

  /** `onClose`: the other side, or the end of the session, has closed the stream. Not called after `close`. */
  static open(
    session: Session,
    name: string,
    onClose: (error: ProtocolError) => void
  ): Effect.Effect<TensorSender, SessionError> {
    return Effect.map(session.openStream(streamClasses.bulk, name), stream => {
      const sender = new TensorSender(session, stream)
      stream.receive({
        onChunk: () => session.fail("UNEXPECTED", "data on the sending side of a tensor stream"),
        onClose: error => (sender.#closed ? undefined : onClose(error))
      })
      return sender
    })
  }

  #closed = false

  /** Bytes that have not been handed to the socket. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** Bytes that have been handed to the socket, headers of tensors included. */
  get sentBytes(): number {
    return this.#sentBytes
  }

  send(header: TensorHeader, data: Uint8Array, sent?: (error?: ProtocolError) => void): void {
    const bytes = tensorHeaderBytes + data.length
    this.#queuedBytes += bytes
    this.#stream.send(recordTypes.rawData, [encodeTensorHeader(header), data], error => {
      this.#queuedBytes -= bytes
      if (error === undefined) this.#sentBytes += bytes
      sent?.(error)
    })
  }

  /** Gives up what has not been sent. */
  close(): void {
    this.#closed = true
    this.#stream.reset("NORMAL")
  }
}

/** Reads a stream of tensors chunk by chunk into their places. Always drains, whatever this side is sending. */
export const receiveTensors = (
  stream: MuxStream,
  session: Session,
  job: Uint8Array,
  place: PlaceTensor,
  closed?: (error: ProtocolError) => void
): void => {
  const head = new Uint8Array(tensorHeaderBytes)
  let placement: Placement | undefined
  let length = 0
  let filled = 0

  const begin = (): void => {
    const header = parseTensorHeader(head)
    if (!equal(header.job, job)) throw new ProtocolError("UNEXPECTED", "a tensor of another job")
    placement = place(header, session.peer.peerId, session)
    length = placement?.target.length ?? 0
  }

  const take = (chunk: MessageChunk): void => {
    if (chunk.type !== recordTypes.rawData) throw new ProtocolError("UNEXPECTED", "a message on a tensor stream")
    if (chunk.first) filled = 0
    let { bytes } = chunk
    if (filled < tensorHeaderBytes) {
      const part = bytes.subarray(0, tensorHeaderBytes - filled)
      head.set(part, filled)
      filled += part.length
      bytes = bytes.subarray(part.length)
      if (filled === tensorHeaderBytes) begin()
    }
    if (placement !== undefined && bytes.length > 0) {
      const at = filled - tensorHeaderBytes
      if (at + bytes.length > length) throw new ProtocolError("TOO_LARGE", `a tensor of over ${length} bytes`)
      if (!placement.revoked) placement.target.set(bytes, at)
    }
    filled += bytes.length
    if (!chunk.last) return
    if (filled < tensorHeaderBytes || (placement !== undefined && filled - tensorHeaderBytes !== length)) {
      throw new ProtocolError(
        "MALFORMED",
        `a tensor of ${filled - tensorHeaderBytes} bytes where ${length} were expected`
      )
    }
    const arrived = placement
    placement = undefined
    arrived?.complete()
  }

  stream.receive({
    onChunk: chunk => {
      take(chunk)
      stream.consumed(chunk)
      release(chunk.bytes)
    },
    onClose: error => {
      placement?.revoke()
      closed?.(error)
    }
  })
}
