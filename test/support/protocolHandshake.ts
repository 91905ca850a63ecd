import { createPrivateKey } from "node:crypto"
import { concat, fromHex } from "../../src/protocol/Bytes.ts"
import { tagEpochSeconds } from "../../src/protocol/constants.ts"
import { CookieJar } from "../../src/protocol/CookieJar.ts"
import { openAuth, type SessionSecrets } from "../../src/protocol/Handshake.ts"
import { nodeCrypto, type HandshakeCrypto, type KeyShare } from "../../src/protocol/HandshakeCrypto.ts"
import {
  frame,
  FrameReader,
  helloPrefix,
  messageTypes,
  modes,
  parseAck,
  parseHello,
  type Frame,
  type Hello
} from "../../src/protocol/HandshakeMessages.ts"
import { identityOf } from "../../src/protocol/Identity.ts"
import { Initiator, type InitiatorConfig } from "../../src/protocol/Initiator.ts"
import { derivePairKeys, hmac, type PairKeys } from "../../src/protocol/KeySchedule.ts"
import { ProtocolError } from "../../src/protocol/ProtocolError.ts"
import { ReplayCache } from "../../src/protocol/ReplayCache.ts"
import { Responder, type ResponderConfig, type ResponderStep } from "../../src/protocol/Responder.ts"
import { decodeParameters, defaultParameters } from "../../src/protocol/SessionParameters.ts"
import { TagIndex, type DirectoryEntry } from "../../src/protocol/TagIndex.ts"
import { alice, bob, pairKey, scripted, vectors, x25519FromSeed } from "./vectors.ts"

export const real = nodeCrypto()
export const now = vectors.now
/** The keys by which Alice dials Bob. */
export const keys: PairKeys = derivePairKeys(pairKey, alice.id, bob.id)
/** Neither Alice nor Bob: the vectors' keys in other places, so that no key has to be made. */
export const mallory = identityOf(createPrivateKey(vectors.A.enc), createPrivateKey(vectors.B.sig))

export const aliceEntry: DirectoryEntry = { name: "alice", mode: modes.paired, keys, peer: alice }

export const directoryOf = (...entries: ReadonlyArray<DirectoryEntry>): TagIndex => {
  const directory = new TagIndex()
  for (const entry of entries) directory.set(entry)
  return directory
}

/** Alice dials Bob. */
export const dialling = (change: Partial<InitiatorConfig> = {}): Initiator =>
  new Initiator({
    identity: alice,
    crypto: real,
    parameters: defaultParameters,
    target: { mode: modes.paired, keys, peer: bob },
    unixSeconds: now,
    ...change
  })

export const responderConfig = (change: Partial<ResponderConfig> = {}): ResponderConfig => ({
  identity: bob,
  crypto: real,
  parameters: defaultParameters,
  directory: directoryOf(aliceEntry),
  replay: new ReplayCache(),
  cookies: new CookieJar(real.randomBytes),
  unixSeconds: now,
  source: Uint8Array.of(192, 0, 2, 1),
  underLoad: () => false,
  admit: () => true,
  claim: async () => "used",
  ...change
})

/** Bob answers. */
export const answering = (change: Partial<ResponderConfig> = {}): Responder => new Responder(responderConfig(change))

/** The one frame in these bytes; throws ProtocolError as a reader of the connection would. */
export const frameOf = (bytes: Uint8Array | undefined): Frame => {
  const reader = new FrameReader()
  reader.push(bytes ?? new Uint8Array(0))
  const frame = reader.next()
  if (frame === undefined || reader.held > 0) throw new ProtocolError("TRUNCATED", "not one whole frame")
  return frame
}

export const frameOfHex = (hex: string): Frame => frameOf(fromHex(hex))

/** The same bytes with one bit turned over. */
export const flipped = (bytes: Uint8Array, bit: number): Uint8Array => {
  const out = Uint8Array.from(bytes)
  const at = bit >>> 3
  out[at] = (out[at] ?? 0) ^ (0x80 >>> (bit & 7))
  return out
}

/** The code of the ProtocolError that this ends in; any other error is the test's failure. */
export const refusalOf = async (run: () => unknown): Promise<string | undefined> => {
  try {
    await run()
  } catch (error) {
    if (error instanceof ProtocolError) return error.code
    throw error
  }
  return undefined
}

export interface Outcome {
  readonly frames: ReadonlyArray<Uint8Array>
  readonly initiator: SessionSecrets
  readonly responder: SessionSecrets
  readonly steps: ReadonlyArray<ResponderStep>
}

/** Carries the frames between the two until both have their secrets; throws the ProtocolError of whoever refuses first. */
export const shakeHands = async (initiator: Initiator, responder: Responder): Promise<Outcome> => {
  const frames = [initiator.hello()]
  const steps: Array<ResponderStep> = []
  let toResponder: Uint8Array | undefined = frames[0]
  for (let rounds = 0; rounds < 3; rounds++) {
    const step = await responder.receive(frameOf(toResponder))
    steps.push(step)
    frames.push(...step.send)
    if (step.failure !== undefined) throw step.failure
    const back = await initiator.receive(frameOf(step.send[0]))
    if (back.secrets !== undefined && step.secrets !== undefined)
      return { frames, initiator: back.secrets, responder: await step.secrets, steps }
    if (back.send !== undefined) frames.push(back.send)
    toResponder = back.send
  }
  throw new Error("the handshake does not end")
}

export type Counters = Record<"share" | "agree" | "kem" | "sign" | "verify" | "wrap" | "unwrap", number>

/** A crypto that counts what it is asked to do. */
export const counting = (
  crypto: HandshakeCrypto = real
): { readonly crypto: HandshakeCrypto; readonly count: Counters } => {
  const count: Counters = { share: 0, agree: 0, kem: 0, sign: 0, verify: 0, wrap: 0, unwrap: 0 }
  const { mlKem } = crypto
  return {
    count,
    crypto: {
      ...crypto,
      keyShare: () => {
        count.share++
        const own = crypto.keyShare()
        return {
          share: own.share,
          agree: other => {
            count.agree++
            return own.agree(other)
          }
        }
      },
      ...(mlKem === undefined
        ? {}
        : {
            mlKem: {
              keyPair: mlKem.keyPair,
              encapsulate: key => {
                count.kem++
                return mlKem.encapsulate(key)
              }
            }
          }),
      sign: (identity, message) => {
        count.sign++
        return crypto.sign(identity, message)
      },
      verify: (identity, message, signature) => {
        count.verify++
        return crypto.verify(identity, message, signature)
      },
      wrap: (identity, secret) => {
        count.wrap++
        return crypto.wrap(identity, secret)
      },
      unwrap: (identity, ciphertext) => {
        count.unwrap++
        return crypto.unwrap(identity, ciphertext)
      }
    }
  }
}

/** The frames of the recorded handshake. */
export const recorded = {
  hello: frameOfHex(vectors.m1),
  ack: frameOfHex(vectors.m2),
  authI: frameOfHex(vectors.m3),
  authR: frameOfHex(vectors.m4)
}
const recordedHello = parseHello(recorded.hello.body).hello
const recordedAck = parseAck(recorded.ack.body, modes.paired).ack
const openedI = openAuth(fromHex(vectors.k_hs_i2r), fromHex(vectors.th2), recorded.authI.body, false)
const openedR = openAuth(fromHex(vectors.k_hs_r2i), fromHex(vectors.th3), recorded.authR.body, false)
const recordedShare: KeyShare = x25519FromSeed(fromHex(vectors.x_seed_I))

const draws = (...values: ReadonlyArray<Uint8Array>) => {
  const left = [...values]
  return (length: number) => left.shift() ?? new Uint8Array(length).fill(0xee)
}

/** The initiator of the recorded handshake, to the byte; it costs no private RSA operation before AUTH_R. */
export const recordedInitiator = (): Initiator =>
  dialling({
    parameters: decodeParameters(openedI.auth.parameters),
    crypto: scripted(real, {
      randomBytes: draws(recordedHello.nonce, fromHex(vectors.r_I)),
      keyShare: () => recordedShare,
      wrap: () => openedI.auth.wrapped,
      sign: async () => openedI.signature
    })
  })

/** The responder of the recorded handshake, to the byte. */
export const recordedResponder = (): Responder =>
  answering({
    parameters: decodeParameters(openedR.auth.parameters),
    crypto: scripted(real, {
      randomBytes: draws(recordedAck.nonce),
      keyShare: () => ({ share: recordedAck.share, agree: () => recordedShare.agree(recordedAck.share) }),
      wrap: () => openedR.auth.wrapped,
      sign: async () => openedR.signature
    })
  })

export const hours = (count: number): number => count * tagEpochSeconds

/** A HELLO of Alice, changed, with a mac1 that is right for the change: what only a holder of the pair key can send. */
export const helloWith = (change: Partial<Hello>): Frame => {
  const prefix = helloPrefix({ ...parseHello(frameOf(dialling().hello()).body).hello, ...change })
  return frame(messageTypes.hello, concat(prefix, hmac(keys.mac1, prefix)))
}

/** Nothing is sent, and the reason, for our own eyes, is this. */
export const expectSilence = async (responder: Responder, received: Frame, code: string): Promise<void> => {
  const { send, failure } = await responder.receive(received)
  if (send.length > 0 || failure?.code !== code)
    throw new Error(`${send.length} frames and ${failure?.code ?? "no failure"}: silence and ${code} were expected`)
}
