/** PEER_UPDATE (§2.6): at the begin of a session both sides say where they can be dialled, and as what they see the other. */
import { Deferred, Effect } from "effect"
import { isIP } from "node:net"
import { networkInterfaces } from "node:os"
import type { ActorRef } from "../actor/ActorRef.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { formatAddress, parseAddress, type Address } from "../transport/Network.ts"
import type { Session } from "../transport/Session.ts"
import { sessionError } from "../transport/SessionError.ts"
import { maxAddresses, PeerUpdate } from "./AdminKinds.ts"
import type { IntroducedPeers } from "./IntroducedPeers.ts"
import { maxAddressesPeer, type RegistryRpcs, type RegistryView } from "./PeerRegistry.ts"
import { answerAdmin, type SessionRouter, type StreamServices } from "./SessionRouter.ts"

/** How long the other side may take to send its own update, or to answer ours. */
const updateTimeoutMs = 5_000
/** Hosts as which peers say to see this one, the latest first. */
const maxSeenHosts = 4

/** IPv4 in an IPv6 socket is written as the IPv4 that it is. */
export const plainHost = (host: string): string => host.replace(/^::ffff:(?=\d+\.)/i, "")
const isAnyHost = (host: string): boolean => host === "0.0.0.0" || host === "::"
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || plainHost(host).startsWith("127.")

/** The hosts that a listening address stands for: itself, or, where it is every host of this machine, each of them that others could reach. */
const hostsOf = ({ host }: Address): ReadonlyArray<string> => {
  if (!isAnyHost(host)) return [host]
  return Object.values(networkInterfaces())
    .flatMap(each => each ?? [])
    .filter(({ family, address }) => (host === "::" || family === "IPv4") && !address.startsWith("fe80:"))
    .map(({ address }) => address)
}

export interface PeerUpdates {
  /** Tells the other side of a session. */
  readonly announce: (router: SessionRouter) => Effect.Effect<void>
  /** Waits, `updateTimeoutMs` at most, until the other side of a session has said where it can be dialled. */
  readonly heard: (session: Session) => Effect.Effect<void>
  /** Where this host can be dialled, as far as it knows, the likeliest first; empty where it does not listen. */
  readonly addresses: () => ReadonlyArray<string>
}

export const makePeerUpdates = (options: {
  readonly services: StreamServices
  readonly view: RegistryView
  readonly registry: ActorRef<RegistryRpcs>
  readonly introduced: IntroducedPeers
  readonly listening: () => Address | undefined
}): PeerUpdates => {
  const { services, view, registry, introduced, listening } = options
  let seenHosts: ReadonlyArray<string> = []
  const updates = new WeakMap<Session, Deferred.Deferred<void>>()
  const updateOf = (session: Session) => {
    const known = updates.get(session) ?? Deferred.makeUnsafe<void>()
    updates.set(session, known)
    return known
  }

  answerAdmin(services, PeerUpdate, ({ addresses, seen }, session) =>
    Effect.gen(function* () {
      const { peerId } = session.peer
      const usable = reachable(addresses, session)
      introduced.learn(peerId, usable)
      if (session.mode !== modes.introduced && view.table.peer(peerId) !== undefined) {
        yield* Effect.mapError(registry.client.Announced({ peerId, addresses: usable }), error =>
          sessionError(error, peerId)
        )
        const host = plainHost(parseAddress(seen)?.host ?? "")
        if (isIP(host) !== 0 && !isLoopback(host))
          seenHosts = [host, ...seenHosts.filter(other => other !== host)].slice(0, maxSeenHosts)
      }
      Deferred.doneUnsafe(updateOf(session), Effect.void)
      return null
    })
  )

  const addresses = (): ReadonlyArray<string> => {
    const own = listening()
    if (own === undefined) return []
    const hosts = hostsOf(own)
    const outer = isAnyHost(own.host) ? seenHosts : []
    const [near, far] = [hosts.filter(isLoopback), hosts.filter(host => !isLoopback(host))]
    return [...new Set([...far, ...outer, ...near])].map(host => formatAddress({ host, port: own.port }))
  }

  const announce: PeerUpdates["announce"] = router =>
    Effect.gen(function* () {
      const { session } = router
      const own = listening()
      // The host as which the other side sees this one may be one that this side cannot know: it fills in an address of all zeros.
      const any = own === undefined || !isAnyHost(own.host) ? [] : [formatAddress(own)]
      const body = {
        addresses: [...any, ...addresses()].slice(0, maxAddresses),
        seen: formatAddress({ ...session.remote, host: plainHost(session.remote.host) })
      }
      yield* (yield* router.admin).request(PeerUpdate, body, updateTimeoutMs)
    }).pipe(Effect.catch(error => Effect.logDebug(`a peer has not taken this host's addresses: ${error.message}`)))

  const heard: PeerUpdates["heard"] = session =>
    Deferred.await(updateOf(session)).pipe(
      Effect.raceFirst(Effect.asVoid(Deferred.await(session.closed))),
      Effect.timeoutOption(updateTimeoutMs),
      Effect.asVoid
    )

  return { announce, heard, addresses }
}

/** Of the addresses that a peer names, those that may lead to it from here. */
const reachable = (addresses: ReadonlyArray<string>, session: Session): ReadonlyArray<string> => {
  const remote = plainHost(session.remote.host)
  const read = addresses.flatMap(text => parseAddress(text) ?? [])
  // A relayed session shows nothing of where the other side is.
  const named = session.relay === undefined ? read : read.filter(({ host }) => !isAnyHost(host))
  const filled = named.map(({ host, port }) => ({ host: isAnyHost(host) ? remote : plainHost(host), port }))
  // Where it sits on another machine, its loopback is not ours.
  const outside = filled.filter(({ host, port }) => port > 0 && (isLoopback(remote) || !isLoopback(host)))
  // Where it was just dialled is sure.
  const dialled = session.role === "initiator" && session.relay === undefined ? [session.remote] : []
  return [...new Set([...dialled, ...outside].map(formatAddress))].slice(0, maxAddressesPeer)
}
