import type { IncomingMessage, SllpMessage } from "./IncomingMessage.ts"
import { LossyInbox } from "./LossyInbox.ts"

/** Mode `latest` (§4.4): the newest whole message; what is older than one that was whole is dropped. */
export class LatestInbox extends LossyInbox {
  #newest = -1
  #ready: IncomingMessage | undefined

  protected override isPast(messageId: number): boolean {
    return messageId <= this.#newest
  }

  protected override arrived(message: IncomingMessage): void {
    this.#newest = message.id
    const unread = this.#ready
    this.#ready = message
    if (unread === undefined) this.host.onReadable(this.channel)
    else {
      this.host.counters.superseded++
      this.release(unread)
    }
    for (const older of this.incomplete.values()) {
      if (older.id > message.id) continue
      this.incomplete.delete(older.id)
      this.givenUp(older)
    }
  }

  protected override givenUp(message: IncomingMessage): void {
    this.host.counters.dropped++
    this.release(message)
  }

  protected override settle(): void {}

  override drop(messageId: number): void {
    const message = this.incomplete.get(messageId)
    if (message === undefined) return
    this.incomplete.delete(messageId)
    this.givenUp(message)
  }

  override read(): SllpMessage | undefined {
    const message = this.#ready
    if (message === undefined) return undefined
    this.#ready = undefined
    this.host.counters.delivered++
    this.release(message)
    return message.deliver()
  }

  override evict(message: IncomingMessage): void {
    if (this.#ready === message) this.#ready = undefined
    else this.incomplete.delete(message.id)
    this.givenUp(message)
  }

  override expire(): void {}

  override finish(): void {}
}
