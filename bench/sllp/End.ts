// One peer of the SLLP benchmark: a process that does what its parent asks, one request at a time.
import { Context, Effect, Layer, Scope } from "effect"
import { generateIdentity, NetworkTcp, PeerNode, PeerStore } from "../../src/index.ts"
import type { PeerId } from "../../src/protocol/Identity.ts"
import type { MuxStream } from "../../src/protocol/MuxStream.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { recordTypes } from "../../src/protocol/Records.ts"
import type { SllpChannelOptions } from "../../src/protocol/sllp/SllpAssociation.ts"
import type { SllpLink } from "../../src/node/SllpLink.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import { receiveWhole } from "../../src/transport/Messages.ts"

/** What the parent asks. */
export type EndRequest =
  | { readonly kind: "listen"; readonly host: string }
  | { readonly kind: "connect"; readonly token: string; readonly peerId: string }
  /** Sends so many bytes in messages of 1 MiB, until the other side has them. */
  | { readonly kind: "goodput"; readonly datagramBytes: number; readonly bytes: number }
  /** Sends messages at a steady rate to the other side, over SLLP in a mode or over the TCP session. */
  | {
      readonly kind: "pace"
      readonly over: "latest" | "reliable" | "tcp"
      readonly count: number
      readonly bytes: number
      readonly perSecond: number
    }
  /** Milliseconds between the sending and the arrival of each message since the last time this was asked. */
  | { readonly kind: "latencies" }
  /** Seconds of processor time that this process has used. */
  | { readonly kind: "cpu" }
  /** Opens so many associations, lets them idle, and gives the processor seconds of a while. */
  | { readonly kind: "idle"; readonly associations: number; readonly milliseconds: number }

export interface EndAnswers {
  readonly listen: { readonly token: string; readonly peerId: string }
  readonly connect: undefined
  /** Seconds. */
  readonly goodput: number
  readonly pace: undefined
  readonly latencies: ReadonlyArray<number>
  readonly cpu: number
  readonly idle: number
}

const messageBytes = 2 ** 20
const stampBytes = 8
/** What a lost message may wait to be repaired: what is older is worth less than the next one; it takes a few round trips. */
const repairMs = 1_000
/** Messages still on their way when the last one has left. */
const settleMs = 1_500
const maxPacedBytes = 1_048_576

const scope = Scope.makeUnsafe()
const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>): Promise<A> =>
  Effect.runPromise(Scope.provide(effect, scope))

const start = async (host?: string): Promise<PeerNode["Service"]> => {
  const identity = await generateIdentity()
  const services = Layer.mergeAll(NetworkTcp.layer, Cryptography.layer, PeerStore.memory)
  const layer = PeerNode.layer({ identity, ...(host !== undefined && { listen: { host, port: 0 } }) })
  return run(Effect.map(Layer.build(layer.pipe(Layer.provide(services))), context => Context.get(context, PeerNode)))
}

/** Both processes are on one machine, so their clocks are one. */
const nowMs = (): number => performance.timeOrigin + performance.now()

let latencies: Array<number> = []
const arrived = (bytes: Uint8Array): void => {
  latencies.push(nowMs() - new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0))
}

const stamped = (bytes: number): Uint8Array => {
  const message = new Uint8Array(Math.max(bytes, stampBytes))
  new DataView(message.buffer).setFloat64(0, nowMs())
  return message
}

const listen = async (host: string): Promise<EndAnswers["listen"]> => {
  const node = await start(host)
  const swallow = (link: SllpLink) => Effect.forever(link.receive(0))
  const take = (link: SllpLink) =>
    Effect.forever(
      Effect.map(link.receive(0), message => {
        if (message.complete) arrived(message.bytes)
      })
    )
  await run(node.sllp.serve("goodput", swallow, { datagramBytes: 65_000 }))
  await run(node.sllp.serve("paced", take, { channel: { repairMs } }))
  const takeStream = (stream: MuxStream): void =>
    receiveWhole(
      stream,
      maxPacedBytes,
      ({ bytes }) => arrived(bytes),
      () => undefined
    )
  await run(node.onBulk("paced", takeStream))
  const { token } = await run(node.invite({ name: "bench" }))
  return { token, peerId: node.identity.peerId }
}

let connected: { readonly node: PeerNode["Service"]; readonly peerId: PeerId } | undefined

const connection = () => {
  if (connected === undefined) throw new Error("not connected")
  return connected
}

const withLink = <A, E>(
  name: string,
  options: { readonly channel: SllpChannelOptions; readonly datagramBytes?: number },
  use: (link: SllpLink) => Effect.Effect<A, E>
): Promise<A> => {
  const { node, peerId } = connection()
  const { channel, ...rest } = options
  return Effect.runPromise(
    Effect.scoped(Effect.flatMap(node.sllp.open(peerId, name, { channels: [channel], ...rest }), use))
  )
}

const goodput = (datagramBytes: number, bytes: number): Promise<number> =>
  withLink("goodput", { channel: { mode: "reliable", sendQueueBytes: 4 * messageBytes }, datagramBytes }, link =>
    Effect.gen(function* () {
      const message = new Uint8Array(messageBytes)
      // The first ones find the rate and the size of datagrams.
      for (let index = 0; index < 8; index++) yield* link.send(0, message)
      yield* link.flush
      const started = performance.now()
      for (let sent = 0; sent < bytes; sent += messageBytes) yield* link.send(0, message)
      yield* link.flush
      return (performance.now() - started) / 1000
    })
  )

const steadily = async (count: number, perSecond: number, send: () => void): Promise<void> => {
  const started = performance.now()
  for (let index = 0; index < count; index++) {
    const waitMs = started + (index * 1000) / perSecond - performance.now()
    if (waitMs > 0) await new Promise(resolve => setTimeout(resolve, waitMs))
    send()
  }
  await new Promise(resolve => setTimeout(resolve, settleMs))
}

const pace = async ({ over, count, bytes, perSecond }: EndRequest & { readonly kind: "pace" }): Promise<undefined> => {
  if (over !== "tcp") {
    await withLink("paced", { channel: { mode: over, repairMs, sendQueueBytes: 64 * messageBytes } }, link =>
      Effect.promise(() => steadily(count, perSecond, () => Effect.runFork(link.send(0, stamped(bytes)))))
    )
    return undefined
  }
  const { node, peerId } = connection()
  const session = await run(node.connect(peerId))
  const stream = await run(session.openStream(streamClasses.bulk, "paced"))
  await steadily(count, perSecond, () => void stream.send(recordTypes.rawData, [stamped(bytes)], () => undefined))
  stream.reset("NORMAL")
  return undefined
}

const handle = async (request: EndRequest): Promise<EndAnswers[keyof EndAnswers]> => {
  switch (request.kind) {
    case "listen":
      return listen(request.host)
    case "connect": {
      const node = await start()
      const session = await run(node.join(request.token))
      connected = { node, peerId: session.peer.peerId }
      return undefined
    }
    case "goodput":
      return goodput(request.datagramBytes, request.bytes)
    case "pace":
      return pace(request)
    case "latencies": {
      const taken = latencies
      latencies = []
      return taken
    }
    case "cpu":
      return cpuSeconds()
    case "idle": {
      const { node, peerId } = connection()
      const open = node.sllp.open(peerId, "goodput", { channels: [{ mode: "latest" }] })
      return Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            for (let index = 0; index < request.associations; index++) yield* open
            yield* Effect.sleep(settleMs)
            const before = cpuSeconds()
            yield* Effect.sleep(request.milliseconds)
            return cpuSeconds() - before
          })
        )
      )
    }
  }
}

const cpuSeconds = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

process.on("message", (request: EndRequest) => {
  handle(request).then(
    value => process.send?.({ value }),
    error => process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  )
})
process.on("disconnect", () => process.exit())
