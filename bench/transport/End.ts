// One end of one transport: a process that does what its parent asks, one request at a time.
import { answer, roundTrips, transfer, type Connection, type Transport } from "./Channel.ts"
import { tcp, tls13, type TlsCredentials } from "./Sockets.ts"

/** What the parent asks of an end. */
export type EndRequest =
  | { readonly kind: "listen"; readonly transport: string; readonly credentials: TlsCredentials }
  | {
      readonly kind: "connect"
      readonly transport: string
      readonly credentials: TlsCredentials
      readonly endpoint: string
    }
  /** Bytes there and back at the same time; `idle` and `loaded` calls are counted too. */
  | { readonly kind: "transfer"; readonly up: number; readonly down: number }
  | { readonly kind: "roundTrips"; readonly bytes: number; readonly count: number }
  /** Connects anew so many times: from nothing to the answer to the first byte. */
  | { readonly kind: "setUps"; readonly count: number }
  /** Calls beside nothing, or beside bulk data in both directions. */
  | { readonly kind: "calls"; readonly bytes: number; readonly count: number; readonly loaded: boolean }
  /** Seconds of processor time that this process has used. */
  | { readonly kind: "cpu" }

export interface EndAnswers {
  readonly listen: string
  readonly connect: undefined
  readonly transfer: number
  readonly roundTrips: ReadonlyArray<number>
  readonly setUps: ReadonlyArray<number>
  readonly calls: ReadonlyArray<number>
  readonly cpu: number
}

const transportOf = async (name: string, credentials: TlsCredentials): Promise<Transport> => {
  switch (name) {
    case "tcp":
      return tcp(false)
    case "tcp onread":
      return tcp(true)
    case "tls":
      return tls13(credentials, false)
    case "tls onread":
      return tls13(credentials, true)
    case "libp2p":
      return (await import("./Libp2p.mjs")).libp2p
    default:
      return (await import("./Artifice.ts")).artifice
  }
}

/** Bulk data for as long as calls are measured. */
const loadBytes = 64 * 2 ** 20

const setUps = async (connect: () => Promise<Connection>, count: number): Promise<Array<number>> => {
  const times: Array<number> = []
  for (let index = 0; index < count; index++) {
    const started = performance.now()
    const connection = await connect()
    await roundTrips(connection, 1, 1)
    times.push(performance.now() - started)
    await connection.close()
  }
  return times
}

const calls = async (connection: Connection, bytes: number, count: number, loaded: boolean) => {
  const { callTimes } = await import("./Artifice.ts")
  if (!loaded) return callTimes(bytes, count)
  let going = true
  const load = async (up: number, down: number) => {
    while (going) await transfer(connection, up, down)
  }
  const loads = [load(loadBytes, 0), load(0, loadBytes)]
  const times = await callTimes(bytes, count)
  going = false
  await Promise.all(loads)
  return times
}

let connection: Connection | undefined
let connect: () => Promise<Connection> = () => Promise.reject(new Error("not connected"))

const connected = (): Connection => {
  if (connection === undefined) throw new Error("not connected")
  return connection
}

const handle = async (request: EndRequest): Promise<EndAnswers[keyof EndAnswers]> => {
  switch (request.kind) {
    case "listen":
      return (await transportOf(request.transport, request.credentials)).listen(answer)
    case "connect": {
      const transport = await transportOf(request.transport, request.credentials)
      connect = () => transport.connect(request.endpoint)
      connection = await connect()
      return undefined
    }
    case "transfer":
      return (await transfer(connected(), request.up, request.down)).seconds
    case "roundTrips":
      return roundTrips(connected(), request.bytes, request.count)
    case "setUps": {
      await connected().close()
      const times = await setUps(connect, request.count)
      connection = await connect()
      return times
    }
    case "calls":
      return calls(connected(), request.bytes, request.count, request.loaded)
    case "cpu": {
      const { user, system } = process.cpuUsage()
      return (user + system) / 1e6
    }
  }
}

process.on("message", (request: EndRequest) => {
  handle(request).then(
    value => process.send?.({ value }),
    error => process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  )
})
process.on("disconnect", () => process.exit())
