/** The serving side of many channels, below Effect's `RpcServer`: one of its clients is one channel here. */
import { Context, Deferred, Effect, Option, Queue } from "effect"
import type { FromClientEncoded, FromServerEncoded } from "effect/rpc/RpcMessage"
import * as RpcServer from "effect/rpc/RpcServer"
import { ProtocolError } from "../protocol/ProtocolError.ts"
import type { RpcChannel } from "./RpcChannel.ts"
import { codecFor } from "./RpcCodec.ts"
import { callCost, maxConcurrentCalls, maxPendingCallBytes } from "./RpcLimits.ts"
import { decodeToServer, encodeToClient, type ToServer } from "./RpcWire.ts"

/** Who calls, as the session proved it: never taken from the bytes of a message. */
export interface CallerIdentity {
  readonly peer: string
}

/** Set for the fiber of every handler. Read it through `caller`, which does not take silence for an answer. */
export const CurrentCaller = Context.Reference<CallerIdentity | undefined>("artifice/rpc/CurrentCaller", {
  defaultValue: () => undefined
})

export interface ServerProtocol {
  readonly service: RpcServer.Protocol["Service"]
  /** Done when the server listens: no channel may be attached before. */
  readonly running: Effect.Effect<void>
  readonly attach: (channel: RpcChannel, caller: CallerIdentity) => void
  /** Ends every channel: their calls would never be answered. */
  readonly end: Effect.Effect<void>
  /** Ends each channel as soon as every call of it has its reply. New ones are ended at once. */
  readonly drain: (code: "NORMAL" | "INTERNAL") => Effect.Effect<void>
}

type Handle = (clientId: number, message: FromClientEncoded) => Effect.Effect<void>
type Request = Extract<ToServer, { readonly _tag: "Request" }>

export const makeServerProtocol = (options: { readonly tracing: boolean }): Effect.Effect<ServerProtocol> =>
  Effect.map(Queue.unbounded<number>(), disconnects => {
    const channels = new Map<number, ServedChannel>()
    const running = Deferred.makeUnsafe<void>()
    let handle: Handle = () => Effect.void
    let nextId = 0

    const service = RpcServer.Protocol.of({
      run: write =>
        Effect.suspend(() => {
          handle = write
          Deferred.doneUnsafe(running, Effect.void)
          return Effect.never
        }),
      disconnects,
      send: (clientId, message) => channels.get(clientId)?.reply(message) ?? Effect.void,
      end: () => Effect.void,
      clientIds: Effect.sync(() => new Set(channels.keys())),
      initialMessage: Effect.succeed(Option.none()),
      supportsAck: true,
      supportsTransferables: false,
      supportsSpanPropagation: options.tracing,
      supportsNotifications: false,
      codecFor
    })

    let ended = false
    const endAll = (how: (served: ServedChannel) => Effect.Effect<void>): Effect.Effect<void> =>
      Effect.suspend(() => {
        ended = true
        return Effect.forEach(Array.from(channels.values()), how, { discard: true, concurrency: "unbounded" })
      })
    const attach = (channel: RpcChannel, caller: CallerIdentity): void => {
      if (ended) return Effect.runSync(channel.end("NORMAL"))
      const id = nextId++
      const served = new ServedChannel(
        channel,
        caller,
        message => handle(id, message),
        () => {
          channels.delete(id)
          Queue.offerUnsafe(disconnects, id)
        }
      )
      channels.set(id, served)
      channel.receive(served.onMessage, served.close)
    }
    return {
      service,
      running: Deferred.await(running),
      attach,
      end: endAll(served => served.end("NORMAL")),
      drain: code => endAll(served => served.drain(code))
    }
  })

/** Counts the calls of one peer, lets `maxConcurrentCalls` of them run, and ends the channel of one that breaks the rules. */
class ServedChannel {
  private readonly channel: RpcChannel
  private readonly handle: (message: FromClientEncoded) => Effect.Effect<void>
  private readonly onClosed: () => void
  private readonly fork: (effect: Effect.Effect<void>) => unknown
  /** Cost of every call from its request until its reply has been handed to the channel. */
  private readonly costs = new Map<number, number>()
  private pendingBytes = 0
  private readonly waiting = new Map<number, Request>()
  private isOpen = true
  private isAdmitting = false
  /** Called when no call waits for its reply, or when the channel is gone. */
  private onIdle = (): void => undefined

  constructor(
    channel: RpcChannel,
    caller: CallerIdentity,
    handle: (message: FromClientEncoded) => Effect.Effect<void>,
    onClosed: () => void
  ) {
    this.channel = channel
    this.handle = handle
    // Only the caller: everything else a handler needs comes from the layer that made it, and must not be overridden here.
    this.fork = Effect.runForkWith(Context.make(CurrentCaller, caller))
    this.onClosed = onClosed
  }

  readonly close = (): void => {
    if (!this.isOpen) return
    this.isOpen = false
    this.waiting.clear()
    this.onClosed()
    this.onIdle()
  }

  end(code: "NORMAL" | "INTERNAL"): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.close()
      return this.channel.end(code)
    })
  }

  drain(code: "NORMAL" | "INTERNAL"): Effect.Effect<void> {
    const idle = Effect.callback<void>(resume => {
      this.onIdle = () => resume(Effect.void)
      if (this.costs.size === 0 || !this.isOpen) this.onIdle()
    })
    return Effect.andThen(Effect.andThen(idle, this.channel.flushed), this.end(code))
  }

  readonly onMessage = (bytes: Uint8Array): void => {
    if (!this.isOpen) return
    try {
      const message = decodeToServer(bytes)
      switch (message._tag) {
        case "Request":
          return this.request(message, callCost(bytes.length))
        case "Ack":
          return this.isRunning(message.requestId) ? this.forward(message) : undefined
        case "Interrupt":
          return this.interrupt(message)
      }
    } catch (error) {
      this.refuse(error)
    }
  }

  reply(message: FromServerEncoded): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isOpen) return Effect.void
      // RpcServer's last resort when not even a defect can be encoded. It names no call, so it would end them all anyway.
      if (message._tag === "Defect") return Effect.sync(() => this.refuse("a reply could not be encoded"))
      // What cannot be encoded dies here, and RpcServer answers the call with that defect instead.
      const send = Effect.ignore(this.channel.send(encodeToClient(message)))
      if (message._tag === "Exit")
        return Effect.ensuring(
          send,
          Effect.sync(() => this.finish(Number(message.requestId)))
        )
      return send
    })
  }

  private request(message: Request, cost: number): void {
    if (this.costs.has(message.id))
      throw new ProtocolError("UNEXPECTED", `RPC: request ${message.id} is already in flight`)
    if (this.pendingBytes + cost > maxPendingCallBytes)
      throw new ProtocolError("LIMIT", `RPC: calls in flight cost more than ${maxPendingCallBytes} bytes`)
    this.costs.set(message.id, cost)
    this.pendingBytes += cost
    this.waiting.set(message.id, message)
    this.admit()
  }

  /** A handler that ends at once comes back here through `finish`; the flag keeps that a loop instead of a recursion. */
  private admit(): void {
    if (this.isAdmitting) return
    this.isAdmitting = true
    for (const [id, message] of this.waiting) {
      if (this.costs.size - this.waiting.size >= maxConcurrentCalls) break
      this.waiting.delete(id)
      this.forward(message)
    }
    this.isAdmitting = false
  }

  private interrupt(message: Extract<ToServer, { readonly _tag: "Interrupt" }>): void {
    const { requestId } = message
    if (this.waiting.delete(requestId)) {
      const exit = { _tag: "Failure", cause: [{ _tag: "Interrupt", fiberId: null }] } as const
      this.fork(this.reply({ _tag: "Exit", requestId, exit }))
    } else if (this.isRunning(requestId)) this.forward(message)
    // Else its Exit is on the way. An answer to every unknown id would let a peer make us talk without end.
  }

  private isRunning(id: number): boolean {
    return this.costs.has(id) && !this.waiting.has(id)
  }

  private forward(message: ToServer): void {
    const handled = Effect.suspend(() => this.handle(message))
    this.fork(Effect.catchDefect(handled, defect => Effect.sync(() => this.refuse(defect))))
  }

  private finish(id: number): void {
    this.pendingBytes -= this.costs.get(id) ?? 0
    this.costs.delete(id)
    this.admit()
    if (this.costs.size === 0) this.onIdle()
  }

  private refuse(error: unknown): void {
    if (!this.isOpen) return
    this.close()
    this.fork(this.channel.fail(error instanceof Error ? error.message : String(error)))
  }
}
