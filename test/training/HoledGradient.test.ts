import { assert, describe, it } from "vitest"
import { loadMnist } from "../../examples/mnist/Mnist.ts"
import type { SllpMessage } from "../../src/protocol/sllp/SllpAssociation.ts"
import { gradientOf } from "../../src/training/HoledGradient.ts"
import { SeededRandom } from "../support/protocolRandom.ts"
import { makeConnectedPair } from "../support/sllpPair.ts"

const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
const five = Float32Array.of(1, -2, 3, -4, 5)

const holed = (...ranges: ReadonlyArray<readonly [from: number, to: number]>): SllpMessage => ({
  complete: false,
  messageId: 0,
  total: 20,
  pieces: ranges.map(([from, to]) => ({ offset: from, bytes: bytesOf(five).slice(from, to) }))
})

describe("A gradient with holes", () => {
  it.each([
    {
      what: "whole",
      message: { complete: true, messageId: 0, bytes: bytesOf(five) } as const,
      values: [...five],
      missing: 0
    },
    { what: "without its middle", message: holed([0, 8], [12, 20]), values: [1, -2, 0, -4, 5], missing: 1 },
    { what: "without anything", message: holed(), values: [0, 0, 0, 0, 0], missing: 5 },
    { what: "with cut floats", message: holed([0, 5], [7, 15], [18, 20]), values: [1, 0, 3, 0, 0], missing: 3 },
    { what: "in pieces that touch", message: holed([0, 8], [8, 20]), values: [...five], missing: 0 }
  ])("$what counts what is missing as zero", ({ message, values, missing }) => {
    const gradient = gradientOf(message, 5)
    assert.deepStrictEqual([...gradient.values], values)
    assert.strictEqual(gradient.missing, missing)
  })

  it("is not read from memory that is not aligned to it, nor is it the message's", () => {
    const bytes = new Uint8Array(21)
    bytes.set(bytesOf(five), 1)
    const { values } = gradientOf({ complete: true, messageId: 0, bytes: bytes.subarray(1) }, 5)
    bytes.fill(255)
    assert.deepStrictEqual([...values], [...five])
  })

  it("of another length is refused", () => {
    assert.throws(() => gradientOf(holed(), 6), /a gradient of 6 values has 24 bytes, not 20/)
    assert.throws(() => gradientOf({ complete: true, messageId: 0, bytes: new Uint8Array(21) }, 5), /MALFORMED|not 21/)
    const vast: SllpMessage = { complete: false, messageId: 0, total: 2 ** 40, pieces: [] }
    assert.throws(() => gradientOf(vast, 5), /not 1099511627776/)
  })
})

const pixels = 784
const classes = 10
const parameterCount = (pixels + 1) * classes
const workers = 2
const batch = 100
const steps = 200
const learningRate = 0.5
const testImages = 2_000

type Split = ReturnType<typeof loadMnist>["train"]

/** Scores of the classes, made into probabilities, for each row. */
const probabilities = (parameters: Float32Array, image: Float32Array, rows: number): Float32Array => {
  const out = new Float32Array(rows * classes)
  for (let row = 0; row < rows; row++) {
    const scores = out.subarray(row * classes, (row + 1) * classes)
    scores.set(parameters.subarray(pixels * classes))
    for (let pixel = 0; pixel < pixels; pixel++) {
      const value = image[row * pixels + pixel] ?? 0
      if (value === 0) continue
      for (let of = 0; of < classes; of++)
        scores[of] = (scores[of] ?? 0) + value * (parameters[pixel * classes + of] ?? 0)
    }
    const top = Math.max(...scores)
    const sum = scores.reduce((all, score) => all + Math.exp(score - top), 0)
    for (let of = 0; of < classes; of++) scores[of] = Math.exp((scores[of] ?? 0) - top) / sum
  }
  return out
}

const rowsOf = (split: Split, indices: Uint32Array) => {
  const { image, label } = split.batch(indices)
  return { image: image.data, label: label.data, rows: indices.length }
}

const gradientAt = (parameters: Float32Array, { image, label, rows }: ReturnType<typeof rowsOf>): Float32Array => {
  const gradient = new Float32Array(parameterCount)
  const errors = probabilities(parameters, image, rows)
  for (let row = 0; row < rows; row++) {
    errors[row * classes + (label[row] ?? 0)] = (errors[row * classes + (label[row] ?? 0)] ?? 0) - 1
    for (let of = 0; of < classes; of++) {
      const error = (errors[row * classes + of] ?? 0) / rows
      gradient[pixels * classes + of] = (gradient[pixels * classes + of] ?? 0) + error
    }
    for (let pixel = 0; pixel < pixels; pixel++) {
      const value = image[row * pixels + pixel] ?? 0
      if (value === 0) continue
      for (let of = 0; of < classes; of++) {
        const at = pixel * classes + of
        gradient[at] = (gradient[at] ?? 0) + (value * (errors[row * classes + of] ?? 0)) / rows
      }
    }
  }
  return gradient
}

const accuracyOf = (parameters: Float32Array, { image, label, rows }: ReturnType<typeof rowsOf>): number => {
  const scores = probabilities(parameters, image, rows)
  let right = 0
  for (let row = 0; row < rows; row++) {
    const own = scores.subarray(row * classes, (row + 1) * classes)
    if (own.indexOf(Math.max(...own)) === label[row]) right++
  }
  return right / rows
}

/** One worker's line to the server: an association over a network that loses so many of a million datagrams. */
const line = (loss: number, seed: number) => {
  const channels = [{ mode: "ordered", holes: "deliver", maxMessageBytes: parameterCount * 4 }] as const
  const { network, initiator, responder } = makeConnectedPair({ channels, line: { loss }, seed })
  let sent = 0
  return (gradient: Float32Array) => {
    initiator.association.send(0, bytesOf(gradient), network.nowMs)
    sent++
    const given = () => {
      const lost = responder.events.reduce((sum, event) => sum + (event.type === "lost" ? event.count : 0), 0)
      return responder.messages.length + lost >= sent
    }
    assert.isTrue(network.run(network.nowMs + 10_000, given), "a gradient is delivered or given up")
    const last = responder.messages.at(-1)
    // All of its datagrams were lost.
    if (last?.message.messageId !== sent - 1)
      return { values: new Float32Array(parameterCount), missing: parameterCount }
    return gradientOf(last.message, parameterCount)
  }
}

const train = (loss: number, data: ReturnType<typeof loadMnist>) => {
  const random = new SeededRandom(5)
  const lines = Array.from({ length: workers }, (_, worker) => line(loss, worker + 1))
  const parameters = new Float32Array(parameterCount)
  let missing = 0
  let holedGradients = 0
  for (let step = 0; step < steps; step++) {
    const draws = lines.map(() => Uint32Array.from({ length: batch }, () => random.below(data.train.count)))
    const given = lines.map((send, worker) => {
      const indices = draws[worker] ?? new Uint32Array(0)
      return send(gradientAt(parameters, rowsOf(data.train, indices)))
    })
    for (const gradient of given) {
      missing += gradient.missing
      if (gradient.missing > 0) holedGradients++
      for (let at = 0; at < parameterCount; at++)
        parameters[at] = (parameters[at] ?? 0) - (learningRate / workers) * (gradient.values[at] ?? 0)
    }
  }
  const test = rowsOf(
    data.test,
    Uint32Array.from({ length: testImages }, (_, index) => index)
  )
  return {
    accuracy: accuracyOf(parameters, test),
    missingShare: missing / (steps * workers * parameterCount),
    holedShare: holedGradients / (steps * workers)
  }
}

describe("A softmax regression on MNIST whose gradients travel as datagrams that nobody sends again", () => {
  const data = loadMnist()
  const whole = train(0, data)

  it("learns without loss what it learns", () => {
    assert.deepInclude(whole, { missingShare: 0, holedShare: 0 })
    assert.isAbove(whole.accuracy, 0.86)
  })

  it.each([
    { loss: 0.01, bound: 0.005 },
    { loss: 0.1, bound: 0.02 }
  ])("is at most $bound less accurate at a loss of $loss", ({ loss, bound }) => {
    const holed = train(loss * 1e6, data)
    assert.closeTo(holed.missingShare, loss, loss / 2)
    // A gradient takes 27 datagrams.
    assert.isAbove(holed.holedShare, 1 - (1 - loss) ** 14)
    assert.isAtLeast(holed.accuracy, whole.accuracy - bound)
  })
})
