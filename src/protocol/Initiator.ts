import { concat, equal, wipe } from "./Bytes.ts"
import { frameHeaderBytes, hashBytes, macBytes, protocolVersion, suiteX25519MlKem768 } from "./constants.ts"
import {
  abortMac,
  checkSignature,
  confirmation,
  cookieReply,
  handshakeSecret,
  inviteIdentityKey,
  makeExporter,
  openAuth,
  openIdentity,
  sealAuth,
  sessionSecrets,
  transcript,
  usableSuites,
  type HandshakeConfig,
  type SessionSecrets
} from "./Handshake.ts"
import type { Decapsulator, KeyShare } from "./HandshakeCrypto.ts"
import {
  frame,
  helloPrefix,
  messageTypes,
  modes,
  parseAbort,
  parseAck,
  parseRetry,
  type Frame,
  type Hello
} from "./HandshakeMessages.ts"
import { fingerprint, parseIdentity, type PeerId, type PublicIdentity } from "./Identity.ts"
import { expand, hmac, sha256, tagEpoch, tagFor, type PairKeys } from "./KeySchedule.ts"
import { codeName, ProtocolError } from "./ProtocolError.ts"
import { decodeParameters, encodeParameters } from "./SessionParameters.ts"

/** Whom to dial, and by what right. */
export type DialTarget =
  | {
      readonly mode: typeof modes.paired | typeof modes.introduced
      readonly keys: PairKeys
      readonly peer: PublicIdentity
    }
  /** A token: the responder is pinned by the hash of its document, which comes sealed in ACK. */
  | { readonly mode: typeof modes.invite; readonly keys: PairKeys; readonly peerId: PeerId }

export interface InitiatorConfig extends HandshakeConfig {
  readonly target: DialTarget
  readonly unixSeconds: number
  /** The lowest version ever agreed with this peer; default: this version. */
  readonly minimumVersion?: number
}

/** What to do after a frame: bytes to send, and the session's secrets once they are known. */
export interface InitiatorStep {
  readonly send?: Uint8Array
  readonly secrets?: SessionSecrets
}

type State =
  | { readonly at: "start" }
  | { readonly at: "ack"; readonly retried: boolean }
  | {
      readonly at: "auth"
      readonly hs: Uint8Array
      readonly suite: number
      readonly version: number
      readonly peer: PublicIdentity
      readonly secret: Uint8Array
      readonly responderKey: Uint8Array
      readonly th3: Uint8Array
    }
  | { readonly at: "done" }

/**
 * The dialling side of the handshake (§2.3). `hello()` gives the first frame; each frame received goes to `receive`, which
 * throws a ProtocolError for anything that is not the next message of an authentic handshake. After an error it stays dead.
 */
export class Initiator {
  readonly #config: InitiatorConfig
  readonly #suites: ReadonlyArray<number>
  readonly #share: KeyShare
  readonly #kem: Decapsulator | undefined
  readonly #hello: Hello
  #helloFrame: Frame
  #state: State = { at: "start" }
  #frames = 0

  constructor(config: InitiatorConfig) {
    this.#config = config
    this.#suites = usableSuites(config)
    if (this.#suites.length === 0)
      throw new ProtocolError("NO_SUITE", "none of the configured suites can be computed here")
    const { crypto, target } = config
    this.#share = crypto.keyShare()
    this.#kem = this.#suites.includes(suiteX25519MlKem768) ? crypto.mlKem?.keyPair() : undefined
    this.#hello = {
      versions: [protocolVersion],
      suites: this.#suites,
      mode: target.mode,
      nonce: crypto.randomBytes(hashBytes),
      share: this.#share.share,
      ...(this.#kem === undefined ? {} : { encapsulationKey: this.#kem.encapsulationKey }),
      tag: tagFor(target.keys.tag, tagEpoch(config.unixSeconds)),
      cookie: new Uint8Array(0)
    }
    this.#helloFrame = this.#frameOf(this.#hello)
  }

  #frameOf(hello: Hello): Frame {
    const prefix = helloPrefix(hello)
    return frame(messageTypes.hello, concat(prefix, hmac(this.#config.target.keys.mac1, prefix)))
  }

  hello(): Uint8Array {
    if (this.#state.at !== "start") throw new ProtocolError("INTERNAL", "this handshake has begun already")
    this.#state = { at: "ack", retried: false }
    return this.#helloFrame.bytes
  }

  async receive(received: Frame): Promise<InitiatorStep> {
    const state = this.#state
    this.#state = { at: "done" }
    this.#frames++
    if (state.at === "ack" && received.type === messageTypes.retry && !state.retried) return this.#retry(received)
    if (state.at === "ack" && received.type === messageTypes.ack) return this.#ack(received)
    if (state.at === "auth" && received.type === messageTypes.authR) return this.#authR(received, state)
    if ((state.at === "ack" || state.at === "auth") && received.type === messageTypes.abort)
      return this.#abort(received)
    throw new ProtocolError("UNEXPECTED", `handshake frame ${received.type} while waiting for ${state.at}`)
  }

  #retry(received: Frame): InitiatorStep {
    const { cookie, mac } = parseRetry(received.body)
    if (!equal(mac, cookieReply(this.#config.target.keys, this.#helloFrame.bytes, cookie))) {
      throw new ProtocolError("BAD_MAC", "RETRY is not from a holder of the pair key")
    }
    this.#helloFrame = this.#frameOf({ ...this.#hello, cookie })
    this.#state = { at: "ack", retried: true }
    return { send: this.#helloFrame.bytes }
  }

  async #ack(received: Frame): Promise<InitiatorStep> {
    const config = this.#config
    const hello = this.#helloFrame.bytes
    const { target, crypto, identity } = config
    const { ack, prefixBytes, mac2 } = parseAck(received.body, target.mode)
    if (ack.version !== protocolVersion || ack.version < (config.minimumVersion ?? protocolVersion)) {
      throw new ProtocolError("DOWNGRADE", `ACK chooses version ${ack.version}`)
    }
    if (!this.#suites.includes(ack.suite))
      throw new ProtocolError("DOWNGRADE", `ACK chooses suite ${ack.suite}, not offered`)
    const dh = this.#share.agree(ack.share)
    const kem = ack.kemCiphertext === undefined ? undefined : this.#kem?.open(ack.kemCiphertext)
    const hs = handshakeSecret(target.keys, kem === undefined ? dh : concat(kem, dh))
    wipe(dh, ...(kem === undefined ? [] : [kem]))
    const withoutMac = received.bytes.subarray(0, received.bytes.length - macBytes)
    if (!equal(mac2, confirmation(hs, hello, withoutMac)))
      throw new ProtocolError("BAD_MAC", "ACK is not from a holder of the pair key")

    const peer = this.#responder(hs, received.bytes.subarray(0, frameHeaderBytes + prefixBytes), ack.sealedIdentity)
    const th2 = transcript(hello, received.bytes)
    const secret = Uint8Array.from(crypto.randomBytes(hashBytes))
    const frames = this.#frames
    const sealed = await sealAuth("initiator", config, expand(hs, "hs i2r", th2), th2, {
      initiator: identity.id,
      responder: peer.id,
      wrapped: crypto.wrap(peer, secret),
      parameters: encodeParameters(config.parameters),
      ...(target.mode === modes.invite ? { document: identity.document } : {})
    })
    if (this.#frames !== frames) throw new ProtocolError("UNEXPECTED", "a handshake frame before its turn")
    const authI = frame(messageTypes.authI, sealed)
    const th3 = sha256(th2, authI.bytes)
    const { version, suite } = ack
    this.#state = { at: "auth", hs, suite, version, peer, secret, th3, responderKey: expand(hs, "hs r2i", th2) }
    return { send: authI.bytes }
  }

  #responder(hs: Uint8Array, ackPrefix: Uint8Array, sealed: Uint8Array | undefined): PublicIdentity {
    const { target } = this.#config
    if (target.mode !== modes.invite) return target.peer
    const key = inviteIdentityKey(hs, this.#helloFrame.bytes, ackPrefix)
    const peer = parseIdentity(openIdentity(key, sealed ?? new Uint8Array(0)))
    if (peer.peerId !== target.peerId) {
      throw new ProtocolError(
        "WRONG_PEER",
        `the token is for another host; this one has the fingerprint ${fingerprint(peer.id)}`
      )
    }
    return peer
  }

  #authR(received: Frame, state: Extract<State, { at: "auth" }>): Promise<InitiatorStep> {
    const { identity, crypto, target } = this.#config
    const opened = openAuth(state.responderKey, state.th3, received.body, false)
    if (!equal(opened.auth.initiator, identity.id) || !equal(opened.auth.responder, state.peer.id)) {
      throw new ProtocolError("WRONG_PEER", "AUTH_R names other peers than this session's")
    }
    checkSignature("responder", crypto, state.peer, state.th3, opened)
    const peerParameters = decodeParameters(opened.auth.parameters)
    const th4 = sha256(state.th3, received.bytes)
    // The substitute is drawn before the decryption: both outcomes take the same way to a session, or to none.
    const substitute = crypto.randomBytes(hashBytes)
    return crypto.unwrap(identity, opened.auth.wrapped).then(unwrapped => {
      const secrets = sessionSecrets(state.hs, state.secret, Uint8Array.from(unwrapped ?? substitute), th4)
      return {
        secrets: {
          role: "initiator",
          mode: target.mode,
          version: state.version,
          suite: state.suite,
          initiator: identity,
          responder: state.peer,
          peer: state.peer,
          sendSecret: secrets.initiatorToResponder,
          receiveSecret: secrets.responderToInitiator,
          exporterSecret: secrets.exporterSecret,
          exportKey: makeExporter(secrets.exporterSecret),
          peerParameters
        }
      }
    })
  }

  #abort(received: Frame): never {
    const { code, mac } = parseAbort(received.body)
    if (!equal(mac, abortMac(this.#config.target.keys, this.#helloFrame.bytes, code))) {
      throw new ProtocolError("TRUNCATED", "the connection ended during the handshake")
    }
    throw new ProtocolError(codeName(code), `the other side refused the handshake: ${codeName(code)}`)
  }
}
