import { concat, u16, u32, u64 } from "../../src/protocol/Bytes.ts"
import { DatagramOpener, DatagramSealer, directionSecrets } from "../../src/protocol/sllp/Datagrams.ts"
import { frameTypes } from "../../src/protocol/sllp/Frames.ts"
import {
  SllpAssociation,
  type SllpChannelOptions,
  type SllpEvent,
  type SllpOptions
} from "../../src/protocol/sllp/SllpAssociation.ts"
import { associationSecret, endOptions, initiatorAddress, initiatorCid, responderCid } from "./sllpPair.ts"

const u48 = (value: number): Uint8Array => concat(u16(Math.floor(value / 2 ** 32)), u32(value % 2 ** 32))

/** The frames of §4.3, byte by byte: what is written here follows the page, not the code. */
export const rawFrames = {
  chunk: (channel: number, messageId: number, total: number, offset: number, data: Uint8Array): Uint8Array =>
    concat(Uint8Array.of(0x40), u16(channel), u32(messageId), u48(total), u48(offset), u16(data.length), data),
  ack: (largest: number, first: number, ...more: ReadonlyArray<readonly [gap: number, length: number]>): Uint8Array =>
    concat(
      Uint8Array.of(0x41),
      u64(largest),
      u32(0),
      Uint8Array.of(more.length),
      u16(first),
      ...more.flatMap(([gap, length]) => [u16(gap), u16(length)])
    ),
  close: (code: number, reason: Uint8Array): Uint8Array => concat(Uint8Array.of(0x42), u16(code), reason),
  ping: Uint8Array.of(0x43),
  challenge: (data: Uint8Array): Uint8Array => concat(Uint8Array.of(0x44), data),
  response: (data: Uint8Array): Uint8Array => concat(Uint8Array.of(0x45), data),
  drop: (channel: number, messageId: number): Uint8Array => concat(Uint8Array.of(0x46), u16(channel), u32(messageId)),
  credit: (channel: number, limit: number): Uint8Array => concat(Uint8Array.of(0x47), u16(channel), u64(limit))
}

/** A peer that has the keys of an association and says what it likes to the responder. */
export class HostileEnd {
  readonly victim: SllpAssociation
  readonly events: Array<SllpEvent> = []
  readonly #sealer: DatagramSealer
  readonly #opener: DatagramOpener
  nowMs = 1_000
  /** Bytes that the victim has sent. */
  sentBytes = 0
  address = initiatorAddress

  constructor(channels: ReadonlyArray<SllpChannelOptions>, options: Partial<SllpOptions> = {}) {
    this.victim = new SllpAssociation({ ...endOptions("responder", channels, this.nowMs), ...options })
    const { initiatorToResponder, responderToInitiator } = directionSecrets(associationSecret)
    this.#sealer = new DatagramSealer(initiatorToResponder, responderCid, this.nowMs)
    this.#opener = new DatagramOpener(responderToInitiator, initiatorCid)
  }

  /** Sends frames as one datagram; gives the frames of what the victim answers. */
  say(...frames: ReadonlyArray<Uint8Array>): ReadonlyArray<Uint8Array> {
    this.victim.receive(this.#sealer.seal(concat(...frames), this.nowMs), this.nowMs, this.address)
    return this.hear()
  }

  /** Time passes. */
  wait(ms: number): ReadonlyArray<Uint8Array> {
    this.nowMs += ms
    return this.hear()
  }

  hear(): ReadonlyArray<Uint8Array> {
    const heard: Array<Uint8Array> = []
    for (let polls = 0; polls < 100; polls++) {
      for (const { bytes } of this.victim.poll(this.nowMs)) {
        this.sentBytes += bytes.length
        const plain = this.#opener.open(bytes, this.nowMs, 1_000)
        if (typeof plain !== "string") heard.push(Uint8Array.from(plain))
      }
      this.events.push(...this.victim.takeEvents())
      if (this.victim.nextTimeoutMs > this.nowMs) return heard
    }
    throw new Error("it never comes to rest")
  }

  /** Proves the address. */
  connect(): this {
    for (const plain of this.say(rawFrames.ping)) {
      const at = plain.indexOf(frameTypes.pathChallenge)
      if (at >= 0) this.say(rawFrames.response(plain.subarray(at + 1, at + 9)))
    }
    return this
  }

  get closed(): (SllpEvent & { readonly type: "closed" }) | undefined {
    for (const event of this.events) if (event.type === "closed") return event
    return undefined
  }
}
