import { displayId, fingerprint, PeerNode, type Session } from "artifice"
import { hostname } from "node:os"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { askYesNo, canAsk } from "../Ask.ts"
import { failed, wrongUsage } from "../CliFailure.ts"
import { cannotInvite, whilePeerLives } from "../Job.ts"
import { addressesOf, listeningPeer } from "../Listening.ts"
import type { CommandBody, InviteOptions } from "../Options.ts"

const maxNameLength = 64
/** How long the guest may take to leave by itself once it is paired: it has still to write that down. */
const farewellMs = 5_000

/** `artifice invite`: makes a token, and waits until a machine has paired by it. */
export const inviteCommand: CommandBody<InviteOptions> = (options, output) =>
  Effect.gen(function* () {
    if (options.confirm && !canAsk()) {
      return yield* wrongUsage({
        code: "USAGE",
        message: "--confirm asks a question, and there is no terminal to ask it on",
        hint: "Leave --confirm out, or call artifice invite on a terminal."
      })
    }
    const node = yield* listeningPeer(options.home, options.listen, { discovery: options.discovery })
    const guest = yield* Deferred.make<Session>()
    const question = (theirs: string) =>
      `A machine with the fingerprint ${theirs} wants to pair. Is that what its screen shows?`
    const { token, expiresAt } = yield* node
      .invite({
        name: hostname().slice(0, maxNameLength),
        ttlMs: options.ttlMs,
        addresses: addressesOf(node.address ?? options.listen),
        paired: session => void Deferred.doneUnsafe(guest, Effect.succeed(session)),
        ...(options.confirm ? { confirm: guest => askYesNo(question(guest.fingerprint)) } : {})
      })
      .pipe(Effect.mapError(cannotInvite))
    yield* output.emit({
      event: "invite",
      token,
      expiresAt: new Date(expiresAt * 1000).toISOString(),
      command: `npx artifice join ${token}`
    })
    yield* output.qrCode(token)
    const session = yield* Deferred.await(guest).pipe(
      Effect.timeoutOrElse({
        duration: options.ttlMs,
        orElse: () =>
          Effect.fail(
            failed({
              code: "NOBODY_JOINED",
              message: "No machine has paired before the token ran out",
              hint: "Call artifice invite again, with a longer --ttl if need be."
            })
          )
      }),
      whilePeerLives,
      Effect.provideService(PeerNode, node)
    )
    const { peerId, id } = session.peer
    yield* output.result({ event: "paired", peer: peerId, fingerprint: fingerprint(id), display: displayId(id) })
    yield* Effect.timeoutOption(Deferred.await(session.closed), farewellMs)
  })
