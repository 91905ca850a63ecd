import { Context, Layer } from "effect"
import { maxRsaOperations, maxRsaQueue } from "../protocol/constants.ts"
import { nodeCrypto, type HandshakeCrypto } from "../protocol/HandshakeCrypto.ts"
import { ProtocolError } from "../protocol/ProtocolError.ts"

/**
 * Randomness and private-key operations of this host. The default draws from the system's generator and keeps RSA work to
 * two operations at a time, so that a burst of callers cannot take the thread pool that files and DNS need too.
 */
export class Cryptography extends Context.Service<Cryptography, HandshakeCrypto & { readonly rsaLoad: () => number }>()(
  "artifice/transport/Cryptography"
) {
  static readonly layer: Layer.Layer<Cryptography> = Layer.sync(Cryptography, () => limited(nodeCrypto()))
}

/** Wraps the private-key operations in a queue; `rsaLoad` is how full it is, 0 to 1. A full queue fails with BUSY. */
export const limited = (crypto: HandshakeCrypto): HandshakeCrypto & { readonly rsaLoad: () => number } => {
  let running = 0
  const waiting: Array<() => void> = []
  const run = async <A>(operation: () => Promise<A>): Promise<A> => {
    if (running >= maxRsaOperations) {
      if (waiting.length >= maxRsaQueue)
        throw new ProtocolError("BUSY", `${maxRsaQueue} private-key operations wait already`)
      await new Promise<void>(resolve => waiting.push(resolve))
    } else running++
    try {
      return await operation()
    } finally {
      // The place goes to the next in line, who does not count again.
      const next = waiting.shift()
      if (next === undefined) running--
      else next()
    }
  }
  return {
    ...crypto,
    sign: (identity, message) => run(() => crypto.sign(identity, message)),
    unwrap: (identity, ciphertext) => run(() => crypto.unwrap(identity, ciphertext)),
    rsaLoad: () => waiting.length / maxRsaQueue
  }
}
