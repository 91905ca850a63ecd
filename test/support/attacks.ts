import type { SeededRandom } from "./protocolRandom.ts"

/** What hostile members send in place of a gradient, from what honest ones would send. */
export interface Attack {
  readonly name: string
  /** Whether a quarter of the members can undo a mean with it. */
  readonly collapses: boolean
  readonly lie: (honest: ReadonlyArray<Float32Array>, hostile: number, random: SeededRandom) => Float32Array
}

const normal = (random: SeededRandom): number => {
  const unit = () => (random.u32() + 1) / (2 ** 32 + 1)
  return Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit())
}

/** Independent values of the standard normal distribution. */
export const normals = (random: SeededRandom, length: number): Float32Array =>
  Float32Array.from({ length }, () => normal(random))

const meanOf = (vectors: ReadonlyArray<Float32Array>): Float32Array =>
  Float32Array.from(
    { length: vectors[0]?.length ?? 0 },
    (_, index) => vectors.reduce((sum, vector) => sum + (vector[index] ?? 0), 0) / vectors.length
  )

/** How the values of each coordinate spread around their mean. */
const deviationsOf = (vectors: ReadonlyArray<Float32Array>, mean: Float32Array): Float32Array =>
  mean.map((center, index) =>
    Math.sqrt(vectors.reduce((sum, vector) => sum + ((vector[index] ?? 0) - center) ** 2, 0) / vectors.length)
  )

/** Baruch, Baruch, Goldberg ("A Little Is Enough", NeurIPS 2019) use 1.5 standard deviations against MNIST and CIFAR-10. */
export const littleDeviations = 1.5

export const attacks: ReadonlyArray<Attack> = [
  { name: "sign flip", collapses: true, lie: honest => meanOf(honest).map(value => -10 * value) },
  { name: "scaling", collapses: true, lie: honest => meanOf(honest).map(value => 1e6 * value) },
  {
    name: "noise",
    collapses: true,
    lie: (honest, _, random) => normals(random, honest[0]?.length ?? 0).map(value => 10 * value)
  },
  { name: "NaN", collapses: true, lie: honest => new Float32Array(honest[0]?.length ?? 0).fill(Number.NaN) },
  {
    // Made to pass rules that look for outliers: it needs more liars, or more steps, to undo a mean.
    name: "a little is enough",
    collapses: false,
    lie: honest => {
      const mean = meanOf(honest)
      const deviations = deviationsOf(honest, mean)
      return mean.map((value, index) => value - littleDeviations * (deviations[index] ?? 0))
    }
  }
]
