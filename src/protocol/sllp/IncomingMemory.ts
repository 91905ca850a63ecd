import type { IncomingMessage } from "./IncomingMessage.ts"

/** Who holds a message, and can do without it. */
export interface MessageHolder {
  readonly evict: (message: IncomingMessage) => void
}

/**
 * The memory of an association's channels that may lose messages (§4.3): what has arrived counts, never what was announced. Over the
 * budget the oldest incomplete message goes, and, when none is left, the oldest that nobody has read.
 */
export class IncomingMemory {
  readonly #limitBytes: number
  readonly #incomplete = new Map<IncomingMessage, MessageHolder>()
  readonly #complete = new Map<IncomingMessage, MessageHolder>()
  #used = 0

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  get usedBytes(): number {
    return this.#used
  }

  /** Makes room for so many more bytes of a message; false where all that is left is the message itself. */
  reserve(bytes: number, message: IncomingMessage): boolean {
    while (this.#used + bytes > this.#limitBytes) {
      const [victim, holder] = oldest(this.#incomplete, message) ?? oldest(this.#complete, message) ?? []
      if (victim === undefined || holder === undefined) return false
      // Whoever held it releases it.
      holder.evict(victim)
    }
    this.#used += bytes
    return true
  }

  hold(message: IncomingMessage, holder: MessageHolder): void {
    const map = message.complete ? this.#complete : this.#incomplete
    map.set(message, holder)
  }

  completed(message: IncomingMessage, holder: MessageHolder): void {
    this.#incomplete.delete(message)
    this.#complete.set(message, holder)
  }

  release(message: IncomingMessage): void {
    if (this.#incomplete.delete(message) || this.#complete.delete(message)) this.#used -= message.heldBytes
  }
}

const oldest = (
  messages: ReadonlyMap<IncomingMessage, MessageHolder>,
  except: IncomingMessage
): readonly [IncomingMessage, MessageHolder] | undefined => {
  for (const entry of messages) if (entry[0] !== except) return entry
  return undefined
}
