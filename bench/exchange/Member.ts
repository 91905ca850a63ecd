/** What the benchmark asks of a member of any kind of all-reduce. */

export interface Setting {
  readonly rank: number
  /** Names of all members, by rank. */
  readonly members: ReadonlyArray<string>
  /** Floats of the gradient. */
  readonly elements: number
  /** All-reduces in a row, of which the first is not measured: it is what the members wait for each other in. */
  readonly steps: number
}

export type MemberRequest =
  | { readonly kind: "name" }
  /** What one other member needs to connect to this one. */
  | { readonly kind: "offer" }
  | { readonly kind: "accept"; readonly offer: string }
  /** Makes room for all steps and fills what this member gives: nothing of it is measured. */
  | { readonly kind: "prepare"; readonly setting: Setting }
  | { readonly kind: "reduce"; readonly profile: boolean }
  /** Compares every element of every result with the plain sum. */
  | { readonly kind: "check" }

export interface Reduced {
  /** Of all measured steps together. */
  readonly seconds: number
  /** Processor seconds of this process in them. */
  readonly cpuSeconds: number
  /** Milliseconds by part, where a profile was asked for. */
  readonly profile?: Readonly<Record<string, number>>
}

export interface MemberAnswers {
  readonly name: string
  readonly offer: string
  readonly accept: undefined
  readonly prepare: undefined
  readonly reduce: Reduced
  readonly check: undefined
}

/** One way to all-reduce, as it runs in one process of ours. */
export interface Exchange {
  readonly name: () => Promise<string>
  readonly offer: () => Promise<string>
  readonly accept: (offer: string) => Promise<void>
  /** Gives, for each step, the function that all-reduces it and the array that the result is then in. */
  readonly prepare: (setting: Setting) => Promise<Prepared>
}

export interface Prepared {
  /** All-reduces the steps from `from` on to before `to`, one after the other. */
  readonly reduce: (from: number, to: number) => Promise<void>
  /** The results by step; each is the sum over the members divided by `divisor`. */
  readonly results: () => ReadonlyArray<Float32Array>
  readonly divisor: number
  readonly close: () => void
}
