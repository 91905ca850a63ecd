import { Schema } from "effect"
import { fromUtf8, utf8 } from "../protocol/Bytes.ts"

/**
 * The header of a safetensors file, as https://github.com/huggingface/safetensors#format has it: the length of the header (unsigned 64-bit,
 * little-endian), the header (JSON, padded with spaces so that the data begin at a multiple of 8), and the data of all tensors without gaps.
 */

/** Largest header that is read. The format's own library allows 100 MB; a header has about 100 bytes per tensor. */
export const maxHeaderBytes = 16 * 1024 * 1024
/** Before the header: its length. */
export const lengthBytes = 8
const alignment = 8
const maxDimensions = 32
const metadataKey = "__metadata__"

/** Bytes of one element. */
export const dtypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8
} as const
export type Dtype = keyof typeof dtypeBytes

/** The file is not one, or of another form than the format allows. */
export class SafetensorsError extends Schema.TaggedError<SafetensorsError>()("SafetensorsError", {
  message: Schema.String
}) {}

/** A tensor by its name; elements in row-major order, little-endian. */
export interface Tensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: ReadonlyArray<number>
}

/** Where a tensor's bytes are, counted from the first byte of the data. */
export interface TensorEntry extends Tensor {
  readonly begin: number
  readonly end: number
}

export interface Header {
  /** In the order of their bytes. */
  readonly tensors: ReadonlyArray<TensorEntry>
  readonly metadata: Readonly<Record<string, string>>
}

const refuse = (message: string): SafetensorsError => new SafetensorsError({ message })

const sizeOf = ({ name, dtype, shape }: Tensor): number => {
  const bytes = shape.reduce((product, length) => product * length, dtypeBytes[dtype])
  if (!Number.isSafeInteger(bytes)) throw refuse(`the tensor "${name}" has more bytes than can be counted`)
  return bytes
}

/**
 * The first bytes of a file with these tensors in this order: length and header. Put the tensors with the widest elements first: each then
 * lies at a multiple of its element.
 * @throws SafetensorsError for a name that is given twice, or is the format's own
 */
export const encodeHeader = (
  tensors: ReadonlyArray<Tensor>,
  metadata: Readonly<Record<string, string>> = {}
): { readonly bytes: Uint8Array; readonly dataBytes: number } => {
  const names = new Set<string>([metadataKey])
  let end = 0
  const entries: Array<readonly [string, unknown]> = []
  if (Object.keys(metadata).length > 0) entries.push([metadataKey, metadata])
  for (const tensor of tensors) {
    if (names.has(tensor.name)) throw refuse(`a tensor cannot be named "${tensor.name}": the name is taken`)
    names.add(tensor.name)
    const begin = end
    end += sizeOf(tensor)
    entries.push([tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] }])
  }
  // Not through an object: it would put names that are numbers first, and the order of names is the order of bytes.
  const text = `{${entries.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(",")}}`
  const json = utf8(text)
  const length = Math.ceil((lengthBytes + json.length) / alignment) * alignment - lengthBytes
  if (length > maxHeaderBytes) throw refuse(`a header of ${length} bytes is longer than ${maxHeaderBytes}`)
  const bytes = new Uint8Array(lengthBytes + length).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true)
  bytes.set(json, lengthBytes)
  return { bytes, dataBytes: end }
}

/**
 * The length of the header from the first 8 bytes of a file.
 * @throws SafetensorsError where it does not fit a file of `fileBytes`, or is above {@link maxHeaderBytes}
 */
export const decodeLength = (first: Uint8Array, fileBytes: number): number => {
  if (first.length < lengthBytes) throw refuse(`a file of ${first.length} bytes has no header`)
  const length = new DataView(first.buffer, first.byteOffset, lengthBytes).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes))
    throw refuse(`its header would have ${length} bytes, more than the ${maxHeaderBytes} that are read`)
  if (length > BigInt(fileBytes - lengthBytes))
    throw refuse(`its header would have ${length} bytes, but the file has ${fileBytes}`)
  return Number(length)
}

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Entry = Schema.Struct({
  dtype: Schema.Literals(Object.keys(dtypeBytes).filter((name): name is Dtype => name in dtypeBytes)),
  shape: Schema.Array(Count).check(Schema.isMaxLength(maxDimensions)),
  data_offsets: Schema.Tuple([Count, Count])
})
const isEntry = Schema.is(Entry)
const isMetadata = Schema.is(Schema.Record(Schema.String, Schema.String))

const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const parse = (bytes: Uint8Array): object => {
  if (bytes[0] !== 0x7b) throw refuse("its header does not begin with {")
  let value: unknown
  try {
    value = JSON.parse(fromUtf8(bytes, "the header"))
  } catch {
    throw refuse("its header is not JSON in UTF-8")
  }
  if (!isObject(value)) throw refuse("its header is not an object")
  return value
}

/**
 * Reads a header, without its length, of a file with `dataBytes` of data.
 * @throws SafetensorsError unless every tensor has a known dtype and just as many bytes as its shape needs, and the tensors fill the data
 * without gap or overlap
 */
export const decodeHeader = (bytes: Uint8Array, dataBytes: number): Header => {
  const tensors: Array<TensorEntry> = []
  let metadata: Readonly<Record<string, string>> = {}
  for (const [name, value] of Object.entries(parse(bytes))) {
    if (name === metadataKey) {
      if (!isMetadata(value)) throw refuse("its metadata are not texts by name")
      metadata = value
      continue
    }
    if (!isEntry(value)) throw refuse(`its entry for "${name}" is not one, or of an unknown dtype`)
    const [begin, end] = value.data_offsets
    const tensor = { name, dtype: value.dtype, shape: value.shape, begin, end }
    if (end - begin !== sizeOf(tensor)) throw refuse(`"${name}" has ${end - begin} bytes, its shape ${sizeOf(tensor)}`)
    tensors.push(tensor)
  }
  tensors.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let filled = 0
  for (const { name, begin, end } of tensors) {
    if (begin !== filled) throw refuse(`"${name}" begins at ${begin}, where ${filled} is next`)
    filled = end
  }
  if (filled !== dataBytes) throw refuse(`its tensors fill ${filled} bytes of ${dataBytes}`)
  return { tensors, metadata }
}
