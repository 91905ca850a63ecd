import { Dataset, JaxModel, np, type Batch, type Tensor } from "artifice"

/** Examples of a line: y = 2x + 1. */
export const line = (count: number): Batch => ({
  x: { data: Float32Array.from({ length: count }, (_, index) => index / count), shape: [count, 1] },
  y: { data: Float32Array.from({ length: count }, (_, index) => (2 * index) / count + 1), shape: [count, 1] }
})

export const lineDataset = Dataset.make({
  name: "line",
  load: () => Dataset.fromArrays({ train: line(4_096), test: line(100) })
})

type Parameters = { readonly slope: Tensor; readonly offset: Tensor }
export type LineBatch = { readonly x: Tensor; readonly y: Tensor }

export const squaredError = ({ slope, offset }: Parameters, { x, y }: LineBatch) =>
  np.square(np.dot(x, slope).add(offset).sub(y)).mean()

export const lineInit = (): Parameters => ({ slope: np.zeros([1, 1]), offset: np.zeros([1]) })

export const lineModel = JaxModel.make({
  init: lineInit,
  loss: squaredError,
  metrics: { absoluteError: ({ slope, offset }, { x, y }) => np.abs(np.dot(x, slope).add(offset).sub(y)).mean() }
})
