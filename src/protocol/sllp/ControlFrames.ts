import { Fifo } from "./Fifo.ts"
import type { FrameWriter } from "./Frames.ts"
import type { ControlFrame, SentDatagram } from "./SentDatagrams.ts"

/** DROPs that may wait: they only help the other side to give up sooner, so the oldest may go. */
const maxDrops = 1_024

/** DROP and CREDIT on their way: sent again when they are lost, CREDIT with the limit that holds then. */
export class ControlFrames {
  readonly #drops = new Fifo<ControlFrame>()
  readonly #limits = new Map<number, number>()
  readonly #credits = new Map<number, ControlFrame>()

  get ready(): boolean {
    return this.#drops.size > 0 || this.#credits.size > 0
  }

  drop(channel: number, messageId: number): void {
    if (this.#drops.size >= maxDrops) this.#drops.shift()
    this.#drops.push({ type: "drop", channel, messageId })
  }

  credit(channel: number, limit: number): void {
    this.#limits.set(channel, limit)
    this.#credits.set(channel, { type: "credit", channel, messageId: 0 })
  }

  lost(frame: ControlFrame): void {
    if (frame.type === "drop") this.drop(frame.channel, frame.messageId)
    else this.#credits.set(frame.channel, frame)
  }

  /** Writes what fits; returns whether anything did. */
  write(writer: FrameWriter, datagram: SentDatagram): boolean {
    const before = writer.length
    for (const frame of this.#credits.values()) {
      if (!writer.credit(frame.channel, this.#limits.get(frame.channel) ?? 0)) break
      this.#credits.delete(frame.channel)
      datagram.controls.push(frame)
    }
    for (let frame = this.#drops.head; frame !== undefined; frame = this.#drops.head) {
      if (!writer.drop(frame.channel, frame.messageId)) break
      this.#drops.shift()
      datagram.controls.push(frame)
    }
    return writer.length > before
  }
}
