import { ProtocolError } from "../ProtocolError.ts"
import { ReceiveWindow } from "../ReceiveWindow.ts"
import { messageOverheadBytes, reliableSpareBytes } from "./constants.ts"
import { Fifo } from "./Fifo.ts"
import { IncomingMessage, type SllpMessage } from "./IncomingMessage.ts"
import { checkTotal, type Inbox, type InboxHost } from "./Inbox.ts"

/** What the sender of a reliable channel may have under way: one message of the largest size, and 4 MiB (§4.4). */
export const reliableWindowBytes = (maxMessageBytes: number): number =>
  maxMessageBytes + messageOverheadBytes + reliableSpareBytes

/** Mode `reliable` (§4.4): every message, in order. Memory is bounded by the credit that the sender has. */
export class ReliableInbox implements Inbox {
  readonly #channel: number
  readonly #host: InboxHost
  readonly #window: ReceiveWindow
  #head = 0
  readonly #messages = new Map<number, IncomingMessage>()
  readonly #ready = new Fifo<IncomingMessage>()
  readonly deadlineMs = Infinity

  constructor(channel: number, host: InboxHost, maxMessageBytes: number) {
    this.#channel = channel
    this.#host = host
    this.#window = new ReceiveWindow(reliableWindowBytes(maxMessageBytes), reliableSpareBytes / 2)
  }

  chunk(
    messageId: number,
    total: number,
    offset: number,
    plain: Uint8Array,
    from: number,
    to: number,
    nowMs: number
  ): void {
    // Sent again though it had arrived: the acknowledgement was lost.
    if (messageId < this.#head) return
    let message = this.#messages.get(messageId)
    if (message === undefined) {
      if (to - from === total) {
        message = IncomingMessage.single(messageId, plain, from, to, nowMs)
        this.#charge(message.heldBytes)
      } else {
        message = new IncomingMessage(messageId, total, nowMs)
        this.#charge(messageOverheadBytes)
      }
      this.#messages.set(messageId, message)
    } else checkTotal(messageId, message.total, total)
    if (!message.complete) {
      this.#charge(message.needs(offset, to - from))
      message.write(offset, plain, from, to)
      if (message.scattered) throw new ProtocolError("LIMIT", `message ${messageId} comes in too many pieces`)
    }
    if (messageId === this.#head && message.complete) this.#advance()
  }

  #charge(bytes: number): void {
    if (!this.#window.receive(bytes))
      throw new ProtocolError("LIMIT", `channel ${this.#channel} received more than it gave credit for`)
  }

  #advance(): void {
    if (this.#ready.size === 0) this.#host.onReadable(this.#channel)
    for (let next = this.#messages.get(this.#head); next?.complete === true; next = this.#messages.get(this.#head)) {
      this.#messages.delete(this.#head)
      this.#head++
      this.#ready.push(next)
    }
  }

  drop(messageId: number): void {
    throw new ProtocolError("MALFORMED", `DROP of message ${messageId} on the reliable channel ${this.#channel}`)
  }

  read(): SllpMessage | undefined {
    const message = this.#ready.shift()
    if (message === undefined) return undefined
    this.#host.counters.delivered++
    const limit = this.#window.consume(message.heldBytes)
    if (limit !== undefined) this.#host.onCredit(this.#channel, limit)
    return message.deliver()
  }

  expire(): void {}

  finish(): void {}
}
