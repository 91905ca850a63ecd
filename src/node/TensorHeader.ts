import { ByteReader, concat, u16, u32, u64, u8 } from "../protocol/Bytes.ts"
import { jobIdBytes } from "../protocol/constants.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"

/**
 * What a tensor is for: the sum of some lanes, a step's mean gradient, a replica's whole state, parameters to evaluate, what a segment's owner
 * knows of the distances between members' vectors.
 */
export const tensorKinds = { partial: 1, reduced: 2, state: 3, evaluation: 4, products: 5 } as const
export type TensorKind = (typeof tensorKinds)[keyof typeof tensorKinds]

/**
 * Stands before the floats of every tensor message, so that nothing is placed where it does not belong: a tensor of an old view, of
 * another job or of another step is told apart before its first byte is read.
 */
export interface TensorHeader {
  readonly kind: TensorKind
  /** First 16 bytes of the job's fingerprint. */
  readonly job: Uint8Array
  /** The coordinator's term and the view within it. The star counts views only: its term is 0. */
  readonly term: number
  readonly view: number
  /** Counted from 1: the step that this belongs to; of a state or of parameters, how many steps are applied in it. */
  readonly step: number
  /** The node [from, to) of the lane tree that a partial sum is of. */
  readonly lanes: { readonly from: number; readonly to: number }
  /** The part [from, to) of the flat gradient, in elements; of a state, in bytes. */
  readonly segment: { readonly from: number; readonly to: number }
  /** The tree sum of the node's lane losses, float32. */
  readonly loss: number
}

const version = 2
export { jobIdBytes }
export const tensorHeaderBytes = 1 + 1 + jobIdBytes + 4 + 4 + 8 + 2 + 2 + 8 + 8 + 4

const float = new Float32Array(1)
const floatBits = new Uint32Array(float.buffer)

export const encodeTensorHeader = (header: TensorHeader): Uint8Array => {
  float[0] = header.loss
  return concat(
    u8(version),
    u8(header.kind),
    header.job,
    u32(header.term),
    u32(header.view),
    u64(header.step),
    u16(header.lanes.from),
    u16(header.lanes.to),
    u64(header.segment.from),
    u64(header.segment.to),
    u32(floatBits[0] ?? 0)
  )
}

const count = (value: bigint, field: string): number => {
  if (value > Number.MAX_SAFE_INTEGER) throw new ProtocolError("MALFORMED", `tensor ${field} ${value}`)
  return Number(value)
}

const kindOf = (value: number): TensorKind => {
  for (const kind of Object.values(tensorKinds)) if (kind === value) return kind
  throw new ProtocolError("MALFORMED", `tensor of kind ${value}`)
}

/** Throws ProtocolError MALFORMED for anything that is no header of this version. */
export const parseTensorHeader = (bytes: Uint8Array): TensorHeader => {
  const reader = new ByteReader(bytes)
  const given = reader.u8("tensor version")
  if (given !== version) throw new ProtocolError("MALFORMED", `tensor header of version ${given}`)
  const kind = kindOf(reader.u8("tensor kind"))
  const job = Uint8Array.from(reader.bytes(jobIdBytes, "job"))
  const term = reader.u32("term")
  const view = reader.u32("view")
  const step = count(reader.u64("step"), "step")
  const lanes = { from: reader.u16("first lane"), to: reader.u16("last lane") }
  const segment = { from: count(reader.u64("segment"), "segment"), to: count(reader.u64("segment"), "segment") }
  floatBits[0] = reader.u32("loss")
  const loss = float[0] ?? 0
  reader.end("tensor header")
  if (segment.to < segment.from || lanes.to < lanes.from)
    throw new ProtocolError("MALFORMED", "a tensor range that ends before it begins")
  return { kind, job, term, view, step, lanes, segment, loss }
}
