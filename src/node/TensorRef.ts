/** A tensor named in an RPC while its bytes travel on a stream of their own, and what can go wrong with that. */
import { Schema } from "effect"

/** Element types and the arrays that hold them; bytes are little-endian, as on every machine that this runs on. */
const arrays = {
  float16: Float16Array,
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array
} as const

export type DType = keyof typeof arrays
export type TensorArray = InstanceType<(typeof arrays)[DType]>

const isDType = (name: string): name is DType => Object.hasOwn(arrays, name)
const dtypes = Object.keys(arrays).filter(isDType)

export const dtypeOf = (array: TensorArray): DType => {
  for (const dtype of dtypes) if (array instanceof arrays[dtype]) return dtype
  throw new TypeError(`${Object.prototype.toString.call(array)} is no tensor`)
}

/** The array of all bytes of a buffer, without a copy. */
export const arrayOf = (dtype: DType, buffer: ArrayBuffer): TensorArray => new arrays[dtype](buffer)

export const bytesOfShape = (dtype: DType, shape: ReadonlyArray<number>): number =>
  shape.reduce((product, length) => product * length, arrays[dtype].BYTES_PER_ELEMENT)

/** Dimensions of one tensor. */
const maxRank = 16
const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/**
 * Goes into the payload or the reply of an rpc in place of the tensor. Good for one `take`, within the session in which it was put.
 * `bytes` is the product of the shape and the element's size; a ref of which this is not true does not decode.
 */
export const TensorRef = Schema.Struct({
  /** Id of the peer that put it. */
  from: Schema.String,
  /** Random, so that no other tensor is taken for this one. */
  id: Schema.String,
  /** Id of the bulk stream that carries the bytes. */
  stream: Count,
  bytes: Count,
  dtype: Schema.Literals(dtypes),
  shape: Schema.Array(Count).check(Schema.isMaxLength(maxRank))
}).check(
  Schema.makeFilter(
    ({ bytes, dtype, shape }) =>
      bytes === bytesOfShape(dtype, shape) || `${bytes} bytes for ${dtype} of shape [${shape.join(", ")}]`
  )
)
export type TensorRef = Schema.Schema.Type<typeof TensorRef>

/** No tensor waits under this ref: it was taken already, its session is over, or it never was. */
export class TensorUnknown extends Schema.TaggedError<TensorUnknown>()("TensorUnknown", {
  peer: Schema.String,
  stream: Schema.Number
}) {
  override get message() {
    return `no tensor of ${this.peer} waits on stream ${this.stream}`
  }
}

/** Nobody took the tensor in time. Put it again. */
export class TensorExpired extends Schema.TaggedError<TensorExpired>()("TensorExpired", {
  peer: Schema.String,
  stream: Schema.Number
}) {
  override get message() {
    return `the tensor on stream ${this.stream} with ${this.peer} was not taken in time`
  }
}

/** `refs` tensors wait already, or `bytes` are arriving: of this one peer, on this side or on the other. */
export class TensorQuota extends Schema.TaggedError<TensorQuota>()("TensorQuota", {
  peer: Schema.String,
  of: Schema.Literals(["refs", "bytes"]),
  limit: Schema.Number
}) {
  override get message() {
    return `more than ${this.limit} ${this.of} of tensors between here and ${this.peer}`
  }
}

/** The ref names another peer than the one that it is said to come from: it was handed on, or forged. */
export class TensorWrongPeer extends Schema.TaggedError<TensorWrongPeer>()("TensorWrongPeer", {
  named: Schema.String,
  peer: Schema.String
}) {
  override get message() {
    return `a tensor of ${this.named} cannot be taken from ${this.peer}`
  }
}

/** The stream ended early, or carries another number of bytes than the ref says. */
export class TensorTruncated extends Schema.TaggedError<TensorTruncated>()("TensorTruncated", {
  peer: Schema.String,
  stream: Schema.Number,
  expectedBytes: Schema.Number,
  receivedBytes: Schema.Number,
  reason: Schema.String
}) {
  override get message() {
    return `${this.receivedBytes} of ${this.expectedBytes} bytes came from ${this.peer} on stream ${this.stream}: ${this.reason}`
  }
}

/** The other side did not take the tensor whole: it gave up, or the session ended. */
export class TensorNotTaken extends Schema.TaggedError<TensorNotTaken>()("TensorNotTaken", {
  peer: Schema.String,
  stream: Schema.Number,
  reason: Schema.String
}) {
  override get message() {
    return `${this.peer} did not take the tensor on stream ${this.stream}: ${this.reason}`
  }
}

export type TakeError = TensorUnknown | TensorExpired | TensorQuota | TensorWrongPeer | TensorTruncated
export type PutError = TensorExpired | TensorQuota | TensorNotTaken
