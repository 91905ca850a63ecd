import { Schema } from "effect"
import type { LaneNode } from "../compute/LaneTree.ts"
import { ByteReader, concat, fromHex, toHex, u16, u32, u64, u8, utf8 } from "../protocol/Bytes.ts"
import { hashBytes, jobIdBytes, peerIdBytes } from "../protocol/constants.ts"
import type { HandshakeCrypto } from "../protocol/HandshakeCrypto.ts"
import { isPeerId, type LocalIdentity, type PeerId, type PublicIdentity } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"

/**
 * `Malformed`: bytes are no statement; `BadSignature`: a statement is not by its signer, or nobody knows him; `Unfit`: a statement is not about
 * what it should be about; `NotProven`: evidence does not show what it claims.
 */
export class AuditError extends Schema.TaggedError<AuditError>()("AuditError", {
  reason: Schema.Literals(["Malformed", "BadSignature", "Unfit", "NotProven"]),
  message: Schema.String
}) {}

export const auditError = (reason: AuditError["reason"], message: string): AuditError =>
  new AuditError({ reason, message })

/** The step that a statement is about. */
export interface AuditPosition {
  /** First 16 bytes of the job's fingerprint. */
  readonly job: Uint8Array
  readonly term: number
  readonly view: number
  /** Counted from 1. */
  readonly step: number
}

interface Common {
  readonly position: AuditPosition
  readonly signer: PeerId
}

/** Before a member sends anything of a step: what its lanes came to, and what it sends of each of its nodes to each owner. */
export interface WorkStatement extends Common {
  readonly kind: "work"
  /** In ascending order. */
  readonly lanes: ReadonlyArray<{ readonly lane: number; readonly sha256: Uint8Array }>
  /** From left to right; `segments` in the order of owners. */
  readonly nodes: ReadonlyArray<LaneNode & { readonly segments: ReadonlyArray<Uint8Array> }>
}

/** Before an owner sends its reduced segment: what it was sent, and what that came to. */
export interface SumStatement extends Common {
  readonly kind: "sum"
  /** The owner's place among the members of the view. */
  readonly owner: number
  /** From left to right. */
  readonly inputs: ReadonlyArray<LaneNode & { readonly sha256: Uint8Array }>
  readonly output: Uint8Array
}

/** What can be computed again: a lane's gradient, an owner's segment of a node, the mean of an owner's inputs. */
export type AuditItem =
  | { readonly of: "lane"; readonly lane: number }
  | ({ readonly of: "node"; readonly owner: number } & LaneNode)
  | { readonly of: "sum"; readonly owner: number; readonly inputsSha256: Uint8Array }

/** What a juror came to that computed an item again. */
export interface VerdictStatement extends Common {
  readonly kind: "verdict"
  readonly item: AuditItem
  readonly sha256: Uint8Array
}

export type AuditStatement = WorkStatement | SumStatement | VerdictStatement

/** A statement as bytes, and its signature. */
export interface SignedStatement {
  readonly statement: Uint8Array
  readonly signature: Uint8Array
}

const kindCodes = { work: 1, sum: 2, verdict: 3 } as const
const itemCodes = { lane: 1, node: 2, sum: 3 } as const

const itemBytes = (item: AuditItem): Uint8Array => {
  switch (item.of) {
    case "lane":
      return concat(u8(itemCodes.lane), u16(item.lane))
    case "node":
      return concat(u8(itemCodes.node), u16(item.owner), u16(item.from), u16(item.to))
    case "sum":
      return concat(u8(itemCodes.sum), u16(item.owner), item.inputsSha256)
  }
}

/** True when two items are the same. */
export const isSameItem = (left: AuditItem, right: AuditItem): boolean =>
  Buffer.compare(itemBytes(left), itemBytes(right)) === 0

/** The position as the bytes that every statement of it begins with. */
const positionBytes = ({ job, term, view, step }: AuditPosition): Uint8Array =>
  concat(job, u32(term), u32(view), u64(step))

/** True when two statements are about the same step of the same view. */
export const isSamePosition = (left: AuditPosition, right: AuditPosition): boolean =>
  Buffer.compare(positionBytes(left), positionBytes(right)) === 0

const bodyBytes = (statement: AuditStatement): ReadonlyArray<Uint8Array> => {
  switch (statement.kind) {
    case "work":
      return [
        u16(statement.lanes.length),
        ...statement.lanes.flatMap(({ lane, sha256 }) => [u16(lane), sha256]),
        u16(statement.nodes.length),
        u16(statement.nodes[0]?.segments.length ?? 0),
        ...statement.nodes.flatMap(({ from, to, segments }) => [u16(from), u16(to), ...segments])
      ]
    case "sum":
      return [
        u16(statement.owner),
        u16(statement.inputs.length),
        ...statement.inputs.flatMap(({ from, to, sha256 }) => [u16(from), u16(to), sha256]),
        statement.output
      ]
    case "verdict":
      return [itemBytes(statement.item), statement.sha256]
  }
}

/** `kind ‖ job ‖ term ‖ view ‖ step ‖ signer ‖ body`, big-endian; one content has one encoding. */
export const encodeStatement = (statement: AuditStatement): Uint8Array =>
  concat(
    u8(kindCodes[statement.kind]),
    positionBytes(statement.position),
    fromHex(statement.signer),
    ...bodyBytes(statement)
  )

const ascending = (values: ReadonlyArray<number>, what: string): void => {
  if (values.some((value, index) => index > 0 && value <= (values[index - 1] ?? 0)))
    throw auditError("Malformed", `The ${what} are not in ascending order`)
}

const readHash = (reader: ByteReader, field: string): Uint8Array => Uint8Array.from(reader.bytes(hashBytes, field))

const readItem = (reader: ByteReader): AuditItem => {
  const code = reader.u8("item")
  if (code === itemCodes.lane) return { of: "lane", lane: reader.u16("lane") }
  const owner = reader.u16("owner")
  if (code === itemCodes.node) return { of: "node", owner, from: reader.u16("from"), to: reader.u16("to") }
  if (code === itemCodes.sum) return { of: "sum", owner, inputsSha256: readHash(reader, "inputs") }
  throw auditError("Malformed", `There is no item of kind ${code}`)
}

const times = <A>(count: number, read: () => A): ReadonlyArray<A> => Array.from({ length: count }, read)

const readBody = (reader: ByteReader, kind: number, common: Common): AuditStatement => {
  switch (kind) {
    case kindCodes.work: {
      const lanes = times(reader.u16("lanes"), () => ({ lane: reader.u16("lane"), sha256: readHash(reader, "lane") }))
      const count = reader.u16("nodes")
      const owners = reader.u16("owners")
      if ((count === 0) !== (owners === 0)) throw auditError("Malformed", `${count} nodes for ${owners} owners`)
      const nodes = times(count, () => ({
        from: reader.u16("from"),
        to: reader.u16("to"),
        segments: times(owners, () => readHash(reader, "segment"))
      }))
      ascending(
        lanes.map(({ lane }) => lane),
        "lanes"
      )
      ascending(
        nodes.map(({ from }) => from),
        "nodes"
      )
      return { kind: "work", ...common, lanes, nodes }
    }
    case kindCodes.sum: {
      const owner = reader.u16("owner")
      const inputs = times(reader.u16("inputs"), () => ({
        from: reader.u16("from"),
        to: reader.u16("to"),
        sha256: readHash(reader, "input")
      }))
      ascending(
        inputs.map(({ from }) => from),
        "inputs"
      )
      return { kind: "sum", ...common, owner, inputs, output: readHash(reader, "output") }
    }
    case kindCodes.verdict:
      return { kind: "verdict", ...common, item: readItem(reader), sha256: readHash(reader, "result") }
    default:
      throw auditError("Malformed", `There is no statement of kind ${kind}`)
  }
}

/**
 * Reads what {@link encodeStatement} wrote.
 * @throws AuditError Malformed for anything else
 */
export const parseStatement = (bytes: Uint8Array): AuditStatement => {
  try {
    const reader = new ByteReader(bytes)
    const kind = reader.u8("kind")
    const job = Uint8Array.from(reader.bytes(jobIdBytes, "job"))
    const term = reader.u32("term")
    const view = reader.u32("view")
    const step = reader.u64("step")
    const signer = toHex(reader.bytes(peerIdBytes, "signer"))
    if (step > Number.MAX_SAFE_INTEGER || !isPeerId(signer)) throw auditError("Malformed", `Step ${step} of ${signer}`)
    const statement = readBody(reader, kind, { position: { job, term, view, step: Number(step) }, signer })
    reader.end("statement")
    return statement
  } catch (error) {
    if (error instanceof ProtocolError) throw auditError("Malformed", error.message)
    throw error
  }
}

/** As in TLS 1.3 (RFC 8446 §4.4.3): what is signed for one purpose can be taken for nothing else. */
const signedMessage = (statement: Uint8Array): Uint8Array =>
  concat(new Uint8Array(64).fill(0x20), utf8("artifice v1 audit statement"), u8(0), statement)

/** Signs a statement (RSA-PSS, in the thread pool); `identity` is its signer's. */
export const signStatement = async (
  crypto: Pick<HandshakeCrypto, "sign">,
  identity: LocalIdentity,
  statement: AuditStatement
): Promise<SignedStatement> => {
  const bytes = encodeStatement(statement)
  return { statement: bytes, signature: await crypto.sign(identity, signedMessage(bytes)) }
}

/**
 * Reads a signed statement.
 * @throws AuditError Malformed, or BadSignature unless `identityOf` knows the signer and the signature is his
 */
export const openStatement = (
  crypto: Pick<HandshakeCrypto, "verify">,
  identityOf: (peer: PeerId) => PublicIdentity | undefined,
  { statement, signature }: SignedStatement
): AuditStatement => {
  const opened = parseStatement(statement)
  const identity = identityOf(opened.signer)
  if (identity === undefined || !crypto.verify(identity, signedMessage(statement), signature))
    throw auditError("BadSignature", `A statement of ${opened.signer.slice(0, 16)}… is not signed by it`)
  return opened
}
