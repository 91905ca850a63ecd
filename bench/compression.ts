import { CoordinateRules } from "../src/compute/Aggregation.ts"
import { divideInto, firstNonFinite } from "../src/compute/Blocks.ts"
import { CenteredClip, productCount } from "../src/compute/CenteredClip.ts"
import { makeCodec, type CompressionOptions } from "../src/compute/Compression.ts"
import { ErrorFeedback } from "../src/compute/ErrorFeedback.ts"
import { pairCount, pairDistances } from "../src/compute/Krum.ts"
import { addInto } from "../src/compute/LaneTree.ts"
import { tensorSha256 } from "../src/training/Audit.ts"
import { rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { alternate, median } from "./support/Statistics.ts"

/** What each thing that is done to a gradient costs one thread: compression, sums, robust rules, the hashes of audits. */

const sizes = [235_146, 1_000_000, 10_000_000] as const
const quickSizes = [235_146, 1_000_000] as const
const density = 0.01
/** Members whose vectors the robust rules work on. */
const members = 8

interface Subject {
  readonly operation: string
  readonly elements: number
  /** Float32 bytes that are read: of one gradient, or of one for each member. */
  readonly inputBytes: number
  /** Bytes that travel per element, where something travels. */
  readonly bytesPerElement: number | undefined
  readonly run: () => void
}

const shared = (elements: number): Float32Array => new Float32Array(new SharedArrayBuffer(elements * 4))

/** Values as gradients have them: of many magnitudes, of both signs. */
const gradientOf = (elements: number, seed: number): Float32Array => {
  const values = shared(elements)
  for (let index = 0; index < elements; index++) {
    const word = Math.imul(index + seed * 7919, 0x9e3779b1)
    values[index] = (word / 2 ** 31) * 2 ** -((word >>> 3) & 15)
  }
  return values
}

/** How one would write it first. */
const plainLoop = (target: Float32Array, addend: Float32Array): void => {
  for (let index = 0; index < target.length; index++) target[index] = (target[index] ?? 0) + (addend[index] ?? 0)
}

const codecSubjects = (compression: CompressionOptions["compression"], gradient: Float32Array): Array<Subject> => {
  const elements = gradient.length
  const codec = makeCodec({ compression, density })
  const bytes = new Uint8Array(new SharedArrayBuffer(codec.encodedBytes(elements)))
  const decoded = shared(elements)
  const feedback = new ErrorFeedback(elements)
  codec.encode(gradient, bytes)
  const subject = (operation: string, run: () => void): Subject => ({
    operation: `${compression}: ${operation}`,
    elements,
    inputBytes: gradient.byteLength,
    bytesPerElement: bytes.length / elements,
    run
  })
  const encode = (): void => {
    feedback.encode(codec, gradient, 0, bytes)
    feedback.commit()
  }
  return [
    codec.needsFeedback
      ? subject("encode with error feedback", encode)
      : subject("encode", () => codec.encode(gradient, bytes)),
    subject("decode", () => codec.decode(bytes, decoded)),
    subject("decode and add", () => codec.decodeAdd(bytes, decoded))
  ]
}

const otherSubjects = (gradient: Float32Array): Array<Subject> => {
  const elements = gradient.length
  const target = shared(elements)
  const subject = (operation: string, run: () => void): Subject => ({
    operation,
    elements,
    inputBytes: gradient.byteLength,
    bytesPerElement: undefined,
    run
  })
  return [
    subject("sum, one plain loop", () => plainLoop(target, gradient)),
    subject("sum", () => addInto(target, gradient)),
    subject("divide and check", () => void divideInto(target, gradient, members)),
    subject("check that all are finite", () => void firstNonFinite(gradient)),
    subject("hash for an audit", () => void tensorSha256({ values: gradient, loss: 1 }))
  ]
}

const ruleSubjects = (elements: number): Array<Subject> => {
  const vectors = Array.from({ length: members }, (_, member) => gradientOf(elements, member))
  const center = shared(elements)
  const out = shared(elements)
  const rules = new CoordinateRules()
  const clip = new CenteredClip(members)
  const distances = new Float64Array(pairCount(members))
  const products = new Float64Array(productCount(members))
  const weights = new Float64Array(members).fill(1 / members)
  const subject = (operation: string, run: () => void): Subject => ({
    operation: `${members} vectors: ${operation}`,
    elements,
    inputBytes: elements * 4 * members,
    bytesPerElement: undefined,
    run
  })
  return [
    subject("mean", () => rules.mean(vectors, out)),
    subject("trimmed mean", () => rules.trimmedMean(vectors, 2, out)),
    subject("distances for Krum", () => pairDistances(vectors, distances)),
    subject("products for clipping", () => clip.products(center, vectors, products)),
    subject("clipped step", () => clip.move(center, vectors, weights, out))
  ]
}

/** Milliseconds for one call. */
const measure = async ({ run }: Subject): Promise<number> => {
  const started = performance.now()
  run()
  return performance.now() - started
}

const run = async ({ quick, note }: BenchmarkOptions) => {
  const rows: Array<Row> = []
  for (const elements of quick ? quickSizes : sizes) {
    note(`${elements} elements`)
    const gradient = gradientOf(elements, 0)
    const subjects = [
      ...(["none", "fp16", "int8", "topK"] as const).flatMap(kind => codecSubjects(kind, gradient)),
      ...otherSubjects(gradient),
      // Eight vectors of ten million would be all that is measured.
      ...(elements > 1_000_000 ? [] : ruleSubjects(elements))
    ]
    // The compiler is done with the last of these loops after some twenty rounds.
    await alternate(subjects, 30, measure)
    const measured = await alternate(subjects, quick ? 11 : 31, measure)
    for (const subject of subjects) {
      const milliseconds = median(measured.get(subject) ?? [])
      rows.push({
        operation: subject.operation,
        elements,
        ms: rounded(milliseconds),
        "GB/s of float32": rounded(subject.inputBytes / (milliseconds * 1e6)),
        "bytes per element": subject.bytesPerElement === undefined ? "" : rounded(subject.bytesPerElement)
      })
    }
  }
  return { rows, goals: [] }
}

export default { needsPeers: false, run } satisfies Benchmark
