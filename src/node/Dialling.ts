/** Dials the addresses of one peer side by side, staggered, and remembers why which of them did not answer. */
import { Clock, Effect, FiberSet, Queue } from "effect"
import { isIP, isIPv6 } from "node:net"
import type { PeerId } from "../protocol/Identity.ts"
import { formatAddress, parseAddress, type Address, type NetworkError } from "../transport/Network.ts"
import { failure, SessionError } from "../transport/SessionError.ts"

/** RFC 8305 §5: for how long an attempt has the way for itself before the next one is begun beside it. */
export const dialStaggerMs = 250
/** Addresses tried in one dial, those that names stand for included. */
export const maxDialAttempts = 16
/** Peers whose failures are remembered; the one whose last failure is oldest is forgotten first. */
const maxFailedPeers = 256
/** Of what is remembered for people. */
const maxDetailLength = 300

/** Why an address of a peer did not give a session. */
export interface DialFailure {
  /** `host:port` as it was dialled: of a name that has been looked up, the address that it stands for. */
  readonly address: string
  /** The protocol's code (`TRUNCATED`: whoever is there hung up without a word, …), or `UNREACHABLE`. */
  readonly code: string
  readonly detail: string
  /** Milliseconds of the clock since 1970. */
  readonly atMs: number
}

/** The last failure of each address of each peer, until that address gives a session. */
export class DialFailures {
  readonly #peers = new Map<PeerId, Map<string, DialFailure>>()

  record(peerId: PeerId, failures: ReadonlyArray<DialFailure>): void {
    if (failures.length === 0) return
    const known = this.#peers.get(peerId) ?? new Map<string, DialFailure>()
    this.#peers.delete(peerId)
    this.#peers.set(peerId, known)
    for (const each of failures) {
      known.delete(each.address)
      known.set(each.address, { ...each, detail: each.detail.slice(0, maxDetailLength) })
    }
    for (const address of [...known.keys()].slice(0, -maxDialAttempts)) known.delete(address)
    const [oldest] = this.#peers.keys()
    if (this.#peers.size > maxFailedPeers && oldest !== undefined) this.#peers.delete(oldest)
  }

  /** The address has given a session, or none of the peer's is of interest any more. */
  forget(peerId: PeerId, address?: string): void {
    if (address === undefined) this.#peers.delete(peerId)
    else this.#peers.get(peerId)?.delete(address)
  }

  /** Oldest first. */
  of(peerId: PeerId): ReadonlyArray<DialFailure> {
    return [...(this.#peers.get(peerId)?.values() ?? [])]
  }
}

/**
 * The addresses that are still to be tried. The families take turns (RFC 8305 §4), beginning with that of the address that is known to be
 * best; within a family the order is kept.
 */
class Candidates {
  readonly #seen = new Set<string>()
  readonly #waiting: [Array<Address>, Array<Address>] = [[], []]
  #turn: 0 | 1 | undefined

  add(address: Address): void {
    const text = formatAddress(address)
    if (this.#seen.has(text) || this.#seen.size >= maxDialAttempts) return
    this.#seen.add(text)
    const family = isIPv6(address.host) ? 1 : 0
    this.#turn ??= family
    this.#waiting[family].push(address)
  }

  get isEmpty(): boolean {
    return this.#waiting.every(({ length }) => length === 0)
  }

  next(): Address | undefined {
    const turn = this.#turn ?? 0
    const other = turn === 0 ? 1 : 0
    const next = this.#waiting[turn].shift()
    if (next === undefined) return this.#waiting[other].shift()
    this.#turn = other
    return next
  }
}

export interface DialOptions<A> {
  /** `host:port`, the best first. */
  readonly addresses: ReadonlyArray<string>
  /** The addresses that a host name stands for, the best first; a literal address stands for itself. */
  readonly resolve: (host: string) => Effect.Effect<ReadonlyArray<string>, NetworkError>
  /**
   * Makes a session by way of one address. It must ask `proceed` once, right before the other side comes to know that the session stands,
   * and give up where the answer is no: another address was first, and the other side would keep only one of the two.
   */
  readonly attempt: (address: Address, proceed: () => boolean) => Effect.Effect<A, SessionError>
}

export interface Dialled<A> {
  readonly session: A
  readonly address: string
  /** The addresses that had failed by then. */
  readonly failures: ReadonlyArray<DialFailure>
}

/**
 * Tries the addresses of a peer: the next one is begun when the last one has failed or has had `dialStaggerMs` for itself, whichever is
 * sooner. The first that gives a session wins and the others are interrupted. Fails with the reason of each when none is left.
 */
export const dialAddresses = <A>({
  addresses,
  resolve,
  attempt
}: DialOptions<A>): Effect.Effect<Dialled<A>, ReadonlyArray<DialFailure>> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const run = yield* FiberSet.runtime(yield* FiberSet.make<void>())()
    const candidates = new Candidates()
    const failures: Array<DialFailure> = []
    // One item each time that a look-up or an attempt is over: no more than twice `maxDialAttempts`.
    const over = yield* Queue.unbounded<void>()
    let open = 0
    let notBeforeMs = 0
    let isTaken = false
    let dialled: Dialled<A> | undefined

    const failed = (address: string, code: string, detail: string): void => {
      failures.push({ address, code, detail, atMs: clock.currentTimeMillisUnsafe() })
    }

    const begin = (work: Effect.Effect<void>): void => {
      open++
      run(
        Effect.ensuring(
          work,
          Effect.sync(() => {
            open--
            Queue.offerUnsafe(over, undefined)
          })
        )
      )
    }

    const proceed = (): boolean => {
      if (isTaken) return false
      return (isTaken = true)
    }

    const tryOne = (address: Address): Effect.Effect<void> => {
      const text = formatAddress(address)
      return Effect.match(attempt(address, proceed), {
        onSuccess: session => void (dialled ??= { session, address: text, failures }),
        onFailure: ({ code, detail }) => {
          if (dialled === undefined) failed(text, code, detail)
          // Its time is over: the next one need not wait.
          notBeforeMs = 0
        }
      })
    }

    const lookUp = (name: Address): Effect.Effect<void> =>
      Effect.match(resolve(name.host), {
        onSuccess: hosts => hosts.forEach(host => candidates.add({ host, port: name.port })),
        onFailure: error => failed(formatAddress(name), "UNREACHABLE", error.message)
      })

    for (const text of addresses.slice(0, maxDialAttempts)) {
      const address = parseAddress(text)
      if (address === undefined || address.port === 0) failed(text, "UNREACHABLE", `"${text}" is no address`)
      else if (isIP(address.host) !== 0) candidates.add(address)
      else begin(lookUp(address))
    }

    for (;;) {
      if (dialled !== undefined) return dialled
      const nowMs = clock.currentTimeMillisUnsafe()
      const address = nowMs < notBeforeMs ? undefined : candidates.next()
      if (address !== undefined) {
        notBeforeMs = nowMs + dialStaggerMs
        begin(tryOne(address))
      } else if (!candidates.isEmpty) {
        yield* Effect.timeoutOption(Queue.take(over), notBeforeMs - nowMs)
      } else if (open > 0) {
        yield* Queue.take(over)
      } else {
        return yield* Effect.fail(failures)
      }
    }
  }).pipe(Effect.scoped)

/** Codes that say nothing of the peer: the line was lost, or whoever is there does not know this host. */
const vague: ReadonlySet<string> = new Set(["UNREACHABLE", "TRUNCATED", "TIMEOUT"])

/** One error out of the reasons of all addresses: a refusal says more than silence, and that more than an address that nobody answers at. */
export const dialError = (failures: ReadonlyArray<DialFailure>, peer: PeerId): SessionError => {
  const worst =
    failures.find(({ code }) => !vague.has(code)) ?? failures.find(({ code }) => code !== "UNREACHABLE") ?? failures[0]
  if (worst === undefined) return failure("INTERNAL", "no address of this peer is known", peer)
  const details = failures.map(({ address, detail }) => (detail.includes(address) ? detail : `${address}: ${detail}`))
  return new SessionError({ code: worst.code, peer, detail: details.join("; ") })
}
