import { addInto, maximalSubtrees, splitPoint, type LaneNode } from "../compute/LaneTree.ts"
import { concat, equal, toHex } from "../protocol/Bytes.ts"
import type { PeerId } from "../protocol/Identity.ts"
import { sha256 } from "../protocol/KeySchedule.ts"
import { auditError, type AuditItem, type SumStatement, type WorkStatement } from "./AuditStatement.ts"
import { Reduction } from "./Reduction.ts"
import type { ViewMember } from "./Round.ts"
import type { Segment } from "./Segments.ts"

/**
 * What an audit compares. Because a lane's gradient is the same to the bit whoever computes it, a hash is enough: whoever signs another one than
 * an honest machine comes to has lied.
 */

/** A gradient, or a segment of one, and the loss that belongs to it: of a lane its own, of a node or mean the tree sum. */
export interface LossTensor {
  readonly values: Float32Array
  readonly loss: number
}

/** SHA-256 of the loss (float32) and the values, little-endian. NaN is never hashed: what is not finite is refused before. */
export const tensorSha256 = ({ values, loss }: LossTensor): Uint8Array =>
  sha256(
    new Uint8Array(Float32Array.of(loss).buffer),
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  )

/** What a step's sum is over: the hashes of an owner's inputs, from left to right, as one. */
export const inputsSha256 = ({ inputs }: SumStatement): Uint8Array =>
  sha256(concat(...inputs.map(({ sha256 }) => sha256)))

const sameNode = (left: LaneNode, right: LaneNode): boolean => left.from === right.from && left.to === right.to

/**
 * Checks that a member has signed for just the lanes that it has in this view, and for each of its nodes and each owner.
 * @throws AuditError Unfit
 */
export const checkWorkFits = (work: WorkStatement, members: ReadonlyArray<ViewMember<PeerId>>, lanes: number): void => {
  const own = members.find(({ peer }) => peer === work.signer)?.lanes ?? []
  const nodes = maximalSubtrees(own, lanes)
  const fits =
    work.lanes.length === own.length &&
    own.toSorted((a, b) => a - b).every((lane, index) => lane === work.lanes[index]?.lane) &&
    work.nodes.length === nodes.length &&
    work.nodes.every((node, index) => {
      const expected = nodes[index]
      return expected !== undefined && sameNode(node, expected) && node.segments.length === members.length
    })
  if (!fits) throw auditError("Unfit", `${work.signer.slice(0, 16)}… has signed for other lanes than it has`)
}

/**
 * Checks that an owner has signed for just the inputs that the members owe it.
 * @throws AuditError Unfit
 */
export const checkSumFits = (sum: SumStatement, members: ReadonlyArray<ViewMember<PeerId>>, lanes: number): void => {
  const nodes = members.flatMap(member => maximalSubtrees(member.lanes, lanes)).toSorted((a, b) => a.from - b.from)
  const fits =
    members[sum.owner]?.peer === sum.signer &&
    sum.inputs.length === nodes.length &&
    nodes.every((node, index) => {
      const input = sum.inputs[index]
      return input !== undefined && sameNode(input, node)
    })
  if (!fits) throw auditError("Unfit", `${sum.signer.slice(0, 16)}… has signed for other inputs than it is sent`)
}

/**
 * True when what arrived is what its sender signed for. An owner takes nothing else into its sum and signs for nothing else: it asks again, and
 * then has the coordinator relay.
 */
export const isAsSigned = (work: WorkStatement, node: LaneNode, owner: number, arrived: LossTensor): boolean => {
  const expected = work.nodes.find(each => sameNode(each, node))?.segments[owner]
  return expected !== undefined && equal(expected, tensorSha256(arrived))
}

/** The hash that a statement gives for an item; undefined where it says nothing of it. */
export const statedSha256 = (statement: WorkStatement | SumStatement, item: AuditItem): Uint8Array | undefined => {
  if (statement.kind === "sum")
    return item.of === "sum" && item.owner === statement.owner && equal(item.inputsSha256, inputsSha256(statement))
      ? statement.output
      : undefined
  if (item.of === "lane") return statement.lanes.find(({ lane }) => lane === item.lane)?.sha256
  return item.of === "node" ? statement.nodes.find(node => sameNode(node, item))?.segments[item.owner] : undefined
}

/** Sums the lanes [from, to) along the tree, into the first; `lanes[0]` is lane `first`. Gives the loss. */
const sumLanes = (lanes: ReadonlyArray<LossTensor>, first: number, from: number, to: number, part: Segment): number => {
  const own = lanes[from - first]
  if (own === undefined) throw new RangeError(`Lane ${from} is missing`)
  if (to - from === 1) return own.loss
  const middle = splitPoint(from, to)
  const left = sumLanes(lanes, first, from, middle, part)
  const right = sumLanes(lanes, first, middle, to, part)
  const other = lanes[middle - first]
  if (other !== undefined) addInto(own.values.subarray(part.from, part.to), other.values.subarray(part.from, part.to))
  return Math.fround(left + right)
}

/**
 * The hash of an owner's segment of a node, from the gradients of its lanes, in order and whole. Overwrites that segment in them.
 */
export const nodeSha256 = (node: LaneNode, lanes: ReadonlyArray<LossTensor>, segment: Segment): Uint8Array => {
  const loss = sumLanes(lanes, node.from, node.from, node.to, segment)
  const values = lanes[0]?.values.subarray(segment.from, segment.to) ?? new Float32Array(0)
  return tensorSha256({ values, loss })
}

/** What a member should have signed and has not: the item, and the hash that it should be. */
export interface Finding {
  readonly item: AuditItem
  readonly sha256: Uint8Array
}

/**
 * Holds a member's statement against its node computed again: `lanes` are the gradients of all lanes of the node, in order; they are overwritten.
 * `segments` are those of the owners. The first lane that differs is found, or where none does the first segment of the node.
 */
export const auditWork = (
  work: WorkStatement,
  node: LaneNode,
  lanes: ReadonlyArray<LossTensor>,
  segments: ReadonlyArray<Segment>
): Finding | undefined => {
  for (const [index, tensor] of lanes.entries()) {
    const item: AuditItem = { of: "lane", lane: node.from + index }
    const stated = statedSha256(work, item)
    const sha256 = tensorSha256(tensor)
    if (stated === undefined || !equal(stated, sha256)) return { item, sha256 }
  }
  for (const [owner, segment] of segments.entries()) {
    const item: AuditItem = { of: "node", owner, from: node.from, to: node.to }
    const stated = statedSha256(work, item)
    const sha256 = nodeSha256(node, lanes, segment)
    if (stated === undefined || !equal(stated, sha256)) return { item, sha256 }
  }
  return undefined
}

/** The first input that an owner signed otherwise than its sender did: the two statements alone prove the owner's lie. */
export const differingInput = (sum: SumStatement, works: ReadonlyArray<WorkStatement>): WorkStatement | undefined =>
  works.find(work =>
    work.nodes.some(node => {
      const input = sum.inputs.find(each => sameNode(each, node))
      const sent = node.segments[sum.owner]
      return input !== undefined && sent !== undefined && !equal(input.sha256, sent)
    })
  )

/**
 * Holds an owner's statement against its inputs, which it hands out when asked: `inputs` in the order of `sum.inputs`, `lanes` those of a step.
 * Inputs that are not those it signed for prove nothing and are refused.
 * @throws AuditError Unfit when the inputs are not the signed ones
 */
export const auditSum = (sum: SumStatement, inputs: ReadonlyArray<LossTensor>, lanes: number): Finding | undefined => {
  const elements = inputs[0]?.values.length ?? 0
  for (const [index, node] of sum.inputs.entries()) {
    const input = inputs[index]
    if (input === undefined || input.values.length !== elements || !equal(tensorSha256(input), node.sha256))
      throw auditError("Unfit", `The input of lanes ${node.from} to ${node.to} is not the one that was signed for`)
  }
  const reduction = new Reduction(lanes, elements)
  reduction.begin(sum.inputs)
  for (const [index, node] of sum.inputs.entries()) {
    const input = inputs[index]
    if (input === undefined) continue
    reduction.slot(node).set(input.values)
    reduction.place(node, input.loss)
  }
  const values = new Float32Array(elements)
  const { loss } = reduction.finish(values)
  const sha256 = tensorSha256({ values, loss })
  const item: AuditItem = { of: "sum", owner: sum.owner, inputsSha256: inputsSha256(sum) }
  return equal(sha256, sum.output) ? undefined : { item, sha256 }
}

/** Someone's signed word on an item. */
export interface Voice {
  readonly signer: PeerId
  readonly sha256: Uint8Array
}

/** What is true, and who said otherwise. */
export interface Settlement {
  readonly sha256: Uint8Array
  readonly liars: ReadonlyArray<PeerId>
}

/**
 * Settles a dispute while at most `hostile` members lie: what `hostile` + 1 different signers say is true, as one of them is honest and honest
 * machines come to the same bits. With one liar that is the accused, the auditor and a third. Undefined: another must be asked. Whoever
 * says two things has lied, and is no voice.
 */
export const settle = (voices: ReadonlyArray<Voice>, hostile: number): Settlement | undefined => {
  const said = new Map<PeerId, Set<string>>()
  for (const { signer, sha256 } of voices) said.set(signer, (said.get(signer) ?? new Set()).add(toHex(sha256)))
  const supporters = new Map<string, number>()
  for (const hashes of said.values())
    if (hashes.size === 1) for (const hash of hashes) supporters.set(hash, (supporters.get(hash) ?? 0) + 1)
  const settled = [...supporters].filter(([, count]) => count > hostile).map(([hash]) => hash)
  const [truth] = settled
  const sha256 = voices.find(voice => toHex(voice.sha256) === truth)?.sha256
  // Two hashes with enough voices: more lie than were reckoned with, and nothing is certain.
  if (truth === undefined || sha256 === undefined || settled.length > 1) return undefined
  const liars = [...said].filter(([, hashes]) => hashes.size > 1 || !hashes.has(truth)).map(([signer]) => signer)
  return { sha256, liars }
}
