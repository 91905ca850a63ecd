import { Dataset, DatasetError, JaxModel, np, TrainingJob, type Batch } from "artifice"
import { line, lineInit, lineModel, type LineBatch } from "./parts.ts"

/** A job with the fault that its URL names: `faulty.ts?fault=throws`. The first batch, with which the model is traced, is sound. */
const dataset = (fault: (indices: Uint32Array) => Batch | undefined) =>
  Dataset.make({
    name: "faulty",
    load: () => {
      const loaded = Dataset.fromArrays({ train: line(64), test: line(10) })
      let batches = 0
      const faultOf = (indices: Uint32Array) => (batches++ === 0 ? undefined : fault(indices))
      return { ...loaded, train: { count: 64, batch: indices => faultOf(indices) ?? loaded.train.batch(indices) } }
    }
  })

const sound = dataset(() => undefined)

const faults = {
  none: { model: lineModel, dataset: sound },
  exits: { model: lineModel, dataset: dataset(() => process.exit(3)) },
  throws: {
    model: lineModel,
    dataset: dataset(() => {
      throw new Error("no such example")
    })
  },
  rejects: {
    model: lineModel,
    dataset: dataset(() => {
      void Promise.reject(new Error("forgotten promise"))
      return undefined
    })
  },
  damaged: {
    model: lineModel,
    dataset: Dataset.make({
      name: "faulty",
      load: () => {
        throw new DatasetError({ dataset: "faulty", message: "file.bin is damaged; fetch it again" })
      }
    })
  },
  small: {
    model: lineModel,
    dataset: Dataset.make({ name: "small", load: () => Dataset.fromArrays({ train: line(7), test: line(1) }) })
  },
  vector: {
    model: JaxModel.make({
      init: lineInit,
      loss: (parameters, batch: LineBatch) => np.square(np.dot(batch.x, parameters.slope))
    }),
    dataset: sound
  },
  infinite: {
    model: JaxModel.make({
      init: lineInit,
      // Only the last example lies above 0.98.
      loss: ({ slope, offset }, { x }: LineBatch) =>
        np.where(x.greater(0.98), Number.POSITIVE_INFINITY, np.dot(x, slope).add(offset)).sum()
    }),
    dataset: sound
  }
}

export type Fault = keyof typeof faults

const isFault = (name: string | null): name is Fault => name !== null && name in faults

const chosen = new URL(import.meta.url).searchParams.get("fault")

export default TrainingJob.make({
  name: "faulty",
  ...faults[isFault(chosen) ? chosen : "none"],
  microBatch: 4,
  lanes: 2
})
