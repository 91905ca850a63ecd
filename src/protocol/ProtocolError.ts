/**
 * Codes that travel in ABORT, GOODBYE and RESET (u16), and those that stay on this machine.
 * A local code is never sent: to name it would tell an attacker which check stopped him.
 */
export const wireCodes = {
  NORMAL: 0,
  MALFORMED: 1,
  TOO_LARGE: 2,
  UNEXPECTED: 3,
  VERSION: 4,
  NO_SUITE: 5,
  DOWNGRADE: 6,
  WRONG_PEER: 9,
  BAD_SIG: 10,
  NOT_AUTHORIZED: 11,
  INVITE_USED: 12,
  BUSY: 13,
  SUPERSEDED: 14,
  TIMEOUT: 15,
  INTERNAL: 16,
  LIMIT: 17,
  INVITE_EXPIRED: 19
} as const

export type WireCode = keyof typeof wireCodes

/** `UNKNOWN_PEER` and `REPLAY` are met with silence; `BAD_MAC`, `BAD_DH` and `TRUNCATED` end the connection without a word. */
export type LocalCode = "BAD_MAC" | "BAD_DH" | "TRUNCATED" | "UNKNOWN_PEER" | "REPLAY" | "UNKNOWN_CODE"

export type ProtocolErrorCode = WireCode | LocalCode

const names = new Map<number, WireCode>()
for (const name of Object.keys(wireCodes)) {
  if (isWireCode(name)) names.set(wireCodes[name], name)
}

export function isWireCode(name: string): name is WireCode {
  return Object.hasOwn(wireCodes, name)
}

/** The name of a code read from the wire; a number that this version does not know becomes `UNKNOWN_CODE`. */
export const codeName = (code: number): ProtocolErrorCode => names.get(code) ?? "UNKNOWN_CODE"

/** The number to send for a code, or undefined for one that stays local. */
export const wireCode = (code: ProtocolErrorCode): number | undefined =>
  isWireCode(code) ? wireCodes[code] : undefined

/**
 * The one error that leaves `src/protocol`: bytes from a peer, or a caller's request, broke a rule of the protocol.
 * `code` says which rule; the message says what was expected and what came.
 */
export class ProtocolError extends Error {
  readonly _tag = "ProtocolError"
  readonly code: ProtocolErrorCode
  constructor(code: ProtocolErrorCode, message: string) {
    super(message)
    this.name = "ProtocolError"
    this.code = code
  }
}
