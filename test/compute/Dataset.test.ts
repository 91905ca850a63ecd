import { assert, describe, it } from "@effect/vitest"
import { Dataset, DatasetError, loadDataset, type Batch } from "../../src/compute/Dataset.ts"

const arrays = (first: number): Batch => ({
  x: { data: Float32Array.of(first, 1, 2, 3, 4, 5), shape: [3, 2] },
  y: { data: Int32Array.of(7, 8, 9), shape: [3] }
})

describe("A dataset from arrays", () => {
  it("yields the examples asked for, in that order", () => {
    const { train } = Dataset.fromArrays({ train: arrays(0), test: arrays(0) })
    assert.strictEqual(train.count, 3)
    assert.deepStrictEqual(train.batch(Uint32Array.of(2, 0)), {
      x: { data: Float32Array.of(4, 5, 0, 1), shape: [2, 2] },
      y: { data: Int32Array.of(9, 7), shape: [2] }
    })
  })

  it("has a digest that any change of its data changes", () => {
    const digest = (train: Batch, test: Batch) => Dataset.fromArrays({ train, test }).digest
    const original = digest(arrays(0), arrays(0))
    assert.strictEqual(digest(arrays(0), arrays(0)), original)
    assert.notStrictEqual(digest(arrays(1), arrays(0)), original)
    assert.notStrictEqual(digest(arrays(0), arrays(1)), original)
    const { x, y } = arrays(0)
    assert.notStrictEqual(digest({ z: x ?? y, y: y ?? x } as Batch, arrays(0)), original)
    assert.notStrictEqual(
      digest({ ...arrays(0), x: { data: Float32Array.of(0, 1, 2, 3, 4, 5), shape: [3, 2, 1] } }, arrays(0)),
      original
    )
  })
})

describe("Loading a dataset", () => {
  const sound = Dataset.fromArrays({ train: arrays(0), test: arrays(0) })

  it.each([
    {
      fault: "that throws",
      load: () => {
        throw new Error("disk on fire")
      },
      message: "Loading it failed: disk on fire"
    },
    {
      fault: "that throws its own error",
      load: () => {
        throw new DatasetError({ dataset: "d", message: "fetch it again" })
      },
      message: "fetch it again"
    },
    {
      fault: "without a digest",
      load: () => ({ ...sound, digest: "abc" }),
      message: 'Its digest is "abc", but must be a SHA-256'
    },
    {
      fault: "without test examples",
      load: () => ({ ...sound, test: undefined }) as unknown as typeof sound,
      message: "It needs `train` and `test`"
    }
  ])("refuses one $fault", async ({ load, message }) => {
    const error: unknown = await loadDataset({ name: "d", load }).then(undefined, (reason: unknown) => reason)
    assert.instanceOf(error, DatasetError)
    assert.strictEqual(error.dataset, "d")
    assert.include(error.message, message)
  })
})
