/** How others see an actor. A ref stays good across restarts; it costs nothing to keep and to hand on. */
import { Deferred, Effect, type Exit, type Stream } from "effect"
import type { Rpc, RpcClient, RpcGroup } from "effect/rpc"
import { clientOf, type CallOptions } from "./ActorClient.ts"
import type { ActorCell, Envelope, Termination } from "./ActorCell.ts"
import { ActorStopped, AskTimeout, MailboxFull, type ActorError, type TellError } from "./ActorError.ts"
import type { Offered } from "./Mailbox.ts"

/** Milliseconds an `ask` waits unless told otherwise: long for work in memory, short enough that a stuck actor shows. */
export const defaultAskDeadlineMs = 5_000

export interface ActorRef<Rpcs extends Rpc.Any> {
  /** Unique among the living: `/root/child/…`. */
  readonly path: string
  readonly protocol: RpcGroup.RpcGroup<Rpcs>
  /**
   * One method per rpc: `ref.client.Add({ n: 1 })` asks with the default deadline. The shape is that of a remote RPC client, so
   * code written against `RpcClient.RpcClient<Rpcs, E>` does not know where the actor lives. With `discard` it only tells.
   */
  readonly client: RpcClient.RpcClient<Rpcs, ActorError>
  /** Puts a message into the mailbox and does not wait for its handling. Suspends while the mailbox is full under `suspend`. */
  readonly tell: <Tag extends Rpcs["_tag"]>(tag: Tag, payload: PayloadOf<Rpcs, Tag>) => Effect.Effect<void, TellError>
  /** `tell` for callbacks outside Effect: never waits, so under `suspend` a full mailbox answers `full` too. */
  readonly tellUnsafe: <Tag extends Rpcs["_tag"]>(tag: Tag, payload: PayloadOf<Rpcs, Tag>) => Offered
  /** Waits for the reply. Never hangs: fails when the actor crashes on this message, stops, refuses it, or is too slow. */
  readonly ask: <Tag extends Rpcs["_tag"]>(
    tag: Tag,
    payload: PayloadOf<Rpcs, Tag>,
    options?: { readonly deadlineMs?: number }
  ) => Effect.Effect<ReplyOf<Rpcs, Tag, ActorError>, Rpc.Error<Rpc.ExtractTag<Rpcs, Tag>> | ActorError>
  /** Waits until the actor is gone for good, and tells why. At once if it already is. */
  readonly watch: Effect.Effect<Termination>
}

/** What an ask succeeds with; a stream in it can also fail as its actor can. */
export type ReplyOf<Rpcs extends Rpc.Any, Tag extends string, E> =
  Rpc.Success<Rpc.ExtractTag<Rpcs, Tag>> extends Stream.Stream<infer A, infer Failure, infer R>
    ? Stream.Stream<A, Failure | E, R>
    : Rpc.Success<Rpc.ExtractTag<Rpcs, Tag>>

export type PayloadOf<Rpcs extends Rpc.Any, Tag extends string> = Rpc.Payload<Rpc.ExtractTag<Rpcs, Tag>>

export const makeRef = <Rpcs extends Rpc.Any>(cell: ActorCell, protocol: RpcGroup.RpcGroup<Rpcs>): ActorRef<Rpcs> => {
  const { path, mailbox } = cell
  const stopped = () => new ActorStopped({ actor: path })
  const full = () => new MailboxFull({ actor: path, capacity: mailbox.capacity })

  const tell = (tag: string, payload: unknown): Effect.Effect<void, TellError> =>
    Effect.suspend(() => {
      const envelope: Envelope = { tag, payload, settle: undefined, cancelled: false }
      switch (mailbox.offer(envelope)) {
        case "accepted":
          return Effect.void
        case "closed":
          return Effect.fail(stopped())
        case "full":
          return mailbox.overflow === "suspend" ? standInLine(envelope) : Effect.fail(full())
      }
    })

  const standInLine = (envelope: Envelope): Effect.Effect<void, TellError> =>
    Effect.callback(resume => {
      envelope.settle = () => resume(Effect.fail(stopped()))
      const leave = mailbox.wait(envelope, () => {
        envelope.settle = undefined
        resume(Effect.void)
      })
      return Effect.sync(leave)
    })

  const ask = (tag: string, payload: unknown, deadlineMs: number): Effect.Effect<unknown, unknown> =>
    Effect.callback<unknown, unknown>(resume => {
      const envelope: Envelope = {
        tag,
        payload,
        settle: (exit: Exit.Exit<unknown, unknown>) => resume(exit),
        cancelled: false
      }
      let leave = () => {}
      switch (mailbox.offer(envelope)) {
        case "accepted":
          break
        case "closed":
          resume(Effect.fail(stopped()))
          break
        case "full":
          if (mailbox.overflow === "suspend") leave = mailbox.wait(envelope, () => {})
          else resume(Effect.fail(full()))
      }
      return Effect.sync(() => {
        envelope.cancelled = true
        envelope.settle = undefined
        leave()
      })
    }).pipe(
      Effect.timeoutOrElse({
        duration: deadlineMs,
        orElse: () => Effect.fail(new AskTimeout({ actor: path, tag, deadlineMs }))
      })
    )

  const call = (rpc: Rpc.AnyWithProps, input: unknown, options: CallOptions | undefined) =>
    Effect.suspend(() => {
      const payload: unknown = rpc.payloadSchema.make(input)
      return options?.discard === true ? tell(rpc._tag, payload) : ask(rpc._tag, payload, defaultAskDeadlineMs)
    })

  const client = clientOf(protocol, call)

  // The checked core: a mailbox carries messages of every protocol, so the types of a reply are those of the handler that
  // `Handlers<Rpcs>` proved for this tag, and TypeScript cannot follow them through the queue.
  return {
    path,
    protocol,
    client: client as unknown as RpcClient.RpcClient<Rpcs, ActorError>,
    tell,
    tellUnsafe: (tag, payload) => mailbox.offer({ tag, payload, settle: undefined, cancelled: false }),
    ask: ((tag, payload, options) =>
      ask(tag, payload, options?.deadlineMs ?? defaultAskDeadlineMs)) as ActorRef<Rpcs>["ask"],
    watch: Deferred.await(cell.terminated)
  }
}
