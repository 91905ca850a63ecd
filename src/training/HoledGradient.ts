/** Gradients as messages of an SLLP channel that may have holes. */
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { SllpMessage } from "../protocol/sllp/SllpAssociation.ts"

export interface HoledGradient {
  /** Where nothing arrived it is 0. */
  readonly values: Float32Array
  /** Values that did not arrive, or not with all four bytes. */
  readonly missing: number
}

const floatBytes = 4

/**
 * The gradient in a message of an `ordered` channel with `holes: "deliver"`: little-endian float32, a missing range counts as zero. For
 * strategies that would rather go on than wait: a value that is missing here leaves its parameter as it is for this time.
 * Throws ProtocolError (MALFORMED) for a message that is not of `length` values, before memory is taken for it: its size is the peer's claim.
 */
export const gradientOf = (message: SllpMessage, length: number): HoledGradient => {
  const bytes = message.complete ? message.bytes.length : message.total
  if (bytes !== length * floatBytes)
    throw new ProtocolError(
      "MALFORMED",
      `a gradient of ${length} values has ${length * floatBytes} bytes, not ${bytes}`
    )
  const values = new Float32Array(length)
  const raw = new Uint8Array(values.buffer)
  if (message.complete) {
    raw.set(message.bytes)
    return { values, missing: 0 }
  }
  let present = 0
  for (const { offset, bytes: piece } of message.pieces) {
    // Half of a float is none. Pieces that touch do so at a border of memory blocks, where no float is cut.
    const from = Math.ceil(offset / floatBytes)
    const to = Math.floor((offset + piece.length) / floatBytes)
    if (to <= from) continue
    raw.set(piece.subarray(from * floatBytes - offset, to * floatBytes - offset), from * floatBytes)
    present += to - from
  }
  return { values, missing: length - present }
}
