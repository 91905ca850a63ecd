import type { SessionError } from "artifice"
import { type CliFailure, failed, refused, wrongUsage } from "./CliFailure.ts"

const newToken = "artifice invite prints one there, artifice coordinator too."

/** What it means to the person at the terminal that a peer cannot be paired with or reached. */
export const peerFailure = (error: SessionError): CliFailure => {
  const { message, detail } = error
  switch (error.code) {
    case "MALFORMED":
      return wrongUsage({
        code: "BAD_TOKEN",
        message: `This is no token: ${detail}`,
        hint: "Copy the whole line that the other machine printed.",
        cause: error
      })
    case "INVITE_USED":
      return refused({ code: "TOKEN_USED", message: detail, hint: newToken, cause: error })
    case "INVITE_EXPIRED":
      return refused({ code: "TOKEN_EXPIRED", message: detail, hint: newToken, cause: error })
    case "NOT_PAIRED":
      return refused({
        code: "NOT_PAIRED",
        message: detail,
        hint: "Pair the two first: artifice invite there, artifice join here.",
        cause: error
      })
    case "UNREACHABLE":
    case "TIMEOUT":
    case "BUSY":
      return failed({
        code: "UNREACHABLE",
        message,
        hint: "Check that the other machine is running, and that its address can be reached from here.",
        cause: error
      })
    case "INTERNAL":
    case "REGISTRY":
      return failed({
        code: "PEER_FAILED",
        message,
        hint: "Run it again with --log-level debug for the details.",
        cause: error
      })
    default:
      return refused({
        code: "REFUSED",
        // Whoever does not know a key meets silence: that is what a lost connection in a handshake means.
        message: error.code === "TRUNCATED" ? detail : message,
        hint: "Check that it is the right machine; if it has forgotten this one, pair them again.",
        cause: error
      })
  }
}
