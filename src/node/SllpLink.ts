/** One SLLP association as its user sees it: messages in and out, in Effect once per message. */
import { Cause, Deferred, Effect, Schema, Sink, Stream, type Pull } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import {
  sllpCloseNames,
  type SllpAssociation,
  type SllpChannelOptions,
  type SllpCloseName,
  type SllpEvent,
  type SllpMessage,
  type SllpStatistics
} from "../protocol/sllp/SllpAssociation.ts"
import { sllpNowMs, type SllpPort, type SllpSocket } from "../transport/SllpSocket.ts"

/** What one step of a stream takes over at once; a single message may be larger. More would hold what its reader has not asked for. */
const messagesPerPull = 64
const bytesPerPull = 256 * 1024
/** Notices that may wait for whoever watches them; the oldest go first. */
const maxNotices = 256

/** The association is over. `code` says why, `by` whose doing it was. */
export class SllpClosed extends Schema.TaggedError<SllpClosed>()("SllpClosed", {
  code: Schema.Literals(sllpCloseNames),
  reason: Schema.String,
  by: Schema.Literals(["us", "peer"])
}) {
  override get message() {
    return `the SLLP association is closed (${this.code}) by ${this.by === "us" ? "this side" : "the peer"}: ${this.reason}`
  }
}

/** What was asked cannot be done on this channel: a message that is empty or larger than it allows, or no channel of this number. */
export class SllpRefused extends Schema.TaggedError<SllpRefused>()("SllpRefused", {
  channel: Schema.Number,
  detail: Schema.String
}) {
  override get message() {
    return `channel ${this.channel}: ${this.detail}`
  }
}

export type SllpError = SllpClosed | SllpRefused

/** What happens to an association beside its messages. */
export type SllpNotice = Extract<SllpEvent, { readonly type: "lost" | "path" | "datagramSize" | "connected" }>

/**
 * One end of an association: messages over UDP, encrypted, in the delivery mode of each channel (PROTOCOL §4). Whatever waits fails with
 * `SllpClosed` once it is over, which both sides learn: at once where one closes it or their session ends, and within `idleMs` where one is gone.
 * What had arrived by then can still be read. It is over with its session, too: open another one on the next.
 */
export interface SllpLink {
  readonly peer: PeerId
  /** What the opener has asked for, in the order of the numbers that the methods take. */
  readonly channels: ReadonlyArray<Pick<SllpChannelOptions, "mode" | "maxMessageBytes">>
  /**
   * Hands a message to a channel, in one piece or several: on `latest` at once, replacing one that has not begun to go out; on `ordered` and
   * `reliable` when the queue has room. The arrays must not change until they are sent (`flush` tells, for `reliable` that they have
   * arrived). SllpRefused: it is empty, too large, or there is no such channel.
   */
  readonly send: (channel: number, message: Uint8Array | ReadonlyArray<Uint8Array>) => Effect.Effect<void, SllpError>
  /** The next message of a channel; waits for one. One reader per channel. */
  readonly receive: (channel: number) => Effect.Effect<SllpMessage, SllpError>
  /** The messages of a channel, until the association closes: the stream ends where that was `normal` and fails otherwise. */
  readonly messages: (channel: number) => Stream.Stream<SllpMessage, SllpError>
  /** Sends what runs into it; with back-pressure on `ordered` and `reliable`, while `latest` takes all and drops what is overtaken. */
  readonly sink: (channel: number) => Sink.Sink<void, Uint8Array, never, SllpError>
  /** Losses, moves of the peer's address, changes of the datagram size; the last 256 wait for a reader. Ends with the association. */
  readonly notices: Stream.Stream<SllpNotice>
  /** Everything handed over has left, and, on reliable channels, has arrived. */
  readonly flush: Effect.Effect<void, SllpClosed>
  /** Rates, round trip, losses and what became of the messages, since the beginning. */
  readonly statistics: Effect.Effect<SllpStatistics>
  /** Ends the association; the other side is told why. What was not flushed is lost. */
  readonly close: (code: SllpCloseName, reason: string) => Effect.Effect<void>
  /** Waits for the end, and gives the reason. */
  readonly closed: Effect.Effect<SllpClosed>
}

/** The link, and what its owner needs to end it. */
export interface OwnedLink {
  readonly link: SllpLink
  /** The other side has said over the session that it closed. */
  readonly peerClosed: (code: number, reason: string) => void
  /** Ends it at once, in this call; completes `closed`. */
  readonly closeNow: (code: SllpCloseName, reason: string) => void
}

/** Joins an association to its socket. */
export const makeSllpLink = (
  peer: PeerId,
  channels: SllpLink["channels"],
  association: SllpAssociation,
  socket: SllpSocket,
  cid: Uint8Array
): OwnedLink => {
  const closed = Deferred.makeUnsafe<SllpClosed>()
  const notices: Array<SllpNotice> = []
  /** Those who wait for something to happen; asked again whenever something has. */
  let waiting = new Set<() => void>()
  let over: SllpClosed | undefined

  const wake = (): void => {
    if (waiting.size === 0) return
    const woken = waiting
    waiting = new Set()
    for (const look of woken) look()
  }

  const onActivity = (): void => {
    let happened = false
    for (const event of association.takeEvents()) {
      happened = true
      if (event.type === "closed") {
        over = new SllpClosed({ code: event.code, reason: event.reason, by: event.by })
        Deferred.doneUnsafe(closed, Effect.succeed(over))
      } else if (event.type !== "readable" && event.type !== "writable") {
        if (notices.length >= maxNotices) notices.shift()
        notices.push(event)
      }
    }
    // Nobody says that the last byte was acknowledged.
    if (happened || (waiting.size > 0 && association.unfinishedBytes === 0)) wake()
  }

  const port: SllpPort = socket.add(cid, association, onActivity)

  /** Waits until `look` gives a value; what is still there to be had comes before the end. */
  const until = <A, E = never>(look: () => A | undefined, refused: (error: unknown) => Effect.Effect<never, E>) =>
    Effect.callback<A, SllpClosed | E>(resume => {
      // Whoever is woken before this one may interrupt it: it must not take a message then.
      let gone = false
      const attempt = (): void => {
        if (gone) return
        try {
          const value = look()
          if (value !== undefined) resume(Effect.succeed(value))
          else if (over !== undefined) resume(Effect.fail(over))
          else waiting.add(attempt)
        } catch (error) {
          resume(refused(error))
        }
      }
      attempt()
      return Effect.sync(() => {
        gone = true
        waiting.delete(attempt)
      })
    })

  const onChannel = <A>(channel: number, look: () => A | undefined): Effect.Effect<A, SllpError> =>
    until(look, error =>
      error instanceof ProtocolError
        ? Effect.fail(new SllpRefused({ channel, detail: error.message }))
        : Effect.die(error)
    )

  const send: SllpLink["send"] = (channel, message) =>
    Effect.asVoid(
      onChannel(channel, () => {
        if (association.send(channel, message, sllpNowMs()) !== "queued") return undefined
        port.touch()
        return true
      })
    )

  const read = (channel: number): SllpMessage | undefined => {
    const message = association.read(channel, sllpNowMs())
    if (message !== undefined) port.touch()
    return message
  }

  const batch = (channel: number): NonEmptyReadonlyArray<SllpMessage> | undefined => {
    const first = read(channel)
    if (first === undefined) return undefined
    const messages: [SllpMessage, ...Array<SllpMessage>] = [first]
    let bytes = lengthOf(first)
    while (messages.length < messagesPerPull && bytes < bytesPerPull) {
      const next = read(channel)
      if (next === undefined) break
      messages.push(next)
      bytes += lengthOf(next)
    }
    return messages
  }

  const endOrFail = (error: SllpError): Pull.Pull<never, SllpError> =>
    error._tag === "SllpClosed" && error.code === "normal" ? Cause.done() : Effect.fail(error)

  const closeNow = (code: SllpCloseName, reason: string): void => {
    association.close(code, reason, sllpNowMs())
    onActivity()
    port.touch()
  }

  const link: SllpLink = {
    peer,
    channels,
    send,
    receive: channel => onChannel(channel, () => read(channel)),
    messages: channel =>
      Stream.fromPull(Effect.succeed(onChannel(channel, () => batch(channel)).pipe(Effect.catch(endOrFail)))),
    sink: channel => Sink.forEach((message: Uint8Array) => send(channel, message)),
    notices: Stream.fromPull(
      Effect.succeed(
        until(() => {
          const [first, ...rest] = notices.splice(0)
          const taken: NonEmptyReadonlyArray<SllpNotice> | undefined =
            first === undefined ? undefined : [first, ...rest]
          return taken
        }, Effect.die).pipe(Effect.catch(() => Cause.done()))
      )
    ),
    flush: Effect.asVoid(
      until(() => (over === undefined && association.unfinishedBytes === 0 ? true : undefined), Effect.die)
    ),
    statistics: Effect.sync(() => association.statistics(sllpNowMs())),
    close: (code, reason) => Effect.sync(() => closeNow(code, reason)),
    closed: Deferred.await(closed)
  }
  return {
    link,
    peerClosed: (code, reason) => {
      association.peerClosed(code, reason, sllpNowMs())
      onActivity()
      port.touch()
    },
    closeNow
  }
}

const lengthOf = (message: SllpMessage): number => (message.complete ? message.bytes.length : message.total)
