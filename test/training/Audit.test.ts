import { assert, beforeAll, describe, it } from "@effect/vitest"
import { toHex } from "../../src/protocol/Bytes.ts"
import type { LocalIdentity, PeerId } from "../../src/protocol/Identity.ts"
import {
  auditSum,
  auditWork,
  checkSumFits,
  checkWorkFits,
  differingInput,
  inputsSha256,
  settle,
  tensorSha256,
  type LossTensor,
  type Voice
} from "../../src/training/Audit.ts"
import { drawAudit, isCommittedNonce, nonceCommitment } from "../../src/training/AuditDraw.ts"
import {
  decodeEvidence,
  Dispute,
  encodeEvidence,
  verifyEvidence,
  type Evidence
} from "../../src/training/AuditEvidence.ts"
import {
  AuditError,
  encodeStatement,
  openStatement,
  parseStatement,
  type AuditStatement,
  type SignedStatement,
  type SumStatement,
  type VerdictStatement,
  type WorkStatement
} from "../../src/training/AuditStatement.ts"
import { AuditedStep, crypto, makeIdentities } from "../support/audits.ts"
import { SeededRandom } from "../support/protocolRandom.ts"

const reasonOf = (run: () => void): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof AuditError) return error.reason
    throw error
  }
  return "none"
}

const changed = ({ values, loss }: LossTensor, at = 0): LossTensor => {
  const copy = values.slice()
  copy[at] = (copy[at] ?? 0) + 1
  return { values: copy, loss }
}

let identities: ReadonlyArray<LocalIdentity>
let step: AuditedStep
let peers: ReadonlyArray<PeerId>
let works: ReadonlyArray<WorkStatement>
let sums: ReadonlyArray<SumStatement>

const inputsOf = (owner: number) =>
  works
    .flatMap(work => work.nodes.map(({ from, to }) => ({ from, to })))
    .toSorted((a, b) => a.from - b.from)
    .map(node => ({
      node,
      tensor: step.part(
        step.node(node, lane => step.lane(lane)),
        owner
      )
    }))

const first = <A>(items: ReadonlyArray<A>): A => items[0] ?? assert.fail("there is none")

beforeAll(async () => {
  identities = await makeIdentities(4)
  // Member 0: lanes 0, 1, 2; member 1: lane 3; member 2: lanes 4 and 6; member 3: lane 5.
  step = new AuditedStep(identities, [0, 0, 0, 1, 2, 3, 2], 11)
  peers = step.members.map(({ peer }) => peer)
  works = peers.map(peer =>
    step.work(
      peer,
      lane => step.lane(lane),
      (node, owner) =>
        step.part(
          step.node(node, lane => step.lane(lane)),
          owner
        )
    )
  )
  sums = peers.map((_, owner) => step.sum(owner, inputsOf(owner), step.mean(inputsOf(owner))))
})

const verdict = (signer: PeerId, sha256: Uint8Array = new Uint8Array(32).fill(9)): VerdictStatement => ({
  kind: "verdict",
  position: step.position,
  signer,
  item: { of: "lane", lane: 2 },
  sha256
})

const everyStatement = (): ReadonlyArray<AuditStatement> => [
  ...works,
  ...sums,
  verdict(first(peers)),
  { ...verdict(first(peers)), item: { of: "node", owner: 3, from: 4, to: 6 } },
  { ...verdict(first(peers)), item: { of: "sum", owner: 1, inputsSha256: new Uint8Array(32).fill(3) } },
  { kind: "work", position: step.position, signer: first(peers), lanes: [], nodes: [] }
]

describe("A statement", () => {
  it("is read as it was written, and has one encoding", () => {
    for (const statement of everyStatement()) {
      const bytes = encodeStatement(statement)
      const parsed = parseStatement(bytes)
      assert.deepStrictEqual(parsed, statement)
      assert.deepStrictEqual(encodeStatement(parsed), bytes)
    }
  })

  it("is Malformed, or says what its bytes say, whatever they are", () => {
    const random = new SeededRandom(1)
    let refused = 0
    for (let run = 0; run < 4_000; run++) {
      const bytes = random.mutate(encodeStatement(random.pick(everyStatement())))
      const reason = reasonOf(() => assert.deepStrictEqual(encodeStatement(parseStatement(bytes)), bytes))
      assert.include(["none", "Malformed"], reason)
      if (reason === "Malformed") refused++
    }
    assert.isAbove(refused, 1_000)
  })

  it("lists lanes, nodes and inputs in one order only", () => {
    const work = first(works)
    assert.strictEqual(
      reasonOf(() => parseStatement(encodeStatement({ ...work, lanes: work.lanes.toReversed() }))),
      "Malformed"
    )
    assert.strictEqual(
      reasonOf(() => parseStatement(encodeStatement({ ...work, nodes: work.nodes.toReversed() }))),
      "Malformed"
    )
    const sum = first(sums)
    assert.strictEqual(
      reasonOf(() => parseStatement(encodeStatement({ ...sum, inputs: sum.inputs.toReversed() }))),
      "Malformed"
    )
  })

  it("counts for nothing unless its signer signed just these bytes", async () => {
    const signed = await step.sign(first(works))
    assert.deepStrictEqual(step.open(signed), first(works))
    const other = await step.sign(first(sums))
    const flipped = (bytes: Uint8Array, at: number) => {
      const copy = Uint8Array.from(bytes)
      copy[at] = (copy[at] ?? 0) ^ 1
      return copy
    }
    const forged: ReadonlyArray<SignedStatement> = [
      { ...signed, signature: flipped(signed.signature, 100) },
      { ...signed, signature: signed.signature.subarray(1) },
      { ...signed, signature: other.signature },
      { ...signed, statement: flipped(signed.statement, signed.statement.length - 1) }
    ]
    for (const each of forged)
      assert.strictEqual(
        reasonOf(() => step.open(each)),
        "BadSignature"
      )
    assert.strictEqual(
      reasonOf(() => openStatement(crypto, () => undefined, signed)),
      "BadSignature"
    )
    // Signed by one, said to be by another.
    assert.strictEqual(
      reasonOf(() => openStatement(crypto, () => identities[1], signed)),
      "BadSignature"
    )
  })

  it("must be about just the lanes, nodes and inputs that its signer has in the view", () => {
    const [work, , , last] = works
    const [sum] = sums
    if (work === undefined || last === undefined || sum === undefined) return assert.fail()
    for (const each of works) checkWorkFits(each, step.members, step.lanes)
    for (const each of sums) checkSumFits(each, step.members, step.lanes)
    const [node, ...nodes] = work.nodes
    const unfitWorks: ReadonlyArray<WorkStatement> = [
      { ...work, lanes: work.lanes.slice(1) },
      { ...work, nodes },
      { ...work, nodes: node === undefined ? [] : [{ ...node, segments: node.segments.slice(1) }, ...nodes] },
      { ...work, signer: last.signer },
      { ...last, lanes: work.lanes }
    ]
    for (const each of unfitWorks)
      assert.strictEqual(
        reasonOf(() => checkWorkFits(each, step.members, step.lanes)),
        "Unfit"
      )
    const unfitSums: ReadonlyArray<SumStatement> = [
      { ...sum, inputs: sum.inputs.slice(1) },
      { ...sum, owner: 1 },
      { ...sum, owner: 9 },
      { ...sum, signer: last.signer }
    ]
    for (const each of unfitSums)
      assert.strictEqual(
        reasonOf(() => checkSumFits(each, step.members, step.lanes)),
        "Unfit"
      )
  })
})

describe("The draw", () => {
  const statementsOf = (count: number, seed: number): ReadonlyArray<SignedStatement> => {
    const random = new SeededRandom(seed)
    return Array.from({ length: count }, () => ({ statement: random.bytes(60), signature: new Uint8Array(0) }))
  }
  const draw = (nonce: Uint8Array, statements: ReadonlyArray<SignedStatement>) =>
    drawAudit({ nonce, statements, members: step.members, lanes: step.lanes, jurors: peers })

  it("is the same for everyone, and another one when the nonce or any statement is another", () => {
    const nonce = new SeededRandom(2).bytes(32)
    const statements = statementsOf(8, 3)
    const keyOf = (drawn: ReturnType<typeof draw>) => `${drawn.lane} ${drawn.owner} ${drawn.jurors.join()}`
    assert.deepStrictEqual(draw(nonce, statements), draw(nonce, statements))
    const keys = new Set([keyOf(draw(nonce, statements)), keyOf(draw(new SeededRandom(4).bytes(32), statements))])
    for (let index = 0; index < 8; index++)
      keys.add(keyOf(draw(nonce, statements.with(index, first(statementsOf(1, 100 + index))))))
    // Of 7 lanes, 4 owners and 24 orders, ten draws are rarely the same twice.
    assert.isAtLeast(keys.size, 9)
  })

  it("falls on every lane, owner and juror alike, and names who computes the lane", () => {
    const random = new SeededRandom(5)
    const lanes = new Map<number, number>()
    const owners = new Map<number, number>()
    const auditors = new Map<string, number>()
    const add = <Key>(counts: Map<Key, number>, key: Key) => counts.set(key, (counts.get(key) ?? 0) + 1)
    const runs = 7_000
    for (let run = 0; run < runs; run++) {
      const drawn = draw(random.bytes(32), [])
      add(lanes, drawn.lane)
      add(owners, drawn.owner)
      add(auditors, drawn.jurors[0] ?? "")
      assert.isTrue(step.members.find(({ peer }) => peer === drawn.member)?.lanes.includes(drawn.lane))
      assert.isTrue(drawn.node.from <= drawn.lane && drawn.lane < drawn.node.to)
      assert.strictEqual(drawn.ownerPeer, peers[drawn.owner])
      assert.sameMembers([...drawn.jurors], [...peers])
    }
    // Five standard deviations.
    const within = (counts: ReadonlyMap<unknown, number>, size: number) => {
      assert.strictEqual(counts.size, size)
      for (const count of counts.values())
        assert.closeTo(count, runs / size, 5 * Math.sqrt((runs / size) * (1 - 1 / size)))
    }
    within(lanes, 7)
    within(owners, 4)
    within(auditors, 4)
  })

  it("holds the coordinator to the nonce that it committed itself to", () => {
    const nonce = new SeededRandom(6).bytes(32)
    const commitment = nonceCommitment(nonce)
    assert.isTrue(isCommittedNonce(commitment, nonce))
    assert.isFalse(isCommittedNonce(commitment, new SeededRandom(7).bytes(32)))
    assert.isFalse(isCommittedNonce(nonceCommitment(new Uint8Array(5)), new Uint8Array(5)))
    assert.notInclude(toHex(commitment), toHex(nonce).slice(0, 8))
  })
})

describe("Computing again", () => {
  const [from, to] = [0, 2]

  it("finds nothing with the honest, at any node and owner", () => {
    for (const work of works)
      for (const node of work.nodes) assert.isUndefined(auditWork(work, node, step.lanesOf(node), step.segments))
    for (const [owner, sum] of sums.entries())
      assert.isUndefined(
        auditSum(
          sum,
          inputsOf(owner).map(({ tensor }) => tensor),
          step.lanes
        )
      )
    for (const sum of sums) assert.isUndefined(differingInput(sum, works))
  })

  it("finds a false lane by its number, though what was sent follows from it", () => {
    const laneOf = (lane: number) => (lane === 1 ? changed(step.lane(1)) : step.lane(lane))
    const lie = step.work(first(peers), laneOf, (node, owner) => step.part(step.node(node, laneOf), owner))
    const finding = auditWork(lie, { from, to }, step.lanesOf({ from, to }), step.segments)
    assert.deepStrictEqual(finding, { item: { of: "lane", lane: 1 }, sha256: tensorSha256(step.lane(1)) })
  })

  it("finds a false loss like a false gradient", () => {
    const laneOf = (lane: number) => (lane === 0 ? { ...step.lane(0), loss: 0 } : step.lane(lane))
    const lie = step.work(first(peers), laneOf, (node, owner) => step.part(step.node(node, laneOf), owner))
    assert.deepStrictEqual(auditWork(lie, { from, to }, step.lanesOf({ from, to }), step.segments)?.item, {
      of: "lane",
      lane: 0
    })
  })

  it("finds a false sum of true lanes by node and owner", () => {
    const lie = step.work(
      first(peers),
      lane => step.lane(lane),
      (node, owner) => {
        const part = step.part(
          step.node(node, lane => step.lane(lane)),
          owner
        )
        return owner === 2 && node.from === 0 ? changed(part) : part
      }
    )
    const truth = step.part(
      step.node({ from, to }, lane => step.lane(lane)),
      2
    )
    assert.deepStrictEqual(auditWork(lie, { from, to }, step.lanesOf({ from, to }), step.segments), {
      item: { of: "node", owner: 2, from, to },
      sha256: tensorSha256(truth)
    })
  })

  it("finds a false mean of true inputs, and takes no inputs but those that were signed for", () => {
    const inputs = inputsOf(1)
    const tensors = inputs.map(({ tensor }) => tensor)
    const lie = step.sum(1, inputs, changed(step.mean(inputs)))
    assert.deepStrictEqual(auditSum(lie, tensors, step.lanes), {
      item: { of: "sum", owner: 1, inputsSha256: inputsSha256(lie) },
      sha256: tensorSha256(step.mean(inputs))
    })
    for (const other of [tensors.with(0, changed(first(tensors))), tensors.slice(1), tensors.toReversed()])
      assert.strictEqual(
        reasonOf(() => auditSum(lie, other, step.lanes)),
        "Unfit"
      )
  })

  it("is not needed for an input that its sender did not send", () => {
    const inputs = inputsOf(1)
    const { node, tensor } = inputs[2] ?? assert.fail()
    const swapped = inputs.with(2, { node, tensor: changed(tensor) })
    const lie = step.sum(1, swapped, step.mean(swapped))
    assert.isUndefined(
      auditSum(
        lie,
        swapped.map(each => each.tensor),
        step.lanes
      )
    )
    assert.strictEqual(
      differingInput(lie, works)?.signer,
      works.find(work => work.nodes.some(each => each.from === node.from))?.signer
    )
  })
})

describe("A dispute", () => {
  const voices = (said: ReadonlyArray<readonly [number, number]>): ReadonlyArray<Voice> =>
    said.map(([signer, hash]) => ({ signer: peers[signer] ?? first(peers), sha256: new Uint8Array(32).fill(hash) }))

  it.each([
    { said: [], hostile: 1, truth: undefined, liars: [] },
    { said: [[0, 1]], hostile: 1, truth: undefined, liars: [] },
    {
      said: [
        [0, 1],
        [1, 2]
      ],
      hostile: 1,
      truth: undefined,
      liars: []
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 2]
      ],
      hostile: 1,
      truth: 2,
      liars: [0]
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 1]
      ],
      hostile: 1,
      truth: 1,
      liars: [1]
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 3]
      ],
      hostile: 1,
      truth: undefined,
      liars: []
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 2]
      ],
      hostile: 1,
      truth: 2,
      liars: [0, 2]
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 2]
      ],
      hostile: 2,
      truth: undefined,
      liars: []
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 2],
        [3, 2]
      ],
      hostile: 2,
      truth: 2,
      liars: [0]
    },
    // One who repeats himself has one voice; one who contradicts himself has none, and has lied.
    {
      said: [
        [0, 1],
        [1, 2],
        [1, 2]
      ],
      hostile: 1,
      truth: undefined,
      liars: []
    },
    {
      said: [
        [0, 1],
        [1, 2],
        [1, 1],
        [2, 1]
      ],
      hostile: 1,
      truth: 1,
      liars: [1]
    },
    {
      said: [
        [0, 1],
        [1, 1],
        [1, 2]
      ],
      hostile: 1,
      truth: undefined,
      liars: []
    },
    // More lie than were reckoned with.
    {
      said: [
        [0, 1],
        [1, 2],
        [2, 2],
        [3, 1]
      ],
      hostile: 1,
      truth: undefined,
      liars: []
    }
  ] as const)(
    "in which $said was said is settled for $truth against $liars with $hostile hostile",
    ({ said, hostile, truth, liars }) => {
      const settled = settle(voices(said), hostile)
      assert.strictEqual(settled?.sha256[0], truth)
      assert.deepStrictEqual(
        settled?.liars ?? [],
        liars.flatMap(liar => peers[liar] ?? [])
      )
    }
  )

  it("asks jurors in the order of the draw, the accused and the silent never, until it is settled", async () => {
    const work = first(works)
    const dispute = new Dispute({ of: "lane", lane: 2 }, peers, 1)
    const add = async (statement: AuditStatement) => dispute.add(statement, await step.sign(statement))
    assert.isTrue(await add(work))
    const [, one, two, three] = peers
    if (one === undefined || two === undefined || three === undefined) return assert.fail()
    assert.isTrue(await add(verdict(one)))
    assert.strictEqual(dispute.next, two)
    dispute.pass(two)
    assert.strictEqual(dispute.next, three)
    assert.isTrue(dispute.settlement === undefined)
    assert.isUndefined(dispute.evidence(one, step.documentOf))
    // Of another item, of another step: no word on this.
    assert.isFalse(await add({ ...verdict(three), item: { of: "lane", lane: 1 } }))
    assert.isFalse(await add({ ...verdict(three), position: { ...step.position, step: 999 } }))
    assert.isTrue(await add(verdict(three, work.lanes[2]?.sha256)))
    assert.isUndefined(dispute.next)
    assert.deepStrictEqual(dispute.settlement?.liars, [one])
    assert.isUndefined(dispute.evidence(three, step.documentOf))
    const evidence = dispute.evidence(one, step.documentOf) ?? assert.fail()
    assert.strictEqual(verifyEvidence(crypto, evidence, { peers, hostile: 1 }).accused, one)
  })
})

describe("Evidence", () => {
  const lie = async (): Promise<Evidence> => {
    const laneOf = (lane: number) => (lane === 2 ? changed(step.lane(2)) : step.lane(lane))
    const work = step.work(first(peers), laneOf, (node, owner) => step.part(step.node(node, laneOf), owner))
    const dispute = new Dispute({ of: "lane", lane: 2 }, peers, 1)
    for (const statement of [
      work,
      ...[1, 2].map(juror => verdict(peers[juror] ?? first(peers), tensorSha256(step.lane(2))))
    ])
      assert.isTrue(dispute.add(statement, await step.sign(statement)))
    return dispute.evidence(first(peers), step.documentOf) ?? assert.fail()
  }
  const verified = (evidence: Evidence, options: Partial<{ peers: ReadonlyArray<PeerId>; hostile: number }> = {}) =>
    reasonOf(() => verifyEvidence(crypto, evidence, { peers, hostile: 1, ...options }))

  it("proves the lie to anyone who has the bytes and knows who took part", async () => {
    const evidence = await lie()
    const decoded = decodeEvidence(encodeEvidence(evidence))
    assert.deepStrictEqual(decoded, evidence)
    const proven = verifyEvidence(crypto, decoded, { peers, hostile: 1 })
    assert.deepStrictEqual(proven, { accused: first(peers), position: step.position, item: { of: "lane", lane: 2 } })
  })

  it("proves nothing against another, with fewer voices, by strangers, without documents, or of several steps", async () => {
    const evidence = await lie()
    const [own, second, third] = evidence.statements
    if (own === undefined || second === undefined || third === undefined) return assert.fail()
    const [, one = first(peers), two = first(peers), three = first(peers)] = peers
    const later = await step.sign({
      ...verdict(three, tensorSha256(step.lane(2))),
      position: { ...step.position, view: 3 }
    })
    const cases: ReadonlyArray<readonly [expected: string, got: string]> = [
      ["NotProven", verified({ ...evidence, accused: one })],
      ["NotProven", verified({ ...evidence, accused: three })],
      ["NotProven", verified({ ...evidence, statements: [own, second] })],
      ["NotProven", verified({ ...evidence, statements: [second, third] })],
      ["NotProven", verified({ ...evidence, statements: [own, second, second] })],
      ["NotProven", verified({ ...evidence, statements: [own] })],
      ["NotProven", verified({ ...evidence, statements: [] })],
      ["NotProven", verified(evidence, { hostile: 2 })],
      ["NotProven", verified({ ...evidence, kind: "twice" })],
      ["NotProven", verified({ ...evidence, kind: "input" })],
      ["Unfit", verified(evidence, { peers: peers.filter(peer => peer !== two) })],
      ["BadSignature", verified({ ...evidence, documents: evidence.documents.slice(1) })],
      ["Malformed", verified({ ...evidence, documents: [new Uint8Array(10)] })],
      [
        "NotProven",
        verified({
          ...evidence,
          statements: [own, second, later],
          documents: [...evidence.documents, step.documentOf(three)]
        })
      ]
    ]
    for (const [index, [expected, got]] of cases.entries()) assert.strictEqual(got, expected, `case ${index}`)
  })

  it("of two statements needs two that differ, by the accused, on the same thing", async () => {
    const work = first(works)
    const other: WorkStatement = { ...work, lanes: work.lanes.map(lane => ({ ...lane, sha256: new Uint8Array(32) })) }
    const statements = await Promise.all(
      [work, other, first(sums), verdict(first(peers)), verdict(first(peers), new Uint8Array(32))].map(each =>
        step.sign(each)
      )
    )
    const again = await step.sign(work)
    const [signed, differing, sum, said, contrary] = statements
    if (!signed || !differing || !sum || !said || !contrary) return assert.fail()
    const documents = [step.documentOf(first(peers))]
    const twice = (...both: ReadonlyArray<SignedStatement>) =>
      verified({ kind: "twice", accused: first(peers), statements: both, documents })
    assert.strictEqual(twice(signed, differing), "none")
    assert.strictEqual(twice(said, contrary), "none")
    // PSS salts its signatures: the same statement may well be signed twice.
    assert.notDeepEqual(again.signature, signed.signature)
    for (const pair of [[signed, again], [signed, sum], [signed, said], [signed]])
      assert.strictEqual(twice(...pair), "NotProven")
  })

  it("is Malformed, or no proof any more, when a byte of it is another", async () => {
    const bytes = encodeEvidence(await lie())
    const random = new SeededRandom(8)
    for (let run = 0; run < 400; run++) {
      const torn = Uint8Array.from(bytes)
      const at = random.below(torn.length)
      torn[at] = (torn[at] ?? 0) ^ (1 << random.below(8))
      assert.include(
        ["Malformed", "BadSignature", "Unfit", "NotProven"],
        reasonOf(() => verifyEvidence(crypto, decodeEvidence(torn), { peers, hostile: 1 })),
        `byte ${at}`
      )
    }
    for (let run = 0; run < 400; run++)
      assert.notStrictEqual(
        reasonOf(() => verifyEvidence(crypto, decodeEvidence(random.bytes(random.below(300))), { peers, hostile: 1 })),
        "none"
      )
  })
})
