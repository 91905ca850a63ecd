import { describe, expect, it } from "vitest"
import { fuzz, fuzzInputs, fuzzSeed } from "../support/protocolFuzz.ts"
import { parserTargets } from "../support/protocolFuzzParsers.ts"
import { statefulTargets } from "../support/protocolFuzzSessions.ts"

describe(`after ${fuzzInputs.toLocaleString("en")} mutated inputs nothing but ProtocolError has come out and nothing is held`, () => {
  it.each([...parserTargets, ...statefulTargets])(
    "$name",
    async target => {
      const { finding, refused, rounds } = await fuzz(target, fuzzInputs, fuzzSeed)
      expect(finding).toBeUndefined()
      // Inputs that are all refused, or none of them, have not been near the parser.
      expect(refused).toBeGreaterThan(rounds / 10)
    },
    120_000
  )
})
