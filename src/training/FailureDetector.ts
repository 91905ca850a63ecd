/** How often each end tells the other that it lives, by a message of its own. */
export const heartbeatIntervalMs = 1_000
/** A member that does not run for so long, and then goes on, is not given up. */
export const toleratedStallMs = 3_000
/** The least that is allowed for lateness of heartbeats beside a stall, however regular they have been. */
export const minLatenessMs = 200
/** Silence after which a member is given up whatever its heartbeats were like: with one check on top it is below 5 s. */
export const maxSilenceMs = 4_500
/** How often {@link FailureDetector.check} is to be called. */
export const checkIntervalMs = 250

/** A member whose silence has lasted too long. */
export interface Silent<Peer extends string = string> {
  readonly peer: Peer
  /** How long nothing was heard of it, while this process ran. */
  readonly silentMs: number
  /** How long its silence might have lasted. */
  readonly allowedMs: number
}

interface Watched {
  heardAtMs: number
  heartbeatAtMs: number | undefined
  /** Smoothed gap between heartbeats, and its smoothed deviation. */
  gapMs: number
  deviationMs: number
}

// The gains of RFC 6298 §2.3, which are Jacobson's; Bertier et al. take the same estimator for heartbeats.
const gapGain = 1 / 8
const deviationGain = 1 / 4
const deviations = 4

/**
 * Tells from heartbeats who has gone silent. Pure: it is told the time (monotonic, milliseconds) and neither sends nor waits.
 *
 * **Details** Chen, Toueg and Aguilera (IEEE Trans. Computers 51(5), 2002): a member is given up when its next heartbeat is later than expected
 * by more than a margin. As in Bertier, Marin and Sens (DSN 2002) the margin follows the member's own jitter, by Jacobson's estimator. On top
 * of it comes the stall that every member is allowed:
 *
 *     allowed = min(4.5 s, expected gap + 3 s + max(200 ms, 4 × deviation))
 *
 * The expected gap is never taken for less than the interval at which heartbeats are sent: a stall that begins just before one is due leaves
 * interval + stall between two of them. With regular heartbeats that makes 4.2 s, with irregular ones 4.5 s; a new member begins at 4.5 s.
 *
 * **Gotchas** Time in which this process itself did not run counts for nobody's silence: what the others said meanwhile still waits to be
 * read. It is recognised by calls of `check` that come late, so call it every {@link checkIntervalMs}.
 */
export class FailureDetector<Peer extends string = string> {
  readonly #watched = new Map<Peer, Watched>()
  #checkedAtMs: number

  constructor(nowMs: number) {
    this.#checkedAtMs = nowMs
  }

  /** Begins to watch a member, anew where it is watched already. */
  watch(peer: Peer, nowMs: number): void {
    const deviationMs = (maxSilenceMs - toleratedStallMs - heartbeatIntervalMs) / deviations
    this.#watched.set(peer, {
      heardAtMs: nowMs,
      heartbeatAtMs: undefined,
      gapMs: heartbeatIntervalMs,
      deviationMs
    })
  }

  forget(peer: Peer): void {
    this.#watched.delete(peer)
  }

  /** A heartbeat has come. One of a member that is not watched is nothing. */
  heartbeat(peer: Peer, nowMs: number): void {
    const member = this.#watched.get(peer)
    if (member === undefined) return
    if (member.heartbeatAtMs !== undefined) {
      const gapMs = nowMs - member.heartbeatAtMs
      const errorMs = gapMs - member.gapMs
      member.gapMs += gapGain * errorMs
      member.deviationMs += deviationGain * (Math.abs(errorMs) - member.deviationMs)
    }
    member.heartbeatAtMs = nowMs
    member.heardAtMs = nowMs
  }

  /** Something else has come, a tensor or an answer: as good a sign of life, but it says nothing about when the next will come. */
  heard(peer: Peer, nowMs: number): void {
    const member = this.#watched.get(peer)
    if (member !== undefined) member.heardAtMs = nowMs
  }

  /** How long a watched member may be silent now, 4.2 to 4.5 s. */
  allowedMs(peer: Peer): number | undefined {
    const member = this.#watched.get(peer)
    return member === undefined ? undefined : allowedOf(member)
  }

  /** How long a watched member has been silent, own pauses left out. */
  silentMs(peer: Peer, nowMs: number): number | undefined {
    const member = this.#watched.get(peer)
    return member === undefined ? undefined : nowMs - member.heardAtMs
  }

  /** Who has been silent for too long, the longest first. They are named again by every check until they are forgotten or heard. */
  check(nowMs: number): ReadonlyArray<Silent<Peer>> {
    const sinceCheckMs = nowMs - this.#checkedAtMs
    this.#checkedAtMs = nowMs
    if (sinceCheckMs > 2 * checkIntervalMs) this.#leaveOut(sinceCheckMs - checkIntervalMs, nowMs)
    return [...this.#watched]
      .map(([peer, member]) => ({ peer, silentMs: nowMs - member.heardAtMs, allowedMs: allowedOf(member) }))
      .filter(({ silentMs, allowedMs }) => silentMs > allowedMs)
      .toSorted((a, b) => b.silentMs - a.silentMs)
  }

  #leaveOut(pauseMs: number, nowMs: number): void {
    for (const member of this.#watched.values()) {
      member.heardAtMs = Math.min(nowMs, member.heardAtMs + pauseMs)
      if (member.heartbeatAtMs !== undefined) member.heartbeatAtMs = Math.min(nowMs, member.heartbeatAtMs + pauseMs)
    }
  }
}

const allowedOf = ({ gapMs, deviationMs }: Watched): number =>
  Math.min(
    maxSilenceMs,
    Math.max(heartbeatIntervalMs, gapMs) + toleratedStallMs + Math.max(minLatenessMs, deviations * deviationMs)
  )
