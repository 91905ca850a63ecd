import { Deferred, Effect } from "effect"
import {
  handshakeDeadlineMs,
  helloDeadlineMs,
  maxHandshakeBufferBytes,
  maxUnverifiedSocketBytes
} from "../protocol/constants.ts"
import { modes } from "../protocol/HandshakeMessages.ts"
import { Initiator, type InitiatorConfig } from "../protocol/Initiator.ts"
import type { PeerId, PublicIdentity } from "../protocol/Identity.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { Responder, type ResponderConfig } from "../protocol/Responder.ts"
import type { SessionSecrets } from "../protocol/Handshake.ts"
import type { DirectoryEntry } from "../protocol/TagIndex.ts"
import { HandshakeIo } from "./HandshakeIo.ts"
import type { Connection } from "./Network.ts"
import { Session } from "./Session.ts"
import { failure, sessionError, type SessionError } from "./SessionError.ts"

/** Runs a part of a handshake; an interruption or a failure destroys the connection. */
const guarded = <A>(connection: Connection, run: () => Promise<A>): Effect.Effect<A, SessionError> =>
  Effect.tryPromise({ try: run, catch: error => sessionError(error) }).pipe(
    Effect.onExit(exit => (exit._tag === "Success" ? Effect.void : Effect.sync(() => connection.end())))
  )

const deadline = (durationMs: number, what: string) => ({
  duration: durationMs,
  orElse: () => Effect.fail(failure("TIMEOUT", `${what} took over ${durationMs / 1000} s`))
})

/**
 * Does the dialling side's handshake on an open connection: at most 10 s, then TIMEOUT. The session is ready to be started. `proceed` is
 * asked before READY, by which the other side takes the session for made; where it answers no, the handshake fails with SUPERSEDED.
 */
export const initiate = (
  connection: Connection,
  config: InitiatorConfig,
  proceed: () => boolean = () => true
): Effect.Effect<Session, SessionError> =>
  guarded(connection, async () => {
    const initiator = new Initiator(config)
    const io = new HandshakeIo(connection)
    io.send([initiator.hello()])
    let secrets: SessionSecrets | undefined
    while (secrets === undefined) {
      const step = await initiator.receive(await io.next())
      if (step.send !== undefined) io.send([step.send])
      secrets = step.secrets
    }
    if (!proceed()) throw new ProtocolError("SUPERSEDED", "another address of this peer was first")
    const session = new Session(connection, secrets, config.parameters)
    session.start(io.rest())
    connection.resume()
    return session
  }).pipe(Effect.timeoutOrElse(deadline(handshakeDeadlineMs, "the handshake")))

/**
 * Someone has proved to hold a key of ours and to be who he says. Nothing of what he sends is read before `verify` or `unverify`;
 * the host closes it with TIMEOUT where that takes over ten seconds.
 */
export interface ConnectionRequest {
  readonly peer: PublicIdentity
  readonly entry: DirectoryEntry
  /** Resolves to the session where the peer is the one that is allowed, or in the list as it is now; else closes it with NOT_AUTHORIZED. */
  readonly verify: (allowed: PeerList | PeerId) => Effect.Effect<Session, SessionError>
  /** For an invitation only: takes the session of a peer that no list knows yet. */
  readonly unverify: Effect.Effect<Session, SessionError>
  /** Closes the session with TIMEOUT where nobody has decided: for the host, `verifyDeadlineMs` after READY. */
  readonly expire: Effect.Effect<void>
}

/** Peers that may come in: asked anew at each verification, so that one who was revoked during the handshake is refused. */
export interface PeerList {
  readonly has: (peerId: PeerId) => Effect.Effect<boolean>
}

const listOf = (allowed: PeerList | PeerId): PeerList => (typeof allowed === "string" ? peerList(allowed) : allowed)

/** A list of these peers. */
export const peerList = (...peers: ReadonlyArray<PeerId>): PeerList => ({
  has: peerId => Effect.succeed(peers.includes(peerId))
})

/** Does the answering side's handshake: HELLO within 3 s, all within 10 s. Strangers meet silence; the error is for our own log. */
export const respond = (
  connection: Connection,
  config: ResponderConfig,
  onHello: (entry: DirectoryEntry) => void
): Effect.Effect<ConnectionRequest, SessionError> =>
  Effect.gen(function* () {
    const responder = new Responder(config)
    const io = new HandshakeIo(connection, maxUnverifiedSocketBytes)
    const exchange = async () => {
      const step = await responder.receive(await io.next())
      io.send(step.send)
      if (step.failure !== undefined) throw step.failure
      if (step.entry !== undefined) onHello(step.entry)
      return step
    }
    yield* guarded(connection, async () => {
      const step = await exchange()
      // Without an entry a RETRY was sent: the HELLO comes once more, with its cookie.
      if (step.entry === undefined) await exchange()
    }).pipe(Effect.timeoutOrElse(deadline(helloDeadlineMs, "the HELLO")))
    io.limitBytes = maxHandshakeBufferBytes
    const accepted = yield* guarded(connection, async () => {
      const step = await exchange()
      if (step.secrets === undefined || step.entry === undefined) throw new ProtocolError("UNEXPECTED", "no AUTH_I")
      // Until the wrapped secret is open no record may be read.
      connection.pause()
      return { session: new Session(connection, await step.secrets, config.parameters), entry: step.entry }
    })
    yield* confirmed(accepted.session, io, connection)
    return request(accepted.session, accepted.entry)
  }).pipe(Effect.timeoutOrElse(deadline(handshakeDeadlineMs, "the handshake")))

/** Waits for READY, by which the caller proves that he has the keys; what follows it stays unread until `verify`. */
const confirmed = (session: Session, io: HandshakeIo, connection: Connection): Effect.Effect<void, SessionError> =>
  Effect.callback<void>(resume => {
    session.start(io.rest(), () => {
      session.pause()
      resume(Effect.void)
    })
    connection.resume()
    return Effect.sync(() => session.fail("TIMEOUT", "no READY"))
  }).pipe(Effect.raceFirst(Effect.flatMap(Deferred.await(session.closed), reason => Effect.fail(reason))))

const request = (session: Session, entry: DirectoryEntry): ConnectionRequest => {
  let decided = false
  const refuse = (reason: string) =>
    session
      .close("NOT_AUTHORIZED", reason)
      .pipe(Effect.andThen(Effect.fail(failure("NOT_AUTHORIZED", reason, session.peer.peerId))))
  const take = Effect.suspend(() => {
    if (session.ended !== undefined) return Effect.fail(session.ended)
    session.resume()
    return Effect.succeed(session)
  })
  const once = (decision: Effect.Effect<Session, SessionError>) =>
    Effect.suspend(() => {
      if (decided)
        return Effect.fail(failure("UNEXPECTED", "this request has been decided already", session.peer.peerId))
      decided = true
      return decision
    })
  return {
    peer: session.peer,
    entry,
    verify: allowed =>
      once(
        Effect.flatMap(listOf(allowed).has(session.peer.peerId), known =>
          known ? take : refuse("this peer is not in the list")
        )
      ),
    unverify: once(entry.mode === modes.invite ? take : refuse("only an invitation can be taken without verification")),
    expire: Effect.suspend(() =>
      decided ? Effect.void : Effect.sync(() => session.fail("TIMEOUT", "nobody decided on this request"))
    )
  }
}
