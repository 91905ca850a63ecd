import { Effect } from "effect"
import { parseViewStream, receiveTensors, TensorSender, viewStreamName } from "../node/GradientExchanger.ts"
import type { PeerNode } from "../node/PeerNode.ts"
import type { TensorHeader } from "../node/TensorHeader.ts"
import type { PeerId } from "../protocol/Identity.ts"
import type { MuxStream } from "../protocol/MuxStream.ts"
import type { Session } from "../transport/Session.ts"
import type { SessionError } from "../transport/SessionError.ts"
import { compareViews, type ViewId } from "./ViewChange.ts"
import type { ViewExchange } from "./ViewExchange.ts"

/** Bytes that may wait for a member that only observes before its stream is given up. */
export const maxObserverQueueBytes = 64 * 1024 ** 2
/** How long the member with the greater PeerID waits for the other's session before it dials by itself. */
const dialPatienceMs = 2_000
const sessionTickMs = 10
/** How long members wait for the way to one that only observes. */
const observerDialMs = 5_000

/**
 * The streams of a member's views: one for each sender and receiver of a view. Those of an older view are reset; one of a view that is
 * still to start here waits, unread, which the stream's window bounds.
 */
export class ViewStreams {
  readonly #node: PeerNode["Service"]
  readonly #jobId: Uint8Array
  readonly #onLost: (exchange: ViewExchange, peer: PeerId) => void
  /** At most one for each session: a newer one takes its place. */
  readonly #held = new Map<Session, { readonly stream: MuxStream; readonly id: ViewId }>()
  readonly #senders = new Map<PeerId, TensorSender>()
  readonly #receiving = new Set<MuxStream>()
  #exchange: ViewExchange | undefined
  #sentBytes = 0

  /** `onLost`: the way to a member has gone, or it has given the stream up. */
  constructor(node: PeerNode["Service"], jobId: Uint8Array, onLost: (exchange: ViewExchange, peer: PeerId) => void) {
    this.#node = node
    this.#jobId = jobId
    this.#onLost = onLost
  }

  /** Bytes that have been sent to other members, headers included. */
  get sentBytes(): number {
    let bytes = this.#sentBytes
    for (const sender of this.#senders.values()) bytes += sender.sentBytes
    return bytes
  }

  /** Takes a stream that another member has opened. */
  readonly take = (stream: MuxStream, session: Session): void => {
    const id = parseViewStream(stream.name, this.#jobId)
    if (id === undefined) return stream.reset("NOT_AUTHORIZED", "a stream of another job")
    const order = this.#exchange === undefined ? 1 : compareViews(id, this.#exchange.plan)
    if (order < 0) return stream.reset("NORMAL", "a stream of a view that is over")
    if (order === 0) return this.#receive(stream, session)
    const before = this.#held.get(session)
    if (before !== undefined && compareViews(id, before.id) <= 0) return stream.reset("NORMAL")
    before?.stream.reset("NORMAL")
    this.#held.set(session, { stream, id })
  }

  #receive(stream: MuxStream, session: Session): void {
    const exchange = this.#exchange
    const { peerId } = session.peer
    if (exchange === undefined || !exchange.senders.includes(peerId))
      return stream.reset("NOT_AUTHORIZED", "its sender has no part in this view")
    this.#receiving.add(stream)
    const place = (header: TensorHeader) => exchange.place(header, peerId)
    receiveTensors(stream, session, this.#jobId, place, () => {
      if (this.#receiving.delete(stream) && !exchange.closed) this.#onLost(exchange, peerId)
    })
  }

  /** The streams of the view before end; those of this one, which may have waited, are read. */
  begin(exchange: ViewExchange): void {
    this.end()
    this.#exchange = exchange
    for (const [session, { stream, id }] of [...this.#held]) {
      const order = compareViews(id, exchange.plan)
      if (order > 0 && stream.closed === undefined) continue
      this.#held.delete(session)
      if (stream.closed !== undefined) continue
      if (order < 0) stream.reset("NORMAL")
      else this.#receive(stream, session)
    }
  }

  /** Gives up the streams of the view in progress. */
  end(): void {
    this.#exchange = undefined
    this.#sentBytes = this.sentBytes
    for (const sender of this.#senders.values()) sender.close()
    this.#senders.clear()
    const receiving = [...this.#receiving]
    this.#receiving.clear()
    for (const stream of receiving) stream.reset("NORMAL")
  }

  /** Queues a tensor of the view in progress. */
  readonly send = (to: PeerId, header: TensorHeader, data: Uint8Array): void => {
    const sender = this.#senders.get(to)
    const exchange = this.#exchange
    if (sender === undefined || exchange === undefined) return
    if (exchange.plan.observers.includes(to) && sender.queuedBytes > maxObserverQueueBytes) {
      // It falls ever further behind: better to give it the state again than to hold its backlog here.
      this.#senders.delete(to)
      sender.close()
      return
    }
    sender.send(header, data)
  }

  /**
   * Opens this member's streams of a view; fails with the first member that cannot be reached. One that only observes is not waited for for
   * long, and the view goes on without it.
   */
  open(exchange: ViewExchange): Effect.Effect<void, { readonly peer: PeerId; readonly error: SessionError }> {
    const giveUpOn = (peer: PeerId) => (opening: Effect.Effect<void, SessionError>) =>
      opening.pipe(
        Effect.timeout(observerDialMs),
        Effect.catch(() => Effect.sync(() => this.#onLost(exchange, peer)))
      )
    const name = viewStreamName(this.#jobId, exchange.plan.term, exchange.plan.view)
    return Effect.forEach(
      exchange.receivers,
      peer =>
        Effect.gen({ self: this }, function* () {
          const session = yield* this.#sessionWith(peer)
          if (exchange.closed || this.#exchange !== exchange) return
          const sender = yield* TensorSender.open(session, name, () => {
            if (!exchange.closed && this.#exchange === exchange) this.#onLost(exchange, peer)
          })
          this.#senders.set(peer, sender)
        }).pipe(
          exchange.plan.observers.includes(peer) ? giveUpOn(peer) : Effect.asVoid,
          Effect.mapError(error => ({ peer, error }))
        ),
      { concurrency: "unbounded", discard: true }
    )
  }

  /** The session with another member. The one with the smaller PeerID dials; the other one does so only where nothing comes of that. */
  #sessionWith(peer: PeerId): Effect.Effect<Session, SessionError> {
    const node = this.#node
    return Effect.gen(function* () {
      const rounds = node.identity.peerId < peer ? 0 : dialPatienceMs / sessionTickMs
      for (let round = 0; round <= rounds; round++) {
        const session = node.session(peer)
        if (session !== undefined && session.ended === undefined) return session
        if (round < rounds) yield* Effect.sleep(sessionTickMs)
      }
      return yield* node.connect(peer)
    })
  }
}
