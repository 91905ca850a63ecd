import { Schema } from "effect"

/**
 * Compressed values cannot be made or read. `Length`: the bytes are not as many as the elements need; `NonFinite`: a value is not a finite
 * number; `Overflow`: a value is too large for the format; `Scale`: the scale of a block is none that an encoder gives; `Index`: a position
 * does not exist or is not above the one before; `State`: an attempt is used in a way that it does not allow.
 */
export class CompressionError extends Schema.TaggedError<CompressionError>()("CompressionError", {
  reason: Schema.Literals(["Length", "NonFinite", "Overflow", "Scale", "Index", "State"]),
  message: Schema.String
}) {}

export const compressionError = (reason: CompressionError["reason"], message: string): CompressionError =>
  new CompressionError({ reason, message })

/**
 * A way to write float32 values as bytes. The number of bytes follows from the number of elements alone; values are never sent that cannot be
 * read. Buffers of bytes begin at a multiple of {@link bufferAlignment} bytes. A codec has scratch memory: one codec, one thread.
 */
export interface Codec {
  readonly kind: "none" | "fp16" | "int8" | "topK"
  /** Whether what is lost must be kept and sent later (see ErrorFeedback): without that, training would not converge to the same point. */
  readonly needsFeedback: boolean
  /** How many bytes `elements` values take. */
  readonly encodedBytes: (elements: number) => number
  /**
   * Writes `values` to `into` (length `encodedBytes(values.length)`) and, where it is given, what was lost to `error` (the shape of `values`,
   * and it may be `values`): `values[i] = decoded[i] + error[i]`, exactly.
   * @throws CompressionError NonFinite, Overflow or Length; `into` and `error` are then not to be used
   */
  readonly encode: (values: Float32Array, into: Uint8Array, error?: Float32Array) => void
  /**
   * Replaces `into` by the values in `bytes`.
   * @throws CompressionError for bytes that no encoder gives; `into` is then not to be used
   */
  readonly decode: (bytes: Uint8Array, into: Float32Array) => void
  /**
   * Adds the values in `bytes` to `target`, each sum rounded to float32.
   * @throws CompressionError for bytes that no encoder gives; `target` is then as it was
   */
  readonly decodeAdd: (bytes: Uint8Array, target: Float32Array) => void
}

/** Bytes that a buffer's start must be a multiple of: floats are read in place. */
export const bufferAlignment = 4

/** Checks a buffer of encoded bytes before it is read or written. */
export const checkBuffer = (bytes: Uint8Array, expectedBytes: number, elements: number): void => {
  if (bytes.length !== expectedBytes)
    throw compressionError("Length", `${elements} elements take ${expectedBytes} bytes, not ${bytes.length}`)
  if (bytes.byteOffset % bufferAlignment !== 0)
    throw compressionError(
      "Length",
      `The bytes begin at ${bytes.byteOffset}, which is no multiple of ${bufferAlignment}`
    )
}

/** The float32 values that lie in `bytes` from byte `offset` on; no copy. */
export const floatsIn = (bytes: Uint8Array, offset: number, elements: number): Float32Array =>
  new Float32Array(bytes.buffer, bytes.byteOffset + offset, elements)
