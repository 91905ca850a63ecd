import { maxHandshakeSlots, maxHandshakeSlotsPerPeer, maxUnverifiedSockets } from "../protocol/constants.ts"
import type { Connection } from "../transport/Network.ts"

/**
 * The two pools that bound what callers can make this host hold (§2.9): sockets that have proved nothing yet, and handshakes of callers
 * who know a key. When the first is full, the oldest socket of the address that holds most is destroyed.
 */
export class HandshakePools {
  readonly #sockets = new Map<string, Set<Connection>>()
  readonly #slots = new Map<string, number>()
  #socketCount = 0
  #slotCount = 0

  get sockets(): number {
    return this.#socketCount
  }

  get slots(): number {
    return this.#slotCount
  }

  get underLoad(): boolean {
    return this.#socketCount > maxUnverifiedSockets / 2 || this.#slotCount > maxHandshakeSlots / 2
  }

  addSocket(connection: Connection): void {
    if (this.#socketCount >= maxUnverifiedSockets) this.#evict()
    const host = connection.remote.host
    const own = this.#sockets.get(host) ?? new Set<Connection>()
    own.add(connection)
    this.#sockets.set(host, own)
    this.#socketCount++
  }

  removeSocket(connection: Connection): void {
    const own = this.#sockets.get(connection.remote.host)
    if (own?.delete(connection) !== true) return
    this.#socketCount--
    if (own.size === 0) this.#sockets.delete(connection.remote.host)
  }

  /** Takes a slot for an entry of the directory; false when its share or the whole pool is used. */
  takeSlot(entry: string): boolean {
    const own = this.#slots.get(entry) ?? 0
    if (own >= maxHandshakeSlotsPerPeer || this.#slotCount >= maxHandshakeSlots) return false
    this.#slots.set(entry, own + 1)
    this.#slotCount++
    return true
  }

  freeSlot(entry: string): void {
    const own = this.#slots.get(entry) ?? 0
    if (own === 0) return
    this.#slotCount--
    if (own === 1) this.#slots.delete(entry)
    else this.#slots.set(entry, own - 1)
  }

  #evict(): void {
    let most: Set<Connection> | undefined
    for (const own of this.#sockets.values()) if (most === undefined || own.size > most.size) most = own
    const oldest = most?.values().next().value
    if (oldest === undefined) return
    this.removeSocket(oldest)
    oldest.destroy()
  }
}
