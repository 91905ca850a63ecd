/**
 * Runs actors, restarts those that crash, and gives up when that does not help.
 *
 * The root of a tree is made with `Supervisor.make`; every actor has a supervisor of its own for its children. A child that
 * crashes too often makes its supervisor fail: the parent actor crashes with `SupervisorFailed`, which its own supervisor
 * treats like any crash, up to the root, whose `failure` ends the program with that cause.
 */
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Scope, Semaphore } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import { defaultMailboxCapacity, type Actor, type ActorContext } from "./Actor.ts"
import { ActorCell, type ActorState, type AnyHandlers } from "./ActorCell.ts"
import { ActorCrashed, ActorNameTaken, ActorStopped, SupervisorFailed } from "./ActorError.ts"
import { makeRef, type ActorRef } from "./ActorRef.ts"
import { makeTimers } from "./Timers.ts"

export interface SupervisionOptions {
  /**
   * Who is restarted when a child crashes: only it (`one-for-one`, the default, for children that do not need each other), all
   * (`one-for-all`), or it and those spawned after it (`rest-for-one`, for a pipeline). Mailboxes survive in every case.
   */
  readonly strategy?: "one-for-one" | "one-for-all" | "rest-for-one"
  /** Crashes of one child within `windowMs` that are answered by a restart; the next one fails the supervisor. Default 5. */
  readonly maxRestarts?: number
  /** Default 60 s. */
  readonly windowMs?: number
  /** The n-th restart within the window waits min(`maxBackoffMs`, `backoffMs` · 2^(n−1)). Defaults 100 ms and 10 s. */
  readonly backoffMs?: number
  readonly maxBackoffMs?: number
}

/** Milliseconds that a draining actor may take before it is stopped at once. */
export const defaultDrainMs = 5_000
/** Milliseconds that the finalizers of one incarnation may take before they are left behind, with an error in the log. */
export const maxFinalizeMs = 10_000

/** `drain` (default) handles what waits in the mailbox, for `drainMs` at most; `now` interrupts the handler. */
export interface StopOptions {
  readonly mode?: "drain" | "now"
  readonly drainMs?: number
}

/** A snapshot of one actor and those below it. `waiting` and `capacity` are messages, `suspended` are senders. */
export interface ActorTree {
  readonly name: string
  readonly state: ActorState
  readonly waiting: number
  readonly suspended: number
  readonly capacity: number
  readonly crashes: number
  readonly children: ReadonlyArray<ActorTree>
}

export interface Supervisor {
  readonly path: string
  /** Starts a child and returns its ref at once: what is sent before its behaviour is ready waits in the mailbox. */
  readonly spawn: <Rpcs extends Rpc.Any, R>(
    name: string,
    actor: Actor<Rpcs, R>
  ) => Effect.Effect<ActorRef<Rpcs>, ActorNameTaken | ActorStopped, Exclude<R, Scope.Scope>>
  /** The living child of this name, if it speaks this protocol. */
  readonly child: <Rpcs extends Rpc.Any>(name: string, protocol: RpcGroup.RpcGroup<Rpcs>) => ActorRef<Rpcs> | undefined
  /** Stops one child and everything below it, and waits for that. Does nothing if there is none of this name. */
  readonly stop: (name: string, options?: StopOptions) => Effect.Effect<void>
  /** Stops all children, the youngest first. */
  readonly stopAll: (options?: StopOptions) => Effect.Effect<void>
  /** Never succeeds; fails once this supervisor has given up. At the root: run it beside the program. */
  readonly failure: Effect.Effect<never, SupervisorFailed>
  readonly snapshot: () => ReadonlyArray<ActorTree>
}

interface Child {
  readonly name: string
  readonly cell: ActorCell
  readonly protocol: unknown
  readonly restarts: boolean
  /** Builds the behaviour and handles messages until it ends; what it needs is already provided. */
  readonly incarnation: Effect.Effect<void, unknown>
  fiber: Fiber.Fiber<void, unknown> | undefined
  /** Set while this supervisor itself ends the incarnation, so that its end is not taken for a crash. */
  halting: boolean
  /** The children of the running incarnation gave up. */
  escalated: SupervisorFailed | undefined
  below: Supervisor | undefined
  crashTimes: Array<number>
}

/** The supervisor at the root of a tree, named `/name`. Closing the scope stops all children at once. */
export const make = Effect.fnUntraced(function* (name: string, options?: SupervisionOptions) {
  return yield* build(`/${name}`, options ?? {}, () => {})
})

const build = Effect.fnUntraced(function* (
  path: string,
  options: SupervisionOptions,
  onFailure: (error: SupervisorFailed) => void
) {
  const {
    strategy = "one-for-one",
    maxRestarts = 5,
    windowMs = 60_000,
    backoffMs = 100,
    maxBackoffMs = 10_000
  } = options
  const services = yield* Effect.context<never>()
  const scope = yield* Scope.make()
  const children = new Map<string, Child>()
  const failure = Deferred.makeUnsafe<never, SupervisorFailed>()
  // Group restarts take turns; independent ones need not.
  const turn = strategy === "one-for-one" ? undefined : yield* Semaphore.make(1)
  let closing = false

  const run = <A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> =>
    Fiber.runIn(Effect.runForkWith(services)(effect), scope)

  const start = (child: Child): void => {
    child.cell.enter("starting")
    child.escalated = undefined
    // Not in the scope: `halt` ends it, and does not wait for ever.
    const fiber = Effect.runForkWith(services)(child.incarnation)
    child.fiber = fiber
    fiber.addObserver(exit => {
      if (child.halting || closing) return
      if (Exit.isSuccess(exit)) return end(child, "stopped")
      child.cell.enter("restarting")
      run(crashed(child, fiber, child.escalated === undefined ? exit.cause : Cause.fail(child.escalated)))
    })
  }

  const end = (child: Child, reason: "stopped" | "crashed", cause?: unknown): void => {
    if (children.get(child.name) === child) children.delete(child.name)
    child.cell.terminate(reason, cause)
  }

  /** Ends the incarnation and waits for its finalizers; the mailbox stays. */
  const halt = Effect.fnUntraced(function* (child: Child, error: ActorStopped | ActorCrashed) {
    if (child.fiber === undefined) return
    child.halting = true
    const finalized = yield* Effect.timeoutOption(Fiber.interrupt(child.fiber), maxFinalizeMs)
    if (finalized._tag === "None")
      yield* Effect.logError(`${child.cell.path}: finalizers hang for ${maxFinalizeMs} ms; left behind`)
    child.halting = false
    child.cell.endIncarnation(error)
  })

  const crashed = Effect.fnUntraced(function* (child: Child, fiber: Child["fiber"], cause: Cause.Cause<unknown>) {
    const { cell } = child
    const error = Cause.squash(cause)
    cell.endIncarnation(new ActorCrashed({ actor: cell.path, cause: error }))
    const now = yield* Clock.currentTimeMillis
    child.crashTimes = child.crashTimes.filter(time => time > now - windowMs)
    child.crashTimes.push(now)
    cell.crashes++
    const crashes = child.crashTimes.length
    if (!child.restarts) {
      yield* Effect.logWarning(`${cell.path} crashed and is not restarted`, cause)
      return end(child, "crashed", error)
    }
    if (crashes > maxRestarts) {
      yield* Effect.logError(`${cell.path} crashed ${crashes} times within ${windowMs} ms; ${path} gives up`, cause)
      end(child, "crashed", error)
      return yield* giveUp(
        new SupervisorFailed({ supervisor: path, actor: cell.path, crashes, withinMs: windowMs, cause: error })
      )
    }
    const delayMs = Math.min(maxBackoffMs, backoffMs * 2 ** (crashes - 1))
    yield* Effect.logWarning(`${cell.path} crashed and is restarted in ${delayMs} ms`, cause)
    const restart = restartGroup(child, fiber, delayMs)
    yield* turn === undefined ? restart : turn.withPermits(1)(restart)
  })

  const restartGroup = Effect.fnUntraced(function* (crashed: Child, fiber: Child["fiber"], delayMs: number) {
    // Another child's restart of the group may have come first and have started this one anew.
    if (crashed.fiber !== fiber) return
    const all = Array.from(children.values())
    const group =
      strategy === "one-for-one"
        ? [crashed]
        : strategy === "one-for-all"
          ? all
          : all.slice(Math.max(0, all.indexOf(crashed)))
    const cause = new Error(`restarted together with ${crashed.cell.path}`)
    for (const child of group.toReversed()) {
      if (child === crashed) continue
      yield* halt(child, new ActorCrashed({ actor: child.cell.path, cause }))
      if (child.restarts) child.cell.enter("restarting")
      else end(child, "stopped")
    }
    yield* Effect.sleep(delayMs)
    for (const child of group) if (!child.cell.isTerminated && !closing) start(child)
  })

  const giveUp = (error: SupervisorFailed): Effect.Effect<void> =>
    Effect.suspend(() => {
      Deferred.doneUnsafe(failure, Effect.fail(error))
      onFailure(error)
      return shutdown
    })

  const stopChild = Effect.fnUntraced(function* (
    child: Child,
    { mode = "drain", drainMs = defaultDrainMs }: StopOptions = {}
  ) {
    if (mode === "drain") {
      child.cell.drain()
      const drained = yield* Effect.timeoutOption(Deferred.await(child.cell.terminated), drainMs)
      if (drained._tag === "Some") return
    }
    child.cell.drain()
    yield* halt(child, new ActorStopped({ actor: child.cell.path }))
    end(child, "stopped")
  })

  const stopAll = Effect.fnUntraced(function* (options?: StopOptions) {
    for (const child of Array.from(children.values()).toReversed()) yield* stopChild(child, options)
  })

  const shutdown: Effect.Effect<void> = Effect.suspend(() => {
    closing = true
    return stopAll({ mode: "now" })
  })
  yield* Effect.addFinalizer(exit => Effect.andThen(shutdown, Scope.close(scope, exit)))

  const spawn = Effect.fnUntraced(function* <Rpcs extends Rpc.Any, R>(name: string, actor: Actor<Rpcs, R>) {
    const caller = yield* Effect.context<Exclude<R, Scope.Scope>>()
    const childPath = `${path}/${name}`
    if (closing) return yield* new ActorStopped({ actor: path })
    if (children.has(name)) return yield* new ActorNameTaken({ actor: childPath })
    const cell = new ActorCell(childPath, actor.capacity ?? defaultMailboxCapacity, actor.overflow ?? "suspend")
    const ref = makeRef(cell, actor.protocol)
    const child: Child = {
      name,
      cell,
      protocol: actor.protocol,
      restarts: actor.restart !== "never",
      incarnation: Effect.provideContext(Effect.scoped(Effect.suspend(() => incarnate(child, ref, actor))), caller),
      fiber: undefined,
      halting: false,
      escalated: undefined,
      below: undefined,
      crashTimes: []
    }
    children.set(name, child)
    start(child)
    return ref
  })

  const supervisor: Supervisor = {
    path,
    spawn,
    child: (name, protocol) => {
      const child = children.get(name)
      return child?.protocol === protocol ? makeRef(child.cell, protocol) : undefined
    },
    stop: (name, options) =>
      Effect.suspend(() => {
        const child = children.get(name)
        return child === undefined ? Effect.void : stopChild(child, options)
      }),
    stopAll,
    failure: Deferred.await(failure),
    snapshot: () => Array.from(children.values(), snapshotOf)
  }
  return supervisor
})

const incarnate = Effect.fnUntraced(function* <Rpcs extends Rpc.Any, R>(
  child: Child,
  self: ActorRef<Rpcs>,
  actor: Actor<Rpcs, R>
) {
  const { cell } = child
  const fiber = yield* Effect.withFiber<Fiber.Fiber<unknown, unknown>>(Effect.succeed)
  const children = yield* build(cell.path, actor.supervision ?? {}, error => {
    child.escalated = error
    fiber.interruptUnsafe()
  })
  child.below = children
  const timers = yield* makeTimers(self)
  const context: ActorContext<Rpcs> = { self, timers, children, stop: Effect.sync(() => cell.drain()) }
  const handlers = yield* actor.behaviour(context)
  cell.enter("running")
  // The types of payloads and replies end here and begin again at the ref: see ActorRef.
  yield* cell.receive(handlers as unknown as AnyHandlers)
  yield* children.stopAll()
})

const snapshotOf = (child: Child): ActorTree => ({
  name: child.name,
  state: child.cell.state,
  waiting: child.cell.mailbox.size,
  suspended: child.cell.mailbox.suspended,
  capacity: child.cell.mailbox.capacity,
  crashes: child.cell.crashes,
  children: child.below?.snapshot() ?? []
})

/** A snapshot as lines for people, indented by depth: `name  state  waiting/capacity  n crashes`. */
export const renderTree = (trees: ReadonlyArray<ActorTree>, indent = ""): string =>
  trees
    .map(({ name, state, waiting, suspended, capacity, crashes, children }) => {
      const messages = `${waiting}/${capacity}${suspended > 0 ? ` and ${suspended} suspended senders` : ""}`
      return `${indent}${name}  ${state}  ${messages}  ${crashes} crashes\n${renderTree(children, `${indent}  `)}`
    })
    .join("")
