/** The calling side of one channel, below Effect's `RpcClient`. */
import { Context, Deferred, Effect } from "effect"
import * as RpcClient from "effect/rpc/RpcClient"
import { RpcClientDefect, RpcClientError } from "effect/rpc/RpcClientError"
import type { FromClientEncoded, FromServerEncoded } from "effect/rpc/RpcMessage"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import { RpcChannelClosed, type RpcChannel } from "./RpcChannel.ts"
import { codecFor } from "./RpcCodec.ts"
import { callBudgetBytes, callCost } from "./RpcLimits.ts"
import { decodeToClient, encodeToServer, type ToClient } from "./RpcWire.ts"

export interface ClientProtocol {
  readonly service: RpcClient.Protocol["Service"]
  /** Opens the tap: to be run once the client exists, so that no reply comes before it can be delivered. */
  readonly listen: Effect.Effect<void>
}

export const makeClientProtocol = Effect.fnUntraced(function* (channel: RpcChannel) {
  const calling = new CallingChannel(channel, yield* Effect.context<never>())
  const service = RpcClient.Protocol.of({
    run: (_clientId, write) => calling.run(write),
    send: (_clientId, message) => calling.send(message),
    supportsAck: true,
    supportsTransferables: false,
    codecFor
  })
  const protocol: ClientProtocol = { service, listen: calling.listen }
  return protocol
})

/** Called when the request of the call that this fiber makes has been handed to the channel. */
export const OnSent = Context.Reference<(() => void) | undefined>("artifice/rpc/OnSent", {
  defaultValue: () => undefined
})

type Deliver = (message: FromServerEncoded) => Effect.Effect<void>

class CallingChannel {
  private readonly channel: RpcChannel
  private readonly fork: (effect: Effect.Effect<unknown>) => unknown
  /** What is left of the budget, what each request in flight costs until its Exit, and the requests that wait for their turn. */
  private freeBytes = callBudgetBytes
  private readonly costs = new Map<number, number>()
  private readonly line = new Map<number, { readonly cost: number; readonly admitted: () => void }>()
  private isAdmitting = false
  private readonly unacknowledged = new Set<number>()
  private readonly running = Deferred.makeUnsafe<void>()
  private deliver: Deliver | undefined
  private closed: RpcChannelClosed | undefined
  /** The requests made here, which have ascending ids: a reply to any other is a lie. */
  private firstId = Infinity
  private lastId = -Infinity

  constructor(channel: RpcChannel, services: Context.Context<never>) {
    this.channel = channel
    this.fork = Effect.runForkWith(services)
  }

  readonly listen: Effect.Effect<void> = Effect.suspend(() =>
    Effect.map(Deferred.await(this.running), () => this.channel.receive(this.onMessage, this.close))
  )

  run(deliver: Deliver): Effect.Effect<never> {
    return Effect.suspend(() => {
      this.deliver = deliver
      Deferred.doneUnsafe(this.running, Effect.void)
      return Effect.onExit(Effect.never, () =>
        Effect.sync(() => {
          this.deliver = undefined
        })
      )
    })
  }

  send(message: FromClientEncoded): Effect.Effect<void, RpcClientError> {
    return Effect.withFiber(fiber => {
      if (this.closed !== undefined) return Effect.fail(clientError(this.closed))
      let bytes: Uint8Array
      try {
        bytes = encodeToServer(message)
      } catch (error) {
        return Effect.fail(clientError(error))
      }
      const send = Effect.mapError(this.channel.send(bytes), clientError)
      if (message._tag !== "Request") {
        if (message._tag === "Ack") this.unacknowledged.delete(Number(message.requestId))
        return send
      }
      const id = Number(message.id)
      const onSent = fiber.getRef(OnSent)
      const told = onSent === undefined ? send : Effect.map(send, onSent)
      return Effect.onError(this.withinBudget(id, callCost(bytes.length), told), () =>
        Effect.sync(() => this.settle(id))
      )
    })
  }

  /** First come, first served: a large call is not passed for ever by small ones. */
  private withinBudget<E>(id: number, cost: number, send: Effect.Effect<void, E>): Effect.Effect<void, E> {
    if (this.line.size === 0 && this.freeBytes >= cost) {
      this.admit(id, cost)
      return send
    }
    const turn = Effect.callback<void>(resume => {
      this.line.set(id, { cost, admitted: () => resume(Effect.void) })
    })
    return Effect.andThen(turn, send)
  }

  private admit(id: number, cost: number): void {
    this.freeBytes -= cost
    this.costs.set(id, cost)
    this.firstId = Math.min(this.firstId, id)
    this.lastId = Math.max(this.lastId, id)
  }

  /** The call is over or given up, in whatever state it was. */
  private settle(id: number): void {
    this.unacknowledged.delete(id)
    this.line.delete(id)
    this.freeBytes += this.costs.get(id) ?? 0
    this.costs.delete(id)
    // One that is admitted may fail at once and come back here; the flag keeps that a loop instead of a recursion.
    if (this.isAdmitting) return
    this.isAdmitting = true
    for (const [next, { cost, admitted }] of this.line) {
      if (cost > this.freeBytes) break
      this.line.delete(next)
      this.admit(next, cost)
      admitted()
    }
    this.isAdmitting = false
  }

  private readonly onMessage = (bytes: Uint8Array): void => {
    const { deliver } = this
    if (this.closed !== undefined || deliver === undefined) return
    try {
      const message = decodeToClient(bytes)
      this.check(message)
      this.fork(
        Effect.catchDefect(
          Effect.suspend(() => deliver(message)),
          defect => Effect.sync(() => this.refuse(defect))
        )
      )
    } catch (error) {
      this.refuse(error)
    }
  }

  private check(message: ToClient): void {
    const { requestId } = message
    if (requestId < this.firstId || requestId > this.lastId)
      throw unexpected(`a reply to request ${requestId}, which was not made`)
    if (message._tag === "Exit") return this.settle(requestId)
    // A server sends the next chunk when this one is acknowledged, so at most one per call is ever held here.
    if (this.unacknowledged.has(requestId))
      throw unexpected(`a chunk of request ${requestId} before the last was acknowledged`)
    if (this.costs.has(requestId)) this.unacknowledged.add(requestId)
  }

  private readonly close = (reason: RpcChannelClosed): void => {
    if (this.closed !== undefined) return
    this.closed = reason
    // Those that wait for their turn are let go to find the channel closed.
    for (const id of Array.from(this.costs.keys())) this.settle(id)
    if (this.deliver !== undefined) this.fork(this.deliver({ _tag: "ClientProtocolError", error: clientError(reason) }))
  }

  private refuse(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error)
    this.close(new RpcChannelClosed({ reason: `the peer broke the protocol: ${reason}` }))
    this.fork(this.channel.fail(reason))
  }
}

const unexpected = (what: string): ProtocolError => new ProtocolError("UNEXPECTED", `RPC: ${what}`)

const clientError = (cause: unknown): RpcClientError =>
  new RpcClientError({
    reason: new RpcClientDefect({ message: cause instanceof Error ? cause.message : String(cause), cause })
  })
