import { equal, u64 } from "./Bytes.ts"
import { cookieMinuteSeconds, hashBytes, tagEpochSeconds } from "./constants.ts"
import { hmac } from "./KeySchedule.ts"

/**
 * Cookies of a responder under load (§2.3): they prove that a HELLO is no older than two minutes and comes from the address
 * that was answered, and cost the responder no memory.
 */
export class CookieJar {
  readonly #random: (length: number) => Uint8Array
  #keys: ReadonlyArray<{ readonly hour: number; readonly key: Uint8Array }> = []

  constructor(random: (length: number) => Uint8Array) {
    this.#random = random
  }

  bake(source: Uint8Array, nonce: Uint8Array, share: Uint8Array, unixSeconds: number): Uint8Array {
    return cookie(this.#key(unixSeconds), source, nonce, share, minuteOf(unixSeconds))
  }

  /** Whether the cookie is of this or the last minute. */
  accepts(given: Uint8Array, source: Uint8Array, nonce: Uint8Array, share: Uint8Array, unixSeconds: number): boolean {
    this.#key(unixSeconds)
    const minute = minuteOf(unixSeconds)
    return this.#keys.some(({ key }) =>
      [minute, minute - 1].some(at => equal(given, cookie(key, source, nonce, share, at)))
    )
  }

  /** The key of this hour; that of the hour before is kept for the minute in which it still matters. */
  #key(unixSeconds: number): Uint8Array {
    const hour = Math.floor(unixSeconds / tagEpochSeconds)
    const current = this.#keys[0]
    if (current?.hour === hour) return current.key
    const made = { hour, key: this.#random(hashBytes) }
    this.#keys = [made, ...this.#keys.filter(old => old.hour === hour - 1)]
    return made.key
  }
}

const minuteOf = (unixSeconds: number): number => Math.floor(unixSeconds / cookieMinuteSeconds)

const cookie = (
  key: Uint8Array,
  source: Uint8Array,
  nonce: Uint8Array,
  share: Uint8Array,
  minute: number
): Uint8Array => hmac(key, source, nonce, share, u64(minute))
