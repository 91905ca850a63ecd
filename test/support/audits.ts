import { addInto, maximalSubtrees, splitPoint, type LaneNode } from "../../src/compute/LaneTree.ts"
import { PhiloxStream, Purpose } from "../../src/compute/Philox.ts"
import { nodeCrypto } from "../../src/protocol/HandshakeCrypto.ts"
import { generateIdentity, type LocalIdentity, type PeerId, type PublicIdentity } from "../../src/protocol/Identity.ts"
import { tensorSha256, type LossTensor } from "../../src/training/Audit.ts"
import {
  openStatement,
  signStatement,
  type AuditPosition,
  type AuditStatement,
  type SignedStatement,
  type SumStatement,
  type WorkStatement
} from "../../src/training/AuditStatement.ts"
import { Reduction } from "../../src/training/Reduction.ts"
import type { ViewMember } from "../../src/training/Round.ts"
import { segmentOf, type Segment } from "../../src/training/Segments.ts"

/** Some identities, in the order of their PeerIDs. */
export const makeIdentities = async (count: number): Promise<ReadonlyArray<LocalIdentity>> =>
  (await Promise.all(Array.from({ length: count }, generateIdentity))).toSorted((a, b) =>
    a.peerId < b.peerId ? -1 : 1
  )

export const crypto = nodeCrypto()

const features = 18
const examples = 4

/**
 * One step of a linear regression on drawn data, shared by some members: small, but each lane's gradient is one that anyone with the parameters
 * computes to the same bits.
 */
export class AuditedStep {
  readonly lanes: number
  readonly members: ReadonlyArray<ViewMember<PeerId>>
  readonly position: AuditPosition
  readonly segments: ReadonlyArray<Segment>
  readonly #identities: ReadonlyMap<PeerId, LocalIdentity>
  readonly #seed: number

  constructor(
    identities: ReadonlyArray<LocalIdentity>,
    owners: ReadonlyArray<number>,
    seed: number,
    position: Partial<AuditPosition> = {}
  ) {
    this.lanes = owners.length
    this.#seed = seed
    this.#identities = new Map(identities.map(identity => [identity.peerId, identity]))
    this.members = identities.map(({ peerId }, member) => ({
      peer: peerId,
      lanes: owners.flatMap((owner, lane) => (owner === member ? [lane] : []))
    }))
    this.position = { job: new Uint8Array(16).fill(7), term: 1, view: 2, step: 1 + (seed % 1_000), ...position }
    this.segments = identities.map((_, owner) => segmentOf(features, owner, identities.length))
  }

  /** What an honest machine computes for a lane: the mean squared error's gradient, every operation rounded to float32. */
  lane(lane: number): LossTensor {
    const stream = new PhiloxStream(this.#seed, Purpose.data, lane)
    const values = new Float32Array(features)
    let loss = 0
    for (let example = 0; example < examples; example++) {
      const x = Float32Array.from({ length: features }, () => stream.nextUnit() - 0.5)
      let predicted = 0
      for (const [index, value] of x.entries())
        predicted = Math.fround(predicted + Math.fround(value * ((index % 5) - 2)))
      const error = Math.fround(predicted - stream.nextUnit())
      for (const [index, value] of x.entries()) values[index] = (values[index] ?? 0) + Math.fround(error * value)
      loss = Math.fround(loss + Math.fround(error * error))
    }
    return { values, loss }
  }

  /** The lanes of a node computed again, in order. */
  lanesOf({ from, to }: LaneNode): ReadonlyArray<LossTensor> {
    return Array.from({ length: to - from }, (_, index) => this.lane(from + index))
  }

  /** The value of a node from given lanes. */
  node({ from, to }: LaneNode, laneOf: (lane: number) => LossTensor): LossTensor {
    if (to - from === 1) return laneOf(from)
    const middle = splitPoint(from, to)
    const left = this.node({ from, to: middle }, laneOf)
    const right = this.node({ from: middle, to }, laneOf)
    const values = left.values.slice()
    addInto(values, right.values)
    return { values, loss: Math.fround(left.loss + right.loss) }
  }

  nodesOf(peer: PeerId): ReadonlyArray<LaneNode> {
    return maximalSubtrees(this.members.find(member => member.peer === peer)?.lanes ?? [], this.lanes)
  }

  /** What an owner is sent of a tensor. */
  part({ values, loss }: LossTensor, owner: number): LossTensor {
    const { from, to } = this.segments[owner] ?? { from: 0, to: 0 }
    return { values: values.slice(from, to), loss }
  }

  /** The statement of a member over what it computed and sends. */
  work(
    peer: PeerId,
    laneOf: (lane: number) => LossTensor,
    sent: (node: LaneNode, owner: number) => LossTensor
  ): WorkStatement {
    const own = this.members.find(member => member.peer === peer)?.lanes ?? []
    return {
      kind: "work",
      position: this.position,
      signer: peer,
      lanes: own.map(lane => ({ lane, sha256: tensorSha256(laneOf(lane)) })),
      nodes: this.nodesOf(peer).map(node => ({
        ...node,
        segments: this.segments.map((_, owner) => tensorSha256(sent(node, owner)))
      }))
    }
  }

  /** The mean that an owner comes to. */
  mean(inputs: ReadonlyArray<{ readonly node: LaneNode; readonly tensor: LossTensor }>): LossTensor {
    const reduction = new Reduction(this.lanes, inputs[0]?.tensor.values.length ?? 0)
    reduction.begin(inputs.map(({ node }) => node))
    for (const { node, tensor } of inputs) {
      reduction.slot(node).set(tensor.values)
      reduction.place(node, tensor.loss)
    }
    const values = new Float32Array(reduction.elements)
    const { loss } = reduction.finish(values)
    return { values, loss }
  }

  sum(
    owner: number,
    inputs: ReadonlyArray<{ readonly node: LaneNode; readonly tensor: LossTensor }>,
    output: LossTensor
  ): SumStatement {
    return {
      kind: "sum",
      position: this.position,
      signer: this.members[owner]?.peer ?? this.stranger,
      owner,
      inputs: inputs.map(({ node, tensor }) => ({ ...node, sha256: tensorSha256(tensor) })),
      output: tensorSha256(output)
    }
  }

  get stranger(): never {
    throw new RangeError("no such member")
  }

  identity(peer: PeerId): LocalIdentity {
    return this.#identities.get(peer) ?? this.stranger
  }

  readonly identityOf = (peer: PeerId): PublicIdentity | undefined => this.#identities.get(peer)
  readonly documentOf = (peer: PeerId): Uint8Array => this.identity(peer).document

  sign(statement: AuditStatement): Promise<SignedStatement> {
    return signStatement(crypto, this.identity(statement.signer), statement)
  }

  open(signed: SignedStatement): AuditStatement {
    return openStatement(crypto, this.identityOf, signed)
  }
}
