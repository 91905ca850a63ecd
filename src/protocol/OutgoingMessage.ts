import { ProtocolError } from "./ProtocolError.ts"
import { recordTypes } from "./Records.ts"

export type MessageType = typeof recordTypes.rawData | typeof recordTypes.admin | typeof recordTypes.adminAck

/** One record to be sealed. */
export interface OutgoingRecord {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: ReadonlyArray<Uint8Array>
  readonly bytes: number
  /** To be called once the payload has been read: it ends the message that this record is the last of. */
  readonly sealed?: () => void
}

/** A message on its way out. Its parts are sent in order and must not change until `finish`. */
export class OutgoingMessage {
  readonly type: MessageType
  readonly messageId: number
  readonly total: number
  readonly ackRequested: boolean
  readonly finish: (error?: ProtocolError) => void
  readonly #parts: Array<Uint8Array>
  /** Bytes that wait to be sent. */
  waiting: number
  started = false

  constructor(
    type: MessageType,
    messageId: number,
    parts: ReadonlyArray<Uint8Array>,
    ackRequested: boolean,
    done: (error?: ProtocolError) => void
  ) {
    this.type = type
    this.messageId = messageId
    this.#parts = parts.filter(part => part.length > 0)
    this.total = this.#parts.reduce((bytes, part) => bytes + part.length, 0)
    this.waiting = this.total
    this.ackRequested = ackRequested
    this.finish = done
  }

  /** Free of credit: answers, so that a full window never blocks them. */
  get free(): boolean {
    return this.type === recordTypes.adminAck
  }

  take(bytes: number): Array<Uint8Array> {
    const taken: Array<Uint8Array> = []
    let left = bytes
    while (left > 0) {
      const part = this.#parts[0]
      if (part === undefined) throw new ProtocolError("INTERNAL", "more bytes counted than queued")
      if (part.length <= left) {
        taken.push(part)
        this.#parts.shift()
        left -= part.length
      } else {
        taken.push(part.subarray(0, left))
        this.#parts[0] = part.subarray(left)
        left = 0
      }
    }
    this.waiting -= bytes
    return taken
  }
}
