import { assert, beforeAll, describe, it } from "@effect/vitest"
import { loadMnist } from "../../examples/mnist/Mnist.ts"
import { addPartials, CoordinateRules, type AggregationOptions } from "../../src/compute/Aggregation.ts"
import { firstNonFinite } from "../../src/compute/Blocks.ts"
import { CenteredClip, productCount } from "../../src/compute/CenteredClip.ts"
import type { LoadedDataset } from "../../src/compute/Dataset.ts"
import { krumSelect, multiKrumCount, pairCount, pairDistances } from "../../src/compute/Krum.ts"
import { MemberMomentum } from "../../src/compute/MemberMomentum.ts"
import { applyOptimizer, Optimizer, readOptimizer } from "../../src/compute/Optimizer.ts"
import { permutation } from "../../src/compute/Permutation.ts"
import { segmentOf } from "../../src/training/Segments.ts"
import { attacks, type Attack } from "../support/attacks.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

/**
 * Softmax regression on MNIST's pixels, each 4 × 4 of them averaged: 49 inputs, 10 digits, 500 parameters. Eight members of 32 examples a step
 * send their momentum; two of them lie in every step.
 */
const members = 8
const hostile = 2
const batch = 32
const steps = 400
const side = 7
const inputs = side * side
const digits = 10
const parameters = (inputs + 1) * digits
const momentum = 0.9
const optimizer = readOptimizer(Optimizer.sgd({ learningRate: 1 }))
/** What the robust rules may lose: two points of accuracy. */
const maxLoss = 0.02

interface Examples {
  readonly pixels: Float32Array
  readonly labels: Int32Array
}

const examplesOf = (split: LoadedDataset["train"], count: number): Examples => {
  const { image, label } = split.batch(Uint32Array.from({ length: count }, (_, index) => index))
  const full = image?.data ?? new Float32Array(0)
  const pixels = new Float32Array(count * inputs)
  for (let example = 0; example < count; example++)
    for (let pixel = 0; pixel < 784; pixel++) {
      const input = example * inputs + ((pixel / 28) >> 2) * side + ((pixel % 28) >> 2)
      pixels[input] = (pixels[input] ?? 0) + (full[example * 784 + pixel] ?? 0) / 16
    }
  return { pixels, labels: Int32Array.from(label?.data ?? []) }
}

const logits = new Float64Array(digits)
const score = (weights: Float32Array, { pixels }: Examples, example: number): void => {
  for (let digit = 0; digit < digits; digit++) {
    let sum = weights[inputs * digits + digit] ?? 0
    for (let input = 0; input < inputs; input++)
      sum += (weights[digit * inputs + input] ?? 0) * (pixels[example * inputs + input] ?? 0)
    logits[digit] = sum
  }
}

const gradientOf = (weights: Float32Array, data: Examples, chosen: Uint32Array): Float32Array => {
  const gradient = new Float32Array(parameters)
  for (const example of chosen) {
    score(weights, data, example)
    const top = Math.max(...logits)
    const powers = logits.map(logit => Math.exp(logit - top))
    const total = powers.reduce((sum, power) => sum + power, 0)
    for (let digit = 0; digit < digits; digit++) {
      const slope = ((powers[digit] ?? 0) / total - (data.labels[example] === digit ? 1 : 0)) / chosen.length
      gradient[inputs * digits + digit] = (gradient[inputs * digits + digit] ?? 0) + slope
      for (let input = 0; input < inputs; input++)
        gradient[digit * inputs + input] =
          (gradient[digit * inputs + input] ?? 0) + slope * (data.pixels[example * inputs + input] ?? 0)
    }
  }
  return gradient
}

interface Outcome {
  readonly accuracy: number
  readonly loss: number
}

const evaluate = (weights: Float32Array, data: Examples): Outcome => {
  const count = data.labels.length
  let right = 0
  let loss = 0
  for (let example = 0; example < count; example++) {
    score(weights, data, example)
    const label = data.labels[example] ?? 0
    const top = Math.max(...logits)
    if (logits.indexOf(top) === label) right++
    loss += top - (logits[label] ?? 0) + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0))
  }
  return { accuracy: right / count, loss: loss / count }
}

type Rule = AggregationOptions["aggregation"]
const robust: ReadonlyArray<Rule> = ["trimmedMean", "krum", "multiKrum", "centeredClip"]
const owners = 3

/** A rule as the members of the exchange would work it: segment by segment, what is needed of the whole vector exchanged before. */
const aggregator = (rule: Rule) => {
  const rules = new CoordinateRules()
  const clip = new CenteredClip(members)
  const center = new Float32Array(parameters)
  const segments = Array.from({ length: owners }, (_, owner) => segmentOf(parameters, owner, owners))
  const summed = (count: number, fill: (from: number, to: number, out: Float64Array) => void): Float64Array => {
    const parts = segments.map(({ from, to }) => {
      const part = new Float64Array(count)
      fill(from, to, part)
      return part
    })
    const out = new Float64Array(count)
    addPartials(parts, out)
    return out
  }
  return (vectors: ReadonlyArray<Float32Array>): Float32Array => {
    const out = new Float32Array(parameters)
    const cut = (from: number, to: number) => vectors.map(vector => vector.subarray(from, to))
    const chosen = (count: number) =>
      krumSelect(
        summed(pairCount(members), (from, to, part) => pairDistances(cut(from, to), part)),
        members,
        hostile,
        count
      )
    if (rule === "centeredClip") {
      const products = summed(productCount(members), (from, to, part) =>
        clip.products(center.subarray(from, to), cut(from, to), part)
      )
      const weights = clip.weights(products, 0, 3)
      for (const { from, to } of segments)
        clip.move(center.subarray(from, to), cut(from, to), weights, out.subarray(from, to))
      center.set(out)
      return out
    }
    const selected =
      rule === "krum"
        ? chosen(1)
        : rule === "multiKrum"
          ? chosen(multiKrumCount(members, hostile))
          : vectors.map((_, member) => member)
    for (const { from, to } of segments) {
      const own = selected.map(member => vectors[member]?.subarray(from, to) ?? new Float32Array(0))
      if (rule === "trimmedMean") rules.trimmedMean(own, hostile, out.subarray(from, to))
      else rules.mean(own, out.subarray(from, to))
    }
    return out
  }
}

/** How the test examples are judged after training; undefined where a gradient was not finite, which ends a job. */
const train = (rule: Rule, attack: Attack | undefined, data: Examples, test: Examples): Outcome | undefined => {
  const weights = new Float32Array(parameters)
  const random = new SeededRandom(1)
  const aggregate = aggregator(rule)
  const order = permutation(data.labels.length, 3, 1)
  const momenta = Array.from({ length: members }, () => new MemberMomentum(parameters, momentum))
  for (let step = 0; step < steps; step++) {
    const vectors = momenta.map((own, member) => {
      const from = ((step * members + member) * batch) % order.length
      return own.stage(gradientOf(weights, data, order.subarray(from, from + batch)))
    })
    const honest = vectors.slice(hostile)
    const sent =
      attack === undefined
        ? vectors
        : [...Array.from({ length: hostile }, () => attack.lie(honest, hostile, random)), ...honest]
    const gradient = aggregate(sent)
    if (firstNonFinite(gradient) >= 0) return undefined
    applyOptimizer(optimizer, weights, gradient, { vectors: [], scalars: new Float64Array(0) })
    for (const own of momenta) own.commit()
  }
  return evaluate(weights, test)
}

describe("Training on MNIST with a quarter of the members hostile", () => {
  let data: Examples
  let test: Examples
  let clean: Outcome

  beforeAll(() => {
    const mnist = loadMnist()
    data = examplesOf(mnist.train, 8_192)
    test = examplesOf(mnist.test, 2_000)
    clean = train("mean", undefined, data, test) ?? { accuracy: 0, loss: Infinity }
  })

  it("reaches over 80 % with the mean while nobody lies", () => {
    assert.isAbove(clean.accuracy, 0.8)
  })

  it.each(attacks.filter(({ collapses }) => collapses))("collapses with the mean by $name", attack => {
    const { accuracy, loss } = train("mean", attack, data, test) ?? { accuracy: 0, loss: Infinity }
    assert.isTrue(accuracy < clean.accuracy - 0.5 || loss > 20 * clean.loss, `${accuracy}, loss ${loss}`)
  })

  it.each(attacks.flatMap(attack => robust.map(rule => ({ rule, name: attack.name, attack }))))(
    "loses two points of accuracy at most with $rule by $name",
    ({ rule, attack }) => {
      const { accuracy } = train(rule, attack, data, test) ?? { accuracy: 0 }
      assert.isAtLeast(accuracy, clean.accuracy - maxLoss)
    }
  )
})
