import { equal } from "../Bytes.ts"
import { amplificationFactor, datagramOverheadBytes, maxPathChallenges, pathDataBytes } from "./constants.ts"

/** Answers to PATH_CHALLENGE that may wait. */
const maxResponses = 4
/** What a datagram needs to say anything: its overhead, an ACK without ranges, and a PING. */
const leastDatagramBytes = datagramOverheadBytes + 17

/** Frames of one datagram that goes to an address of its own. */
export interface PathFrame {
  readonly to: string
  readonly data: Uint8Array
}

interface Candidate {
  readonly address: string
  readonly data: Uint8Array
  receivedBytes: number
  sentBytes: number
  challenges: number
  challengeAtMs: number
}

/**
 * Where the peer is (§4.5). A datagram of the highest number from a new address makes that a candidate, which has to answer a
 * PATH_CHALLENGE; until it does it gets at most three times the bytes that came from it, and the old path stays in use.
 */
export class Paths {
  readonly #randomBytes: (length: number) => Uint8Array
  #address: string | undefined
  #candidate: Candidate | undefined
  #responses: Array<PathFrame> = []

  /** @param address that of the peer where the session knows it, undefined where it is to be learnt */
  constructor(address: string | undefined, randomBytes: (length: number) => Uint8Array) {
    this.#address = address
    this.#randomBytes = randomBytes
  }

  /** The peer's address, once it is certain. */
  get address(): string | undefined {
    return this.#address
  }

  /** Where to send: an address that is not certain yet is better than none. */
  get destination(): string | undefined {
    return this.#address ?? this.#candidate?.address
  }

  /** How large a datagram to `destination` may be now; 0 where it could say nothing. */
  get allowedBytes(): number {
    if (this.#address !== undefined) return Infinity
    return this.#candidate === undefined ? 0 : allowance(this.#candidate)
  }

  /** When a challenge is due, or the candidate is given up. */
  get deadlineMs(): number {
    return this.#candidate?.challengeAtMs ?? Infinity
  }

  /** An authentic datagram has come. */
  onReceived(from: string, bytes: number, highest: boolean, nowMs: number): void {
    if (from === this.#address) return
    if (from === this.#candidate?.address) {
      this.#candidate.receivedBytes += bytes
      return
    }
    if (!highest) return
    this.#candidate = {
      address: from,
      data: this.#randomBytes(pathDataBytes),
      receivedBytes: bytes,
      sentBytes: 0,
      challenges: 0,
      challengeAtMs: nowMs
    }
  }

  onSent(to: string, bytes: number): void {
    if (to === this.#candidate?.address) this.#candidate.sentBytes += bytes
  }

  onChallenge(from: string, data: Uint8Array): void {
    if (this.#responses.length >= maxResponses) this.#responses.shift()
    this.#responses.push({ to: from, data: Uint8Array.from(data) })
  }

  /** The candidate has shown that it is the peer: it is its address from now on. Any other answer means nothing. */
  onResponse(data: Uint8Array): boolean {
    const candidate = this.#candidate
    if (candidate === undefined || candidate.challenges === 0 || !equal(candidate.data, data)) return false
    this.#address = candidate.address
    this.#candidate = undefined
    return true
  }

  takeResponse(): PathFrame | undefined {
    return this.#responses.shift()
  }

  /** The challenge that is due now. One that was not answered three times makes the candidate be forgotten. */
  takeChallenge(nowMs: number, ptoMs: number): PathFrame | undefined {
    const candidate = this.#candidate
    if (candidate === undefined || nowMs < candidate.challengeAtMs) return undefined
    if (candidate.challenges >= maxPathChallenges) {
      this.#candidate = undefined
      return undefined
    }
    candidate.challengeAtMs = nowMs + ptoMs * 2 ** candidate.challenges
    candidate.challenges++
    return allowance(candidate) === 0 ? undefined : { to: candidate.address, data: candidate.data }
  }
}

const allowance = (candidate: Candidate): number => {
  const bytes = amplificationFactor * candidate.receivedBytes - candidate.sentBytes
  return bytes < leastDatagramBytes ? 0 : bytes
}
