import type { MessageChunk, MessageType, MuxStream } from "../protocol/MuxStream.ts"
import type { ProtocolError } from "../protocol/ProtocolError.ts"
import { release } from "../protocol/Records.ts"

/** A message that has arrived whole. */
export interface WholeMessage {
  readonly type: MessageType
  readonly messageId: number
  readonly ackRequested: boolean
  readonly bytes: Uint8Array
}

/** The parts as one; their own memory is given back at once. */
const joined = (parts: ReadonlyArray<Uint8Array>, bytes: number): Uint8Array => {
  const whole = Buffer.concat(parts, bytes)
  parts.forEach(release)
  return whole
}

/**
 * Gathers a stream's messages up to `maxBytes` each; a larger one resets the stream with TOO_LARGE. The buffer grows with what
 * arrives, never with what is announced.
 */
export const receiveWhole = (
  stream: MuxStream,
  maxBytes: number,
  onMessage: (message: WholeMessage) => void,
  onClose: (reason: ProtocolError) => void
): void => {
  let parts: Array<Uint8Array> = []
  let held = 0
  const onChunk = (chunk: MessageChunk): void => {
    held += chunk.bytes.length
    if (held > maxBytes || (chunk.total ?? 0) > maxBytes) {
      parts = []
      return stream.reset("TOO_LARGE", `a message of over ${maxBytes} bytes on stream ${stream.id}`)
    }
    parts.push(chunk.bytes)
    stream.consumed(chunk)
    if (!chunk.last) return
    const bytes = parts.length === 1 ? chunk.bytes : joined(parts, held)
    parts = []
    held = 0
    const { type, messageId, ackRequested } = chunk
    onMessage({ type, messageId, ackRequested, bytes })
  }
  stream.receive({ onChunk, onClose })
}
