import { utf8 } from "../../src/protocol/Bytes.ts"
import { extract } from "../../src/protocol/KeySchedule.ts"
import { DatagramOpener, directionSecrets } from "../../src/protocol/sllp/Datagrams.ts"
import { FrameReader } from "../../src/protocol/sllp/Frames.ts"
import { SllpAssociation, type SllpChannelOptions, type SllpOptions } from "../../src/protocol/sllp/SllpAssociation.ts"
import { SeededRandom } from "./protocolRandom.ts"
import { VirtualNetwork, type Host, type Line, type Passing } from "./sllpNetwork.ts"

export const initiatorCid = utf8("cid of I")
export const responderCid = utf8("cid of R")
export const initiatorAddress = "192.0.2.1:1000"
export const responderAddress = "192.0.2.2:2000"
export const associationSecret = extract(utf8("a test's"), utf8("secret"))

/** What the two ends of one association need to be made. */
export const endOptions = (
  role: "initiator" | "responder",
  channels: ReadonlyArray<SllpChannelOptions>,
  nowMs: number
): SllpOptions => ({
  role,
  secret: Uint8Array.from(associationSecret),
  cid: role === "initiator" ? initiatorCid : responderCid,
  peerCid: role === "initiator" ? responderCid : initiatorCid,
  channels,
  nowMs,
  randomBytes: length => new SeededRandom(77).bytes(length),
  ...(role === "initiator" ? { address: responderAddress } : {})
})

export interface PairOptions {
  readonly seed?: number
  readonly channels: ReadonlyArray<SllpChannelOptions>
  /** Of both directions. */
  readonly line?: Partial<Line>
  readonly both?: Partial<SllpOptions>
  readonly initiator?: Partial<SllpOptions>
  readonly responder?: Partial<SllpOptions>
}

export interface Pair {
  readonly network: VirtualNetwork
  readonly initiator: Host
  readonly responder: Host
}

/** An association and its virtual network. */
export const makePair = (options: PairOptions): Pair => {
  const { channels, line, both } = options
  const network = new VirtualNetwork(options.seed ?? 1)
  const make = (role: "initiator" | "responder") =>
    new SllpAssociation({ ...endOptions(role, channels, network.nowMs), ...both, ...options[role] })
  return {
    network,
    initiator: network.add(initiatorAddress, make("initiator"), channels.length, line),
    responder: network.add(responderAddress, make("responder"), channels.length, line)
  }
}

/** Both ends know each other. */
export const makeConnectedPair = (options: PairOptions): Pair => {
  const pair = makePair(options)
  const { network, initiator, responder } = pair
  const done = network.run(network.nowMs + 20_000, () => initiator.has("connected") && responder.has("connected"))
  if (!done) throw new Error("the two ends have not found each other")
  return pair
}

/** Bytes that tell which message they are of and where they stand: the value at each place follows from id and place. */
export const patterned = (id: number, length: number): Uint8Array => {
  const words = new Uint32Array(Math.ceil(length / 4))
  let value = (id * 0x9e3779b1 + length) >>> 0
  for (let at = 0; at < words.length; at++) {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0
    words[at] = value
  }
  const bytes = new Uint8Array(words.buffer, 0, length)
  if (length >= 4) bytes.set([id >>> 24, id >>> 16, id >>> 8, id])
  return bytes
}

/** The number that stands at the beginning of a patterned message, if the rest of it is right. */
export const numberOf = (bytes: Uint8Array): number => {
  const id = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)
  if (Buffer.compare(bytes, patterned(id, bytes.length)) !== 0) throw new Error(`message ${id} has a wrong byte`)
  return id
}

/** Sees into the datagrams of a pair, as nobody on the line can: the types of their frames, those of chunks and runs of PAD once. */
export const frameSpy = (): ((passing: Passing) => ReadonlySet<string>) => {
  const { initiatorToResponder, responderToInitiator } = directionSecrets(associationSecret)
  const openers = [
    new DatagramOpener(initiatorToResponder, responderCid),
    new DatagramOpener(responderToInitiator, initiatorCid)
  ]
  return ({ bytes }) => {
    const seen = new Set<string>()
    for (const opener of openers) {
      const plain = opener.open(bytes, 0, 0)
      if (typeof plain === "string") continue
      new FrameReader().read(plain, {
        onChunk: () => void seen.add("chunk"),
        onAck: () => void seen.add("ack"),
        onClose: () => void seen.add("close"),
        onPathChallenge: () => void seen.add("challenge"),
        onPathResponse: () => void seen.add("response"),
        onDrop: () => void seen.add("drop"),
        onCredit: () => void seen.add("credit")
      })
    }
    return seen
  }
}
