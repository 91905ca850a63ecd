import { CompressionError, type Codec } from "../compute/Codec.ts"
import { makeCodec, type CompressionOptions } from "../compute/Compression.ts"
import { ErrorFeedback } from "../compute/ErrorFeedback.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { Segment } from "./Segments.ts"

/** The buffer of a member, made where it has none of this length. */
const bufferFor = (buffers: Map<PeerId, Uint8Array>, peer: PeerId, length: number): Uint8Array => {
  const known = buffers.get(peer)
  if (known?.length === length) return known
  const made = new Uint8Array(length)
  buffers.set(peer, made)
  return made
}

/**
 * How one member writes what it sends in fewer bytes, and what it owes for it: one residual for its own sums, one for the mean of the segment
 * that it reduces. Both belong to an attempt at a step, which counts when the step is applied and is forgotten when it is computed again.
 */
export class GradientCompression {
  readonly codec: Codec
  readonly #lanes: number
  readonly #sums: ErrorFeedback
  readonly #means: ErrorFeedback
  /** Compressed bytes, by the member that they go to or come from: written again when the step that they were of is over. */
  readonly #outgoing = new Map<PeerId, Uint8Array>()
  readonly #incoming = new Map<PeerId, Uint8Array>()
  #attempt: number | undefined
  #segment: Segment = { from: 0, to: 0 }

  constructor(options: CompressionOptions, elements: number, lanes: number) {
    this.codec = makeCodec(options)
    this.#lanes = lanes
    this.#sums = new ErrorFeedback(elements)
    this.#means = new ErrorFeedback(elements)
  }

  /** Where so many compressed values for a member are written, and where those from one arrive. */
  outgoing(to: PeerId, elements: number): Uint8Array {
    return bufferFor(this.#outgoing, to, this.codec.encodedBytes(elements))
  }

  incoming(from: PeerId, elements: number): Uint8Array {
    return bufferFor(this.#incoming, from, this.codec.encodedBytes(elements))
  }

  /** An attempt at a step begins; one that was not applied is forgotten. */
  begin(step: number): void {
    if (this.#attempt !== undefined) this.#forget()
    this.#attempt = step
  }

  #forget(): void {
    this.#attempt = undefined
    this.#sums.abandon()
    this.#means.abandon()
  }

  /** Writes this member's sum for a segment that begins at parameter `from`; false where it cannot be written, as it is not finite or too large. */
  encodeSum(values: Float32Array, from: number, into: Uint8Array): boolean {
    return this.#encode(this.#sums, values, from, into)
  }

  /** Writes the mean of the segment that this member reduces. */
  encodeMean(values: Float32Array, from: number, into: Uint8Array): boolean {
    return this.#encode(this.#means, values, from, into)
  }

  #encode(feedback: ErrorFeedback, values: Float32Array, from: number, into: Uint8Array): boolean {
    try {
      if (this.codec.needsFeedback) feedback.encode(this.codec, values, from, into)
      else this.codec.encode(values, into)
      return true
    } catch (error) {
      if (error instanceof CompressionError && (error.reason === "NonFinite" || error.reason === "Overflow"))
        return false
      throw error
    }
  }

  /** This member's own sum for its own segment does not travel: it is taken whole, with what is owed to it. */
  includeSum(values: Float32Array, from: number): void {
    if (this.codec.needsFeedback) this.#sums.include(values, from)
  }

  /** Reads what another member has written; throws a ProtocolError for what nobody writes. */
  decode(bytes: Uint8Array, into: Float32Array): void {
    try {
      this.codec.decode(bytes, into)
    } catch (error) {
      if (error instanceof CompressionError) throw new ProtocolError("MALFORMED", error.message)
      throw error
    }
  }

  /** The step is applied, or, where it was not finite, counted and nothing else. */
  applied(step: number, skipped: boolean): void {
    if (this.#attempt === step && !skipped) {
      this.#sums.commit()
      this.#means.commit()
      this.#attempt = undefined
    } else this.#forget()
  }

  /** A view begins with another segment: what is owed for the old one is owed as this member's own from here on. */
  own(segment: Segment): void {
    this.#forget()
    const { from, to } = this.#segment
    if (from !== segment.from || to !== segment.to) this.#sums.absorb(this.#means, this.#lanes, from, to)
    this.#segment = segment
  }

  /** The state comes from another member: nothing is owed. */
  clear(): void {
    this.#forget()
    this.#sums.clear()
    this.#means.clear()
  }
}
