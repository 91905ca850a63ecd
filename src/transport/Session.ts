import { Deferred, Effect, type Scope } from "effect"
import { wipe } from "../protocol/Bytes.ts"
import {
  deadAfterMs,
  goodbyeWaitMs,
  maxRecordPayloadBytes,
  maxSocketBufferBytes,
  pingAfterMs,
  pingBytes
} from "../protocol/constants.ts"
import type { SessionSecrets } from "../protocol/Handshake.ts"
import type { PeerId, PublicIdentity } from "../protocol/Identity.ts"
import { Multiplexer } from "../protocol/Multiplexer.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import type { GoodbyePacket, StreamClass } from "../protocol/Packets.ts"
import { codeName, isWireCode, ProtocolError, wireCode, type WireCode } from "../protocol/ProtocolError.ts"
import type { CipherEngine } from "../protocol/CipherEngine.ts"
import { gathered, release } from "../protocol/Records.ts"
import type { SessionParameters } from "../protocol/SessionParameters.ts"
import type { Address, Connection } from "./Network.ts"
import { SessionError, sessionError } from "./SessionError.ts"

/** Bytes sealed and written as one batch: a full record, which is still in the processor's cache when the system copies it. */
const batchBytes = maxRecordPayloadBytes
/**
 * Bytes that may wait for the system before no more is sealed: one batch on its way and one behind it, so that the pipe never runs dry.
 * More would only make a call wait behind bulk data.
 */
const queuedBytes = maxSocketBufferBytes / 2
/**
 * Records of one read after which the answers to them are written, before the rest of the read: both sides then work at the same time.
 * A write costs as much as handling a small message, so for each of them it would not pay.
 */
const recordsPerFlush = 32
/** How often liveness is looked at. */
const livenessTickMs = 5_000
/** How long a sending key is used (§3.3). */
const keyUpdateMs = 3_600_000

/**
 * An encrypted, authenticated session with one peer: streams in both directions over one connection. Bytes move in plain callbacks;
 * Effect is used once per session, stream or message.
 *
 * It ends by `close`, by the other side's goodbye, or by an error; `closed` then completes with the reason, and every stream fails with it.
 */
export class Session {
  readonly peer: PublicIdentity
  /** The 32-byte id of this side. */
  readonly self: Uint8Array
  readonly role: SessionSecrets["role"]
  readonly mode: SessionSecrets["mode"]
  readonly remote: Address
  /** The peer that passes this session's records on, sealed as they are; undefined where the connection is direct. */
  readonly relay: PeerId | undefined
  /** A key for another use, bound to this session (PROTOCOL §2.4). */
  readonly exportKey: SessionSecrets["exportKey"]
  /** Completes with the reason when the session is over; its code is NORMAL where both sides said goodbye. */
  readonly closed: Deferred.Deferred<SessionError>
  readonly #connection: Connection
  readonly #mux: Multiplexer
  #onStream: ((stream: MuxStream) => void) | undefined
  /** Streams that came before `accept` was called: bounded by the streams that the other side may open. */
  #early: Array<MuxStream> = []
  #ended: SessionError | undefined
  #flushing = false
  #quietMs = 0
  /** Records that have come since the last flush between two of them. */
  #records = 0
  #onReady: (() => void) | undefined

  /** Largest message that this side, and the other, buffers whole: bytes (§2.5, `mm`). */
  readonly maxReceiveMessageBytes: number
  readonly maxSendMessageBytes: number
  /** The version of the application's own protocol that the other side announced (§2.5, `pv`). */
  readonly peerApplicationVersion: number

  constructor(connection: Connection, secrets: SessionSecrets, own: SessionParameters, engine?: CipherEngine) {
    this.maxReceiveMessageBytes = own.maxMessageBytes
    this.maxSendMessageBytes = secrets.peerParameters.maxMessageBytes
    this.peerApplicationVersion = secrets.peerParameters.applicationVersion
    this.peer = secrets.peer
    this.self = secrets.role === "initiator" ? secrets.initiator.id : secrets.responder.id
    this.role = secrets.role
    this.mode = secrets.mode
    this.remote = connection.remote
    this.relay = connection.relay
    this.exportKey = secrets.exportKey
    this.closed = Deferred.makeUnsafe<SessionError>()
    this.#connection = connection
    const events = {
      onReady: () => this.#onReady?.(),
      onStream: (stream: MuxStream) => (this.#onStream === undefined ? this.#hold(stream) : this.#onStream(stream)),
      onPong: () => undefined,
      onRecord: () => this.#onRecord(),
      onGoodbye: (goodbye: GoodbyePacket) => this.#onGoodbye(goodbye),
      onWritable: () => this.#schedule(),
      onFailure: (error: ProtocolError) => this.#fail(error)
    }
    this.#mux = new Multiplexer(secrets, own, events, engine)
    // The records have their own copies.
    wipe(secrets.sendSecret, secrets.receiveSecret)
  }

  /** Takes over the connection. `firstBytes` followed the handshake in the same read; `onReady` is called when READY has been opened. */
  start(firstBytes: Uint8Array, onReady?: () => void): void {
    this.#onReady = onReady
    this.#connection.handle({
      onData: chunk => this.#receive(chunk),
      onDrain: () => this.#flush(),
      onClose: reason => this.#onConnectionClosed(reason)
    })
    if (firstBytes.length > 0) this.#receive(firstBytes)
    this.#schedule()
  }

  get ended(): SessionError | undefined {
    return this.#ended
  }

  get openStreams(): number {
    return this.#mux.openStreams
  }

  /** Says who takes the streams that the other side opens; those that came before are handed over at once. */
  accept(onStream: (stream: MuxStream) => void): void {
    this.#onStream = onStream
    const early = this.#early
    this.#early = []
    for (const stream of early) onStream(stream)
  }

  #hold(stream: MuxStream): void {
    this.#early = [...this.#early.filter(({ closed }) => closed === undefined), stream]
  }

  /** Opens a stream. Fails where the session has ended or the other side allows no more streams. */
  openStream(streamClass: StreamClass, name: string): Effect.Effect<MuxStream, SessionError> {
    return Effect.suspend(() => {
      if (this.#ended !== undefined) return Effect.fail(this.#ended)
      try {
        return Effect.succeed(this.#mux.openStream(streamClass, name))
      } catch (error) {
        return Effect.fail(sessionError(error, this.peer.peerId))
      }
    })
  }

  /** Stops reading: nothing of the session reaches this side until `resume`. */
  pause(): void {
    this.#connection.pause()
  }

  resume(): void {
    this.#connection.resume()
  }

  /** Says goodbye and waits for the other side's, five seconds at most. Streams fail with `code`. */
  close(code: WireCode = "NORMAL", reason = "closed"): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.#ended !== undefined) return Effect.void
      this.#connection.resume()
      this.#mux.goodbye(code, reason)
      return Deferred.await(this.closed).pipe(
        Effect.timeoutOption(goodbyeWaitMs),
        Effect.andThen(Effect.sync(() => this.#end(new ProtocolError(code, reason))))
      )
    })
  }

  /** Ends the session because of what the other side did, as if its bytes had shown it: for errors found above the protocol. */
  fail(code: WireCode, reason: string): void {
    this.#fail(new ProtocolError(code, reason))
  }

  /** Pings a silent peer and gives a dead one up, and changes keys every hour; runs as long as the scope of the session. */
  keepAlive(): Effect.Effect<void, never, Scope.Scope> {
    let keyAgeMs = 0
    const tick = Effect.sync(() => {
      keyAgeMs += livenessTickMs
      if (keyAgeMs >= keyUpdateMs) {
        keyAgeMs = 0
        this.#mux.updateKey()
      }
      this.#quietMs += livenessTickMs
      if (this.#quietMs >= deadAfterMs)
        this.#fail(new ProtocolError("TIMEOUT", `nothing was received for ${deadAfterMs / 1000} s`))
      else if (this.#quietMs >= pingAfterMs) this.#mux.ping(new Uint8Array(pingBytes))
    })
    return Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(livenessTickMs), tick))).pipe(Effect.asVoid)
  }

  #receive(chunk: Uint8Array): void {
    if (this.#ended !== undefined) return
    this.#quietMs = 0
    try {
      this.#mux.receive(chunk)
    } catch (error) {
      this.#fail(
        error instanceof ProtocolError ? error : new ProtocolError("INTERNAL", `a receiver failed: ${String(error)}`)
      )
    }
  }

  /** The other side begins with the first answers while this one works on the next. */
  #onRecord(): void {
    if (++this.#records < recordsPerFlush) return
    this.#records = 0
    this.#flush()
  }

  /** Gathers what one turn of the event loop has to send into one batch. */
  #schedule(): void {
    if (this.#flushing) return
    this.#flushing = true
    queueMicrotask(() => {
      this.#flushing = false
      this.#flush()
    })
  }

  #flush(): void {
    while (this.#ended === undefined && this.#connection.buffered() < queuedBytes) {
      const parts = this.#mux.take(batchBytes)
      if (parts.length === 0) return
      this.#connection.write(gathered(parts), () => parts.forEach(release))
    }
  }

  #onGoodbye(goodbye: GoodbyePacket): void {
    this.#flush()
    this.#end(
      new ProtocolError(codeName(goodbye.code), goodbye.reason === "" ? "the other side said goodbye" : goodbye.reason)
    )
  }

  #onConnectionClosed(reason: string): void {
    if (this.#ended !== undefined) return
    this.#end(new ProtocolError("TRUNCATED", `the connection ended without a goodbye (${reason})`))
  }

  /** Tells the other side why where a code may travel; a failed tag is met with silence, as one who forges learns nothing. */
  #fail(error: ProtocolError): void {
    if (this.#ended !== undefined) return
    if (isWireCode(error.code) && wireCode(error.code) !== undefined) {
      this.#mux.goodbye(error.code, error.message)
      this.#flush()
    }
    this.#end(error)
  }

  #end(error: ProtocolError): void {
    if (this.#ended !== undefined) return
    const reason = sessionError(error, this.peer.peerId)
    this.#ended = reason
    this.#mux.closeStreams(error)
    this.#mux.wipe()
    this.#early = []
    this.#connection.end(true)
    Deferred.doneUnsafe(this.closed, Effect.succeed(reason))
  }
}
