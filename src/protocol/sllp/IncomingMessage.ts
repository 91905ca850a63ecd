import { ByteRanges } from "./ByteRanges.ts"
import { blockBytes, bytesPerRange, freeRanges, maxRanges, messageOverheadBytes } from "./constants.ts"

/** A run of bytes of a message that has holes. */
export interface SllpPiece {
  readonly offset: number
  readonly bytes: Uint8Array
}

/** What `read` gives: a whole message, or, where `holes` are delivered, those of its bytes that arrived. */
export type SllpMessage =
  | { readonly complete: true; readonly messageId: number; readonly bytes: Uint8Array }
  | {
      readonly complete: false
      readonly messageId: number
      /** What the sender said: not checked against anything but the channel's largest message. */
      readonly total: number
      /** In ascending order, without overlap; none touches the next but at borders of memory blocks. */
      readonly pieces: ReadonlyArray<SllpPiece>
    }

/**
 * The message as one array, its holes filled with zeros. Compare `total` with what you expect first: it is an allocation
 * whose size the peer chooses, up to the channel's largest message.
 */
export const zeroFilled = (message: SllpMessage): Uint8Array => {
  if (message.complete) return message.bytes
  const bytes = new Uint8Array(message.total)
  for (const piece of message.pieces) bytes.set(piece.bytes, piece.offset)
  return bytes
}

/**
 * A message whose ranges arrive in any order (§4.3). Memory is taken by blocks of 64 KiB as bytes for them arrive, never for the
 * total that was announced. The first bytes that arrive for a place stay.
 */
export class IncomingMessage {
  readonly id: number
  readonly total: number
  readonly #ranges = new ByteRanges()
  #blocks: Array<Uint8Array | undefined> = []
  #single: Uint8Array | undefined
  #held = messageOverheadBytes
  /** When its first bytes arrived. */
  readonly seenAtMs: number

  constructor(id: number, total: number, nowMs: number) {
    this.id = id
    this.total = total
    this.seenAtMs = nowMs
  }

  /** A message that came in one piece, `plain[from, to)`. */
  static single(id: number, plain: Uint8Array, from: number, to: number, nowMs: number): IncomingMessage {
    const message = new IncomingMessage(id, to - from, nowMs)
    // A view keeps the whole datagram: not for a few bytes of it, or a peer could make us hold many times what we count.
    message.#single =
      2 * (to - from) >= plain.length ? plain.subarray(from, to) : Uint8Array.from(plain.subarray(from, to))
    message.#held += to - from
    return message
  }

  get complete(): boolean {
    return this.#single !== undefined || this.#ranges.bytes === this.total
  }

  /** More separate ranges than chunks that were lost can explain: to keep them would cost more than their bytes. */
  get scattered(): boolean {
    return this.#ranges.count > Math.min(freeRanges + this.total / bytesPerRange, maxRanges)
  }

  /** Memory that it holds: blocks, and what every message costs. */
  get heldBytes(): number {
    return this.#held
  }

  get receivedBytes(): number {
    return this.#single?.length ?? this.#ranges.bytes
  }

  /** Memory that would have to be taken for these bytes. */
  needs(offset: number, length: number): number {
    let bytes = 0
    for (let block = blockOf(offset); block <= blockOf(offset + length - 1); block++)
      if (this.#blocks[block] === undefined) bytes += this.#blockLength(block)
    return bytes
  }

  /** Takes those of the bytes `plain[from, to)` that are new; they belong at `offset`. */
  write(offset: number, plain: Uint8Array, from: number, to: number): void {
    const end = offset + to - from
    for (let at = this.#ranges.nextMissing(offset, end); at < end;) {
      const until = this.#ranges.nextPresent(at, end)
      this.#copy(at, plain, from + at - offset, from + until - offset)
      this.#ranges.add(at, until)
      at = this.#ranges.nextMissing(until, end)
    }
  }

  #copy(offset: number, plain: Uint8Array, from: number, to: number): void {
    for (let at = from; at < to;) {
      const place = offset + at - from
      const index = blockOf(place)
      const within = place - index * blockBytes
      const block = this.#block(index)
      const length = Math.min(to - at, block.length - within)
      block.set(plain.subarray(at, at + length), within)
      at += length
    }
  }

  #block(index: number): Uint8Array {
    const present = this.#blocks[index]
    if (present !== undefined) return present
    while (this.#blocks.length < index) this.#blocks.push(undefined)
    const block = Buffer.allocUnsafeSlow(this.#blockLength(index))
    this.#blocks[index] = block
    this.#held += block.length
    return block
  }

  #blockLength(index: number): number {
    return Math.min(blockBytes, this.total - index * blockBytes)
  }

  /** The message for its reader; its memory is the reader's from now on. */
  deliver(): SllpMessage {
    const { id: messageId, total } = this
    if (this.#single !== undefined) return { complete: true, messageId, bytes: this.#single }
    if (!this.complete) return { complete: false, messageId, total, pieces: this.#pieces() }
    const [only] = this.#blocks
    if (this.#blocks.length === 1 && only !== undefined) return { complete: true, messageId, bytes: only }
    const bytes = Buffer.allocUnsafeSlow(total)
    for (const [index, block] of this.#blocks.entries()) if (block !== undefined) bytes.set(block, index * blockBytes)
    this.#blocks = []
    return { complete: true, messageId, bytes }
  }

  #pieces(): ReadonlyArray<SllpPiece> {
    const pieces: Array<SllpPiece> = []
    for (let range = 0; range < this.#ranges.count; range++) {
      const to = this.#ranges.to(range)
      for (let offset = this.#ranges.from(range); offset < to;) {
        const index = blockOf(offset)
        const until = Math.min(to, (index + 1) * blockBytes)
        const bytes = this.#block(index).subarray(offset - index * blockBytes, until - index * blockBytes)
        pieces.push({ offset, bytes })
        offset = until
      }
    }
    return pieces
  }
}

const blockOf = (offset: number): number => Math.floor(offset / blockBytes)
