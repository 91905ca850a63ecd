import { displayId, fingerprint, formatAddress, type PeerRecord, PeerNode } from "artifice"
import * as Effect from "effect/Effect"
import { readHomeFolder } from "../Home.ts"
import { whilePeerLives } from "../Job.ts"
import type { CommandBody, IdentityOptions, PeerOptions } from "../Options.ts"
import { peerOfHome } from "../Peer.ts"
import { choosePeer } from "../PeerChoice.ts"
import { peerFailure } from "../PeerFailure.ts"

/** How long a peer may take to be told that it is removed; away, it learns by the silence it meets. */
const farewellMs = 3_000

/** Those that this machine is paired with, the one met last first. Another process may have the home open. */
const peersOfHome = (home: string) =>
  Effect.map(readHomeFolder(home), found => (found?.peers.peers ?? []).toSorted((a, b) => b.lastSeen - a.lastSeen))

const timeOf = (unixSeconds: number | undefined): string | null =>
  unixSeconds === undefined || unixSeconds === 0 ? null : new Date(unixSeconds * 1000).toISOString()

const fingerprintOf = (peerId: string): string => fingerprint(Buffer.from(peerId, "hex"))

const summary = ({ peerId, lastSeen, addresses, revokedAt }: PeerRecord) => ({
  peer: peerId,
  fingerprint: fingerprintOf(peerId),
  lastSeen: timeOf(lastSeen),
  revokedAt: timeOf(revokedAt),
  addresses
})

/** `artifice peers list`. */
export const peersListCommand: CommandBody<IdentityOptions> = ({ home }, output) =>
  Effect.gen(function* () {
    const peers = yield* peersOfHome(home)
    yield* output.result({ event: "peers-list", peers: peers.map(summary) })
  })

/** `artifice peers show`. */
export const peersShowCommand: CommandBody<PeerOptions> = ({ home, peer }, output) =>
  Effect.gen(function* () {
    const peers = yield* peersOfHome(home)
    const peerId = yield* choosePeer(
      peer,
      peers.map(each => each.peerId)
    )
    for (const record of peers.filter(each => each.peerId === peerId)) {
      const newest = record.pairKeys.at(-1)
      yield* output.result({
        event: "peers-show",
        ...summary(record),
        display: displayId(Buffer.from(peerId, "hex")),
        keyGeneration: newest?.generation ?? null,
        keyMadeAt: timeOf(newest?.madeAt),
        minimumVersion: record.minimumVersion
      })
    }
  })

/** The peer of this home, and that of its peers which is meant. */
const nodeAndPeer = Effect.fnUntraced(function* ({ home, peer }: PeerOptions) {
  const node = yield* peerOfHome(home)
  const known = yield* Effect.orDie(node.registry.client.List())
  const peerId = yield* choosePeer(
    peer,
    known.map(each => each.peerId)
  )
  return { node, peerId }
})

/** `artifice peers remove`: the peer is told where it can be reached. */
export const peersRemoveCommand: CommandBody<PeerOptions> = (options, output) =>
  Effect.gen(function* () {
    const { node, peerId } = yield* nodeAndPeer(options)
    const reached = yield* Effect.timeoutOption(Effect.result(node.connect(peerId)), farewellMs)
    const told = reached._tag === "Some" && reached.value._tag === "Success"
    yield* Effect.mapError(node.remove(peerId), peerFailure)
    yield* output.result({ event: "peers-remove", peer: peerId, told })
  })

/** `artifice peers verify`: dials the peer, which proves who answers, and shows what people compare on both screens. */
export const peersVerifyCommand: CommandBody<PeerOptions> = (options, output) =>
  Effect.gen(function* () {
    const { node, peerId } = yield* nodeAndPeer(options)
    const session = yield* node
      .connect(peerId)
      .pipe(Effect.mapError(peerFailure), whilePeerLives, Effect.provideService(PeerNode, node))
    yield* output.result({
      event: "peers-verify",
      peer: peerId,
      fingerprint: fingerprintOf(peerId),
      ownFingerprint: fingerprint(node.identity.id),
      address: formatAddress(session.remote)
    })
  })
