import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { reachableBytes } from "./garbage.ts"
import { SeededRandom } from "./protocolRandom.ts"

/** Mutated inputs for each parser in the tests; `bench/fuzz.ts` takes another number. */
export const fuzzInputs = 100_000
export const fuzzSeed = 20_260
/** What may still be held after all inputs. */
export const maxHeapGrowthBytes = 8 * 1024 * 1024
const warmUpRounds = 1_000

export interface FuzzTarget {
  readonly name: string
  /** Inputs that one round counts for. */
  readonly inputsPerRound: number
  /** May throw ProtocolError as it likes; any other error is what we look for. */
  readonly round: (random: SeededRandom) => unknown
}

/** Something that may not be, though no wrong error has come out. */
export const expectThat = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(what)
}

export interface FuzzReport {
  readonly rounds: number
  /** Rounds that ended in a ProtocolError. */
  readonly refused: number
  readonly heapGrowthBytes: number
  /** What was found, and the command that repeats it. */
  readonly finding: string | undefined
}

/** Gives a target this many inputs, from round `from` on. A round is the same for its seed and number, whatever came before it. */
export const fuzz = async (target: FuzzTarget, inputs: number, seed: number, from = 0): Promise<FuzzReport> => {
  const rounds = Math.ceil(inputs / target.inputsPerRound)
  const repeat = (first: number, runs: number) =>
    `repeat it: npm run --silent fuzz -- --target "${target.name}" --seed ${seed} --from ${first} --runs ${runs}`
  let refused = 0
  let before = reachableBytes()
  for (let done = 0; done < rounds; done++) {
    if (done === Math.min(warmUpRounds, rounds >>> 1)) before = reachableBytes()
    const round = from + done
    try {
      await target.round(new SeededRandom(Math.imul(seed, 0x9e3779b1) + round))
    } catch (error) {
      if (error instanceof ProtocolError) {
        refused++
        continue
      }
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error)
      return { rounds: done + 1, refused, heapGrowthBytes: 0, finding: `${what}\n${repeat(round, 1)}` }
    }
  }
  const heapGrowthBytes = reachableBytes() - before
  const finding =
    heapGrowthBytes > maxHeapGrowthBytes
      ? `the heap has grown by ${heapGrowthBytes} bytes\n${repeat(from, inputs)}`
      : undefined
  return { rounds, refused, heapGrowthBytes, finding }
}
