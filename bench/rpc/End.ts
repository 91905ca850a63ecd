// One end of one RPC system: a process that does what its parent asks, one request at a time.
import type { TlsCredentials } from "../transport/Sockets.ts"
import { artifice, type ArtificeCaller } from "./Artifice.ts"
import type { Caller, Load, LoadOptions, RpcSystem } from "./Caller.ts"

/** What the parent asks of an end. */
export type EndRequest =
  | { readonly kind: "listen"; readonly system: string; readonly credentials: TlsCredentials }
  | {
      readonly kind: "connect"
      readonly system: string
      readonly credentials: TlsCredentials
      readonly endpoint: string
    }
  | { readonly kind: "load"; readonly options: LoadOptions }
  /** As `load`, through a remote ref. */
  | { readonly kind: "refLoad"; readonly options: LoadOptions }
  | { readonly kind: "tensors"; readonly bytes: number; readonly count: number }
  | { readonly kind: "raw"; readonly bytes: number; readonly count: number }
  /** Seconds of processor time that this process has used. */
  | { readonly kind: "cpu" }

export interface EndAnswers {
  readonly listen: string
  readonly connect: undefined
  readonly load: Load
  readonly refLoad: Load
  readonly tensors: number
  readonly raw: number
  readonly cpu: number
}

const systemOf = async (name: string): Promise<RpcSystem> => {
  switch (name) {
    case "grpc-js":
      return (await import("./Grpc.mjs")).grpc(false)
    case "grpc-js TLS":
      return (await import("./Grpc.mjs")).grpc(true)
    case "libp2p":
      return (await import("./Libp2p.ts")).libp2p
    default:
      return artifice
  }
}

let caller: Caller | ArtificeCaller | undefined

const connected = (): Caller | ArtificeCaller => {
  if (caller === undefined) throw new Error("not connected")
  return caller
}

const own = (): ArtificeCaller => {
  const caller = connected()
  if (!("tensors" in caller)) throw new Error("only our own end does this")
  return caller
}

const handle = async (request: EndRequest): Promise<EndAnswers[keyof EndAnswers]> => {
  switch (request.kind) {
    case "listen":
      return (await systemOf(request.system)).listen(request.credentials)
    case "connect":
      caller = await (await systemOf(request.system)).connect(request.credentials, request.endpoint)
      return undefined
    case "load":
      return connected().load(request.options)
    case "refLoad":
      return own().refLoad(request.options)
    case "tensors":
      return own().tensors(request.bytes, request.count)
    case "raw":
      return own().raw(request.bytes, request.count)
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
