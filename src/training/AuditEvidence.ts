import { equal } from "../protocol/Bytes.ts"
import type { HandshakeCrypto } from "../protocol/HandshakeCrypto.ts"
import { isPeerId, parseIdentity, type PeerId, type PublicIdentity } from "../protocol/Identity.ts"
import { decodeMsgpack, encodeMsgpack } from "../protocol/Msgpack.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { differingInput, inputsSha256, settle, statedSha256, type Settlement, type Voice } from "./Audit.ts"
import {
  auditError,
  isSameItem,
  isSamePosition,
  openStatement,
  type AuditItem,
  type AuditPosition,
  type AuditStatement,
  type SignedStatement
} from "./AuditStatement.ts"

/**
 * How a lie is proven. `recomputed`: others who computed the item again came to something else; `input`: an owner signed for an input that its
 * sender did not send; `twice`: two statements on the same thing differ.
 */
export const evidenceKinds = ["recomputed", "input", "twice"] as const

/** What proves that a peer has lied, to anyone: signed statements, and the identity documents that the signatures are checked with. */
export interface Evidence {
  readonly kind: (typeof evidenceKinds)[number]
  readonly accused: PeerId
  readonly statements: ReadonlyArray<SignedStatement>
  /** Identity documents of all signers. */
  readonly documents: ReadonlyArray<Uint8Array>
}

/** Statements or documents in one piece of evidence: each member of the largest job once. */
const maxStatements = 512

/** What evidence shows once it is verified. */
export interface Proven {
  readonly accused: PeerId
  readonly position: AuditPosition
  /** What the lie is about; undefined where someone said two things. */
  readonly item: AuditItem | undefined
}

type Verify = Pick<HandshakeCrypto, "verify">

const voiceOf = (statement: AuditStatement, item: AuditItem): Voice | undefined => {
  if (statement.kind !== "verdict") {
    const sha256 = statedSha256(statement, item)
    return sha256 === undefined ? undefined : { signer: statement.signer, sha256 }
  }
  return isSameItem(statement.item, item) ? { signer: statement.signer, sha256: statement.sha256 } : undefined
}

/**
 * A dispute over one item: begins with the statement of the accused and the verdict of the auditor that differs, and asks further jurors until
 * it is settled. Statements have been opened, that is: their signatures checked, before they come here.
 */
export class Dispute {
  readonly item: AuditItem
  readonly #hostile: number
  readonly #jurors: ReadonlyArray<PeerId>
  readonly #statements: Array<{ readonly statement: AuditStatement; readonly signed: SignedStatement }> = []
  readonly #silent = new Set<PeerId>()

  /** `jurors`: in the order of the draw; `hostile`: how many members may lie, 1 or more. */
  constructor(item: AuditItem, jurors: ReadonlyArray<PeerId>, hostile: number) {
    this.item = item
    this.#jurors = jurors
    this.#hostile = hostile
  }

  /** Adds the accused's statement or a verdict. False where it says nothing of the item, or is of another step. */
  add(statement: AuditStatement, signed: SignedStatement): boolean {
    const first = this.#statements[0]?.statement
    if (first !== undefined && !isSamePosition(first.position, statement.position)) return false
    if (voiceOf(statement, this.item) === undefined) return false
    this.#statements.push({ statement, signed })
    return true
  }

  /** A juror has not answered in time: it is not asked again. To be silent is no lie. */
  pass(juror: PeerId): void {
    this.#silent.add(juror)
  }

  #heard(peer: PeerId): boolean {
    return this.#silent.has(peer) || this.#statements.some(({ statement }) => statement.signer === peer)
  }

  /** Who is to compute the item next; undefined when it is settled, or nobody is left to ask. */
  get next(): PeerId | undefined {
    return this.settlement === undefined ? this.#jurors.find(peer => !this.#heard(peer)) : undefined
  }

  /** What is true and who lied, once enough agree. */
  get settlement(): Settlement | undefined {
    const voices = this.#statements.flatMap(({ statement }) => voiceOf(statement, this.item) ?? [])
    return settle(voices, this.#hostile)
  }

  /** The evidence against one of the liars of the settlement: his own statement, and those that agree on something else. */
  evidence(accused: PeerId, documentOf: (peer: PeerId) => Uint8Array): Evidence | undefined {
    const settled = this.settlement
    if (settled?.liars.includes(accused) !== true) return undefined
    const used = this.#statements.filter(({ statement }) => {
      const voice = voiceOf(statement, this.item)
      return statement.signer === accused || (voice !== undefined && equal(voice.sha256, settled.sha256))
    })
    const signers = [...new Set(used.map(({ statement }) => statement.signer))]
    return {
      kind: "recomputed",
      accused,
      statements: used.map(({ signed }) => signed),
      documents: signers.map(documentOf)
    }
  }
}

/** Evidence as bytes (msgpack), to be kept and handed on. */
export const encodeEvidence = ({ kind, accused, statements, documents }: Evidence): Uint8Array =>
  encodeMsgpack([kind, accused, statements.map(({ statement, signature }) => [statement, signature]), [...documents]])

const isBytes = (value: unknown): value is Uint8Array => value instanceof Uint8Array

const bytesOf = (value: unknown, what: string): Uint8Array => {
  if (!isBytes(value)) throw auditError("Malformed", `${what} is no bytes`)
  return value
}

const listOf = (value: unknown, what: string): ReadonlyArray<unknown> => {
  if (!Array.isArray(value) || value.length > maxStatements)
    throw auditError("Malformed", `${what} is no list of at most ${maxStatements}`)
  return value
}

/**
 * Reads what {@link encodeEvidence} wrote; proves nothing yet.
 * @throws AuditError Malformed
 */
export const decodeEvidence = (bytes: Uint8Array): Evidence => {
  let decoded: unknown
  try {
    decoded = decodeMsgpack(bytes)
  } catch (error) {
    throw auditError("Malformed", error instanceof Error ? error.message : String(error))
  }
  const [kind, accused, statements, documents] = listOf(decoded, "Evidence")
  const known = evidenceKinds.find(each => each === kind)
  if (known === undefined || typeof accused !== "string" || !isPeerId(accused))
    throw auditError("Malformed", "Evidence names no kind or nobody")
  return {
    kind: known,
    accused,
    statements: listOf(statements, "The statements").map(pair => {
      const [statement, signature] = listOf(pair, "A signed statement")
      return { statement: bytesOf(statement, "A statement"), signature: bytesOf(signature, "A signature") }
    }),
    documents: listOf(documents, "The documents").map(document => bytesOf(document, "An identity document"))
  }
}

const identitiesOf = (documents: ReadonlyArray<Uint8Array>): ReadonlyMap<PeerId, PublicIdentity> => {
  try {
    return new Map(documents.map(parseIdentity).map(identity => [identity.peerId, identity]))
  } catch (error) {
    if (error instanceof ProtocolError) throw auditError("Malformed", error.message)
    throw error
  }
}

/**
 * Verifies evidence, needing nothing but the evidence itself and what the verifier knows of the job: its members at that step (and others who could
 * recompute), and how many of them it reckons may lie.
 * @throws AuditError Malformed, BadSignature, Unfit for a signer who was not there, or NotProven
 */
export const verifyEvidence = (
  crypto: Verify,
  { kind, accused, statements, documents }: Evidence,
  { peers, hostile }: { readonly peers: ReadonlyArray<PeerId>; readonly hostile: number }
): Proven => {
  const identities = identitiesOf(documents)
  const opened = statements.map(signed => openStatement(crypto, peer => identities.get(peer), signed))
  const stranger = opened.find(({ signer }) => !peers.includes(signer))
  if (stranger !== undefined) throw auditError("Unfit", `${stranger.signer} was no member of this step`)
  const [first] = opened
  if (first === undefined || opened.some(({ position }) => !isSamePosition(position, first.position)))
    throw auditError("NotProven", "The statements are not about one step")
  const item =
    kind === "recomputed"
      ? provenByOthers(accused, opened, hostile)
      : kind === "input"
        ? provenByInput(accused, opened)
        : provenByTwo(accused, opened, statements)
  return { accused, position: first.position, item }
}

const provenByOthers = (accused: PeerId, opened: ReadonlyArray<AuditStatement>, hostile: number): AuditItem => {
  const item = opened.flatMap(statement => (statement.kind === "verdict" ? [statement.item] : []))[0]
  if (item === undefined) throw auditError("NotProven", "Nobody has computed anything again")
  const voices = opened.flatMap(statement => voiceOf(statement, item) ?? [])
  if (settle(voices, hostile)?.liars.includes(accused) !== true)
    throw auditError("NotProven", `${hostile + 1} others do not agree that ${accused} is wrong`)
  return item
}

const provenByInput = (accused: PeerId, opened: ReadonlyArray<AuditStatement>): AuditItem => {
  const works = opened.flatMap(statement => (statement.kind === "work" ? [statement] : []))
  const sum = opened.flatMap(statement =>
    statement.kind === "sum" && statement.signer === accused ? [statement] : []
  )[0]
  if (sum === undefined || differingInput(sum, works) === undefined)
    throw auditError("NotProven", `${accused} has signed for what it was sent`)
  return { of: "sum", owner: sum.owner, inputsSha256: inputsSha256(sum) }
}

const provenByTwo = (
  accused: PeerId,
  opened: ReadonlyArray<AuditStatement>,
  signed: ReadonlyArray<SignedStatement>
): undefined => {
  const own = opened.flatMap((statement, index) =>
    statement.signer === accused ? [{ statement, bytes: signed[index]?.statement ?? new Uint8Array(0) }] : []
  )
  const contradicts = own.some(({ statement: left, bytes }, index) =>
    own.slice(index + 1).some(({ statement: right, bytes: other }) => {
      if (left.kind !== right.kind || equal(bytes, other)) return false
      return left.kind !== "verdict" || (right.kind === "verdict" && isSameItem(left.item, right.item))
    })
  )
  if (!contradicts) throw auditError("NotProven", `${accused} has not said two things`)
  return undefined
}
