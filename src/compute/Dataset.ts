import { createHash } from "node:crypto"
import { Schema } from "effect"
import { describeGiven, isRecord } from "./Options.ts"

/** The data of a dataset is absent, damaged, or not what the job needs; the message says what to do. */
export class DatasetError extends Schema.TaggedError<DatasetError>()("DatasetError", {
  dataset: Schema.String,
  message: Schema.String
}) {}

/** One named array of a batch: flat data in row-major order, and its shape, the batch first. */
export interface BatchArray {
  readonly data: Float32Array | Int32Array
  readonly shape: ReadonlyArray<number>
}

/** What a model's functions receive: arrays by name, all with the same first dimension. */
export type Batch = Readonly<Record<string, BatchArray>>

/** Examples that can be counted and fetched by index. */
export interface Split {
  readonly count: number
  /** The examples at `indices`, in that order. Names, types and shapes past the first dimension never change. */
  readonly batch: (indices: Uint32Array) => Batch
}

/** A dataset in memory. */
export interface LoadedDataset {
  /** SHA-256 (64 hex digits) of all its data: equal on every machine that trains with the same examples. */
  readonly digest: string
  readonly train: Split
  readonly test: Split
}

/** A dataset by name. It is loaded where it is used: in the compute thread of each machine, never in the main thread. */
export interface Dataset {
  readonly name: string
  readonly load: () => LoadedDataset | Promise<LoadedDataset>
}

const isSplit = (value: unknown): value is Split =>
  isRecord(value) && Number.isInteger(value.count) && Number(value.count) >= 0 && typeof value.batch === "function"

/** True for a dataset as {@link Dataset.make} makes it. */
export const isDataset = (value: unknown): value is Dataset =>
  isRecord(value) && typeof value.name === "string" && typeof value.load === "function"

/**
 * Loads a dataset and checks that it is one.
 * @throws DatasetError when its loader fails or yields something else
 */
export const loadDataset = async (dataset: Dataset): Promise<LoadedDataset> => {
  const fail = (message: string): never => {
    throw new DatasetError({ dataset: dataset.name, message })
  }
  const loaded = await Promise.resolve()
    .then(() => dataset.load())
    .catch((error: unknown) => {
      if (error instanceof DatasetError) throw error
      return fail(`Loading it failed: ${error instanceof Error ? error.message : String(error)}`)
    })
  if (!/^[0-9a-f]{64}$/.test(loaded.digest))
    return fail(`Its digest is ${describeGiven(loaded.digest)}, but must be a SHA-256 in 64 lower-case hex digits`)
  if (!isSplit(loaded.train) || !isSplit(loaded.test))
    return fail("It needs `train` and `test`, each with a `count` and a `batch(indices)`")
  return loaded
}

const columnBytes = ({ data }: BatchArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

const splitOf = (columns: Batch): Split => {
  const entries = Object.entries(columns)
  const count = entries[0]?.[1].shape[0] ?? 0
  return {
    count,
    batch: indices =>
      Object.fromEntries(
        entries.map(([name, { data, shape }]) => {
          const width = data.length / Math.max(count, 1)
          const taken =
            data instanceof Float32Array
              ? new Float32Array(indices.length * width)
              : new Int32Array(indices.length * width)
          for (const [row, index] of indices.entries())
            taken.set(data.subarray(index * width, (index + 1) * width), row * width)
          return [name, { data: taken, shape: [indices.length, ...shape.slice(1)] }]
        })
      )
  }
}

export const Dataset = {
  /**
   * A dataset from its loader. Use {@link Dataset.fromArrays} within the loader unless the examples do not fit memory as
   * float32.
   */
  make: (dataset: Dataset): Dataset => dataset,

  /**
   * A loaded dataset from whole arrays: each has the number of examples as its first dimension. The digest covers names,
   * shapes and data of both splits.
   */
  fromArrays: ({ train, test }: { readonly train: Batch; readonly test: Batch }): LoadedDataset => {
    const hash = createHash("sha256")
    for (const [split, columns] of Object.entries({ train, test }))
      for (const name of Object.keys(columns).sort()) {
        const column = columns[name]
        if (column === undefined) continue
        hash.update(JSON.stringify([split, name, column.data.constructor.name, column.shape]))
        hash.update(columnBytes(column))
      }
    return { digest: hash.digest("hex"), train: splitOf(train), test: splitOf(test) }
  }
}
