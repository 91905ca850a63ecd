import type { LaneNode } from "../compute/LaneTree.ts"
import { maximalSubtrees } from "../compute/LaneTree.ts"
import { concat, equal, u32, utf8 } from "../protocol/Bytes.ts"
import { sha256 } from "../protocol/KeySchedule.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { SignedStatement } from "./AuditStatement.ts"
import type { ViewMember } from "./Round.ts"

/** Bytes of the number that the coordinator draws for each audited step. */
export const auditNonceBytes = 32

/** What the coordinator tells before the step of its nonce: enough to hold it to it, too little to know it. */
export const nonceCommitment = (nonce: Uint8Array): Uint8Array => sha256(utf8("artifice v1 audit nonce"), nonce)

/** True when the coordinator reveals the nonce that it committed itself to. */
export const isCommittedNonce = (commitment: Uint8Array, nonce: Uint8Array): boolean =>
  nonce.length === auditNonceBytes && equal(commitment, nonceCommitment(nonce))

/** What is audited in a step, and by whom. */
export interface AuditDraw {
  readonly lane: number
  /** Who computes that lane, and the node of it that holds the lane. */
  readonly member: PeerId
  readonly node: LaneNode
  /** Whose sum is audited: its place among the members, and its id. */
  readonly owner: number
  readonly ownerPeer: PeerId
  /** Everyone who can compute again, in the order in which they are asked; nobody is asked about himself. */
  readonly jurors: ReadonlyArray<PeerId>
}

/**
 * Draws what is audited, from the coordinator's nonce and all statements of the step: nobody who has signed his knows what will be drawn, and
 * the coordinator, held to its nonce, cannot choose. Everyone who has both draws the same.
 *
 * `statements`: work and sum of every member, in the order of members, as bytes. `jurors`: the members, and any others that hold the parameters.
 * Words are SHA-256 in counter mode over the seed; each choice is uniform, by rejection.
 */
export const drawAudit = (options: {
  readonly nonce: Uint8Array
  readonly statements: ReadonlyArray<SignedStatement>
  /** Those that compute, by PeerID: the segments' owners are in the same order. */
  readonly members: ReadonlyArray<ViewMember<PeerId>>
  readonly lanes: number
  readonly jurors: ReadonlyArray<PeerId>
}): AuditDraw => {
  const { members, lanes } = options
  const seed = sha256(
    utf8("artifice v1 audit draw"),
    options.nonce,
    concat(...options.statements.map(({ statement }) => sha256(statement)))
  )
  let counter = 0
  const below = (bound: number): number => {
    const limit = 2 ** 32 - (2 ** 32 % bound)
    for (;;) {
      const block = sha256(seed, u32(counter++))
      const word = new DataView(block.buffer, block.byteOffset).getUint32(0)
      if (word < limit) return word % bound
    }
  }
  const lane = below(lanes)
  const member = members.find(each => each.lanes.includes(lane))
  const node = maximalSubtrees(member?.lanes ?? [], lanes).find(({ from, to }) => from <= lane && lane < to)
  const owner = below(members.length)
  const ownerPeer = members[owner]?.peer
  if (member === undefined || node === undefined || ownerPeer === undefined)
    throw new RangeError(`No member computes lane ${lane} of ${lanes}`)
  const jurors = [...options.jurors]
  for (let last = jurors.length - 1; last > 0; last--) {
    const chosen = below(last + 1)
    const [a, b] = [jurors[last], jurors[chosen]]
    if (a !== undefined && b !== undefined) {
      jurors[last] = b
      jurors[chosen] = a
    }
  }
  return { lane, member: member.peer, node, owner, ownerPeer, jurors }
}
