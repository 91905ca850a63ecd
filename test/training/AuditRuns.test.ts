import { assert, describe, it } from "@effect/vitest"
import { equal } from "../../src/protocol/Bytes.ts"
import type { LocalIdentity, PeerId } from "../../src/protocol/Identity.ts"
import {
  auditSum,
  auditWork,
  checkSumFits,
  checkWorkFits,
  differingInput,
  inputsSha256,
  isAsSigned,
  nodeSha256,
  tensorSha256,
  type Finding,
  type LossTensor
} from "../../src/training/Audit.ts"
import { drawAudit, isCommittedNonce, nonceCommitment } from "../../src/training/AuditDraw.ts"
import {
  decodeEvidence,
  Dispute,
  encodeEvidence,
  verifyEvidence,
  type Evidence
} from "../../src/training/AuditEvidence.ts"
import type {
  AuditItem,
  AuditStatement,
  SignedStatement,
  SumStatement,
  WorkStatement
} from "../../src/training/AuditStatement.ts"
import { AuditedStep, crypto, makeIdentities } from "../support/audits.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

/**
 * What liars do. `lane`: a false gradient, sent on consistently; `node`: true gradients, a false sum of them to one owner; `sum`: a false mean of
 * true inputs; `input`: a mean of another input than was sent; `twice`: two statements; `sends other`: something else than was signed for;
 * `accuses`: as auditor, somebody who is honest; `backs`: as juror, whatever the auditor said.
 */
const lies = ["none", "lane", "node", "sum", "input", "twice", "sends other", "accuses", "backs"] as const
type Lie = (typeof lies)[number]

interface Outcome {
  readonly liars: ReadonlyMap<PeerId, Lie>
  /** Found guilty, each by evidence that was encoded, decoded and verified. */
  readonly convicted: ReadonlySet<PeerId>
  /** Whose tensor an owner would not take. */
  readonly refused: ReadonlySet<PeerId>
  /** Liars whose lie is among what was drawn. */
  readonly touched: ReadonlySet<PeerId>
}

type Signed<S extends AuditStatement> = { readonly statement: S; readonly signed: SignedStatement }

const run = async (
  identities: ReadonlyArray<LocalIdentity>,
  seed: number,
  liarCount: number,
  hostile: number
): Promise<Outcome> => {
  const random = new SeededRandom(seed)
  const lanes = identities.length + random.below(4)
  const owners = Array.from({ length: lanes }, (_, lane) => (lane < identities.length ? lane : random.below(lanes)))
  const step = new AuditedStep(
    identities,
    owners.map(owner => owner % identities.length),
    seed
  )
  const peers = step.members.map(({ peer }) => peer)
  const liars = new Map<PeerId, Lie>()
  while (liars.size < liarCount) liars.set(random.pick(peers), random.pick(lies))
  const altered = ({ values, loss }: LossTensor): LossTensor => {
    const copy = values.slice()
    const at = random.below(copy.length)
    copy[at] = (copy[at] ?? 0) + 0.5
    return { values: copy, loss }
  }

  // Everyone computes, signs for it, and sends.
  const touched = new Set<PeerId>()
  const falseLanes = new Map<number, LossTensor>()
  const falseNodes = new Map<string, LossTensor>()
  const falseItems: Array<{
    readonly peer: PeerId
    readonly isDrawn: (draw: ReturnType<typeof drawAudit>) => boolean
  }> = []
  for (const [peer, lie] of liars) {
    const own = step.members.find(member => member.peer === peer)?.lanes ?? []
    if (lie === "lane") {
      const lane = random.pick(own)
      falseLanes.set(lane, altered(step.lane(lane)))
      falseItems.push({ peer, isDrawn: ({ member, node }) => member === peer && node.from <= lane && lane < node.to })
    }
    if (lie === "node") {
      const node = random.pick(step.nodesOf(peer))
      const owner = random.below(peers.length)
      const value = altered(
        step.part(
          step.node(node, lane => step.lane(lane)),
          owner
        )
      )
      falseNodes.set(`${node.from} ${node.to} ${owner}`, value)
      falseItems.push({ peer, isDrawn: ({ member, node: drawn }) => member === peer && drawn.from === node.from })
    }
  }
  const laneOf = (lane: number): LossTensor => falseLanes.get(lane) ?? step.lane(lane)
  const sent = (node: { readonly from: number; readonly to: number }, owner: number): LossTensor =>
    falseNodes.get(`${node.from} ${node.to} ${owner}`) ?? step.part(step.node(node, laneOf), owner)
  const works: Array<Signed<WorkStatement>> = []
  const proofs: Array<Evidence> = []
  for (const peer of peers) {
    const statement = step.work(peer, laneOf, sent)
    const signed = await step.sign(statement)
    const opened = step.open(signed)
    assert.deepStrictEqual(opened, statement)
    checkWorkFits(statement, step.members, lanes)
    works.push({ statement, signed })
    if (liars.get(peer) !== "twice") continue
    const [first, ...others] = statement.lanes
    if (first === undefined) continue
    const second = { ...statement, lanes: [{ ...first, sha256: tensorSha256(altered(laneOf(first.lane))) }, ...others] }
    touched.add(peer)
    proofs.push({
      kind: "twice",
      accused: peer,
      statements: [signed, await step.sign(second)],
      documents: [step.documentOf(peer)]
    })
  }

  // Owners take what is as it was signed for, reduce, and sign for that.
  const refused = new Set<PeerId>()
  const sums: Array<Signed<SumStatement> & { readonly tensors: ReadonlyArray<LossTensor> }> = []
  for (const [owner, peer] of peers.entries()) {
    const inputs = works
      .flatMap(({ statement }) =>
        statement.nodes.map(node => {
          const value = sent(node, owner)
          const sendsOther = liars.get(statement.signer) === "sends other" && statement.signer !== peer
          const arrived = sendsOther ? altered(value) : value
          if (!isAsSigned(statement, node, owner, arrived)) refused.add(statement.signer)
          return { node: { from: node.from, to: node.to }, tensor: value }
        })
      )
      .toSorted((a, b) => a.node.from - b.node.from)
    const lie = liars.get(peer)
    if (lie === "input") {
      const index = random.below(inputs.length)
      const input = inputs[index]
      if (input !== undefined) inputs[index] = { ...input, tensor: altered(input.tensor) }
      touched.add(peer)
    }
    const mean = step.mean(inputs)
    const statement = step.sum(owner, inputs, lie === "sum" ? altered(mean) : mean)
    if (lie === "sum") falseItems.push({ peer, isDrawn: ({ ownerPeer }) => ownerPeer === peer })
    const signed = await step.sign(statement)
    checkSumFits(statement, step.members, lanes)
    const sender = differingInput(
      statement,
      works.map(work => work.statement)
    )
    const work = works.find(each => each.statement === sender)
    if (work !== undefined)
      proofs.push({
        kind: "input",
        accused: peer,
        statements: [signed, work.signed],
        documents: [...new Set([peer, work.statement.signer])].map(step.documentOf)
      })
    sums.push({ statement, signed, tensors: inputs.map(({ tensor }) => tensor) })
  }

  // Then it is drawn who is looked at, and by whom.
  const nonce = random.bytes(32)
  const committed = nonceCommitment(nonce)
  assert.isTrue(isCommittedNonce(committed, nonce))
  const statements = peers.flatMap((_, member) => [works[member]?.signed ?? [], sums[member]?.signed ?? []].flat())
  const draw = drawAudit({ nonce, statements, members: step.members, lanes, jurors: peers })
  for (const { peer, isDrawn } of falseItems) if (isDrawn(draw)) touched.add(peer)
  const work = works.find(({ statement }) => statement.signer === draw.member)
  const sum = sums[draw.owner]
  if (work === undefined || sum === undefined) throw new RangeError("nothing was drawn")

  const recompute = (item: AuditItem): Uint8Array => {
    if (item.of === "lane") return tensorSha256(step.lane(item.lane))
    if (item.of === "sum") return auditSum(sum.statement, sum.tensors, lanes)?.sha256 ?? sum.statement.output
    return nodeSha256(item, step.lanesOf(item), step.segments[item.owner] ?? { from: 0, to: 0 })
  }
  const settleWith = async (accused: Signed<WorkStatement | SumStatement>, auditor: PeerId, finding: Finding) => {
    const dispute = new Dispute(finding.item, draw.jurors, hostile)
    const verdictOf = async (signer: PeerId, sha256: Uint8Array) => {
      const statement = { kind: "verdict", position: step.position, signer, item: finding.item, sha256 } as const
      assert.isTrue(dispute.add(statement, await step.sign(statement)))
    }
    assert.isTrue(dispute.add(accused.statement, accused.signed))
    await verdictOf(auditor, finding.sha256)
    for (let juror = dispute.next; juror !== undefined; juror = dispute.next) {
      const lie = liars.get(juror)
      if (lie === "none") dispute.pass(juror)
      else await verdictOf(juror, lie === "backs" ? finding.sha256 : recompute(finding.item))
    }
    for (const liar of dispute.settlement?.liars ?? []) {
      const evidence = dispute.evidence(liar, step.documentOf)
      if (evidence !== undefined) proofs.push(evidence)
    }
  }
  for (const [accused, find] of [
    [work, () => auditWork(work.statement, draw.node, step.lanesOf(draw.node), step.segments)],
    [sum, () => auditSum(sum.statement, sum.tensors, lanes)]
  ] as const) {
    const auditor = draw.jurors.find(peer => peer !== accused.statement.signer)
    if (auditor === undefined) throw new RangeError("nobody can audit")
    const lie = liars.get(auditor)
    if (lie === "accuses") {
      touched.add(auditor)
      const item: AuditItem =
        accused === work
          ? { of: "lane", lane: draw.lane }
          : { of: "sum", owner: draw.owner, inputsSha256: inputsSha256(sum.statement) }
      await settleWith(accused, auditor, { item, sha256: random.bytes(32) })
    } else {
      const finding = find()
      if (finding !== undefined) await settleWith(accused, auditor, finding)
    }
  }

  const convicted = new Set<PeerId>()
  for (const proof of proofs) {
    const evidence = decodeEvidence(encodeEvidence(proof))
    const proven = verifyEvidence(crypto, evidence, { peers, hostile })
    assert.strictEqual(proven.position.step, step.position.step)
    assert.isTrue(equal(proven.position.job, step.position.job))
    convicted.add(proven.accused)
  }
  return { liars, convicted, refused, touched }
}

describe("Audits", () => {
  const identities = makeIdentities(6)

  it(
    "catch each kind of lie that is drawn, and accuse no honest member in 1,000 seeded runs",
    { timeout: 240_000 },
    async () => {
      const all = await identities
      const caught = new Map<Lie, number>()
      for (let seed = 1; seed <= 1_000; seed++) {
        const { liars, convicted, refused, touched } = await run(all.slice(0, 3 + (seed % 4)), seed, 1, 1)
        for (const peer of convicted) {
          assert.isTrue(liars.has(peer), `an honest member was convicted in run ${seed}`)
          const lie = liars.get(peer) ?? "none"
          caught.set(lie, (caught.get(lie) ?? 0) + 1)
        }
        assert.deepStrictEqual([...touched].toSorted(), [...convicted].toSorted(), `run ${seed}`)
        for (const peer of refused) assert.strictEqual(liars.get(peer), "sends other")
      }
      assert.sameMembers([...caught.keys()], ["lane", "node", "sum", "input", "twice", "accuses"])
      for (const [lie, count] of caught) assert.isAbove(count, 5, lie)
    }
  )

  it(
    "accuse no honest member when two of six lie and back each other, as long as two are reckoned with",
    { timeout: 120_000 },
    async () => {
      const all = await identities
      let convictions = 0
      for (let seed = 1; seed <= 150; seed++) {
        const { liars, convicted } = await run(all, 5_000 + seed, 2, 2)
        for (const peer of convicted) assert.isTrue(liars.has(peer), `an honest member was convicted in run ${seed}`)
        convictions += convicted.size
      }
      assert.isAbove(convictions, 20)
    }
  )
})
