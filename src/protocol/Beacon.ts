import { concat, equal, u16, u64, u8, utf8 } from "./Bytes.ts"
import {
  beaconBytes,
  beaconEpochSeconds,
  beaconEpochTolerance,
  beaconMacBytes,
  beaconNonceBytes,
  beaconRetryMs,
  maxBeaconAddresses,
  maxBeaconsPerSecond,
  protocolVersion
} from "./constants.ts"
import { hmac } from "./KeySchedule.ts"

/**
 * §2.8: what a host broadcasts on its local network, that somebody who shares the network's key can be dialled at a port. It carries no
 * identity and proves none: it is a hint, and the handshake decides.
 */
export interface Beacon {
  /** New in each beacon; by it a host knows its own. */
  readonly nonce: Uint8Array
  /** TCP port, 1 to 65,535, at the address that the datagram comes from. */
  readonly port: number
}

const prefix = concat(utf8("ARTB"), u8(protocolVersion))
const rateWindowMs = 1_000

const epochOf = (unixSeconds: number): number => Math.floor(unixSeconds / beaconEpochSeconds)

const macOf = (key: Uint8Array, covered: Uint8Array, epoch: number): Uint8Array =>
  hmac(key, concat(covered, u64(epoch))).subarray(0, beaconMacBytes)

/** The datagram, good for a minute and its neighbours. `key` is the 32 bytes that the hosts of one operator share. */
export const encodeBeacon = (key: Uint8Array, { nonce, port }: Beacon, unixSeconds: number): Uint8Array => {
  const covered = concat(prefix, nonce, u16(port))
  return concat(covered, macOf(key, covered, epochOf(unixSeconds)))
}

/** Reads a datagram that anybody may have sent; undefined for whatever is not a beacon under this key, of this or a neighbouring minute. */
export const openBeacon = (key: Uint8Array, datagram: Uint8Array, unixSeconds: number): Beacon | undefined => {
  if (datagram.length !== beaconBytes || !equal(datagram.subarray(0, prefix.length), prefix)) return undefined
  const covered = datagram.subarray(0, beaconBytes - beaconMacBytes)
  const mac = datagram.subarray(beaconBytes - beaconMacBytes)
  const now = epochOf(unixSeconds)
  for (let epoch = now - beaconEpochTolerance; epoch <= now + beaconEpochTolerance; epoch++) {
    if (epoch < 0 || !equal(mac, macOf(key, covered, epoch))) continue
    const nonce = covered.slice(prefix.length, prefix.length + beaconNonceBytes)
    const port = ((covered.at(-2) ?? 0) << 8) | (covered.at(-1) ?? 0)
    return port === 0 ? undefined : { nonce, port }
  }
  return undefined
}

/** Which hints are acted on: at most `maxBeaconsPerSecond`, and one address again only after `beaconRetryMs`. */
export class BeaconHints {
  /** When each address was last acted on, the oldest first. */
  readonly #actedMs = new Map<string, number>()

  /** Whether to act on a hint to this address now. */
  take(address: string, nowMs: number): boolean {
    const beforeMs = this.#actedMs.get(address)
    if (beforeMs !== undefined && nowMs - beforeMs < beaconRetryMs) return false
    const recent = [...this.#actedMs.values()].slice(-maxBeaconsPerSecond)
    if (recent.length === maxBeaconsPerSecond && nowMs - (recent[0] ?? 0) < rateWindowMs) return false
    this.#actedMs.delete(address)
    this.#actedMs.set(address, nowMs)
    const [oldest] = this.#actedMs.keys()
    if (this.#actedMs.size > maxBeaconAddresses && oldest !== undefined) this.#actedMs.delete(oldest)
    return true
  }
}
