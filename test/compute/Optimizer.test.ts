import { assert, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import {
  applyOptimizer,
  Optimizer,
  optimizerLayout,
  readOptimizer,
  resetOptimizer,
  type OptimizerOptions,
  type OptimizerState
} from "../../src/compute/Optimizer.ts"
import { JobOptionError } from "../../src/compute/Options.ts"
import { PhiloxStream, Purpose } from "../../src/compute/Philox.ts"

const size = 64
const steps = 50

const stateFor = (options: OptimizerOptions): OptimizerState => {
  const layout = optimizerLayout(options)
  const state = {
    vectors: Array.from({ length: layout.vectors }, () => new Float32Array(size)),
    scalars: new Float64Array(layout.scalars.length)
  }
  resetOptimizer(options, state)
  return state
}

const start = () => {
  const stream = new PhiloxStream(3, Purpose.data)
  const next = () => Float32Array.from({ length: size }, () => stream.nextUnit() * 2 - 1)
  return { parameters: next(), gradients: Array.from({ length: steps }, next) }
}

const run = (given: OptimizerOptions): Float32Array => {
  const options = readOptimizer(given)
  const state = stateFor(options)
  const { parameters, gradients } = start()
  for (const gradient of gradients) applyOptimizer(options, parameters, gradient, state)
  return parameters
}

/** The textbook in float64: one parameter and its gradients in, the parameter after the last step out. */
type Reference = (parameter: number, gradients: ReadonlyArray<number>) => number

const adamReference =
  (rate: number, decay: number): Reference =>
  (parameter, gradients) => {
    let mean = 0
    let square = 0
    for (const [index, slope] of gradients.entries()) {
      mean = 0.9 * mean + 0.1 * slope
      square = 0.999 * square + 0.001 * slope * slope
      const corrected = mean / (1 - 0.9 ** (index + 1)) / (Math.sqrt(square / (1 - 0.999 ** (index + 1))) + 1e-8)
      parameter = parameter - rate * decay * parameter - rate * corrected
    }
    return parameter
  }

const momentumReference =
  (nesterov: boolean): Reference =>
  (parameter, gradients) => {
    let velocity = 0
    for (const slope of gradients) {
      velocity = 0.8 * velocity + slope
      parameter -= 0.05 * (nesterov ? slope + 0.8 * velocity : velocity)
    }
    return parameter
  }

const cases: ReadonlyArray<{ name: string; options: OptimizerOptions; reference: Reference; sha256: string }> = [
  {
    name: "SGD",
    options: Optimizer.sgd({ learningRate: 0.05 }),
    reference: (parameter, gradients) => gradients.reduce((value, slope) => value - 0.05 * slope, parameter),
    sha256: "dda81797def904baaee4e8ce532b4ed444925b70a90e4032d1621a29cf17f7d5"
  },
  {
    name: "SGD with momentum",
    options: Optimizer.momentum({ learningRate: 0.05, momentum: 0.8 }),
    reference: momentumReference(false),
    sha256: "9ec0a80faddd3a32d0cae0f412468389b8769e98d0cc91be05baeb63adf62ba3"
  },
  {
    name: "SGD with Nesterov momentum",
    options: Optimizer.momentum({ learningRate: 0.05, momentum: 0.8, nesterov: true }),
    reference: momentumReference(true),
    sha256: "56b0cbb4cd5caf7ffccf574d191bf04e76baf66e654f6491203e5725aa084775"
  },
  {
    name: "Adam",
    options: Optimizer.adam({ learningRate: 0.01 }),
    reference: adamReference(0.01, 0),
    sha256: "3a547caba868a76f7ab7d0dd47c206a5411750f2fb515ae2faab9fb7087daf95"
  },
  {
    name: "AdamW",
    options: Optimizer.adamW({ learningRate: 0.01, weightDecay: 0.1 }),
    reference: adamReference(0.01, 0.1),
    sha256: "a653b1d68128caf9d34d9679e55ed6a2a9f6a88695b551c0082de59ed8dddc0b"
  }
]

describe("Optimizers", () => {
  it.each(cases)("$name follows its definition in float64", ({ options, reference }) => {
    const { parameters, gradients } = start()
    const trained = run(options)
    for (let index = 0; index < size; index++) {
      const expected = reference(
        parameters[index] ?? 0,
        gradients.map(gradient => gradient[index] ?? 0)
      )
      assert.closeTo(trained[index] ?? Number.NaN, expected, 2e-5 * Math.max(1, Math.abs(expected)))
    }
  })

  it.each(cases)("$name gives the same bits everywhere", ({ options, sha256 }) => {
    assert.strictEqual(
      createHash("sha256")
        .update(new Uint8Array(run(options).buffer))
        .digest("hex"),
      sha256
    )
  })

  it("SGD rounds the product before it subtracts", () => {
    const parameters = Float32Array.of(1 + 2 ** -11)
    const options = readOptimizer(Optimizer.sgd({ learningRate: 1 + 2 ** -12 }))
    applyOptimizer(options, parameters, Float32Array.of(1 + 2 ** -12), stateFor(options))
    // (1 + 2⁻¹²)² = 1 + 2⁻¹¹ + 2⁻²⁴, whose last term is lost in float32; a fused operation would leave −2⁻²⁴.
    assert.strictEqual(parameters[0], 0)
  })

  it("Adam keeps the powers of its decay rates in its state, so that a joiner continues with the same bits", () => {
    const options = readOptimizer(Optimizer.adam())
    const state = stateFor(options)
    const { parameters, gradients } = start()
    for (const gradient of gradients.slice(0, 3)) applyOptimizer(options, parameters, gradient, state)
    assert.deepStrictEqual(state.scalars, Float64Array.of(0.9 * 0.9 * 0.9, 0.999 * 0.999 * 0.999))
    const joined = parameters.slice()
    const copy = { vectors: state.vectors.map(vector => vector.slice()), scalars: state.scalars.slice() }
    for (const gradient of gradients.slice(3)) {
      applyOptimizer(options, parameters, gradient, state)
      applyOptimizer(options, joined, gradient, copy)
    }
    assert.deepStrictEqual(joined, parameters)
  })

  it("fills in documented defaults", () => {
    assert.deepStrictEqual(readOptimizer(Optimizer.adamW()), {
      kind: "adamW",
      learningRate: 1e-3,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 1e-2
    })
    assert.deepStrictEqual(readOptimizer(Optimizer.momentum()), {
      kind: "momentum",
      learningRate: 1e-2,
      momentum: 0.9,
      nesterov: false
    })
  })

  it.each([
    {
      given: Optimizer.adam({ learningRate: 0 }),
      message: "optimizer.learningRate is 0, but must be a number above 0 to 1000 (step per unit of gradient)"
    },
    {
      given: Optimizer.adam({ beta2: 1 }),
      message: "optimizer.beta2 is 1, but must be a number from 0 and below 1 (share kept per step)"
    },
    { given: Optimizer.sgd({ learningRate: Number.NaN }), message: "optimizer.learningRate is NaN" },
    {
      given: { kind: "sgd", momentum: 0.9 },
      message: "optimizer.momentum is 0.9, but must be one of the known options: optimizer.learningRate"
    },
    { given: { kind: "lion" }, message: 'optimizer.kind is "lion", but must be one of sgd, momentum, adam, adamW' },
    { given: { kind: "toString" }, message: "optimizer.kind" },
    { given: "adam", message: 'optimizer is "adam", but must be an optimizer' }
  ])("refuses $given with the path and what is allowed", ({ given, message }) => {
    assert.throws(() => readOptimizer(given), JobOptionError, message)
  })
})
