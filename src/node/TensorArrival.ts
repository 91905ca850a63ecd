import { Effect, Exit } from "effect"
import type { MessageChunk, MuxStream } from "../protocol/MuxStream.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { recordTypes, release } from "../protocol/Records.ts"
import type { SpareMemory } from "./SpareMemory.ts"
import { arrayOf, TensorTruncated, type TensorArray, type TensorRef } from "./TensorRef.ts"

/**
 * One tensor on its way in. Its bytes go straight to their place in the final array: as they come, where `admit` allows that before anyone
 * has asked for it, else as soon as someone does; until then they wait in the stream's window.
 */
export class TensorArrival {
  readonly stream: MuxStream
  readonly #peer: string
  readonly #admit: (bytes: number) => boolean
  readonly #memory: SpareMemory
  #bytes: Uint8Array<ArrayBuffer> | undefined
  #begun = false
  #filled = 0
  /** Chunks that came before there was an array: bounded by the window, as none of them is consumed. */
  #waiting: Array<MessageChunk> = []
  #lastMessageId: number | undefined
  #failure: TensorTruncated | undefined
  #taker:
    { readonly ref: TensorRef; readonly resume: (exit: Exit.Exit<TensorArray, TensorTruncated>) => void } | undefined

  /** @param onClose told when the stream is gone, whoever takes the tensor or nobody */
  constructor(
    stream: MuxStream,
    peer: string,
    memory: SpareMemory,
    admit: (bytes: number) => boolean,
    onClose: () => void
  ) {
    this.#memory = memory
    this.stream = stream
    this.#peer = peer
    this.#admit = admit
    stream.receive({
      onChunk: chunk => this.#onChunk(chunk),
      onEnd: () => (this.#lastMessageId === undefined ? this.#wrongSize(this.#filled) : undefined),
      onClose: reason => {
        onClose()
        this.#fail(this.#filled, reason.message)
      }
    })
  }

  /** Bytes of the array that it holds. */
  get heldBytes(): number {
    return this.#bytes?.length ?? 0
  }

  /** Makes the array for someone who asks, where none has been made ahead. */
  allocate(bytes: number): void {
    this.#bytes ??= this.#memory.take(bytes)
  }

  /** The whole array, once it is here; to be called once. */
  take(ref: TensorRef): Effect.Effect<TensorArray, TensorTruncated> {
    return Effect.callback(resume => {
      this.#taker = { ref, resume: exit => resume(exit) }
      this.allocate(ref.bytes)
      const target = this.#bytes
      if (target?.length !== ref.bytes) this.#wrongSize(this.heldBytes)
      else for (const chunk of this.#waiting.splice(0)) this.#place(chunk, target)
      this.#settle()
    })
  }

  #onChunk(chunk: MessageChunk): void {
    if (chunk.type !== recordTypes.rawData || (chunk.first && this.#begun))
      throw new ProtocolError("UNEXPECTED", "more than one tensor on its stream")
    this.#begun = true
    const { total } = chunk
    if (this.#bytes === undefined && total !== undefined && this.#waiting.length === 0 && this.#admit(total))
      this.#bytes = this.#memory.take(total)
    if (this.#bytes === undefined) this.#waiting.push(chunk)
    else this.#place(chunk, this.#bytes)
  }

  #place(chunk: MessageChunk, target: Uint8Array): void {
    const { bytes, last, messageId, total = target.length } = chunk
    const end = this.#filled + bytes.length
    if (total !== target.length) return this.#wrongSize(total)
    if (end > target.length || (last && end < target.length)) return this.#wrongSize(end)
    target.set(bytes, this.#filled)
    this.#filled = end
    this.stream.consumed(chunk)
    release(bytes)
    if (!last) return
    this.#lastMessageId = messageId
    this.#settle()
  }

  #wrongSize(bytes: number): void {
    this.stream.reset("MALFORMED", "the stream and the ref differ in size")
    this.#fail(bytes, "the stream and the ref differ in size")
  }

  #fail(receivedBytes: number, reason: string): void {
    const expectedBytes = this.#taker?.ref.bytes ?? this.heldBytes
    const { id: stream } = this.stream
    this.#failure ??= new TensorTruncated({ peer: this.#peer, stream, expectedBytes, receivedBytes, reason })
    this.#waiting = []
    this.#settle()
  }

  /** Tells the taker, and the sender, once: when there is a taker and either all bytes or a failure. */
  #settle(): void {
    const taker = this.#taker
    if (taker === undefined) return
    if (this.#failure !== undefined) taker.resume(Exit.fail(this.#failure))
    else if (this.#lastMessageId === undefined || this.#bytes === undefined) return
    else {
      this.stream.acknowledge(this.#lastMessageId)
      this.stream.finish()
      taker.resume(Exit.succeed(arrayOf(taker.ref.dtype, this.#bytes.buffer)))
    }
    this.#taker = undefined
  }
}
