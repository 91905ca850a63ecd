import { once } from "node:events"
import { connect, type Socket } from "node:net"
import { Context, Effect, Layer } from "effect"
import { PeerNode, type PeerNodeOptions } from "../../src/node/PeerNode.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import type { SessionSecrets } from "../../src/protocol/Handshake.ts"
import { FrameReader, modes } from "../../src/protocol/HandshakeMessages.ts"
import type { LocalIdentity, PublicIdentity } from "../../src/protocol/Identity.ts"
import { Initiator, type DialTarget } from "../../src/protocol/Initiator.ts"
import { derivePairKeys } from "../../src/protocol/KeySchedule.ts"
import { RecordSealer, recordTypes } from "../../src/protocol/Records.ts"
import { defaultParameters } from "../../src/protocol/SessionParameters.ts"
import {
  applyChange,
  noPeers,
  PeerStore,
  type PeerChange,
  type StoredPeers,
  type StoreError
} from "../../src/store/PeerStore.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import { formatAddress } from "../../src/transport/Network.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"
import type { SessionError } from "../../src/transport/SessionError.ts"

export const loopback = { host: "127.0.0.1", port: 0 }

/** A peer of its own in this process: real sockets on loopback, a store in memory unless one is given. */
export const startNode = Effect.fnUntraced(function* (
  options: PeerNodeOptions,
  store: Layer.Layer<PeerStore, StoreError> = PeerStore.memory,
  cryptography: Layer.Layer<Cryptography> = Cryptography.layer
) {
  const services = Layer.mergeAll(NetworkTcp.layer, cryptography, Layer.fresh(store))
  return Context.get(yield* Layer.build(PeerNode.layer(options).pipe(Layer.provide(services))), PeerNode)
})

/** Where a node that listens can be dialled. */
export const addressOf = ({ address }: PeerNode["Service"]): string =>
  address === undefined ? "" : formatAddress(address)

/** A store in memory that outlives its node; `onChange` may fail or die in its stead. */
export const keptStore = (onChange: (change: PeerChange) => Effect.Effect<void, StoreError> = () => Effect.void) => {
  let held = noPeers
  const apply = (change: PeerChange) =>
    Effect.andThen(
      onChange(change),
      Effect.sync(() => void (held = applyChange(held, change)))
    )
  return {
    layer: Layer.succeed(PeerStore, { load: Effect.sync(() => held), apply }),
    get state(): StoredPeers {
      return held
    }
  }
}

/** Lets the event loop turn until `happened` gives a value. */
export const until = <A>(happened: () => A | undefined): Effect.Effect<A> =>
  Effect.promise(async signal => {
    for (;;) {
      const value = happened()
      if (value !== undefined) return value
      signal.throwIfAborted()
      await new Promise(resolve => setImmediate(resolve))
    }
  })

/** Pairs two nodes by a token of the host. */
export const pair = (host: PeerNode["Service"], guest: PeerNode["Service"]): Effect.Effect<void, SessionError> =>
  Effect.flatMap(host.invite({ name: "pair" }), ({ token }) => Effect.asVoid(guest.join(token)))

/** By what right `from`, whose store this is, dials `peer`. */
export const pairedWith = (store: StoredPeers, from: LocalIdentity, peer: PublicIdentity): DialTarget => {
  const key = store.peers.find(({ peerId }) => peerId === peer.peerId)?.pairKeys.at(-1)?.key
  if (key === undefined) throw new Error("not paired")
  return { mode: modes.paired, peer, keys: derivePairKeys(key, from.id, peer.id) }
}

/** A peer without our software: does the handshake as the protocol has it, then writes whatever it is told to. */
export class RawPeer {
  readonly socket: Socket
  readonly secrets: SessionSecrets
  readonly sealer: RecordSealer
  /** Resolves when the other side has closed the connection. */
  readonly closed: Promise<unknown>

  private constructor(socket: Socket, secrets: SessionSecrets) {
    this.socket = socket
    this.secrets = secrets
    this.sealer = new RecordSealer(secrets.sendSecret)
    this.closed = once(socket, "close")
  }

  /** Dials and goes through the handshake up to, and without, READY. Rejects where the other side hangs up. */
  static async dial(address: string, identity: LocalIdentity, target: DialTarget): Promise<RawPeer> {
    const [host = "", port = ""] = address.split(":")
    const socket = connect({ host, port: Number(port) })
    const unixSeconds = Math.floor(Date.now() / 1000)
    const initiator = new Initiator({
      identity,
      target,
      unixSeconds,
      crypto: nodeCrypto(),
      parameters: defaultParameters
    })
    const frames = new FrameReader()
    return new Promise((resolve, reject) => {
      let turn: Promise<unknown> = Promise.resolve()
      const take = async (chunk: Uint8Array): Promise<void> => {
        frames.push(chunk)
        for (let frame = frames.next(); frame !== undefined; frame = frames.next()) {
          const { send, secrets } = await initiator.receive(frame)
          if (send !== undefined) socket.write(send)
          if (secrets !== undefined) {
            socket.removeAllListeners("data").resume()
            resolve(new RawPeer(socket, secrets))
          }
        }
      }
      socket.on("connect", () => socket.write(initiator.hello()))
      socket.on("data", chunk => (turn = turn.then(() => take(chunk)).catch(reject)))
      socket.on("error", reject)
      socket.on("close", () => reject(new Error("the other side hung up during the handshake")))
    })
  }

  record(type: number, stream = 0, payload: Uint8Array = new Uint8Array(0), flags = 0): void {
    for (const part of this.sealer.seal(type, flags, stream, [payload])) this.socket.write(part)
  }

  ready(): void {
    this.record(recordTypes.ready)
  }
}
