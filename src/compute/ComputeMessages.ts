import type { ComputeInfo, EvaluationResult, NodeRequest, NodeResult } from "./Engine.ts"

/** What the main thread hands to the compute thread when it starts it. */
export interface ComputeStart {
  readonly jobUrl: string
  readonly set: ReadonlyArray<readonly [path: string, text: string]>
  /** One Int32: not 0 when the running node computation shall be abandoned. */
  readonly control: Int32Array
}

/** Requests to the compute thread, one at a time; every array is shared memory. */
export type ComputeRequest =
  | { readonly kind: "initialise" }
  | { readonly kind: "node"; readonly request: NodeRequest; readonly output: Float32Array }
  | { readonly kind: "apply"; readonly reduced: Float32Array }
  | { readonly kind: "evaluate"; readonly parameters: Float32Array; readonly from: number; readonly to: number }
  | { readonly kind: "weights" }
  | { readonly kind: "state"; readonly step: number }

/** What a request of each kind yields. */
export interface ComputeValues {
  readonly initialise: string
  readonly node: NodeResult
  readonly apply: undefined
  readonly evaluate: EvaluationResult
  readonly weights: string
  readonly state: string
}

/** What the compute thread says: `ready` or `failed` once, then one reply to each request. */
export type ComputeReply =
  | {
      readonly kind: "ready"
      readonly info: ComputeInfo
      readonly parameters: Float32Array
      readonly vectors: ReadonlyArray<Float32Array>
      readonly scalars: Float64Array
    }
  | { readonly kind: "done"; readonly value: ComputeValues[keyof ComputeValues] }
  | { readonly kind: "cancelled" }
  | { readonly kind: "failed"; readonly tag: string; readonly message: string; readonly stack: string }
