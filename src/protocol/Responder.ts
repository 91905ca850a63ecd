import { concat, equal, u16, wipe } from "./Bytes.ts"
import { hashBytes, macBytes, protocolVersion, suiteX25519, suiteX25519MlKem768 } from "./constants.ts"
import type { CookieJar } from "./CookieJar.ts"
import {
  abortMac,
  checkSignature,
  confirmation,
  cookieReply,
  handshakeSecret,
  inviteIdentityKey,
  makeExporter,
  openAuth,
  sealAuth,
  sealIdentity,
  sessionSecrets,
  transcript,
  usableSuites,
  type HandshakeConfig,
  type SessionSecrets
} from "./Handshake.ts"
import {
  ackPrefix,
  frame,
  messageTypes,
  modes,
  parseHello,
  type Ack,
  type Frame,
  type Hello
} from "./HandshakeMessages.ts"
import { parseIdentity, type PublicIdentity } from "./Identity.ts"
import { expand, hmac, sha256 } from "./KeySchedule.ts"
import { ProtocolError, wireCode, type ProtocolErrorCode } from "./ProtocolError.ts"
import type { ReplayCache } from "./ReplayCache.ts"
import { decodeParameters, encodeParameters } from "./SessionParameters.ts"
import type { Directory, DirectoryEntry } from "./TagIndex.ts"

/** What became of a token: claimed; or claimed or used up by another; or it has run out, perhaps during the handshake. */
export type Claim = "claimed" | "used" | "expired"

export interface ResponderConfig extends HandshakeConfig {
  readonly directory: Directory
  readonly replay: ReplayCache
  readonly cookies: CookieJar
  readonly unixSeconds: number
  /** The caller's address as bytes, bound into cookies. */
  readonly source: Uint8Array
  /** True when more than half of a pool of §2.9 is used: a HELLO must then carry a cookie. */
  readonly underLoad: () => boolean
  /** Takes a handshake slot for this entry; false answers BUSY. */
  readonly admit: (entry: DirectoryEntry) => boolean
  /** Invite mode: records durably, before AUTH_R, that this identity has claimed the token, if it may. */
  readonly claim: (entry: DirectoryEntry, initiator: PublicIdentity) => Promise<Claim>
}

/** What to do after a frame. With `failure` the connection is to be closed once `send` is written: often `send` is empty, which is silence. */
export interface ResponderStep {
  readonly send: ReadonlyArray<Uint8Array>
  readonly failure?: ProtocolError
  readonly entry?: DirectoryEntry
  /** Present after AUTH_I: the wrapped secret is still being decrypted. No record may be opened before. */
  readonly secrets?: Promise<SessionSecrets>
}

const tokenUsed = "the token has been used: it pairs one machine, once"
const tokenExpired = "the token has run out"

interface Accepted {
  readonly entry: DirectoryEntry
  readonly hello: Frame
}

type State =
  | { readonly at: "hello"; readonly retried: boolean }
  | ({
      readonly at: "auth"
      readonly hs: Uint8Array
      readonly th2: Uint8Array
      readonly version: number
      readonly suite: number
      readonly initiatorKey: Uint8Array
      readonly responderKey: Uint8Array
    } & Accepted)
  | { readonly at: "done" }

/**
 * The answering side of the handshake (§2.3). It computes nothing dear for a stranger: a look-up and one HMAC come before the key
 * agreement, and proof that a live holder of the pair key is there comes before any RSA. Strangers get silence.
 */
export class Responder {
  readonly #config: ResponderConfig
  #state: State = { at: "hello", retried: false }
  /** Set once mac1 is verified, until AUTH_R is sent: the time in which an ABORT may be sent. */
  #abortable: Accepted | undefined

  constructor(config: ResponderConfig) {
    this.#config = config
  }

  async receive(received: Frame): Promise<ResponderStep> {
    const state = this.#state
    this.#state = { at: "done" }
    try {
      if (state.at === "hello" && received.type === messageTypes.hello) return this.#hello(received, state.retried)
      if (state.at === "auth" && received.type === messageTypes.authI) return await this.#authI(received, state)
      throw new ProtocolError("UNEXPECTED", `handshake frame ${received.type} while waiting for ${state.at}`)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      return { send: this.abort(error.code), failure: error }
    }
  }

  /** The ABORT frame for a code, where one may be sent; else nothing. At most once. */
  abort(code: ProtocolErrorCode): ReadonlyArray<Uint8Array> {
    const to = this.#abortable
    const number = wireCode(code)
    this.#abortable = undefined
    this.#state = { at: "done" }
    if (to === undefined || number === undefined) return []
    return [frame(messageTypes.abort, concat(u16(number), abortMac(to.entry.keys, to.hello.bytes, number))).bytes]
  }

  #hello(received: Frame, retried: boolean): ResponderStep {
    const config = this.#config
    const { hello, covered, mac1 } = parseHello(received.body)
    const entry = config.directory.lookup(hello.tag, config.unixSeconds)
    if (entry === undefined) throw new ProtocolError("UNKNOWN_PEER", "HELLO of a stranger")
    if (!equal(mac1, hmac(entry.keys.mac1, covered)))
      throw new ProtocolError("UNKNOWN_PEER", "HELLO of a stranger who knows a tag")
    if (hello.mode !== entry.mode)
      throw new ProtocolError("UNKNOWN_PEER", `HELLO of mode ${hello.mode} for an entry of mode ${entry.mode}`)
    const expired = config.unixSeconds >= (entry.expiresAt ?? Infinity)
    if ((expired && entry.mode !== modes.invite) || config.unixSeconds < (entry.notBefore ?? 0)) {
      throw new ProtocolError("UNKNOWN_PEER", "HELLO for an entry that is not valid at this time")
    }
    this.#abortable = { entry, hello: received }

    if (!hello.versions.includes(protocolVersion))
      throw new ProtocolError("VERSION", `HELLO offers versions ${hello.versions.join()}`)
    if (protocolVersion < (entry.minimumVersion ?? 0))
      throw new ProtocolError("DOWNGRADE", "this peer has used a newer version before")
    const usable = usableSuites(config)
    const suite = hello.suites.find(offered => usable.includes(offered))
    if (suite === undefined) throw new ProtocolError("NO_SUITE", `HELLO offers suites ${hello.suites.join()}`)
    if (suite < (entry.minimumSuite ?? suiteX25519))
      throw new ProtocolError("DOWNGRADE", `suite ${suite} is below this peer's minimum`)

    if (hello.cookie.length > 0 || config.underLoad() || config.replay.isFull(entry.name)) {
      const retry = this.#cookie(received, hello, entry, retried)
      if (retry !== undefined) return retry
    }
    if (!config.replay.accept(entry.name, hello.nonce, config.unixSeconds))
      throw new ProtocolError("REPLAY", "HELLO seen before")
    // Only who holds the token itself has come this far.
    if (entry.used === true) throw new ProtocolError("INVITE_USED", tokenUsed)
    if (expired) throw new ProtocolError("INVITE_EXPIRED", tokenExpired)
    if (!config.admit(entry)) throw new ProtocolError("BUSY", "no handshake slot is free")
    return this.#ack(received, hello, entry, suite)
  }

  /** Undefined when the cookie is good; else the RETRY to send. A wrong cookie after a RETRY meets silence. */
  #cookie(received: Frame, hello: Hello, entry: DirectoryEntry, retried: boolean): ResponderStep | undefined {
    const { cookies, source, unixSeconds } = this.#config
    if (hello.cookie.length > 0 && cookies.accepts(hello.cookie, source, hello.nonce, hello.share, unixSeconds))
      return undefined
    this.#abortable = undefined
    if (retried || hello.cookie.length > 0) throw new ProtocolError("BAD_MAC", "HELLO with a stale or foreign cookie")
    this.#state = { at: "hello", retried: true }
    const cookie = cookies.bake(source, hello.nonce, hello.share, unixSeconds)
    return { send: [frame(messageTypes.retry, concat(cookie, cookieReply(entry.keys, received.bytes, cookie))).bytes] }
  }

  #ack(received: Frame, hello: Hello, entry: DirectoryEntry, suite: number): ResponderStep {
    const { crypto, identity } = this.#config
    const own = crypto.keyShare()
    const dh = own.agree(hello.share)
    const kem =
      suite === suiteX25519MlKem768 && hello.encapsulationKey !== undefined
        ? crypto.mlKem?.encapsulate(hello.encapsulationKey)
        : undefined
    const hs = handshakeSecret(entry.keys, kem === undefined ? dh : concat(kem.secret, dh))
    wipe(dh, ...(kem === undefined ? [] : [kem.secret]))
    const ack: Ack = {
      version: protocolVersion,
      suite,
      nonce: crypto.randomBytes(hashBytes),
      share: own.share,
      ...(kem === undefined ? {} : { kemCiphertext: kem.ciphertext })
    }
    const prefix = ackPrefix(ack)
    const noMac = new Uint8Array(macBytes)
    let body = prefix
    if (entry.mode === modes.invite) {
      const sealedBytes = identity.document.length + 16
      // The header in front of the prefix already carries the frame's final length.
      const header = frame(messageTypes.ack, new Uint8Array(prefix.length + 2 + sealedBytes + macBytes)).bytes.subarray(
        0,
        4
      )
      const sealed = sealIdentity(inviteIdentityKey(hs, received.bytes, concat(header, prefix)), identity.document)
      body = concat(prefix, u16(sealed.length), sealed)
    }
    const withoutMac = frame(messageTypes.ack, concat(body, noMac)).bytes
    const mac2 = confirmation(hs, received.bytes, withoutMac.subarray(0, withoutMac.length - macBytes))
    const finished = frame(messageTypes.ack, concat(body, mac2))
    const th2 = transcript(received.bytes, finished.bytes)
    this.#state = {
      at: "auth",
      entry,
      hello: received,
      hs,
      th2,
      version: protocolVersion,
      suite,
      initiatorKey: expand(hs, "hs i2r", th2),
      responderKey: expand(hs, "hs r2i", th2)
    }
    return { send: [finished.bytes], entry }
  }

  async #authI(received: Frame, state: Extract<State, { at: "auth" }>): Promise<ResponderStep> {
    const config = this.#config
    const { identity, crypto } = config
    const { entry } = state
    const opened = openAuth(state.initiatorKey, state.th2, received.body, entry.mode === modes.invite)
    const peer = await this.#initiator(opened.auth.initiator, opened.auth.document, entry)
    if (!equal(opened.auth.responder, identity.id))
      throw new ProtocolError("WRONG_PEER", "AUTH_I is meant for another host")
    checkSignature("initiator", crypto, peer, state.th2, opened)
    const peerParameters = decodeParameters(opened.auth.parameters)
    const claim = entry.mode === modes.invite ? await config.claim(entry, peer) : "claimed"
    if (claim === "used") throw new ProtocolError("INVITE_USED", tokenUsed)
    if (claim === "expired") throw new ProtocolError("INVITE_EXPIRED", tokenExpired)

    const th3 = sha256(state.th2, received.bytes)
    const secret = Uint8Array.from(crypto.randomBytes(hashBytes))
    const substitute = crypto.randomBytes(hashBytes)
    const sealed = await sealAuth("responder", config, state.responderKey, th3, {
      initiator: peer.id,
      responder: identity.id,
      wrapped: crypto.wrap(peer, secret),
      parameters: encodeParameters(config.parameters)
    })
    // An ABORT went out in the meantime: nothing may follow it.
    if (this.#abortable === undefined) throw new ProtocolError("UNEXPECTED", "the handshake ended before AUTH_R")
    const authR = frame(messageTypes.authR, sealed)
    const th4 = sha256(th3, authR.bytes)
    this.#abortable = undefined
    const wrapped = opened.auth.wrapped
    const decrypted = async (): Promise<SessionSecrets> => {
      const unwrapped = await crypto.unwrap(identity, wrapped)
      const secrets = sessionSecrets(state.hs, Uint8Array.from(unwrapped ?? substitute), secret, th4)
      return {
        role: "responder",
        mode: entry.mode,
        version: state.version,
        suite: state.suite,
        initiator: peer,
        responder: identity,
        peer,
        sendSecret: secrets.responderToInitiator,
        receiveSecret: secrets.initiatorToResponder,
        exporterSecret: secrets.exporterSecret,
        exportKey: makeExporter(secrets.exporterSecret),
        peerParameters
      }
    }
    return { send: [authR.bytes], entry, secrets: decrypted() }
  }

  /** Who signed AUTH_I: the entry's peer, or, for a token that nobody has claimed, whoever the enclosed document says. */
  async #initiator(id: Uint8Array, document: Uint8Array | undefined, entry: DirectoryEntry): Promise<PublicIdentity> {
    const known = entry.peer
    if (known !== undefined && !equal(id, known.id)) {
      if (entry.mode === modes.invite) throw new ProtocolError("INVITE_USED", tokenUsed)
      throw new ProtocolError("WRONG_PEER", "AUTH_I names another peer than the holder of this pair key")
    }
    if (entry.mode !== modes.invite) {
      if (known === undefined) throw new ProtocolError("INTERNAL", "a paired entry without its peer")
      return known
    }
    const given = parseIdentity(document ?? new Uint8Array(0))
    if (!equal(given.id, id)) throw new ProtocolError("WRONG_PEER", "AUTH_I encloses the document of another identity")
    return given
  }
}
