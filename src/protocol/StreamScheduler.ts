import type { MuxStream } from "./MuxStream.ts"
import type { OutgoingRecord } from "./OutgoingMessage.ts"
import { streamClasses, type StreamClass } from "./Packets.ts"

/** Bytes that one bulk stream may send before it is the next one's turn: no less than the largest record. */
const bulkQuantumBytes = 65_536

/**
 * Which stream sends next (§3.5): class 0, then class 1, each in turn by records; then bulk streams by deficit round robin
 * (Shreedhar and Varghese, 1995), so that each gets the same share of bytes whatever the size of its records.
 */
export class StreamScheduler {
  /** Streams with something to send; the first is the next one to be asked. */
  readonly #active: { readonly [K in StreamClass]: Array<MuxStream> } = { 0: [], 1: [], 2: [] }
  /** Bytes that a bulk stream may still send in its turn; below zero, what it sent beyond its last one. */
  readonly #deficits = new Map<MuxStream, number>()

  add(stream: MuxStream): void {
    const active = this.#active[stream.streamClass]
    if (!active.includes(stream)) active.push(stream)
  }

  remove(stream: MuxStream): void {
    const active = this.#active[stream.streamClass]
    const at = active.indexOf(stream)
    if (at >= 0) active.splice(at, 1)
    this.#deficits.delete(stream)
  }

  next(): OutgoingRecord | undefined {
    return this.#inTurn(streamClasses.admin) ?? this.#inTurn(streamClasses.rpc) ?? this.#bulk()
  }

  #inTurn(streamClass: StreamClass): OutgoingRecord | undefined {
    const active = this.#active[streamClass]
    for (let turns = active.length; turns > 0; turns--) {
      const stream = active.shift()
      if (stream === undefined) return undefined
      const record = stream.next()
      // A stream without credit leaves the turn; its CREDIT wakes it again.
      if (stream.ready) this.add(stream)
      if (record !== undefined) return record
    }
    return undefined
  }

  /** A stream goes on until its share is used or it can send no more. */
  #bulk(): OutgoingRecord | undefined {
    const active = this.#active[streamClasses.bulk]
    for (let turns = active.length; turns > 0; turns--) {
      const stream = active[0]
      if (stream === undefined) return undefined
      let deficit = this.#deficits.get(stream) ?? 0
      if (deficit <= 0) deficit += bulkQuantumBytes
      const record = stream.next()
      deficit -= record?.bytes ?? 0
      // A stream that has just ended has left the list by itself.
      if (stream.closed === undefined) this.#endTurn(stream, deficit)
      if (record !== undefined) return record
    }
    return undefined
  }

  #endTurn(stream: MuxStream, deficit: number): void {
    if (stream.ready && deficit > 0) return void this.#deficits.set(stream, deficit)
    const active = this.#active[streamClasses.bulk]
    active.shift()
    if (stream.ready) active.push(stream)
    this.#deficits.set(stream, Math.min(deficit, 0))
  }
}
