/**
 * A peer as people name it on the command line: by its id, or by as much of its beginning as no other known peer shares.
 */
import { isPeerId, type PeerId } from "artifice/identity"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { type CliFailure, refused, wrongUsage } from "./CliFailure.ts"

const peerIdDigits = 64
/** Fewer say too little to be meant. */
const minDigits = 4

/** A peer id in hex or its beginning, to lower case; the colons of the short form may stand in it. Fails with what is expected, in words. */
export const parsePeerPrefix = (text: string): Result.Result<string, string> => {
  const digits = text.replaceAll(":", "").toLowerCase()
  return /^[0-9a-f]+$/.test(digits) && digits.length >= minDigits && digits.length <= peerIdDigits
    ? Result.succeed(digits)
    : Result.fail(`a peer id: ${peerIdDigits} hex digits, or the first ${minDigits} or more of them`)
}

/** The one known peer whose id begins so. Fails with `NOT_PAIRED` where there is none, with `AMBIGUOUS_PEER` where there are several. */
export const choosePeer = (prefix: string, known: ReadonlyArray<string>): Effect.Effect<PeerId, CliFailure> => {
  const [found, another] = known.filter(isPeerId).filter(peerId => peerId.startsWith(prefix))
  if (found === undefined) {
    return Effect.fail(
      refused({
        code: "NOT_PAIRED",
        message: `This machine is not paired with a peer ${prefix}`,
        hint: "artifice peers list shows those that it is paired with; artifice join TOKEN pairs it."
      })
    )
  }
  if (another === undefined) return Effect.succeed(found)
  return Effect.fail(
    wrongUsage({
      code: "AMBIGUOUS_PEER",
      message: `The ids of several peers begin with ${prefix}, such as ${found} and ${another}`,
      hint: "Give more digits of the one that is meant."
    })
  )
}
