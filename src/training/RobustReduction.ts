import { addPartials, AggregationError, CoordinateRules, type AggregationOptions } from "../compute/Aggregation.ts"
import { firstNonFinite } from "../compute/Blocks.ts"
import { CenteredClip, productCount } from "../compute/CenteredClip.ts"
import { krumSelect, multiKrumCount, pairCount, pairDistances } from "../compute/Krum.ts"
import type { LaneNode } from "../compute/LaneTree.ts"

/** What the reduction of a segment offers to the exchange, be it a sum or a rule. */
export interface SegmentReduction {
  /** Where the value of a node belongs: fill it, then call `place`, and leave it alone. */
  slot(node: LaneNode): Float32Array
  place(node: LaneNode, loss: number): void
  /** Nodes still awaited. */
  missing(): ReadonlyArray<LaneNode>
  readonly complete: boolean
  /** Writes the step's gradient to `out`; `loss` is that of the whole step. */
  finish(out: Float32Array): { readonly loss: number; readonly firstNonFinite: number }
  restart(): void
}

/** Float64 numbers that owners of segments tell each other before they can finish one. */
const toldNumbers = ({ aggregation }: AggregationOptions, members: number): number => {
  switch (aggregation) {
    case "mean":
    case "trimmedMean":
      return 0
    case "krum":
    case "multiKrum":
      return pairCount(members)
    case "centeredClip":
      return productCount(members)
  }
}

/** As they travel: float64, little-endian. */
const numbersOf = (numbers: Float64Array): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

/** Of all numbers the mean without the `trim` smallest and largest; what is not finite counts as the largest. */
const trimmedMeanOf = (values: Float32Array, trim: number): number => {
  const sorted = Float64Array.from(values, value => (Number.isFinite(value) ? value : Infinity)).toSorted()
  const kept = sorted.subarray(trim, values.length - trim)
  return kept.reduce((sum, value) => sum + value, 0) / kept.length
}

/**
 * One segment of a step's gradient by a robust rule: a vector from each member, as a node of its place among them, and, where the rule looks at
 * whole vectors, what the owners of the other segments know of theirs. A vector with a value or loss that is not finite is left out whole.
 *
 * One object serves every step of a view. Nothing here sends or waits.
 */
export class RobustReduction implements SegmentReduction {
  readonly #rule: AggregationOptions
  readonly #members: number
  readonly #vectors: ReadonlyArray<Float32Array>
  readonly #placed: Array<boolean>
  readonly #losses: Float32Array
  readonly #rules = new CoordinateRules()
  readonly #clip: CenteredClip
  /** By owner, in their order; none where the rule needs none. */
  readonly #told = new Map<number, Float64Array>()
  readonly #missingOwners: Set<number>
  readonly #sums: Float64Array
  readonly #own: number
  /** Where centeredClip begins: the segment's last result. */
  readonly #center: Float32Array
  #leftOut: Array<number> = []

  /** `elements` of this segment; `owners` of segments that are not empty, by their place among the members, of which this is `own`. */
  constructor(
    rule: AggregationOptions,
    members: number,
    elements: number,
    { owners, own }: { readonly owners: ReadonlyArray<number>; readonly own: number }
  ) {
    this.#rule = rule
    this.#members = members
    this.#own = own
    this.#vectors = Array.from({ length: members }, () => new Float32Array(elements))
    this.#placed = this.#vectors.map(() => false)
    this.#losses = new Float32Array(members)
    this.#clip = new CenteredClip(rule.aggregation === "centeredClip" ? members : 0)
    this.#center = new Float32Array(rule.aggregation === "centeredClip" ? elements : 0)
    const numbers = toldNumbers(rule, members)
    this.#sums = new Float64Array(numbers)
    if (numbers > 0) for (const owner of owners) this.#told.set(owner, new Float64Array(numbers))
    this.#missingOwners = new Set(this.#told.keys())
  }

  /** The gradient that the view begins after, of this segment. */
  beginAfter(last: Float32Array): void {
    if (this.#center.length > 0 && firstNonFinite(last) < 0) this.#center.set(last)
  }

  slot({ from }: LaneNode): Float32Array {
    const vector = this.#vectors[from]
    if (vector === undefined) throw new AggregationError({ reason: "Length", message: `There is no member ${from}` })
    return vector
  }

  place(node: LaneNode, loss: number): void {
    const vector = this.slot(node)
    this.#placed[node.from] = true
    this.#losses[node.from] = loss
    if (Number.isFinite(loss) && firstNonFinite(vector) < 0) return
    vector.fill(NaN)
    this.#losses[node.from] = NaN
    this.#leftOut.push(node.from)
  }

  /** Members whose vectors of the step are left out, as far as they have come. */
  get leftOut(): ReadonlyArray<number> {
    return this.#leftOut
  }

  missing(): ReadonlyArray<LaneNode> {
    return this.#placed.flatMap((placed, from) => (placed ? [] : [{ from, to: from + 1 }]))
  }

  /** Owners who have not told of their segment. */
  get missingOwners(): ReadonlySet<number> {
    return this.#missingOwners
  }

  /** What this owner tells the others: once for each step, when all vectors are here; undefined otherwise, or where there is nothing to tell. */
  tell(): Uint8Array | undefined {
    const told = this.#told.get(this.#own)
    if (told === undefined || !this.#missingOwners.has(this.#own) || this.#placed.includes(false)) return undefined
    if (this.#rule.aggregation === "centeredClip") this.#clip.products(this.#center, this.#vectors, told)
    else pairDistances(this.#vectors, told)
    this.#missingOwners.delete(this.#own)
    return numbersOf(told)
  }

  /** Where the numbers of another owner belong; undefined where it has none to tell, or has told them. */
  claim(owner: number): Uint8Array | undefined {
    const numbers = owner !== this.#own && this.#missingOwners.has(owner) ? this.#told.get(owner) : undefined
    return numbers === undefined ? undefined : numbersOf(numbers)
  }

  /** The numbers of an owner have come. */
  heard(owner: number): void {
    this.#missingOwners.delete(owner)
  }

  get complete(): boolean {
    return !this.#placed.includes(false) && this.#missingOwners.size === 0
  }

  finish(out: Float32Array): { readonly loss: number; readonly firstNonFinite: number } {
    const loss = Math.fround(trimmedMeanOf(this.#losses, this.#rule.hostile) * this.#members)
    if (!this.#combine(out)) {
      out.fill(NaN)
      return { loss: NaN, firstNonFinite: 0 }
    }
    const bad = firstNonFinite(out)
    if (bad < 0 && this.#center.length > 0) this.#center.set(out)
    return { loss, firstNonFinite: bad }
  }

  /** False where more members are not finite than may lie. */
  #combine(out: Float32Array): boolean {
    const { aggregation, hostile, radius, iterations } = this.#rule
    const members = this.#members
    if (this.#leftOut.length > hostile) return false
    if (this.#told.size > 0) addPartials([...this.#told.values()], this.#sums)
    switch (aggregation) {
      case "mean":
        this.#rules.mean(this.#vectors, out)
        return true
      case "trimmedMean":
        this.#rules.trimmedMean(this.#vectors, hostile, out)
        return true
      case "krum":
      case "multiKrum": {
        const selected = this.#selected(aggregation === "krum" ? 1 : multiKrumCount(members, hostile))
        if (selected === undefined) return false
        this.#rules.mean(selected, out)
        return true
      }
      case "centeredClip":
        this.#clip.move(this.#center, this.#vectors, this.#clip.weights(this.#sums, radius, iterations), out)
        return true
    }
  }

  #selected(count: number): ReadonlyArray<Float32Array> | undefined {
    try {
      const chosen = krumSelect(this.#sums, this.#members, this.#rule.hostile, count)
      return chosen.flatMap(member => this.#vectors[member] ?? [])
    } catch (error) {
      if (error instanceof AggregationError && error.reason === "NonFinite") return undefined
      throw error
    }
  }

  restart(): void {
    this.#placed.fill(false)
    this.#leftOut = []
    for (const owner of this.#told.keys()) this.#missingOwners.add(owner)
  }
}
