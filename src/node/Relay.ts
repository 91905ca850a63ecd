/** Relayed connections (§2.7): where two introduced peers cannot reach one another, whoever introduced them passes their bytes on. */
import { Effect } from "effect"
import { toHex } from "../protocol/Bytes.ts"
import { peerIdBytes } from "../protocol/constants.ts"
import { isPeerId, type PeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import { streamClasses } from "../protocol/Packets.ts"
import { isWireCode, type WireCode } from "../protocol/ProtocolError.ts"
import { recordTypes, release } from "../protocol/Records.ts"
import type { Connection } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import type { IntroducedPeers } from "./IntroducedPeers.ts"
import type { LiveSessions } from "./LiveSessions.ts"
import { RelayConnection } from "./RelayConnection.ts"
import type { StreamServices } from "./SessionRouter.ts"

/** Connections that one host relays at once; each may hold a stream's window of either side (1 MiB). */
export const maxRelays = 256
/** Of one direction of dialling between two peers: one, and one that takes its place. */
const maxRelaysPair = 2

/** Asks whoever gets this stream to pass it on to a peer. */
const toService = "relay-to"
/** Brings a connection from a peer. */
const fromService = "relay-from"
const nameOf = (service: string, peerId: PeerId): string =>
  `${service}:${Buffer.from(peerId, "hex").toString("base64url")}`
const peerOf = (name: string): PeerId | undefined => {
  const bytes = Buffer.from(name.slice(name.indexOf(":") + 1), "base64url")
  const peerId = toHex(bytes)
  return bytes.length === peerIdBytes && isPeerId(peerId) ? peerId : undefined
}

/** A connection between two others that passes through here. */
export interface RelayStatus {
  readonly from: PeerId
  readonly to: PeerId
  /** Sealed bytes passed on, of both directions. */
  readonly bytes: number
  /** Bytes that have come from one side and that the other has not taken yet. */
  readonly waitingBytes: number
}

interface Relayed {
  readonly from: PeerId
  readonly to: PeerId
  readonly streams: readonly [MuxStream, MuxStream]
  bytes: number
}

export interface Relay {
  readonly status: () => ReadonlyArray<RelayStatus>
  /** Ends the connections between peers that this host no longer introduces. */
  readonly review: () => void
  /** Connections to an introduced peer by way of each of those who introduced it and have a session with this host. */
  readonly ways: (peerId: PeerId) => ReadonlyArray<Effect.Effect<Connection, SessionError>>
}

export const makeRelay = Effect.fnUntraced(function* (options: {
  readonly services: StreamServices
  readonly live: LiveSessions
  readonly introduced: IntroducedPeers
  /** Whether this host has introduced these two to one another for a job that still runs. */
  readonly introducedHere: (one: PeerId, other: PeerId) => boolean
  /** Answers whoever comes by a connection. */
  readonly accept: (connection: RelayConnection) => void
}): Effect.fn.Return<Relay> {
  const { services, live, introduced, introducedHere } = options
  const run = Effect.runForkWith(yield* Effect.context<never>())
  const relays = new Set<Relayed>()

  const passOn = (from: MuxStream, caller: PeerId): Effect.Effect<void, SessionError> => {
    const to = peerOf(from.name)
    const refuse = (code: WireCode, why: string) => Effect.sync(() => from.reset(code, why))
    if (to === undefined || !introducedHere(caller, to))
      return refuse(
        "NOT_AUTHORIZED",
        "this host relays between peers that it has introduced, for the time of their job"
      )
    const same = [...relays].filter(relay => relay.from === caller && relay.to === to)
    if (relays.size >= maxRelays || same.length >= maxRelaysPair)
      return refuse("BUSY", "this host relays as much as it may")
    const session = live.get(to)
    if (session === undefined || session.ended !== undefined)
      return refuse("NOT_AUTHORIZED", "the other peer has no session with this host")
    return Effect.map(session.openStream(streamClasses.bulk, nameOf(fromService, caller)), onward => {
      const relay: Relayed = { from: caller, to, streams: [from, onward], bytes: 0 }
      relays.add(relay)
      const passed = (bytes: number): void => void (relay.bytes += bytes)
      const closed = (): void => {
        if (from.closed !== undefined && onward.closed !== undefined) relays.delete(relay)
      }
      splice(from, onward, passed, closed)
      splice(onward, from, passed, closed)
    }).pipe(
      Effect.andThen(Effect.logInfo(`relays a connection of ${caller} to ${to}, which it cannot reach`)),
      Effect.catch(error => refuse("BUSY", error.detail))
    )
  }

  services.bulk.set(toService, (stream, session) => {
    run(passOn(stream, session.peer.peerId))
  })

  services.bulk.set(fromService, (stream, session) => {
    const caller = peerOf(stream.name)
    const relay = session.peer.peerId
    if (caller === undefined || !introduced.introducers(caller).includes(relay))
      return stream.reset("NOT_AUTHORIZED", "a connection of a peer that you have not introduced")
    options.accept(new RelayConnection(stream, relay))
  })

  const way = (session: Session, peerId: PeerId): Effect.Effect<Connection, SessionError> =>
    Effect.map(
      session.openStream(streamClasses.bulk, nameOf(toService, peerId)),
      stream => new RelayConnection(stream, session.peer.peerId)
    )

  return {
    status: () =>
      [...relays].map(({ from, to, bytes, streams }) => ({
        from,
        to,
        bytes,
        waitingBytes: streams[0].unread + streams[1].unread
      })),
    review: () => {
      for (const { from, to, streams } of [...relays]) {
        if (introducedHere(from, to)) continue
        for (const stream of streams) stream.reset("NOT_AUTHORIZED", "the job of these two peers is over")
      }
    },
    ways: peerId =>
      [...new Set(introduced.introducers(peerId))].flatMap(introducer => {
        const session = live.get(introducer)
        // Bytes that pass through here already must not make a chain, or a ring.
        return session === undefined || session.ended !== undefined || session.relay !== undefined
          ? []
          : [way(session, peerId)]
      })
  }
})

/**
 * Passes on what comes on one stream to another. A chunk counts as unread until its bytes have been handed on, so that at most a window waits
 * here and a side that does not read stops the one that writes.
 */
const splice = (from: MuxStream, to: MuxStream, passed: (bytes: number) => void, closed: () => void): void => {
  let ended = false
  from.receive({
    onChunk: chunk => {
      if (chunk.type !== recordTypes.rawData) return from.reset("UNEXPECTED", "a typed message in a relayed connection")
      const bytes = chunk.bytes.length
      to.send(recordTypes.rawData, [chunk.bytes], () => {
        from.consumed(chunk)
        release(chunk.bytes)
        passed(bytes)
      })
    },
    onEnd: () => {
      ended = true
      to.finish()
    },
    onClose: ({ code, message }) => {
      // After both ends have finished the other stream closes by itself, once its last bytes are read.
      if (!(ended && code === "NORMAL")) to.reset(isWireCode(code) ? code : "NORMAL", message)
      closed()
    }
  })
}
